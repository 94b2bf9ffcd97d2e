#include "simulator/world/training_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <mutex>
#include <set>

namespace heddle::simulator {
namespace {

// Says which resources it was given; can wait until it is told to stop.
class ProbeTask final : public client::LocalTask {
 public:
  Result<client::TaskOutput> Run(const client::TaskInput& input, client::TaskResources& resources,
                                 const client::ProgressCallback& progress) const override {
    {
      std::lock_guard lock(mutex_);
      resources_.insert(&resources);
      seeds_.insert(input.seed);
    }
    while (endless_ && progress(1, 2, 0.0)) std::this_thread::yield();
    if (endless_) return Cancelled("it was told to stop");
    client::TaskOutput output;
    output.stats.num_examples = input.seed;
    return output;
  }

  mutable std::mutex mutex_;
  mutable std::set<client::TaskResources*> resources_;
  mutable std::set<uint64_t> seeds_;
  std::atomic<bool> endless_{false};
};

client::TaskInput InputOf(uint64_t seed) {
  client::TaskInput input;
  input.seed = seed;
  return input;
}

// The base weights are in the TaskResources, which load each base once: one object is one copy of the weights.
TEST(TrainingPool, EveryTaskOfEveryThreadSharesOneTaskResources) {
  const auto resources = client::MakeTaskResources();
  const auto task = std::make_shared<ProbeTask>();
  TrainingPool pool(4, resources);
  std::vector<std::future<Result<client::TaskOutput>>> futures;
  for (uint64_t seed = 0; seed < 200; ++seed) futures.push_back(pool.Start(task, InputOf(seed)));
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto output = futures[seed].get();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->stats.num_examples, seed) << "another task's output";
  }
  EXPECT_EQ(task->resources_, std::set<client::TaskResources*>{resources.get()});
  EXPECT_EQ(task->seeds_.size(), 200U);
}

TEST(TrainingPool, ItsEndCancelsWhatRunsAndLeavesOutWhatWaits) {
  const auto task = std::make_shared<ProbeTask>();
  task->endless_ = true;
  std::future<Result<client::TaskOutput>> running, waiting;
  {
    TrainingPool pool(1, client::MakeTaskResources());
    running = pool.Start(task, InputOf(1));
    for (;;) {
      std::lock_guard lock(task->mutex_);
      if (!task->seeds_.empty()) break;
    }
    waiting = pool.Start(task, InputOf(2));
  }
  EXPECT_EQ(running.get().status().code(), Code::kCancelled);
  EXPECT_EQ(task->seeds_, std::set<uint64_t>{1});
  EXPECT_THROW(waiting.get(), std::future_error) << "a task that never ran has an output";
}

}  // namespace
}  // namespace heddle::simulator
