// SPRY: layers split among the devices, each averaged over those that trained it; against the mean in double.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "aggregation/layer_groups.h"
#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

const Shapes kLayers = {{"m.layers.0.q.lora_A.weight", {2, 6}},
                        {"m.layers.1.q.lora_A.weight", {2, 6}},
                        {"m.layers.2.q.lora_A.weight", {2, 6}},
                        {"m.layers.10.q.lora_A.weight", {2, 6}},
                        {"score.weight", {3, 4}}};

AggregatorOptions Options(double groups) {
  AggregatorOptions options;
  options.seed = 5;
  options.round = 2;
  options.method = {{"layer_groups", groups}};
  return options;
}

// What a device sends: the tensors of its group.
std::vector<Sent> SplitSent(uint32_t groups, size_t count) {
  std::vector<Sent> sent = RandomSent(kLayers, count, 3);
  for (Sent& one : sent) {
    const uint32_t group = LayerGroupOf(5, 2, one.info.device, groups);
    std::erase_if(one.update, [&](const auto& item) { return !InLayerGroup(item.first, groups, group); });
  }
  return sent;
}

TEST(LayerGroups, AreOfWholeLayersByTheirNumber) {
  EXPECT_TRUE(InLayerGroup("base_model.model.model.layers.12.self_attn.q_proj.lora_A.weight", 5, 2));
  EXPECT_FALSE(InLayerGroup("base_model.model.model.layers.12.self_attn.q_proj.lora_A.weight", 5, 1));
  EXPECT_TRUE(InLayerGroup("bert.encoder.layer.3", 4, 3));
  EXPECT_TRUE(InLayerGroup("h.7.attn", 2, 1));
  for (uint32_t group = 0; group < 3; ++group) {
    EXPECT_TRUE(InLayerGroup("classifier.weight", 3, group));
    EXPECT_TRUE(InLayerGroup("layer4.weight", 3, group)) << "not a number of its own";
    EXPECT_TRUE(InLayerGroup("", 3, group));
    EXPECT_TRUE(InLayerGroup("x.99999999999999999999.y", 3, group)) << "no number of a layer";
  }
  EXPECT_TRUE(InLayerGroup("layers.1.q", 0, 0));
}

TEST(LayerGroups, ComeToEveryDeviceAndChangeFromRoundToRound) {
  std::map<uint32_t, int> devices;
  std::set<uint32_t> rounds;
  for (int i = 0; i < 400; ++i) ++devices[LayerGroupOf(1, 1, "device-" + std::to_string(i), 4)];
  for (uint32_t round = 1; round <= 40; ++round) rounds.insert(LayerGroupOf(1, round, "phone", 4));
  ASSERT_EQ(devices.size(), 4U);
  for (const auto& [group, count] : devices) EXPECT_NEAR(count, 100, 40) << group;
  EXPECT_EQ(rounds.size(), 4U);
  EXPECT_EQ(LayerGroupOf(1, 1, "phone", 0), 0U);
}

TEST(LayerGroups, AreNoMoreThanThereAreLayersAndNoneIsEmpty) {
  const StateDict tensors = RandomUpdate(kLayers, 1);  // layers 0, 1, 2, 10
  EXPECT_EQ(UsableGroups(tensors, 0), 0U);
  EXPECT_EQ(UsableGroups(tensors, 1), 1U);
  EXPECT_EQ(UsableGroups(tensors, 3), 3U);
  EXPECT_EQ(UsableGroups(tensors, 4), 3U) << "of four, no layer is in the last";
  EXPECT_EQ(UsableGroups(tensors, 4096), 3U);
  EXPECT_EQ(UsableGroups(RandomUpdate({{"score.weight", {3, 4}}}, 1), 7), 1U);
  EXPECT_EQ(UsableGroups({}, 7), 1U);
}

