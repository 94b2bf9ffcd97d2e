#include "simulator/world/training_pool.h"

#include <utility>

namespace heddle::simulator {

TrainingPool::TrainingPool(unsigned threads, std::shared_ptr<client::TaskResources> resources)
    : resources_(std::move(resources)) {
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
}

TrainingPool::~TrainingPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::future<Result<client::TaskOutput>> TrainingPool::Start(std::shared_ptr<const client::LocalTask> task,
                                                            client::TaskInput input) {
  std::packaged_task<Result<client::TaskOutput>()> job([this, task = std::move(task), input = std::move(input)] {
    return task->Run(input, *resources_, [this](uint32_t, uint32_t, double) { return !stopping_.load(); });
  });
  std::future<Result<client::TaskOutput>> future = job.get_future();
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
  return future;
}

void TrainingPool::Loop() {
  for (;;) {
    std::packaged_task<Result<client::TaskOutput>()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;  // whoever waits for a queued job has gone
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    job();
  }
}

}  // namespace heddle::simulator
