// Models and adapters on a GPU against the same independent float64 values as on the processor. Skips without a GPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "model/training/optimizer.h"
#include "tests/unit/model/reference_case.h"
#include "tests/unit/peft/tuning_cases.h"

namespace heddle {
namespace {

const torch::Device kGpu(torch::kCUDA, 0);

std::string TestName(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

double RelativeError(const torch::Tensor& a, const torch::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return ((a.detach().cpu().to(at::kDouble) - b).norm() / b.norm()).item<double>();
}

class ModelOnGpu : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "LibTorch finds no GPU here";
  }
  static model::ModelInput InputOf(const model::ReferenceCase& reference) {
    model::ModelInput input = reference.Input();
    for (torch::Tensor* tensor : {&input.ids, &input.mask}) {
      if (tensor->defined()) *tensor = tensor->to(kGpu);
    }
    return input;
  }
};

TEST_P(ModelOnGpu, LogitsAndLossMatchFloat64) {
  const model::ReferenceCase reference(GetParam(), {.device = kGpu});
  const torch::Tensor targets = reference.Array("targets").to(kGpu);
  const torch::Tensor expected = reference.Array("logits");
  const torch::NoGradGuard no_grad;
  model::Transformer network(reference.base());
  EXPECT_TRUE(network->device().is_cuda());
  EXPECT_LT(model::MaxDifference(network->forward(InputOf(reference)).cpu(), expected),
            1e-4 * expected.abs().max().item<double>());
  EXPECT_NEAR(network->Loss(InputOf(reference), targets).item<double>(), reference.Array("loss").item<double>(), 1e-5);
  model::Transformer rounded(reference.base(), model::ComputeOptions{.type = at::kBFloat16});
  EXPECT_LT(RelativeError(rounded->forward(InputOf(reference)), expected), 0.03);
}

TEST_P(ModelOnGpu, LoraGradientsMatchFloat64WithAndWithoutCheckpointing) {
  const model::ReferenceCase reference(GetParam(), {.device = kGpu});
  for (const bool checkpoint : {false, true}) {
    model::Transformer network(reference.base(), model::ComputeOptions{.checkpoint_layers = checkpoint});
    reference.Inject(network, at::kFloat);
    const torch::Tensor loss = network->Loss(InputOf(reference), reference.Array("targets").to(kGpu));
    EXPECT_NEAR(loss.item<double>(), reference.Array("lora_loss").item<double>(), 1e-4);
    loss.backward();
    size_t checked = 0;
    for (const auto& [path, linear] : network->LinearModules()) {
      if (!linear->lora_A.defined()) continue;
      EXPECT_LT(model::MaxDifference(linear->lora_A.grad().cpu(), reference.Array("grad_A:" + path)), 1e-4) << path;
      EXPECT_LT(model::MaxDifference(linear->lora_B.grad().cpu(), reference.Array("grad_B:" + path)), 1e-4) << path;
      ++checked;
    }
    EXPECT_GT(checked, 0U);
  }
}

// A prompt and then token by token, as completions are made.
TEST_P(ModelOnGpu, TokensOneByOneGiveTheLogitsOfTheWholeText) {
  const model::ReferenceCase reference(GetParam(), {.device = kGpu});
  const torch::NoGradGuard no_grad;
  model::Transformer network(reference.base());
  const torch::Tensor ids = reference.Input().ids.slice(0, 0, 1).to(kGpu);
  const torch::Tensor whole = network->forward(model::ModelInput{.ids = ids});
  model::KvCache cache;
  torch::Tensor logits = network->Decode(model::ModelInput{.ids = ids.slice(1, 0, 3)}, &cache);
  for (int64_t i = 3; i < ids.size(1); ++i) {
    logits = network->Decode(model::ModelInput{.ids = ids.slice(1, i, i + 1)}, &cache);
  }
  const torch::Tensor last = whole.select(1, ids.size(1) - 1);
  EXPECT_LT(RelativeError(logits.view_as(last), last.cpu().to(at::kDouble)), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Cases, ModelOnGpu, testing::ValuesIn(model::ReferenceCase::Names()), TestName);

class EncoderOnGpu : public ModelOnGpu {};

TEST_P(EncoderOnGpu, OutputsAndLossMatchFloat64) {
  const auto folder = model::CaseRoot("encoders") / GetParam();
  const SafetensorsFile file = *ReadSafetensors(folder / "reference.safetensors");
  const auto array = [&](const char* name) { return model::FixtureTensor(file.tensors.find(name)->second); };
  const auto base = model::BaseWeights::Load(folder, {.device = kGpu});
  ASSERT_TRUE(base.ok()) << base.status();
  model::ModelInput input;
  if (file.tensors.contains("pixels")) {
    input.pixels = array("pixels").to(kGpu);
  } else {
    input = {.ids = array("ids").to(kGpu), .mask = array("mask").to(kGpu), .types = array("types").to(kGpu)};
  }
  const torch::NoGradGuard no_grad;
  model::Transformer network(*base);
  network->eval();
  if (file.tensors.contains("pooled")) {
    EXPECT_LT(RelativeError(network->Pooled(input), array("pooled")), 1e-4);
    return;
  }
  EXPECT_LT(RelativeError(network->forward(input), array("logits")), 1e-4);
  EXPECT_NEAR(network->Loss(input, array("targets").to(kGpu)).item<double>(), array("loss").item<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Cases, EncoderOnGpu, testing::ValuesIn(model::CaseNames("encoders")), TestName);

// Every optimizer's third step on both, from the same gradients.
TEST(OptimizersOnGpu, StepAsOnTheProcessor) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "LibTorch finds no GPU here";
  for (const auto kind : {model::OptimizerKind::kSgd, model::OptimizerKind::kAdamW, model::OptimizerKind::kAdamW8bit}) {
    torch::Tensor ends[2];
    for (const bool gpu : {false, true}) {
      torch::manual_seed(3);
      torch::Tensor weight = torch::randn({70, 90});
      std::vector<torch::Tensor> gradients;
      for (int i = 0; i < 3; ++i) gradients.push_back(torch::randn({70, 90}));
      torch::Tensor parameter = weight.to(gpu ? kGpu : torch::Device(torch::kCPU)).requires_grad_(true);
      const auto optimizer = model::MakeOptimizer(kind, {parameter}, {});
      for (const torch::Tensor& gradient : gradients) {
        parameter.mutable_grad() = gradient.to(parameter.device());
        optimizer->Step(0.01);
      }
      ends[gpu] = parameter.detach().cpu() - weight;
    }
    EXPECT_LT(RelativeError(ends[1], ends[0].to(at::kDouble)), 1e-2) << static_cast<int>(kind);
  }
}

class AdapterOnGpu : public ModelOnGpu {
 protected:
  static model::ModelInput InputOf(const peft::TuningCase& one) {
    model::ModelInput input = one.Input();
    for (torch::Tensor* tensor : {&input.ids, &input.mask, &input.types, &input.segments, &input.pixels}) {
      if (tensor->defined()) *tensor = tensor->to(kGpu);
    }
    return input;
  }
};

TEST_P(AdapterOnGpu, LogitsMatchFloat64AndMergedOnesToo) {
  const peft::TuningCase one(GetParam(), model::WeightType::kFloat32, kGpu);
  const torch::NoGradGuard no_grad;
  model::Transformer network(one.base);
  network->eval();
  const auto tuning = peft::Tuning::Inject(network, one.adapter.config, one.adapter.tensors);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  const double size = one.Array("logits").abs().max().item<double>();
  EXPECT_LT(one.Difference(network->forward(InputOf(one)).cpu()), 1e-4 * size);
  if (!one.Merges()) return;
  ASSERT_TRUE(peft::Merge(network).ok());
  EXPECT_LT(one.Difference(network->forward(InputOf(one)).cpu()), 1e-4 * size);
}

TEST_P(AdapterOnGpu, TrainsOnPackedWeightsAsTheProcessorDoes) {
  for (const auto type : {model::WeightType::kBfloat16, model::WeightType::kInt8, model::WeightType::kNf4}) {
    std::vector<torch::Tensor> gradients[2];
    for (const bool gpu : {false, true}) {
      const peft::TuningCase one(GetParam(), type, gpu ? kGpu : torch::Device(torch::kCPU));
      model::Transformer network(one.base);
      network->eval();
      const auto tuning = peft::Tuning::Inject(network, one.adapter.config, one.adapter.tensors);
      ASSERT_TRUE(tuning.ok()) << tuning.status();
      const model::ModelInput input = gpu ? InputOf(one) : one.Input();
      network->Loss(input, one.Targets().to(gpu ? kGpu : torch::Device(torch::kCPU))).backward();
      for (const peft::TunedParameter& parameter : tuning->parameters()) {
        if (parameter.tensor.grad().defined()) gradients[gpu].push_back(parameter.tensor.grad().cpu().flatten());
      }
    }
    ASSERT_FALSE(gradients[0].empty());
    EXPECT_LT(RelativeError(at::cat(gradients[1]), at::cat(gradients[0]).to(at::kDouble)), 1e-3)
        << model::WeightTypeName(type);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, AdapterOnGpu, testing::ValuesIn(peft::TuningCase::Names()), TestName);

}  // namespace
}  // namespace heddle
