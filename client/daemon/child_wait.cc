#include "client/daemon/child_wait.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace heddle::client {

namespace asio = boost::asio;

boost::asio::awaitable<std::optional<int>> WaitForExit(Subprocess& process, Duration timeout) {
  using asio::experimental::awaitable_operators::operator||;
  constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
  if (process.Poll()) co_return process.Poll();
  const auto executor = co_await asio::this_coro::executor;
  const auto end = std::chrono::steady_clock::now() + timeout;
  asio::steady_timer timer(executor);
  const int pid_fd = static_cast<int>(::syscall(SYS_pidfd_open, process.pid(), 0));
  if (pid_fd >= 0) {
    // A descriptor of the process is readable once it has ended.
    asio::posix::stream_descriptor watched(executor, pid_fd);
    timer.expires_at(end);
    co_await (watched.async_wait(asio::posix::stream_descriptor::wait_read, kTuple) || timer.async_wait(kTuple));
    co_return process.Poll();
  }
  // An old kernel: look now and then.
  while (!process.Poll() && std::chrono::steady_clock::now() < end) {
    timer.expires_at(std::min(end, std::chrono::steady_clock::now() + std::chrono::milliseconds(20)));
    auto [error] = co_await timer.async_wait(kTuple);
    if (error) break;
  }
  co_return process.Poll();
}

}  // namespace heddle::client
