// Work that blocks (fsync, a database commit, parsing a large file) off the io threads: it would stop every connection
// of its thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>

#include "common/status.h"

namespace heddle::protocol {

// Runs `work` on `pool` and resumes the caller on its own executor. The caller's frame lives until `work` is done, also
// when it is cancelled meanwhile, so `work` may use the caller's variables. An exception out of `work` becomes
// kInternal. `pool` must be joined before the caller's io_context is destroyed.
boost::asio::awaitable<Status> RunBlocking(boost::asio::thread_pool& pool, std::function<Status()> work);

}  // namespace heddle::protocol
