// An emulator that is distilled: what of it learns and what keeps its bytes, and what is refused.
#include "client/model_tool/distil.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "common/float_convert.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class DistilTest : public testing::Test {
 protected:
  DistilTest() {
    spec_.num_hidden_layers = 6;
    model::WriteModelFolder(folder_ / "model", spec_, 3);
    folder_.Write("data.txt", model::SampleText(6000, 3));
    settings_.folder = folder_ / "model";
    settings_.data = folder_ / "data.txt";
    settings_.kept = 2;
    settings_.steps = 40;
    settings_.batch_size = 4;
    settings_.sequence_length = 32;
    settings_.learning_rate = 3e-3;
    settings_.threads = 1;
  }
  peft::Emulator Distilled(const char* out) {
    settings_.out = folder_ / out;
    auto made = DistilEmulator(settings_, said_);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : peft::Emulator{};
  }
  Status Refusal() {
    settings_.out = folder_ / "refused";
    const Status status = DistilEmulator(settings_, said_).status();
    EXPECT_FALSE(std::filesystem::exists(settings_.out)) << "nothing is left of a refusal";
    return status;
  }
  std::string Weights(const char* out) { return *ReadFile(folder_ / out / "model.safetensors"); }

  const TempDir folder_;
  model::ModelSpec spec_ = model::TinyConfig();
  DistilSettings settings_;
  std::ostringstream said_;
};

TEST_F(DistilTest, TheMiddleLearnsAndAllElseKeepsItsBytes) {
  const peft::Emulator made = Distilled("out");
  ASSERT_TRUE(made.distilled.has_value());
  EXPECT_THAT(made.layers, ElementsAre(0, 1, 4, 5));
  EXPECT_LT(made.distilled->last_kd, 0.7 * made.distilled->first_kd);
  EXPECT_THAT(said_.str(), HasSubstr("step 40 of 40: loss "));
  const auto plain = peft::MakeEmulator(folder_ / "model", 1, 2, folder_ / "plain");
  ASSERT_TRUE(plain.ok()) << plain.status();
  const auto with = ReadModelSafetensors(folder_ / "out"), without = ReadModelSafetensors(folder_ / "plain");
  ASSERT_TRUE(with.ok()) << with.status();
  ASSERT_EQ(SpecOf(with->tensors), SpecOf(without->tensors));
  for (const auto& [name, tensor] : with->tensors) {
    const bool middle = name.starts_with("model.layers.1.") || name.starts_with("model.layers.2.");
    EXPECT_EQ(std::ranges::equal(tensor.bytes(), without->tensors.find(name)->second.bytes()), !middle) << name;
  }
  EXPECT_EQ(*ReadFile(folder_ / "out/config.json"), *ReadFile(folder_ / "plain/config.json"));
}

TEST_F(DistilTest, TheRecordSaysHow) {
  settings_.steps = 20;
  settings_.kd_weight = 0.9;
  Distilled("out");
  const auto read = peft::ReadEmulator(folder_ / "out");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->distilled.has_value());
  const peft::Distillation& how = *read->distilled;
  EXPECT_EQ(how.data, "data.txt");
  EXPECT_EQ(how.sha256, Sha256File(folder_ / "data.txt").value());
  EXPECT_EQ(how.steps, 20);
  EXPECT_EQ(how.warmup_steps, 2);
  EXPECT_EQ(how.batch_size, 4);
  EXPECT_EQ(how.sequence_length, 32);
  EXPECT_EQ(how.seed, 1U);
  EXPECT_DOUBLE_EQ(how.kd_weight, 0.9);
  EXPECT_DOUBLE_EQ(how.lm_weight, 1);
  EXPECT_DOUBLE_EQ(how.learning_rate, 3e-3);
  EXPECT_GT(how.first_lm, 0);
}

TEST_F(DistilTest, ASeedGivesTheSameBytesAgain) {
  settings_.steps = 5;
  Distilled("a");
  Distilled("b");
  settings_.seed = 2;
  Distilled("c");
  EXPECT_EQ(Weights("a"), Weights("b"));
  EXPECT_EQ(*ReadFile(folder_ / "a/emulator.json"), *ReadFile(folder_ / "b/emulator.json"));
  EXPECT_NE(Weights("a"), Weights("c"));
}

