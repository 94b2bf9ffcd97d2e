// Waiting for a child process on an io_context, without blocking it and without a signal handler.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <optional>

#include "common/clock.h"
#include "common/subprocess.h"

namespace heddle::client {

// The exit status as Subprocess::Poll gives it; nothing when the time ran out. `process` must outlive the wait. On the
// caller's executor.
boost::asio::awaitable<std::optional<int>> WaitForExit(Subprocess& process, Duration timeout);

}  // namespace heddle::client
