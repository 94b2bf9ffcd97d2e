#include "protocol/transport/blocking.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>

namespace heddle::protocol {

boost::asio::awaitable<Status> RunBlocking(boost::asio::thread_pool& pool, std::function<Status()> work) {
  auto body = [&work]() -> boost::asio::awaitable<Status> {
    try {
      co_return work();
    } catch (const std::exception& error) {
      co_return Internal(std::string("work off the io threads failed: ") + error.what());
    }
  };
  co_return co_await boost::asio::co_spawn(pool, std::move(body), boost::asio::use_awaitable);
}

}  // namespace heddle::protocol