TEST(Spry, OfMoreDevicesThanLayersTrainsEachLayer) {
  const StateDict parent = RandomUpdate(kLayers, 1);
  AggregatorOptions options = Options(0);
  options.cohort = 12;
  std::vector<Sent> sent = RandomSent(kLayers, 12, 3);
  for (Sent& one : sent) {
    const uint32_t group = LayerGroupOf(5, 2, one.info.device, 12) % 3;
    std::erase_if(one.update, [&](const auto& item) { return !InLayerGroup(item.first, 3, group); });
    EXPECT_GE(one.update.size(), 2U) << "a layer and the classifier";
  }
  const RoundModel made = RunRound("SPRY", parent, sent, options);
  for (const auto& [name, before] : parent) {
    const auto a = before.values<float>(), b = made.model.at(name).values<float>();
    EXPECT_FALSE(std::equal(a.begin(), a.end(), b.begin())) << name;
  }
}

TEST(Spry, AveragesEachLayerOverThoseThatTrainedIt) {
  const StateDict parent = RandomUpdate(kLayers, 1);
  const std::vector<Sent> sent = SplitSent(3, 7);
  const RoundModel made = RunRound("SPRY", parent, sent, Options(3));
  for (const auto& [name, before] : parent) {
    std::vector<double> expected;
    for (const float x : before.values<float>()) expected.push_back(static_cast<double>(x));
    double weight = 0;
    for (const Sent& one : sent) {
      if (one.update.contains(name)) weight += static_cast<double>(one.info.num_examples);
    }
    for (const Sent& one : sent) {
      const auto found = one.update.find(name);
      if (found == one.update.end()) continue;
      const auto values = found->second.values<float>();
      for (size_t i = 0; i < values.size(); ++i) {
        expected[i] += static_cast<double>(one.info.num_examples) / weight * static_cast<double>(values[i]);
      }
    }
    ExpectRoundedFrom(expected, {{name, made.model.at(name)}}, 1e-9);
  }
}

TEST(Spry, LayersThatNobodyTrainedStayAsTheyAre) {
  const StateDict parent = RandomUpdate(kLayers, 1);
  std::vector<Sent> sent = SplitSent(3, 7);
  const uint32_t group = LayerGroupOf(5, 2, sent[0].info.device, 3);
  sent.resize(1);
  const RoundModel made = RunRound("SPRY", parent, sent, Options(3));
  for (const auto& [name, before] : parent) {
    const auto a = before.values<float>(), b = made.model.at(name).values<float>();
    EXPECT_EQ(std::equal(a.begin(), a.end(), b.begin()), !InLayerGroup(name, 3, group)) << name;
  }
}

TEST(Spry, RefusesTheLayersOfOtherGroups) {
  const StateDict parent = RandomUpdate(kLayers, 1);
  const std::vector<Sent> sent = SplitSent(3, 7), whole = RandomSent(kLayers, 7, 3);
  auto aggregator = MakeMethod("SPRY", parent, Options(3));
  for (size_t k = 0; k < sent.size(); ++k) {
    EXPECT_EQ(aggregator->Validate(whole[k].update, whole[k].info).refusal, Refusal::kWrongTensors);
    UpdateInfo another = sent[k].info;
    while (LayerGroupOf(5, 2, another.device, 3) == LayerGroupOf(5, 2, sent[k].info.device, 3)) another.device += "x";
    EXPECT_FALSE(aggregator->Validate(sent[k].update, another).ok());
    EXPECT_EQ(aggregator->Fold(sent[k].update, another).code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(aggregator->num_folded(), 0U);
}

TEST(Spry, SplitsIntoAsManyGroupsAsDevicesAreAskedFor) {
  AggregatorOptions options;
  options.cohort = 7;
  EXPECT_EQ(LayerGroupsOf("SPRY", options), 7U);
  options.method = {{"layer_groups", 3}};
  EXPECT_EQ(LayerGroupsOf("SPRY", options), 3U);
  EXPECT_EQ(LayerGroupsOf("FedAvg", options), 0U);
}

}  // namespace
}  // namespace heddle::aggregation
