// Methods that give devices parts of the model: who has which layers when, and means over those who trained a tensor,
// against sums in double.
#include "aggregation/parts/sub_models.h"

#include <gmock/gmock.h>

#include <set>

#include "aggregation/layer_groups.h"
#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const Shapes kModel = {{"m.layer.0.w", {2, 3}}, {"m.layer.1.w", {2, 3}}, {"m.layer.2.w", {2, 3}},
                       {"m.layer.3.w", {2, 3}}, {"m.layer.10.w", {4}},   {"head.weight", {5}}};

AggregatorOptions OptionsOf(uint32_t round, Settings method) {
  AggregatorOptions options;
  options.round = round;
  options.seed = 11;
  options.method = std::move(method);
  return options;
}

TEST(SubModels, TheLayerOfAKeyStandsAloneBetweenDots) {
  EXPECT_EQ(LayerOfKey("base_model.model.bert.encoder.layer.11.output.dense.weight"), 11U);
  EXPECT_EQ(LayerOfKey("h.0"), 0U);
  EXPECT_EQ(LayerOfKey("cls.predictions.bias"), std::nullopt);
  EXPECT_EQ(LayerOfKey("a.1x.b"), std::nullopt);
  EXPECT_EQ(LayerOfKey(""), std::nullopt);
}

TEST(FedBfpt, LayersHaveTheirTurnsFromShallowToDeep) {
  const Settings settings = {{"num_layers", 4}, {"rounds_per_layer", 2}, {"sampled_layers", 1}};
  for (uint32_t round = 1; round <= 12; ++round) {
    const uint32_t turn = std::min((round - 1) / 2, 3U);
    const SubModel part = SubModelOf("FedBFPT", OptionsOf(round, settings), "anna");
    ASSERT_EQ(part.given.size(), turn + 1);
    EXPECT_EQ(part.given.back(), turn);
    EXPECT_EQ(part.frozen, std::vector<uint32_t>(part.given.begin(), part.given.end() - 1));
    ASSERT_EQ(part.layers.size(), turn + 1 + (turn < 3 ? 1 : 0)) << "one deeper layer, as long as there is one";
    EXPECT_TRUE(std::equal(part.given.begin(), part.given.end(), part.layers.begin()));
    EXPECT_LT(part.layers.back(), 4U);
    const auto sent = SentBy(part, UpdateSpec(SpecOf(RandomUpdate(kModel, 1)), {}, 0));
    std::set<std::string> names;
    for (const auto& [name, spec] : sent) names.insert(name);
    EXPECT_EQ(names, (std::set<std::string>{"m.layer." + std::to_string(turn) + ".w", "head.weight"}));
  }
}

TEST(FedBfpt, DeeperLayersAreDrawnForEachDeviceAndRoundAndAllHaveTheirChance) {
  const Settings settings = {{"num_layers", 6}, {"rounds_per_layer", 1000}, {"sampled_layers", 2}};
  std::map<uint32_t, int> seen;
  for (uint32_t round = 1; round <= 200; ++round) {
    const AggregatorOptions options = OptionsOf(round, settings);
    for (const char* device : {"anna", "bert", "carl"}) {
      const SubModel part = SubModelOf("FedBFPT", options, device);
      ASSERT_EQ(part, SubModelOf("FedBFPT", options, device));
      ASSERT_EQ(part.layers.size(), 3U);
      EXPECT_TRUE(std::is_sorted(part.layers.begin(), part.layers.end()));
      for (const uint32_t layer : part.layers) ++seen[layer];
    }
  }
  EXPECT_EQ(seen[0], 600);
  for (uint32_t layer = 1; layer < 6; ++layer) {  // 240 expected each; the spread of a fair draw is about 12
    EXPECT_GT(seen[layer], 180);
    EXPECT_LT(seen[layer], 300);
  }
}

TEST(FreezeLayers, OneMoreLayerRestsEveryFewRoundsAndTheLastOneNever) {
  const Settings settings = {{"num_layers", 3}, {"rounds_per_layer", 2}};
  const auto frozen = [&](uint32_t round) {
    return SubModelOf("FreezeLayers", OptionsOf(round, settings), "anna").frozen;
  };
  EXPECT_THAT(frozen(1), IsEmpty());
  EXPECT_THAT(frozen(2), IsEmpty());
  EXPECT_THAT(frozen(3), ElementsAre(0));
  EXPECT_THAT(frozen(5), ElementsAre(0, 1));
  EXPECT_THAT(frozen(100), ElementsAre(0, 1));
  EXPECT_THAT(SubModelOf("FreezeLayers", OptionsOf(5, settings), "anna").layers, IsEmpty()) << "it has all of them";
}

TEST(HeteroLayers, ADeviceHasAsManyLayersAsItCanHold) {
  AggregatorOptions options = OptionsOf(1, {{"num_layers", 12}});
  options.layers_of = [](std::string_view device) { return device == "small" ? 3U : device == "tiny" ? 1U : 0U; };
  EXPECT_THAT(SubModelOf("HeteroLayers", options, "small").layers, ElementsAre(0, 1, 2));
  EXPECT_EQ(SubModelOf("HeteroLayers", options, "large"), SubModel{});
  options.method["spread_layers"] = 1;
  EXPECT_THAT(SubModelOf("HeteroLayers", options, "small").layers, ElementsAre(0, 6, 11));
  EXPECT_THAT(SubModelOf("HeteroLayers", options, "tiny").layers, ElementsAre(0));
  EXPECT_THAT(SubModelOf("HeteroLayers", options, "tiny", 2).layers, ElementsAre(0, 11)) << "its memory decides";
  EXPECT_EQ(SubModelOf("HeteroLayers", options, "tiny", 12), SubModel{});
  EXPECT_EQ(SubModelOf("FreezeLayers", OptionsOf(1, {{"num_layers", 3}}), "tiny", 2), SubModel{}) << "of no meaning";
}

