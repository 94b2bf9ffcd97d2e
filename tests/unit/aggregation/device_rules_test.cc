// Patterns of keys, models for smaller ranks, and what updates must hold.
#include "aggregation/device_rules.h"

#include <gtest/gtest.h>

#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kA = "base_model.model.h.0.q_proj.lora_A.weight";
constexpr std::string_view kB = "base_model.model.h.0.q_proj.lora_B.weight";

StateDict Model() {
  return RandomUpdate({{std::string(kA), {4, 3}},
                       {std::string(kB), {5, 4}},
                       {"base_model.model.classifier.weight", {2, 5}},
                       {"heddle.base_delta.h.0.q_proj.lora_A.weight", {8, 3}},
                       {"heddle.base_delta.h.0.q_proj.lora_B.weight", {5, 8}},
                       {"heddle.control." + std::string(kA), {4, 3}}},
                      9);
}

TEST(DeviceRules, OneOfTheirPatternsIsEnough) {
  EXPECT_TRUE(MatchesAny({"x", "lora_A"}, kA));
  EXPECT_FALSE(MatchesAny({}, kA));
}

TEST(DeviceRules, PlainSgdHasNeitherMomentumNorWeightDecay) {
  EXPECT_TRUE(IsPlainSgd("SGD", 0, 0));
  EXPECT_FALSE(IsPlainSgd("AdamW", 0, 0));
  EXPECT_FALSE(IsPlainSgd("SGD", 0.9, 0));
  EXPECT_FALSE(IsPlainSgd("SGD", 0, 0.1));
}

TEST(DeviceRules, TheModelOfASmallerRankIsASlice) {
  const StateDict model = Model(), cut = DeviceModel(model, 3);
  ASSERT_EQ(cut.size(), model.size());
  const auto a = model.find(kA)->second.values<float>(), cut_a = cut.find(kA)->second.values<float>();
  ASSERT_EQ(cut.find(kA)->second.shape(), (Shape{3, 3}));
  for (size_t i = 0; i < 9; ++i) EXPECT_EQ(cut_a[i], a[i]);
  const auto b = model.find(kB)->second.values<float>(), cut_b = cut.find(kB)->second.values<float>();
  ASSERT_EQ(cut.find(kB)->second.shape(), (Shape{5, 3}));
  for (size_t row = 0; row < 5; ++row) {
    for (size_t column = 0; column < 3; ++column) EXPECT_EQ(cut_b[row * 3 + column], b[row * 4 + column]);
  }
  for (const char* whole : {"base_model.model.classifier.weight", "heddle.base_delta.h.0.q_proj.lora_B.weight"}) {
    EXPECT_EQ(cut.find(whole)->second.bytes().data(), model.find(whole)->second.bytes().data()) << "shared, not copied";
  }
}

TEST(DeviceRules, ARankOfZeroOrAboveTheModelsCutsNothing) {
  const StateDict model = Model();
  for (const int64_t rank : {0, 4, 100}) EXPECT_EQ(SpecOf(DeviceModel(model, rank)), SpecOf(model));
}

TEST(DeviceRules, UpdatesHoldWhatIsTrainedAndTravels) {
  const StateDictSpec model = SpecOf(Model());
  const StateDictSpec all = UpdateSpec(model, {}, 0);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all.begin()->first, "base_model.model.classifier.weight");
  const StateDictSpec frozen = UpdateSpec(model, {.frozen = {"lora_A"}}, 2);
  ASSERT_EQ(frozen.size(), 2U);
  EXPECT_EQ(frozen.find(kB)->second.shape, (Shape{5, 2}));
  const StateDictSpec shared = UpdateSpec(model, {.kept = {"lora_B", "classifier"}}, 0);
  ASSERT_EQ(shared.size(), 1U);
  EXPECT_EQ(shared.begin()->first, kA);
}

TEST(DeviceRules, WithScaffoldEachTrainedTensorBringsItsControlVariate) {
  const StateDictSpec spec =
      UpdateSpec(SpecOf(Model()), {.frozen = {"classifier"}, .correction = Correction::kScaffold}, 3);
  ASSERT_EQ(spec.size(), 4U);
  EXPECT_EQ(spec.find(std::string(kControlPrefix) + std::string(kB))->second.shape, (Shape{5, 3}));
  EXPECT_EQ(spec.find(std::string(kControlPrefix) + std::string(kA))->second.shape, (Shape{3, 3}));
}

}  // namespace
}  // namespace heddle::aggregation
