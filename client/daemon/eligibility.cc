#include "client/daemon/eligibility.h"

#include <signal.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "client/daemon/child_wait.h"
#include "common/subprocess.h"

namespace heddle::client {

namespace asio = boost::asio;

boost::asio::awaitable<Eligible> CheckEligibility(EligibilityOptions options) {
  Eligible result;
  if (!options.file.empty()) {
    std::error_code error;
    if (!std::filesystem::exists(options.file, error)) {
      result.eligible = false;
      result.reason = "the file " + options.file.string() + " is not there";
      co_return result;
    }
  }
  if (options.command.empty()) co_return result;
  SubprocessOptions shell;
  shell.argv = {"/bin/sh", "-c", options.command};
  shell.stdout_file = "/dev/null";
  shell.own_group = true;
  Result<Subprocess> process = Subprocess::Start(shell);
  result.eligible = false;
  if (!process.ok()) {
    result.reason = "the eligibility command cannot be run: " + process.status().message();
    co_return result;
  }
  const std::optional<int> exit = co_await WaitForExit(*process, options.time_limit);
  if (!exit) {
    process->Signal(SIGKILL);
    result.reason = "the eligibility command did not end within its time limit";
  } else if (*exit != 0) {
    result.reason = "the eligibility command ended with status " + std::to_string(*exit);
  } else {
    result.eligible = true;
  }
  co_return result;
}

boost::asio::awaitable<void> WatchEligibility(EligibilityOptions options, std::function<void(const Eligible&)> tell) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  // A coroutine that returns after its cancellation would throw out of co_spawn's frame into the io_context; it looks
  // by itself instead. The cancellation may also come from within `tell`.
  co_await asio::this_coro::throw_if_cancelled(false);
  const asio::cancellation_state cancellation = co_await asio::this_coro::cancellation_state;
  for (;;) {
    const Eligible found = co_await CheckEligibility(options);
    if (cancellation.cancelled() != asio::cancellation_type::none) co_return;
    tell(found);
    if (options.command.empty() && options.file.empty()) co_return;
    if (cancellation.cancelled() != asio::cancellation_type::none) co_return;
    timer.expires_after(options.interval);
    auto [error] = co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
    if (error) co_return;
  }
}

}  // namespace heddle::client