class HeteroLayersMean : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(ByMemory, HeteroLayersMean, ::testing::Bool());

TEST_P(HeteroLayersMean, ATensorIsTheMeanOfThoseWhoTrainedIt) {
  AggregatorOptions options = OptionsOf(1, {{"num_layers", 11}});
  const auto layers_of = [](std::string_view device) { return device == "a" ? 1U : device == "b" ? 3U : 0U; };
  if (!GetParam()) options.layers_of = layers_of;
  Shapes shapes = kModel;
  const StateDict parent = RandomUpdate(shapes, 1, 2.0F);
  std::vector<Sent> sent;
  const std::vector<std::pair<std::string, uint64_t>> devices = {{"a", 3}, {"b", 10}, {"c", 1}};
  for (const auto& [name, examples] : devices) {
    const uint32_t layers = GetParam() ? layers_of(name) : 0;
    const SubModel part = SubModelOf("HeteroLayers", options, name, layers);
    const auto spec = SentBy(part, UpdateSpec(SpecOf(parent), {}, 0));
    Sent one;
    const StateDict all = RandomUpdate(shapes, 20 + examples);
    for (const auto& [key, tensor] : spec) one.update.emplace(key, all.at(key));
    one.info.num_examples = examples;
    one.info.device = name;
    one.info.layers = layers;
    sent.push_back(std::move(one));
  }
  EXPECT_FALSE(sent[0].update.contains("m.layer.1.w"));
  EXPECT_FALSE(sent[1].update.contains("m.layer.3.w"));
  EXPECT_EQ(sent[2].update.size(), kModel.size());
  const RoundModel made = RunRound("HeteroLayers", parent, sent, options);
  for (const auto& [name, tensor] : parent) {
    const auto start = tensor.values<float>(), got = made.model.at(name).values<float>();
    for (size_t i = 0; i < start.size(); ++i) {
      double sum = 0, weight = 0;
      for (const Sent& one : sent) {
        const auto found = one.update.find(name);
        if (found == one.update.end()) continue;
        sum += static_cast<double>(one.info.num_examples) * found->second.values<float>()[i];
        weight += static_cast<double>(one.info.num_examples);
      }
      EXPECT_NEAR(got[i], start[i] + sum / weight, 1e-6) << name;
    }
  }
}

TEST(SubModels, WhatNobodyTrainedStaysToTheBit) {
  const AggregatorOptions options = OptionsOf(3, {{"num_layers", 11}, {"rounds_per_layer", 1}});
  const StateDict parent = RandomUpdate(kModel, 1, 2.0F);
  for (const char* method : {"FedBFPT", "FreezeLayers"}) {
    AggregatorOptions own = options;
    if (std::string(method) == "FreezeLayers") own.method.erase("sampled_layers");
    const SubModel part = SubModelOf(method, own, "anna");
    Sent one;
    const StateDict all = RandomUpdate(kModel, 9);
    for (const auto& [key, tensor] : SentBy(part, UpdateSpec(SpecOf(parent), {}, 0))) {
      one.update.emplace(key, all.at(key));
    }
    one.info.num_examples = 1;
    one.info.device = "anna";
    const RoundModel made = RunRound(method, parent, {one}, own);
    for (const auto& [name, tensor] : parent) {
      const bool same = std::ranges::equal(tensor.bytes(), made.model.at(name).bytes());
      EXPECT_EQ(same, !one.update.contains(name)) << method << " " << name;
    }
  }
}

TEST(SubModels, AnUpdateOfOtherLayersIsRefused) {
  const AggregatorOptions options = OptionsOf(1, {{"num_layers", 11}});
  const StateDict parent = RandomUpdate(kModel, 1);
  const auto aggregator = MakeAggregator("FedBFPT", parent, options);
  ASSERT_TRUE(aggregator.ok()) << aggregator.status();
  UpdateInfo info;
  info.num_examples = 1;
  info.device = "anna";
  EXPECT_EQ((*aggregator)->Validate(RandomUpdate(kModel, 2), info).refusal, Refusal::kWrongTensors);
  StateDict right = RandomUpdate(kModel, 2);
  std::erase_if(right, [](const auto& item) { return LayerOfKey(item.first).value_or(0) != 0; });
  EXPECT_TRUE((*aggregator)->Validate(right, info).ok());
  StateDict less = right;
  less.erase("head.weight");
  EXPECT_EQ((*aggregator)->Fold(less, info).code(), Code::kInvalidArgument);
}

TEST(SubModels, ADeviceGetsTheTensorsOfItsLayersAndOfNone) {
  const StateDict model = RandomUpdate(kModel, 1);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : GivenTo(SubModel{{0, 1, 10}, {0, 1}, {0}}, model)) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("head.weight", "m.layer.0.w", "m.layer.1.w"));
  EXPECT_EQ(GivenTo(SubModel{}, model).size(), model.size());
}

}  // namespace
}  // namespace heddle::aggregation
