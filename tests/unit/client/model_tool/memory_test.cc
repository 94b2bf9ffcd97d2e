// Estimates of memory against what LibTorch really asks its allocator for.
#include <c10/core/Allocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>

#include "client/model_tool/memory_estimate.h"
#include "model/weights/base_weights.h"
#include "peft/adapter/adapter.h"
#include "peft/lora/lora.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::client {
namespace {

// Bytes that are allocated on this thread while it is in use, and the most at a time. The numbers are exact: no memory
// of the process, which the allocator keeps, is looked at.
class AllocationMeter : public c10::MemoryReportingInfoBase {
 public:
  // One of the two overrides: the type of the totals is another in later versions of LibTorch.
  void reportMemoryUsage(void*, int64_t size, int64_t, int64_t, c10::Device) { Count(size); }
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) { Count(size); }
  bool memoryProfilingEnabled() const { return true; }
  double peak() const { return static_cast<double>(peak_); }

 private:
  void Count(int64_t size) {
    now_ += size;
    peak_ = std::max(peak_, now_);
  }
  int64_t now_ = 0, peak_ = 0;
};

template <typename Function>
double PeakOf(const Function& function) {
  auto meter = std::make_shared<AllocationMeter>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
    function();
  }
  return meter->peak();
}

// Large enough that the widths outweigh what is not counted.
model::ModelSpec Config() {
  model::ModelSpec spec = model::TinyConfig();
  spec.hidden_size = 128;
  spec.intermediate_size = 344;
  spec.num_hidden_layers = 6;
  spec.num_attention_heads = 8;
  spec.num_key_value_heads = 4;
  spec.head_dim = 16;
  spec.vocab_size = 2048;
  spec.max_position_embeddings = 256;
  return spec;
}

constexpr int64_t kBatch = 4, kLength = 128;
// How far an estimate may be off.
constexpr double kLeast = 0.75, kMost = 1.33;

class MemoryTest : public testing::Test {
 protected:
  MemoryTest() {
    at::set_num_threads(1);
    model::WriteModelFolder(folder_.path(), Config());
    base_ = *model::BaseWeights::Load(folder_.path());
    settings_.batch = kBatch;
    settings_.length = kLength;
    adapter_.r = 8;
    adapter_.target_modules = {"q_proj", "v_proj"};
    for (const model::LinearSpec& linear : base_->spec.LinearModules()) {
      if (linear.path.ends_with("q_proj") || linear.path.ends_with("v_proj")) settings_.targets.push_back(linear);
    }
    ids_ = at::randint(2048, {kBatch, kLength}, at::kLong);
  }
  double Estimated(MemoryUse use) const { return EstimateMemory(base_->spec, use, settings_).activations; }

  // The peak of a training step on factors, which are there before.
  double Measured(const model::ComputeOptions& compute) {
    model::Transformer network(base_, compute);
    const auto targets = *peft::FindTargets(base_->spec.LinearModules(), adapter_);
    EXPECT_TRUE(peft::InjectLora(network, adapter_, peft::MakeInitialAdapter(targets, adapter_, 1)).ok());
    network->train();
    return PeakOf([&] { network->Loss(ids_, ids_).backward(); });
  }

  const TempDir folder_;
  std::shared_ptr<const model::BaseWeights> base_;
  MemorySettings settings_;
  peft::AdapterConfig adapter_;
  torch::Tensor ids_;
};

void ExpectNear(double estimated, double measured) {
  EXPECT_GT(estimated, kLeast * measured) << estimated / 1e6 << " MB, measured " << measured / 1e6;
  EXPECT_LT(estimated, kMost * measured) << estimated / 1e6 << " MB, measured " << measured / 1e6;
}

TEST_F(MemoryTest, OfLoraTrainingIsAsEstimated) { ExpectNear(Estimated(MemoryUse::kLora), Measured({})); }

TEST_F(MemoryTest, OfLoraOnAllLayersIsAsEstimated) {
  adapter_.target_modules.clear();
  adapter_.target_modules_regex = "all-linear";
  settings_.targets.clear();
  for (const model::LinearSpec& linear : base_->spec.LinearModules()) {
    if (!linear.output) settings_.targets.push_back(linear);
  }
  ExpectNear(Estimated(MemoryUse::kLora), Measured({}));
}

TEST_F(MemoryTest, OfCheckpointedTrainingIsAsEstimated) {
  settings_.checkpoint = true;
  model::ComputeOptions compute;
  compute.checkpoint_layers = true;
  ExpectNear(Estimated(MemoryUse::kLora), Measured(compute));
}

TEST_F(MemoryTest, OfAForwardPassIsAsEstimated) {
  model::Transformer network(base_);
  network->eval();
  const torch::NoGradGuard no_grad;
  ExpectNear(Estimated(MemoryUse::kInference), PeakOf([&] { network->Loss(ids_, ids_); }));
}

TEST_F(MemoryTest, OfFullTrainingIsAsEstimated) {
  model::Transformer network(base_->spec, /*seed=*/1);
  network->train();
  const MemoryEstimate estimate = EstimateMemory(base_->spec, MemoryUse::kFull, settings_);
  // Gradients come into being during the step.
  ExpectNear(estimate.activations + estimate.gradients, PeakOf([&] { network->Loss(ids_, ids_).backward(); }));
}

}  // namespace
}  // namespace heddle::client
