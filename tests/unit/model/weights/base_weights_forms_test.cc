// A base model in fewer bits: which tensors become what, what it takes, and what the model then computes.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "common/float_convert.h"
#include "model/transformer/transformer.h"
#include "model/weights/base_weights.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

class WeightForms : public testing::Test {
 protected:
  WeightForms() {
    spec_.hidden_size = 64;
    spec_.intermediate_size = 128;
    spec_.head_dim = 16;
    spec_.tie_word_embeddings = false;
    WriteModelFolder(folder_.path(), spec_, 3, 0.08F);
  }
  std::shared_ptr<const BaseWeights> Load(WeightType type) {
    auto base = BaseWeights::Load(folder_.path(), {type, torch::kCPU});
    EXPECT_TRUE(base.ok()) << base.status();
    return *base;
  }
  torch::Tensor Logits(WeightType type, at::ScalarType compute = at::kFloat) {
    torch::NoGradGuard no_grad;
    Transformer network(Load(type), ComputeOptions{.type = compute});
    return network->forward(torch::arange(24, torch::kLong).view({2, 12}) * 13);
  }
  static double Apart(const torch::Tensor& a, const torch::Tensor& b) {
    return ((a - b).norm() / b.norm()).item<double>();
  }

  TempDir folder_;
  ModelSpec spec_ = TinyConfig();
  const std::string query_ = "model.layers.0.self_attn.q_proj.weight", norm_ = "model.norm.weight",
                    table_ = "model.embed_tokens.weight", head_ = "lm_head.weight";
};

TEST_F(WeightForms, Bfloat16KeepsVectorsInFloat32) {
  const auto base = Load(WeightType::kBfloat16);
  EXPECT_TRUE(base->packed.empty());
  for (const auto& name : {query_, table_, head_}) EXPECT_EQ(base->tensors.at(name).scalar_type(), at::kBFloat16);
  EXPECT_EQ(base->tensors.at(norm_).scalar_type(), at::kFloat);
  EXPECT_TRUE(torch::equal(base->tensors.at(query_), Load(WeightType::kFloat32)->tensors.at(query_).to(at::kBFloat16)));
}

TEST_F(WeightForms, OnlyMatricesOfTheLayersAreQuantised) {
  for (const WeightType type : {WeightType::kInt8, WeightType::kNf4}) {
    const auto base = Load(type);
    EXPECT_EQ(base->packed.size(), 14U);  // seven a layer
    EXPECT_TRUE(base->packed.contains(query_));
    EXPECT_FALSE(base->tensors.contains(query_));
    for (const auto& name : {norm_, table_, head_}) EXPECT_EQ(base->tensors.at(name).scalar_type(), at::kFloat);
    EXPECT_EQ(base->tensors.size() + base->packed.size(), spec_.WeightSpec().size());
  }
}

TEST_F(WeightForms, MemoryIsWhatTheBitsSay) {
  double packed = 0;
  for (const auto& linear : spec_.LinearModules()) {
    if (!linear.output) packed += static_cast<double>(linear.in * linear.out);
  }
  const auto all = static_cast<double>(spec_.NumParameters());
  EXPECT_EQ(static_cast<double>(Load(WeightType::kFloat32)->bytes()), 4 * all);
  for (const WeightType type : {WeightType::kInt8, WeightType::kNf4}) {
    const double expected = packed * BytesPerWeight(type) + (all - packed) * 4;
    EXPECT_NEAR(static_cast<double>(Load(type)->bytes()), expected, 0.002 * expected);
  }
}

TEST_F(WeightForms, LogitsMoveAsFarAsTheBitsAllow) {
  const torch::Tensor exact = Logits(WeightType::kFloat32);
  EXPECT_LT(Apart(Logits(WeightType::kBfloat16), exact), 0.01);
  EXPECT_LT(Apart(Logits(WeightType::kInt8), exact), 0.02);
  const double nf4 = Apart(Logits(WeightType::kNf4), exact);
  EXPECT_LT(nf4, 0.35);
  EXPECT_GT(nf4, 0.01);
  EXPECT_LT(Apart(Logits(WeightType::kNf4, at::kBFloat16), Logits(WeightType::kNf4)), 0.05);
  EXPECT_LT(Apart(Logits(WeightType::kNf4, at::kDouble).to(at::kFloat), Logits(WeightType::kNf4)), 1e-4);
}

TEST_F(WeightForms, TwoModelsShareOnePackedBaseAndAModelUnpacksNothingForGood) {
  const auto base = Load(WeightType::kNf4);
  Transformer one(base), two(base);
  EXPECT_EQ(one->LinearModules().at("model.layers.0.self_attn.q_proj")->packed,
            two->LinearModules().at("model.layers.0.self_attn.q_proj")->packed);
  for (const auto& item : one->named_parameters()) EXPECT_FALSE(item.key() == query_) << "a dense copy is registered";
}

TEST_F(WeightForms, Bfloat16TablesOfACheckpointStayAsTheyAreBesideQuantisedMatrices) {
  StateDict narrow;
  for (const auto& [name, tensor] : RandomWeights(spec_, 3)) {
    std::span<std::byte> bytes;
    Tensor out = Tensor::Allocate({DType::kBF16, tensor.shape()}, &bytes);
    ConvertToBfloat16(DType::kF32, tensor.bytes().data(), static_cast<size_t>(tensor.numel()),
                      reinterpret_cast<uint16_t*>(bytes.data()));
    narrow.emplace(name, std::move(out));
  }
  ASSERT_TRUE(WriteSafetensors(folder_ / "model.safetensors", narrow).ok());
  const auto base = Load(WeightType::kNf4);
  EXPECT_EQ(base->tensors.at(table_).scalar_type(), at::kBFloat16);
  EXPECT_EQ(base->tensors.at(head_).scalar_type(), at::kBFloat16);
  EXPECT_EQ(base->tensors.at(norm_).scalar_type(), at::kFloat);
  EXPECT_EQ(Load(WeightType::kFloat32)->tensors.at(table_).scalar_type(), at::kFloat);
}

TEST_F(WeightForms, AWeightThatIsNotFiniteCannotBeQuantisedAndIsNamed) {
  StateDict weights = RandomWeights(spec_, 3);
  std::vector<float> values(static_cast<size_t>(weights.at(query_).numel()), 0.5F);
  values[77] = std::nanf("");
  weights[query_] = Tensor::FromFloats(weights.at(query_).shape(), values);
  ASSERT_TRUE(WriteSafetensors(folder_ / "model.safetensors", weights).ok());
  const Status status = BaseWeights::Load(folder_.path(), {WeightType::kNf4, torch::kCPU}).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find(query_), std::string::npos) << status;
}

}  // namespace
}  // namespace heddle::model
