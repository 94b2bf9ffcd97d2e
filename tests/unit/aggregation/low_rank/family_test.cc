// What holds for every member of the family: the set of updates alone counts, and what does not fit is refused before
// anything changes.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "aggregation/low_rank/scratch_file.h"
#include "tests/unit/aggregation/low_rank/round.h"

namespace heddle::aggregation::low_rank {
namespace {

const char* const kFamily[] = {"FFA-LoRA", "FLoRA",   "FedEx-LoRA", "FedIT",     "FedSA-LoRA",
                               "FlexLoRA", "HetLoRA", "HLoRA",      "LoRA-FAIR", "RoLoRA"};

class Family : public testing::TestWithParam<const char*> {};

TEST_P(Family, AnyOrderAndAnyThreadCountGiveTheSameBytes) {
  const std::string method = GetParam();
  EXPECT_TRUE(rc::check("the result depends on the set of updates only", [&] {
    const auto count = *rc::gen::inRange<uint64_t>(1, 7);
    const auto seed = *rc::gen::inRange<uint64_t>(0, 1'000'000);
    const StateDict model = Model(Layers(), seed, 0.2F);
    AggregatorOptions options = WithFresh(model, kScaling);
    const DeviceRules rules = *RulesOf(method, options);
    std::vector<Device> devices;
    for (uint64_t c = 0; c < count; ++c) {
      const auto rank = *rc::gen::inRange<int64_t>(0, 5);
      devices.push_back(MakeDevice(model, "d" + std::to_string(c), seed + c, 0.5F, 1 + seed % (c + 3), rank, rules));
    }
    const std::string expected = SerializeSafetensors(Merged(method, model, devices, options));
    Shuffle(&devices, *rc::gen::arbitrary<uint64_t>());
    options.threads = *rc::gen::inRange(1U, 6U);
    RC_ASSERT(SerializeSafetensors(Merged(method, model, devices, options)) == expected);
  }));
}

TEST_P(Family, DevicesWithoutNamesHaveNoOrderEither) {
  const StateDict model = Model(Layers(), 2, 0.2F);
  const AggregatorOptions options = WithFresh(model, kScaling);
  auto devices = ThreeDevices(model, {0, 0, 0}, 0.5F, *RulesOf(GetParam(), options));
  for (Device& device : devices) device.info = {.num_examples = 7};
  const StateDict expected = Merged(GetParam(), model, devices, options);
  std::rotate(devices.begin(), devices.begin() + 1, devices.end());
  EXPECT_TRUE(SameBytes(Merged(GetParam(), model, devices, options), expected));
}

TEST_P(Family, ASecondLifeOfTheRoundGivesTheSameBytes) {
  const StateDict model = Model(Layers(), 2, 0.2F);
  const AggregatorOptions options = WithFresh(model, kScaling);
  const auto devices = ThreeDevices(model, {2, 0, 3}, 0.5F, *RulesOf(GetParam(), options));
  {  // a first life that ends in the middle
    auto aggregator = MakeOrFail(GetParam(), model, options);
    ASSERT_TRUE(aggregator->Fold(devices[2].update, devices[2].info).ok());
  }
  EXPECT_TRUE(SameBytes(Merged(GetParam(), model, devices, options), Merged(GetParam(), model, devices, options)));
}

TEST_P(Family, KeepsTheNamesAndShapesOfTheModelBesideTheBase) {
  const StateDict model = Model(Layers(), 3, 0.2F);
  const AggregatorOptions options = WithFresh(model, kScaling);
  StateDict next =
      Merged(GetParam(), model, ThreeDevices(model, {0, 0, 0}, 0.5F, *RulesOf(GetParam(), options)), options);
  std::erase_if(next, [](const auto& item) { return item.first.starts_with(kBaseDeltaPrefix); });
  EXPECT_EQ(SpecOf(next), SpecOf(model));
}

TEST_P(Family, WhatDoesNotFitIsRefusedAndChangesNothing) {
  const StateDict model = Model(Layers(), 4, 0.2F);
  const AggregatorOptions options = WithFresh(model, kScaling);
  const DeviceRules rules = *RulesOf(GetParam(), options);
  const auto devices = ThreeDevices(model, {0, 0, 0}, 0.5F, rules);
  const Device& good = devices[0];
  const std::string travels = good.update.contains(AKey("h.0.up")) ? AKey("h.0.up") : BKey("h.0.up");

  Device missing = good, extra = good, kept = good, own = good, shape = good, rank = good, nothing = good, less = good;
  missing.update.erase(travels);
  extra.update.merge(RandomUpdate({{"base_model.model.h.0.up.ia3_l", {9}}}, 1));  // another kind of adapter
  for (const Layer& layer : Layers()) {                                           // factors that should have stayed
    kept.update.merge(
        RandomUpdate({{AKey(layer.path), {layer.rank, layer.k}}, {BKey(layer.path), {layer.d, layer.rank}}}, 1));
  }
  own.update.merge(RandomUpdate({{BaseDeltaA("h.0.up"), {1, 9}}}, 1));
  shape.update[travels] = RandomUpdate({{travels, {5, 5}}}, 1).at(travels);
  const Shape full = good.update.at(travels).shape();
  const Shape more = IsLoraA(travels) ? Shape{full[0] + 1, full[1]} : Shape{full[0], full[1] + 1};
  rank.update[travels] = RandomUpdate({{travels, more}}, 1).at(travels);
  nothing.info.num_examples = 0;
  less.info.rank = -1;

  struct Bad {
    const Device* device;
    Refusal refusal;
  };
  std::vector<Bad> all = {{&missing, Refusal::kWrongTensors}, {&extra, Refusal::kWrongTensors},
                          {&own, Refusal::kWrongTensors},     {&shape, Refusal::kWrongShape},
                          {&rank, Refusal::kWrongRank},       {&nothing, Refusal::kBadNumExamples},
                          {&less, Refusal::kWrongRank}};
  if (!rules.frozen.empty() || !rules.kept.empty()) all.push_back({&kept, Refusal::kWrongTensors});

  auto aggregator = MakeOrFail(GetParam(), model, options);
  for (const Device& device : devices) {
    for (const Bad& bad : all) {
      const Validity validity = aggregator->Validate(bad.device->update, bad.device->info);
      EXPECT_EQ(validity.refusal, bad.refusal) << validity.message;
      EXPECT_EQ(aggregator->Fold(bad.device->update, bad.device->info).code(), Code::kInvalidArgument);
    }
    ASSERT_TRUE(aggregator->Fold(device.update, device.info).ok());
  }
  EXPECT_EQ(aggregator->num_folded(), 3U);
  EXPECT_EQ(aggregator->total_examples(), 40U);
  auto next = std::move(*aggregator).Finish();
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_TRUE(SameBytes(next->model, Merged(GetParam(), model, devices, options)));
}

TEST_P(Family, UpdatesOfAnotherRankThanTheDeviceWasGivenAreRefused) {
  const StateDict model = Model(Layers(8), 5, 0.2F);
  const AggregatorOptions options = WithFresh(model, kScaling);
  const DeviceRules rules = *RulesOf(GetParam(), options);
  auto aggregator = MakeOrFail(GetParam(), model, options);
  Device larger = MakeDevice(model, "x", 1, 0.5F, 3, 4, rules);
  larger.info.rank = 2;
  EXPECT_EQ(aggregator->Validate(larger.update, larger.info).refusal, Refusal::kWrongRank);
  Device smaller = MakeDevice(model, "x", 1, 0.5F, 3, 4, rules);
  smaller.info.rank = 0;
  const Validity validity = aggregator->Validate(smaller.update, smaller.info);
  EXPECT_EQ(validity.ok(), rules.prune_gamma > 0) << validity.message;
  if (!validity.ok()) {
    EXPECT_EQ(validity.refusal, Refusal::kWrongRank);
  }
}

TEST_P(Family, BoundsHoldForTheWholeUpdate) {
  const StateDict model = Model(Layers(), 6, 0.2F);
  AggregatorOptions options = WithFresh(model, kScaling);
  options.max_abs = 0.25;
  options.max_norm = 1;
  options.max_updates = 2;
  const DeviceRules rules = *RulesOf(GetParam(), options);
  auto aggregator = MakeOrFail(GetParam(), model, options);
  const Device far = MakeDevice(model, "far", 1, 0.5F, 3, 0, rules),
               large = MakeDevice(model, "l", 2, 0.25F, 3, 0, rules);
  const Device small = MakeDevice(model, "small", 3, 0.001F, 3, 0, rules);
  EXPECT_EQ(aggregator->Validate(far.update, far.info).refusal, Refusal::kOutOfBounds);
  EXPECT_EQ(aggregator->Validate(large.update, large.info).refusal, Refusal::kNormTooLarge);
  EXPECT_TRUE(aggregator->Validate(small.update, small.info).ok());
  EXPECT_TRUE(aggregator->Fold(small.update, small.info).ok());
  EXPECT_TRUE(aggregator->Fold(small.update, small.info).ok());
  EXPECT_EQ(aggregator->Fold(small.update, small.info).code(), Code::kResourceExhausted);
}

TEST_P(Family, ARoundWithoutUpdatesHasNoModel) {
  const StateDict model = Model(Layers(), 7);
  auto aggregator = MakeOrFail(GetParam(), model, WithFresh(model));
  EXPECT_EQ(std::move(*aggregator).Finish().status().code(), Code::kFailedPrecondition);
}

TEST_P(Family, ModelsThatAreNotPairsOfFactorsAreRefused) {
  const StateDict good = Model(Layers(), 8);
  const AggregatorOptions options = WithFresh(good, kScaling);
  StateDict none{{kHead, good.at(kHead)}}, half = good, other_half = good, ranks = good, flat = good, delta = good,
                                           stray = good;
  half.erase(BKey("h.0.up"));
  other_half.erase(AKey("h.0.up"));
  ranks[BKey("h.0.up")] = RandomUpdate({{"b", {19, 3}}}, 1).at("b");
  flat[BKey("h.0.up")] = RandomUpdate({{"b", {76}}}, 1).at("b");
  delta.merge(RandomUpdate({{BaseDeltaA("h.0.up"), {2, 8}}, {BaseDeltaB("h.0.up"), {19, 2}}}, 1));
  stray.merge(RandomUpdate({{BaseDeltaA("h.9.up"), {2, 8}}, {BaseDeltaB("h.9.up"), {19, 2}}}, 1));
  for (const StateDict* bad : {&none, &half, &other_half, &ranks, &flat, &delta, &stray}) {
    EXPECT_EQ(MakeAggregator(GetParam(), *bad, options).status().code(), Code::kInvalidArgument);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, Family, testing::ValuesIn(kFamily), [](const auto& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
});

TEST(LowRankFamily, MethodsThatMergeProductsRefuseWhatIsNotOne) {
  for (const char* method : {"FLoRA", "FedEx-LoRA", "FlexLoRA", "HLoRA", "HetLoRA", "LoRA-FAIR"}) {
    StateDict model = Model(Layers(), 1);
    AggregatorOptions options = WithFresh(model, 0);
    EXPECT_EQ(MakeAggregator(method, model, options).status().code(), Code::kInvalidArgument) << method;
    model.merge(RandomUpdate({{"base_model.model.h.0.up.lora_magnitude_vector", {19}}}, 1));
    const Status status = MakeAggregator(method, model, WithFresh(model)).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << method;
    EXPECT_NE(status.message().find("DoRA"), std::string::npos) << status;
  }
}

TEST(LowRankFamily, AScratchFolderThatIsNotThereIsAnError) {
  const StateDict model = Model(Layers(), 1);
  AggregatorOptions options = WithFresh(model);
  options.scratch = "/nowhere/at/all";
  EXPECT_EQ(MakeAggregator("FlexLoRA", model, options).status().code(), Code::kNotFound);
}

TEST(ScratchFile, GivesBackWhatWasAppended) {
  auto file = ScratchFile::Make({});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->Map()->bytes.empty());
  const std::vector<uint32_t> first = {1, 2, 3}, second = {4, 5};
  EXPECT_EQ(*file->Append(std::as_bytes(std::span(first))), 0U);
  EXPECT_EQ(*file->Append(std::as_bytes(std::span(second))), 12U);
  std::vector<uint32_t> back(2);
  ASSERT_TRUE(file->Read(8, std::as_writable_bytes(std::span(back))).ok());
  EXPECT_EQ(back, (std::vector<uint32_t>{3, 4}));
  EXPECT_EQ(file->Read(16, std::as_writable_bytes(std::span(back))).code(), Code::kDataLoss);
  const auto mapping = *file->Map();
  EXPECT_EQ(mapping.bytes.size(), 20U);
  EXPECT_EQ(std::to_integer<int>(mapping.bytes[16]), 5);
}

}  // namespace
}  // namespace heddle::aggregation::low_rank
