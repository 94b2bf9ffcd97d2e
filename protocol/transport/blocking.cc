#include "protocol/transport/blocking.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <utility>

namespace heddle::protocol {

namespace {

Status Run(const std::function<Status()>& work) {
  try {
    return work();
  } catch (const std::exception& error) {
    return Internal(std::string("work off the io threads failed: ") + error.what());
  }
}

}  // namespace

boost::asio::awaitable<Status> RunBlocking(boost::asio::any_io_executor executor, std::function<Status()> work) {
  if (executor == co_await boost::asio::this_coro::executor) co_return Run(work);
  auto body = [&work]() -> boost::asio::awaitable<Status> { co_return Run(work); };
  co_return co_await boost::asio::co_spawn(executor, std::move(body), boost::asio::use_awaitable);
}

}  // namespace heddle::protocol
