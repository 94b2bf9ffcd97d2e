// Threads that run local tasks for simulated devices: each computes with one thread of its own, which on small models
// is several times faster than sharing the machine's cores inside every matrix product.
//
// Thread-safety: Start from one thread; futures as usual. The destructor cancels what runs and joins.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "client/worker/local_task.h"

namespace heddle::simulator {

class TrainingPool {
 public:
  TrainingPool(unsigned threads, std::shared_ptr<client::TaskResources> resources);
  ~TrainingPool();
  TrainingPool(const TrainingPool&) = delete;
  TrainingPool& operator=(const TrainingPool&) = delete;

  std::future<Result<client::TaskOutput>> Start(std::shared_ptr<const client::LocalTask> task, client::TaskInput input);

 private:
  void Loop();

  std::shared_ptr<client::TaskResources> resources_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::packaged_task<Result<client::TaskOutput>()>> queue_;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

}  // namespace heddle::simulator
