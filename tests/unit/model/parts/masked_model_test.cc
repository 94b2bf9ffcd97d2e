// A BERT without a head for masked words, as one with it.
#include "model/parts/masked_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/config/new_head.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_encoder.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class MaskedModel : public testing::Test {
 protected:
  MaskedModel() { WriteWordPieceFiles(base()); }
  fs::path base() const { return temp_.path() / "base"; }
  fs::path out() const { return temp_.path() / "out"; }
  // With the names that the architecture has on disk.
  StateDict WriteBase(const std::string& text) {
    Require(WriteFileAtomically(base() / "config.json", text));
    const StateDict weights = RandomWeights(ParseModelConfig(text).value(), 3);
    Require(WriteSafetensors(base() / "model.safetensors", weights));
    return weights;
  }
  StateDict Written() {
    const auto made = WriteMaskedModel(base(), 1, out());
    EXPECT_TRUE(made.ok()) << made.status();
    if (!made.ok()) return {};
    made_ = *made;
    const auto file = ReadModelSafetensors(out());
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? file->tensors : StateDict{};
  }
  static bool Same(const Tensor& a, const Tensor& b) {
    return a.spec() == b.spec() && std::ranges::equal(a.bytes(), b.bytes());
  }

  TempDir temp_;
  std::vector<std::string> made_;
};

TEST_F(MaskedModel, ABodyGetsAHeadAndKeepsItsBytes) {
  const StateDict before = WriteBase(BertConfigJson("BertModel")), after = Written();
  const auto spec = ReadModelConfig(out());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->head.task, Task::kMaskedLm);
  EXPECT_EQ(SpecOf(after), spec->WeightSpec());
  EXPECT_THAT(made_, ElementsAre("cls.predictions.bias", "cls.predictions.transform.LayerNorm.bias",
                                 "cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.dense.bias",
                                 "cls.predictions.transform.dense.weight"));
  size_t kept = 0;
  for (const auto& [name, tensor] : before) {
    if (name.starts_with("pooler.")) continue;
    const auto place = after.find("bert." + name);
    ASSERT_NE(place, after.end()) << name;
    EXPECT_TRUE(Same(tensor, place->second)) << name;
    ++kept;
  }
  EXPECT_EQ(kept + made_.size(), after.size());
  EXPECT_EQ(*ReadFile(out() / "tokenizer.json"), *ReadFile(base() / "tokenizer.json"));
  // The dense layer has BERT's deviation and the rest is where a new head begins.
  double squares = 0;
  const auto dense = after.find("cls.predictions.transform.dense.weight")->second.values<float>();
  for (const float value : dense) squares += double{value} * value;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(dense.size())), 0.02, 0.003);
  const auto scale = after.find("cls.predictions.transform.LayerNorm.weight")->second.values<float>();
  for (const float value : scale) EXPECT_EQ(value, 1.0F);
  const auto bias = after.find("cls.predictions.bias")->second.values<float>();
  for (const float value : bias) EXPECT_EQ(value, 0.0F);
}

TEST_F(MaskedModel, TheSeedSaysWhatIsNew) {
  WriteBase(BertConfigJson("BertModel"));
  const StateDict one = Written();
  const auto path = "cls.predictions.transform.dense.weight";
  for (const auto& [seed, same] : {std::pair{1U, true}, {2U, false}}) {
    const fs::path folder = temp_.path() / std::to_string(seed);
    ASSERT_TRUE(WriteMaskedModel(base(), seed, folder).ok());
    const auto again = ReadModelSafetensors(folder);
    EXPECT_EQ(Same(one.find(path)->second, again->tensors.find(path)->second), same);
  }
}

TEST_F(MaskedModel, AHeadThatIsThereStaysAndAClassifierGoes) {
  const StateDict masked = WriteBase(BertConfigJson("BertForMaskedLM"));
  EXPECT_EQ(SpecOf(Written()), SpecOf(masked));
  EXPECT_TRUE(made_.empty());
  fs::remove_all(out());
  WriteBase(*ConfigWithNewHead(BertConfigJson("BertModel"), 3));
  const StateDict after = Written();
  EXPECT_EQ(made_.size(), 5U);
  EXPECT_FALSE(after.contains("classifier.weight"));
  EXPECT_EQ(ReadFile(out() / "config.json")->find("id2label"), std::string::npos);
}

TEST_F(MaskedModel, WhatCannotBeIsRefusedInASentenceAndLeavesNothing) {
  WriteBase(BertConfigJson("BertModel"));
  StateDict weights = ReadModelSafetensors(base())->tensors;
  weights.erase("encoder.layer.1.output.dense.weight");
  Require(WriteSafetensors(base() / "model.safetensors", StateDict(weights)));
  EXPECT_THAT(WriteMaskedModel(base(), 1, out()).status().message(),
              HasSubstr("lack bert.encoder.layer.1.output.dense.weight"));
  Require(WriteFileAtomically(base() / "config.json", BertConfigJson("RobertaModel")));
  EXPECT_EQ(WriteMaskedModel(base(), 1, out()).status().code(), Code::kUnimplemented);
  Require(WriteFileAtomically(base() / "config.json", "[]"));
  EXPECT_EQ(WriteMaskedModel(base(), 1, out()).status().code(), Code::kInvalidArgument);
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_EQ(WriteMaskedModel(base(), 1, base()).status().code(), Code::kAlreadyExists);
}

}  // namespace
}  // namespace heddle::model
