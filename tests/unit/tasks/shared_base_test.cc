// Frozen base weights are in memory once, however many devices a simulation trains at one time: real tasks in the
// simulator's pool, on the small model of the repository, with everything counted that LibTorch allocates.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <barrier>
#include <future>
#include <memory>
#include <stdexcept>
#include <vector>

#include "client/worker/task_resources.h"
#include "model/config/registry.h"
#include "simulator/world/training_pool.h"
#include "tests/unit/tasks/counting_allocator.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

constexpr int kDevices = 8, kThreads = 4;

// The task of a name, which waits after its first step until as many as there are threads have come so far, so that
// what they hold is held at one time. `clones`: it holds base weights of its own, as no task may.
class MeetingTask final : public LocalTask {
 public:
  MeetingTask(std::ptrdiff_t tasks, bool clones) : meeting_(tasks), clones_(clones) {}

  Result<TaskOutput> Run(const TaskInput& input, TaskResources& resources,
                         const ProgressCallback& progress) const override {
    std::vector<torch::Tensor> own;
    if (clones_) {
      HEDDLE_ASSIGN_OR_RETURN(const TaskResources::Base base, resources.GetBase(input.base_model_dir));
      for (const auto& [name, tensor] : base.weights->tensors) own.push_back(tensor.clone());
    }
    HEDDLE_ASSIGN_OR_RETURN(const auto task, FindLocalTask("lora_sft"));
    return task->Run(input, resources, [&](uint32_t step, uint32_t total, double loss) {
      if (step == 1) meeting_.arrive_and_wait();
      return !progress || progress(step, total, loss);
    });
  }

 private:
  mutable std::barrier<> meeting_;
  const bool clones_;
};

class SharedBase : public TaskTest {
 protected:
  SharedBase() {
    CountingAllocator::Install();
    input_.base_model_dir = std::string(HEDDLE_SOURCE_DIR) + "/model/pretrained/heddle-tiny";
    peft::AdapterConfig config;
    config.target_modules = {"q_proj", "v_proj"};
    const auto targets = peft::FindTargets(model::ReadModelConfig(input_.base_model_dir)->LinearModules(), config);
    EXPECT_TRUE(peft::WriteAdapter(folder_ / "adapter", config, peft::MakeInitialAdapter(*targets, config, 5)).ok());
    input_.train.local_steps = 2;
    input_.train.batch_size = 1;
    const auto base = resources_->GetBase(input_.base_model_dir);
    if (!base.ok()) throw std::runtime_error(base.status().message());
    for (const auto& [name, tensor] : base->weights->tensors) {
      base_bytes_ += static_cast<int64_t>(tensor.nbytes());
    }
  }

  // The most held at one time while `devices` train on `threads`, base weights and data in memory before.
  int64_t Peak(int devices, unsigned threads, bool clones) {
    const auto task = std::make_shared<MeetingTask>(threads, clones);
    simulator::TrainingPool pool(threads, resources_);
    CountingAllocator::Install().ForgetPeak();
    std::vector<std::future<Result<TaskOutput>>> outputs;
    for (int device = 0; device < devices; ++device) {
      input_.seed = static_cast<uint64_t>(device);
      outputs.push_back(pool.Start(task, input_));
    }
    for (auto& output : outputs) {
      const auto done = output.get();
      EXPECT_TRUE(done.ok()) << done.status();
    }
    return CountingAllocator::Install().peak_bytes();
  }

  int64_t base_bytes_ = 0;
};

TEST_F(SharedBase, EightDevicesOnFourThreadsHoldItOnce) {
  const int64_t outside = CountingAllocator::Install().now().live_bytes - base_bytes_;  // of this process, no task's
  Peak(1, 1, false);                                                                    // the data are read
  const int64_t one = Peak(1, 1, false) - outside - base_bytes_;  // adapter, optimizer, activations
  EXPECT_GT(one, 0);
  EXPECT_LT(2 * one, base_bytes_) << "a task alone holds more than it should: has it weights of its own?";
  const int64_t all = Peak(kDevices, kThreads, false) - outside;
  RecordProperty("base_bytes", std::to_string(base_bytes_));
  RecordProperty("one_task_bytes", std::to_string(one));
  RecordProperty("peak_bytes", std::to_string(all));
  EXPECT_LE(all, base_bytes_ + kThreads * one);
  EXPECT_GT(all, base_bytes_ + one) << "tasks were not in memory at one time";
}

// The counting sees tasks that clone the weights: a negative control.
TEST_F(SharedBase, ClonesOfTheWeightsAreSeen) {
  Peak(1, 1, false);
  const int64_t shared = Peak(kDevices, kThreads, false), cloned = Peak(kDevices, kThreads, true);
  EXPECT_GE(cloned - shared, (kThreads - 1) * base_bytes_);
}

}  // namespace
}  // namespace heddle::client
