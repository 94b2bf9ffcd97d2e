// Drives a SplitServer for a FrameListener: frames in from any connection, answers out when they are computed, and a
// timer for what waits for others. All of it on one executor of one thread, the compute thread.
//
// Life cycle: construct; Take from the executor's thread; Stop before the executor ends. Include only from translation
// units of targets with TORCH.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/clock.h"
#include "coordinator/split/server.h"

namespace heddle::coordinator {

class SplitPump {
 public:
  using Reply = std::function<void(std::string answer)>;
  // `server` must outlive the pump. `advanced` is called after each turn of work, on the executor.
  SplitPump(boost::asio::any_io_executor executor, SplitServer& server, std::function<void()> advanced = {});
  ~SplitPump();

  // On the executor's thread.
  void Take(const std::string& device, std::string frame, Reply reply);
  // Any thread: the timer is given up, so that the executor can end.
  void Stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace heddle::coordinator
