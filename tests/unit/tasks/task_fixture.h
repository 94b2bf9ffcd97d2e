// A small base model, an adapter and a text in a temporary folder, and a TaskInput over them.
#pragma once

#include <gtest/gtest.h>
#include <algorithm>
#include <functional>
#include <vector>

#include <filesystem>
#include <memory>
#include <string>

#include "client/worker/local_task.h"
#include "common/random.h"
#include "common/state_dict.h"
#include "peft/adapter/adapter.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::client {

// Adapter plus update, as a coordinator with one device makes the next adapter: float32 tensors of the same names and
// shapes.
inline StateDict Sum(const StateDict& adapter, const StateDict& update) {
  StateDict out;
  for (const auto& [name, tensor] : adapter) {
    const auto a = tensor.values<float>(), b = update.at(name).values<float>();
    std::vector<float> sum(a.size());
    std::transform(a.begin(), a.end(), b.begin(), sum.begin(), std::plus<>());
    out.emplace(name, Tensor::FromFloats(tensor.shape(), sum));
  }
  return out;
}

class TaskTest : public testing::Test {
 protected:
  TaskTest() {
    model::WriteModelFolder(folder_ / "base", model::TinyConfig());
    WriteAdapter({});
    folder_.Write("data.txt", model::SampleText(30'000, 3));
    input_.train.local_steps = 4;
    input_.train.batch_size = 2;
    input_.train.sequence_length = 16;
    input_.train.learning_rate = 1e-2;
    input_.seed = 11;
    input_.base_model_dir = folder_ / "base";
    input_.adapter_dir = folder_ / "adapter";
    input_.data_path = folder_ / "data.txt";
  }

  // Writes the folder "adapter" with the initial adapter of a config like `change`.
  void WriteAdapter(const peft::AdapterConfig& change) {
    config_ = change;
    if (config_.target_modules.empty()) config_.target_modules = {"q_proj", "v_proj", "down_proj"};
    auto targets = peft::FindTargets(model::TinyConfig().LinearModules(), config_);
    ASSERT_TRUE(targets.ok()) << targets.status();
    initial_ = peft::MakeInitialAdapter(*targets, config_, 5);
    const Status written = peft::WriteAdapter(folder_ / "adapter", config_, initial_);
    ASSERT_TRUE(written.ok()) << written;
  }

  // The first adapter's B is zero, and with it half of all gradients: one that has learnt something takes its place.
  void WriteLearntAdapter() {
    PhiloxStream random(3);
    for (auto& [name, tensor] : initial_) {
      std::vector<float> values(static_cast<size_t>(tensor.numel()));
      for (float& value : values) value = 0.2F * (random.NextUniform() - 0.5F);
      tensor = Tensor::FromFloats(tensor.shape(), values);
    }
    EXPECT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
  }

  static std::shared_ptr<const LocalTask> Task() { return *FindLocalTask("lora_sft"); }
  Result<TaskOutput> Run() { return Task()->Run(input_, *resources_, {}); }

  TempDir folder_;
  peft::AdapterConfig config_;
  StateDict initial_;
  TaskInput input_;
  std::shared_ptr<TaskResources> resources_ = MakeTaskResources();
};

}  // namespace heddle::client
