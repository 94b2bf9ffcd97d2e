// Work that blocks (fsync, a database commit, parsing a large file) off the io threads: it would stop every connection
// of its thread.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>

#include "common/status.h"

namespace heddle::protocol {

// Runs `work` on `executor`, a thread pool's as a rule, and resumes the caller on its own. The caller's frame lives
// until `work` is done, also when it is cancelled meanwhile, so `work` may use the caller's variables. An exception out
// of `work` becomes kInternal. A pool must be joined before the caller's io_context is destroyed. Where `executor` is
// the caller's own (one thread drives everything, as in a simulation), `work` runs at once.
boost::asio::awaitable<Status> RunBlocking(boost::asio::any_io_executor executor, std::function<Status()> work);

}  // namespace heddle::protocol
