// What a step of a task leaves behind in memory: nothing. Activations and gradients of a step are gone before the next.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <vector>

#include "tests/unit/tasks/counting_allocator.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

class StepMemory : public TaskTest {
 protected:
  StepMemory() { CountingAllocator::Install(); }

  // Counts at the end of each step.
  std::vector<CountingAllocator::Counts> Steps() {
    std::vector<CountingAllocator::Counts> counts;
    const auto done = Task()->Run(input_, *resources_, [&](uint32_t, uint32_t, double) {
      counts.push_back(CountingAllocator::Install().now());
      return true;
    });
    EXPECT_TRUE(done.ok()) << done.status();
    return counts;
  }
};

TEST_F(StepMemory, AStepKeepsNothingOfWhatItAllocates) {
  input_.train.local_steps = 12;
  for (const char* optimizer : {"AdamW", "SGD"}) {
    input_.train.optimizer = optimizer;
    const auto counts = Steps();
    ASSERT_EQ(counts.size(), 12U);
    for (size_t step = 3; step < counts.size(); ++step) {  // the first make moments and gradients
      EXPECT_EQ(counts[step].live_bytes, counts[2].live_bytes) << optimizer << ", step " << step + 1;
      EXPECT_EQ(counts[step].allocations - counts[step - 1].allocations, counts[3].allocations - counts[2].allocations)
          << optimizer << ", step " << step + 1;
    }
  }
}

// The counting sees a step that keeps something: a negative control.
TEST_F(StepMemory, WhatIsKeptIsSeen) {
  std::vector<torch::Tensor> kept;
  std::vector<int64_t> live;
  const auto done = Task()->Run(input_, *resources_, [&](uint32_t, uint32_t, double) {
    live.push_back(CountingAllocator::Install().now().live_bytes);
    kept.push_back(torch::zeros({1000}));
    return true;
  });
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(live.back() - live[live.size() - 2], 4000);
}

}  // namespace
}  // namespace heddle::client