TEST_F(DistilTest, EachWeightPullsAtItsOwnLoss) {
  settings_.lm_weight = 0;
  const auto distance_only = Distilled("kd").distilled;
  settings_.lm_weight = 1;
  settings_.kd_weight = 0;
  const auto loss_only = Distilled("lm").distilled;
  ASSERT_TRUE(distance_only && loss_only);
  EXPECT_EQ(distance_only->first_lm, loss_only->first_lm);
  EXPECT_LT(loss_only->last_lm, loss_only->first_lm - 0.1);
  EXPECT_LT(loss_only->last_lm, distance_only->last_lm);
  EXPECT_LT(distance_only->last_kd, loss_only->last_kd);
}

TEST_F(DistilTest, WhatIsStoredStaysInTheModelsTypes) {
  StateDict narrow;
  const auto file = ReadModelSafetensors(folder_ / "model");
  ASSERT_TRUE(file.ok());
  for (const auto& [name, tensor] : file->tensors) {
    std::span<std::byte> bytes;
    Tensor out = Tensor::Allocate({DType::kBF16, tensor.shape()}, &bytes);
    ConvertToBfloat16(DType::kF32, tensor.bytes().data(), static_cast<size_t>(tensor.numel()),
                      reinterpret_cast<uint16_t*>(bytes.data()));
    narrow.emplace(name, out);
  }
  model::Require(WriteSafetensors(folder_ / "model/model.safetensors", narrow));
  settings_.steps = 5;
  Distilled("out");
  const auto made = ReadModelSafetensors(folder_ / "out");
  ASSERT_TRUE(made.ok()) << made.status();
  for (const auto& [name, tensor] : made->tensors) EXPECT_EQ(tensor.dtype(), DType::kBF16) << name;
  EXPECT_FALSE(std::ranges::equal(made->tensors.at("model.layers.1.mlp.up_proj.weight").bytes(),
                                  narrow.at("model.layers.1.mlp.up_proj.weight").bytes()));
}

TEST_F(DistilTest, WhatCannotBeDoneIsSaidAndNothingIsWritten) {
  const auto refused = [this](auto change, const char* words) {
    const DistilSettings good = settings_;
    change(settings_);
    EXPECT_THAT(Refusal().message(), HasSubstr(words));
    settings_ = good;
  };
  refused([](auto& s) { s.kept = 4; }, "all layers stay");
  refused([](auto& s) { s.kept = 0; }, "no layer stays between the ends");
  refused([](auto& s) { s.kept = 5; }, "between");
  refused([](auto& s) { s.lm_weight = s.kd_weight = 0; }, "nothing to learn");
  refused([](auto& s) { s.kd_weight = std::nan(""); }, "finite numbers from 0");
  refused([](auto& s) { s.learning_rate = -1; }, "learning_rate");
  refused([](auto& s) { s.sequence_length = 65; }, "at most 64 tokens");
  refused([](auto& s) { s.steps = 0; }, "local_steps");
  refused([](auto& s) { s.device = "abacus"; }, "abacus");
  refused([this](auto& s) { s.data = folder_ / "none.txt"; }, "none.txt");
  refused([this](auto& s) { s.folder = folder_ / "nowhere"; }, "nowhere");
  refused([](auto& s) { s.learning_rate = 1e30; }, "smaller --learning-rate");
  folder_.Write("short.txt", "the");
  refused([this](auto& s) { s.data = folder_ / "short.txt"; }, "short.txt");
  model::WriteModelFolder(folder_ / "model", spec_, 3, std::nanf(""));
  refused([](auto&) {}, "not finite at step 1; are the model's weights?");
}

TEST_F(DistilTest, AModelWithoutAHeadHasNoLossToLearnFrom) {
  std::string config = *ReadFile(std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests/data/encoders/bert/config.json");
  const std::string two = "\"num_hidden_layers\": 2";
  ASSERT_NE(config.find(two), std::string::npos);
  config.replace(config.find(two), two.size(), "\"num_hidden_layers\": 6");
  std::filesystem::create_directory(folder_ / "headless");
  folder_.Write("headless/config.json", config);
  settings_.folder = folder_ / "headless";
  EXPECT_THAT(Refusal().message(), HasSubstr("BertModel has no head"));
}

TEST_F(DistilTest, AFolderThatHoldsSomethingIsSeenBeforeAnyStep) {
  settings_.out = folder_ / "model";
  EXPECT_EQ(DistilEmulator(settings_, said_).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(said_.str(), "");
}

}  // namespace
}  // namespace heddle::client
