// Checkpoints from disk: what is taken, and what is refused in which words.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cstring>

#include "model/weights/base_weights.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

class BaseWeightsTest : public testing::Test {
 protected:
  BaseWeightsTest() {
    folder_.Write("config.json", LlamaConfigJson(config_));
    Write(weights_);
  }
  void Write(const StateDict& weights) {
    const Status written = WriteSafetensors(folder_ / "model.safetensors", weights);
    ASSERT_TRUE(written.ok()) << written;
  }
  Result<std::shared_ptr<const BaseWeights>> Load() { return BaseWeights::Load(folder_.path()); }
  void ExpectRefused(Code code, const std::string& said) {
    const Status status = Load().status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(status.message().find(said), std::string::npos) << status;
  }
  // All weights in another float type, made by LibTorch.
  StateDict Converted(at::ScalarType type, DType dtype) const {
    StateDict out;
    for (const auto& [name, tensor] : weights_) {
      const torch::Tensor cast =
          torch::from_blob(const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), torch::kFloat).to(type);
      std::span<std::byte> bytes;
      Tensor converted = Tensor::Allocate({dtype, tensor.shape()}, &bytes);
      std::memcpy(bytes.data(), cast.data_ptr(), bytes.size());
      out.emplace(name, std::move(converted));
    }
    return out;
  }

  TempDir folder_;
  ModelSpec config_ = TinyConfig();
  StateDict weights_ = RandomWeights(config_, 1);
  const std::string query_ = "model.layers.1.self_attn.q_proj.weight";
};

TEST_F(BaseWeightsTest, Float32IsTakenAsItIs) {
  const auto base = Load();
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ((*base)->tensors.size(), weights_.size());
  for (const auto& [name, tensor] : weights_) {
    const torch::Tensor& loaded = (*base)->tensors.at(name);
    EXPECT_EQ(loaded.scalar_type(), torch::kFloat);
    EXPECT_EQ(std::memcmp(loaded.data_ptr(), tensor.bytes().data(), tensor.bytes().size()), 0) << name;
  }
}

TEST_F(BaseWeightsTest, WeightsOutliveTheFileTheyWereReadFrom) {
  const auto base = *Load();
  std::filesystem::remove(folder_ / "model.safetensors");
  const auto expected = weights_.at(query_).values<float>();
  const torch::Tensor& loaded = base->tensors.at(query_);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), loaded.data_ptr<float>()));
}

TEST_F(BaseWeightsTest, AHeadThatIsTiedAndStoredAsAnotherIsNotUsedAndSaidSo) {
  const auto said = [this](const StateDict& weights) {
    Write(weights);
    testing::internal::CaptureStdout();  // where spdlog writes to when nobody has set it up
    testing::internal::CaptureStderr();
    const auto base = Load();
    std::string text = testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr();
    EXPECT_TRUE(base.ok()) << base.status();
    EXPECT_FALSE(base.ok() && (*base)->tensors.contains("lm_head.weight"));
    return text;
  };
  const Tensor embedding = weights_.at("model.embed_tokens.weight");
  StateDict both = weights_;
  both["lm_head.weight"] = embedding;
  EXPECT_EQ(said(both), "");
  std::vector<float> values(embedding.values<float>().begin(), embedding.values<float>().end());
  values.back() += 1;
  both["lm_head.weight"] = Tensor::FromFloats(embedding.shape(), values);
  EXPECT_NE(said(both).find("lm_head.weight differs from model.embed_tokens.weight"), std::string::npos);
  both["lm_head.weight"] = Tensor::FromFloats({1}, std::vector<float>{1});
  EXPECT_NE(said(both).find("tie_word_embeddings"), std::string::npos);
}

TEST_F(BaseWeightsTest, ATiedWeightThatIsStoredAsTheHeadsOnlyIsTheEmbedding) {
  StateDict moved = weights_;
  const Tensor embedding = moved.at("model.embed_tokens.weight");
  moved.erase("model.embed_tokens.weight");
  moved.emplace("lm_head.weight", embedding);
  Write(moved);
  const auto base = Load();
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ((*base)->tensors.size(), weights_.size());
  const torch::Tensor& loaded = (*base)->tensors.at("model.embed_tokens.weight");
  EXPECT_EQ(std::memcmp(loaded.data_ptr(), embedding.bytes().data(), embedding.bytes().size()), 0);
}

TEST_F(BaseWeightsTest, OtherFloatTypesAreWidened) {
  for (const auto& [type, dtype] : {std::pair(torch::kHalf, DType::kF16), std::pair(torch::kBFloat16, DType::kBF16),
                                    std::pair(torch::kDouble, DType::kF64)}) {
    Write(Converted(type, dtype));
    const auto base = Load();
    ASSERT_TRUE(base.ok()) << base.status();
    const auto source = weights_.at(query_);
    const torch::Tensor expected =
        torch::from_blob(const_cast<std::byte*>(source.bytes().data()), source.shape(), torch::kFloat)
            .to(type)
            .to(torch::kFloat);
    EXPECT_EQ((*base)->tensors.at(query_).scalar_type(), torch::kFloat);
    EXPECT_TRUE(torch::equal((*base)->tensors.at(query_), expected)) << DTypeName(dtype);
  }
}

