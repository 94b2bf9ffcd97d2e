// Merging on bases that are kept in bfloat16, int8 and NF4: the merged weight against W + s B A by hand, what it
// computes against the adapter beside its base, and the base, which must stay as it was.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <set>
#include <vector>

#include "model/transformer/linear.h"
#include "tests/unit/model/reference_case.h"
#include "tests/unit/peft/tuning_cases.h"

namespace heddle::peft {
namespace {

// Everything that the base holds, as it holds it.
std::vector<torch::Tensor> CopiesOf(const model::BaseWeights& base) {
  std::vector<torch::Tensor> all;
  for (const auto& [name, tensor] : base.tensors) all.push_back(tensor.clone());
  for (const auto& [name, matrix] : base.packed) all.push_back(matrix->Dense(at::kFloat).clone());
  return all;
}

void ExpectSame(const std::vector<torch::Tensor>& before, const std::vector<torch::Tensor>& after) {
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(before[i].scalar_type(), after[i].scalar_type());
    EXPECT_TRUE(torch::equal(before[i], after[i]));
  }
}

class NarrowMerges : public ::testing::TestWithParam<model::WeightType> {
 protected:
  bool IsBfloat16() const { return GetParam() == model::WeightType::kBfloat16; }
};

TEST_P(NarrowMerges, ComputeTheSameWithinTheTypesRoundingAndUnmergeToTheLastBit) {
  for (const std::string& name : TuningCase::Names()) {
    SCOPED_TRACE(name);
    const TuningCase c(name, GetParam());
    if (!c.Merges()) continue;
    const torch::NoGradGuard no_grad;
    const std::vector<torch::Tensor> stored = CopiesOf(*c.base);
    const uint64_t bytes = c.base->bytes();
    model::Transformer model(c.base);
    const torch::Tensor plain = model->forward(c.Input());
    auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
    ASSERT_TRUE(tuning.ok()) << tuning.status();
    const torch::Tensor tuned = model->forward(c.Input());
    ASSERT_TRUE(Merge(model).ok());
    const torch::Tensor merged = model->forward(c.Input());
    // int8 and NF4 merge into float32: as exact as a float32 base. bfloat16 rounds by up to 2^-8 of each weight, in
    // every layer.
    const double size = tuned.abs().max().item<double>();
    EXPECT_LT(c.Difference(merged, tuned), (IsBfloat16() ? 0x1p-5 : 1e-5) * size);
    EXPECT_GT(c.Difference(merged, plain), 0x1p-6 * size) << "the adapter is in it";
    Unmerge(model);
    EXPECT_TRUE(torch::equal(model->forward(c.Input()), tuned));
    ASSERT_TRUE(tuning->Remove().ok());
    EXPECT_TRUE(torch::equal(model->forward(c.Input()), plain));
    ExpectSame(stored, CopiesOf(*c.base));
    EXPECT_EQ(c.base->bytes(), bytes);
  }
}

TEST_P(NarrowMerges, MakeTheNearestWeightsToTheSum) {
  const TuningCase c("lora-patterns", GetParam());
  const torch::NoGradGuard no_grad;
  model::Transformer model(c.base);
  const auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  ASSERT_TRUE(Merge(model).ok());
  size_t layers = 0;
  for (const auto& item : model->named_modules()) {
    const auto* linear = item.value()->as<model::LinearImpl>();
    const auto a = c.adapter.tensors.find(LoraAKey(item.key()));
    if (linear == nullptr || a == c.adapter.tensors.end()) continue;
    ++layers;
    ASSERT_TRUE(linear->merged_weight.defined()) << item.key();
    EXPECT_EQ(linear->merged_weight.scalar_type(), IsBfloat16() ? at::kBFloat16 : at::kFloat);
    const auto wide = [](const Tensor& tensor) { return ToTorchTensor(tensor).to(at::kDouble); };
    const torch::Tensor base = linear->packed ? linear->packed->Dense(at::kFloat) : linear->weight;
    const torch::Tensor sum =
        (linear->transposed ? base.t() : base).to(at::kDouble) +
        c.adapter.config.ScalingOf(item.key()) * wide(c.adapter.tensors.at(LoraBKey(item.key()))).mm(wide(a->second));
    const torch::Tensor apart = (linear->merged_weight.to(at::kDouble) - sum).abs();
    // Half a unit in the last place, and what float32 makes of it on the way.
    const double half = IsBfloat16() ? 0x1p-8 * (1 + 0x1p-14) : 0x1p-24;
    EXPECT_TRUE((apart <= sum.abs() * half + 1e-12).all().item<bool>()) << item.key();
  }
  EXPECT_EQ(layers, 14U);
}

INSTANTIATE_TEST_SUITE_P(Types, NarrowMerges,
                         ::testing::Values(model::WeightType::kBfloat16, model::WeightType::kInt8,
                                           model::WeightType::kNf4));

}  // namespace
}  // namespace heddle::peft
