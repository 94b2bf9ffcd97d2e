// Where the driver's thread leaves an answer for the coroutine that waits for it. Shared by the two; the timer is the
// coroutine's. Private to the device API.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "coordinator/service/run_driver.h"

namespace heddle::coordinator {

struct Pending {
  explicit Pending(const boost::asio::any_io_executor& executor)
      : timer(executor, boost::asio::steady_timer::time_point::max()) {}
  boost::asio::steady_timer timer;  // cancelled when the answer is there
  std::optional<Answer> answer;

  // May be called from any thread.
  static AnswerCallback Callback(std::shared_ptr<Pending> pending) {
    return [pending](Answer answer) {
      auto& timer = pending->timer;
      boost::asio::post(timer.get_executor(), [pending, answer = std::move(answer)]() mutable {
        pending->answer = std::move(answer);
        pending->timer.cancel();
      });
    };
  }
};

}  // namespace heddle::coordinator