TEST_F(BaseWeightsTest, IntegersAreNotWeights) {
  std::span<std::byte> bytes;
  weights_[query_] = Tensor::Allocate({DType::kI32, {32, 32}}, &bytes);
  Write(weights_);
  ExpectRefused(Code::kInvalidArgument, query_);
}

TEST_F(BaseWeightsTest, WrongShapesAreRefusedWithBothShapes) {
  weights_[query_] = Tensor::FromFloats({32, 16}, std::vector<float>(512));
  Write(weights_);
  ExpectRefused(Code::kInvalidArgument, query_);
  ExpectRefused(Code::kInvalidArgument, "[32, 16]");
  ExpectRefused(Code::kInvalidArgument, "[32, 32]");
  weights_[query_] = Tensor::FromFloats({1024}, std::vector<float>(1024));
  Write(weights_);
  ExpectRefused(Code::kInvalidArgument, query_);
}

TEST_F(BaseWeightsTest, MissingAndSurplusTensorsAreRefusedByName) {
  StateDict missing = weights_, surplus = weights_;
  missing.erase(query_);
  Write(missing);
  ExpectRefused(Code::kInvalidArgument, query_);
  surplus.emplace("model.layers.2.self_attn.q_proj.weight", weights_.at(query_));
  Write(surplus);
  ExpectRefused(Code::kInvalidArgument, "model.layers.2.self_attn.q_proj.weight");
}

TEST_F(BaseWeightsTest, WhatOlderCheckpointsCarryAlongIsLeftOut) {
  weights_.emplace("lm_head.weight", weights_.at("model.embed_tokens.weight"));  // tied
  weights_.emplace("model.layers.0.self_attn.rotary_emb.inv_freq",
                   Tensor::FromFloats({4}, std::vector<float>{1, 1, 1, 1}));
  Write(weights_);
  const auto base = Load();
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_FALSE((*base)->tensors.contains("lm_head.weight"));
}

TEST_F(BaseWeightsTest, TruncatedFilesAreRefusedAtAnyLength) {
  const std::string whole = Slurp(folder_ / "model.safetensors");
  for (const size_t length : {size_t{0}, size_t{5}, size_t{8}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    folder_.Write("model.safetensors", whole.substr(0, length));
    ExpectRefused(Code::kInvalidArgument, "model.safetensors");
  }
}

TEST_F(BaseWeightsTest, PickledWeightsAreRefusedWithTheCure) {
  std::filesystem::remove(folder_ / "model.safetensors");
  for (const char* name : {"pytorch_model.bin", "consolidated.00.pth", "model.pt"}) {
    folder_.Write(name, "pickle");
    ExpectRefused(Code::kInvalidArgument, "safetensors");
    std::filesystem::remove(folder_ / name);
  }
  EXPECT_EQ(Load().status().code(), Code::kNotFound);
}

TEST_F(BaseWeightsTest, ShardsAreReadThroughTheirIndex) {
  std::filesystem::remove(folder_ / "model.safetensors");
  StateDict first, second;
  std::string map;
  for (const auto& [name, tensor] : weights_) {
    const bool early = first.size() < weights_.size() / 2;
    (early ? first : second).emplace(name, tensor);
    map += (map.empty() ? "\"" : ", \"") + name + "\": \"" + (early ? "a" : "b") + ".safetensors\"";
  }
  ASSERT_TRUE(WriteSafetensors(folder_ / "a.safetensors", first).ok());
  ASSERT_TRUE(WriteSafetensors(folder_ / "b.safetensors", second).ok());
  folder_.Write("model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");
  const auto base = Load();
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ((*base)->tensors.size(), weights_.size());
  std::filesystem::remove(folder_ / "b.safetensors");
  ExpectRefused(Code::kNotFound, "the shard b.safetensors, which is not in the folder");
}

TEST_F(BaseWeightsTest, AConfigOfAnotherSizeDoesNotFit) {
  config_.num_hidden_layers = 3;
  folder_.Write("config.json", LlamaConfigJson(config_));
  ExpectRefused(Code::kInvalidArgument, "model.layers.2.");
  config_.num_hidden_layers = 1;
  folder_.Write("config.json", LlamaConfigJson(config_));
  ExpectRefused(Code::kInvalidArgument, "model.layers.1.");
  std::filesystem::remove(folder_ / "config.json");
  EXPECT_EQ(Load().status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace heddle::model
