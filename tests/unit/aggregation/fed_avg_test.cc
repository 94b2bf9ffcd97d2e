// FedAvg against brute force in wider arithmetic, and its promise that only the set of updates counts.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "aggregation/aggregator.h"
#include "aggregation/fixed_point.h"
#include "common/safetensors.h"
#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation {
namespace {

struct Weighted {
  StateDict update;
  uint64_t weight;
};

std::unique_ptr<Aggregator> Make(const StateDict& parent, const AggregatorOptions& options = {}) {
  auto made = MakeAggregator("FedAvg", parent, options);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

StateDict Aggregate(const StateDict& parent, const std::vector<Weighted>& updates, const AggregatorOptions& options) {
  auto aggregator = Make(parent, options);
  for (const Weighted& item : updates) {
    const Validity validity = aggregator->Validate(item.update, {item.weight});
    EXPECT_TRUE(validity.ok()) << validity.message;
    const Status folded = aggregator->Fold(item.update, {item.weight});
    EXPECT_TRUE(folded.ok()) << folded;
  }
  auto next = std::move(*aggregator).Finish();
  EXPECT_TRUE(next.ok()) << next.status();
  return std::move(next->model);
}

// parent + sum(n x) / sum(n) for one element, in the widest arithmetic there is.
long double BruteForce(float parent, const std::vector<Weighted>& updates, const std::string& name, size_t i) {
  long double sum = 0, weight = 0;
  for (const Weighted& item : updates) {
    sum += static_cast<long double>(item.update.at(name).values<float>()[i]) * static_cast<long double>(item.weight);
    weight += static_cast<long double>(item.weight);
  }
  return static_cast<long double>(parent) + sum / weight;
}

// The bound that fixed_point.h states for the grid, and then the roundings of a few double operations and one float.
long double Bound(const AggregatorOptions& options, const std::vector<Weighted>& updates, long double exact,
                  long double magnitude) {
  const auto grid = FixedPointGrid::Make(options.max_abs, options.max_num_examples, options.max_updates);
  long double weight = 0;
  for (const Weighted& item : updates) weight += static_cast<long double>(item.weight);
  const auto count = static_cast<long double>(updates.size());
  return std::ldexp(1.0L, -(grid->fraction_bits() + 1)) * count / weight + 8 * magnitude * 0x1p-53L +
         std::abs(exact) * 0x1p-24L + std::numeric_limits<float>::denorm_min();
}

std::vector<Weighted> RandomUpdates(const Shapes& shapes, size_t count, uint64_t seed, float max_abs,
                                    uint64_t max_weight) {
  std::vector<Weighted> updates;
  const PhiloxStream random(seed, 7);
  for (size_t k = 0; k < count; ++k) {
    updates.push_back({RandomUpdate(shapes, seed * 1000 + k, max_abs), 1 + random.U64At(k) % max_weight});
  }
  return updates;
}

const Shapes kMixed = {{"a.lora_A", {4, 33}}, {"a.lora_B", {17, 4}}, {"b", {1}}, {"empty", {0, 4}}, {"scalar", {}}};

struct GridCase {
  double max_abs;
  uint64_t max_weight, max_updates;
  size_t count;
};

class FedAvgPrecision : public testing::TestWithParam<GridCase> {};

TEST_P(FedAvgPrecision, MeanIsWithinTheStatedBoundOfBruteForce) {
  const GridCase c = GetParam();
  AggregatorOptions options;
  options.max_abs = c.max_abs;
  options.max_num_examples = c.max_weight;
  options.max_updates = c.max_updates;
  const StateDict parent = RandomUpdate(kMixed, 99, 2.0F);
  const auto updates = RandomUpdates(kMixed, c.count, 5, static_cast<float>(c.max_abs), c.max_weight);
  const StateDict next = Aggregate(parent, updates, options);
  ASSERT_EQ(SpecOf(next), SpecOf(parent));
  for (const auto& [name, tensor] : next) {
    for (size_t i = 0; i < tensor.values<float>().size(); ++i) {
      const long double exact = BruteForce(parent.at(name).values<float>()[i], updates, name, i);
      const long double bound = Bound(options, updates, exact, static_cast<long double>(c.max_abs) + 2);
      ASSERT_NEAR(tensor.values<float>()[i], exact, bound) << name << "[" << i << "]";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Grids, FedAvgPrecision,
                         testing::Values(GridCase{16.0, 1'000'000, 65'536, 20}, GridCase{1.0, 1, 1, 1},
                                         GridCase{0.3, 1000, 10, 10}, GridCase{1e-6, 100, 1000, 700},
                                         GridCase{7.0, 3, 1U << 24, 300}, GridCase{128.0, 1 << 29, 1U << 24, 300}));

TEST(FedAvg, WeightsAreTheNumbersOfExamples) {
  const StateDict parent = Single({10.0F, -1.0F});
  const StateDict next = Aggregate(parent, {{Single({1.0F, 0.0F}), 1}, {Single({5.0F, 2.0F}), 3}}, {});
  EXPECT_EQ(next.at("x").values<float>()[0], 14.0F);  // 10 + (1 + 15) / 4
  EXPECT_EQ(next.at("x").values<float>()[1], 0.5F);   // -1 + 6 / 4
}

TEST(FedAvg, OneUpdateIsAddedWhateverItsWeight) {
  const StateDict parent = Single({0.25F});
  for (const uint64_t weight : {1, 7, 1'000'000}) {
    EXPECT_EQ(Aggregate(parent, {{Single({0.5F}), weight}}, {}).at("x").values<float>()[0], 0.75F);
  }
}

TEST(FedAvg, AnyOrderAndAnyThreadCountGiveTheSameBytes) {
  EXPECT_TRUE(rc::check("the result depends on the set of updates only", [] {
    const auto count = *rc::gen::inRange<size_t>(1, 12);
    const auto seed = *rc::gen::inRange<uint64_t>(0, 1'000'000);
    AggregatorOptions options;
    options.max_abs = std::ldexp(1.0, *rc::gen::inRange(-10, 11));
    options.max_num_examples = uint64_t{1} << *rc::gen::inRange(0, 22);
    const StateDict parent = RandomUpdate(kMixed, seed, 3.0F);
    auto updates = RandomUpdates(kMixed, count, seed, static_cast<float>(options.max_abs), options.max_num_examples);
    const std::string expected = SerializeSafetensors(Aggregate(parent, updates, options));
    Shuffle(&updates, *rc::gen::arbitrary<uint64_t>());
    options.threads = *rc::gen::inRange(1U, 6U);
    RC_ASSERT(SerializeSafetensors(Aggregate(parent, updates, options)) == expected);
  }));
}

TEST(FedAvg, ModelsLargeEnoughForSeveralThreadsGiveTheSameBytesAsOne) {
  // Tensors that threads' shares cut through, beside small ones.
  const Shapes shapes = {{"a", {5, 3}}, {"b", {700'001}}, {"c", {2, 300'007}}, {"d", {31}}};
  AggregatorOptions options;
  const StateDict parent = RandomUpdate(shapes, 1, 2.0F);
  auto updates = RandomUpdates(shapes, 3, 2, 16.0F, options.max_num_examples);
  const std::string expected = SerializeSafetensors(Aggregate(parent, updates, options));
  for (const unsigned threads : {2U, 3U, 5U, 64U}) {
    options.threads = threads;
    std::rotate(updates.begin(), updates.begin() + 1, updates.end());
    EXPECT_TRUE(SerializeSafetensors(Aggregate(parent, updates, options)) == expected) << threads << " threads";
  }
}

// The grid's own integers added in 128 bits: exact, so the limits must give exactly this.
float ExactOnGrid(float parent, const std::vector<std::pair<float, uint64_t>>& parts, int fraction_bits) {
  __extension__ __int128 sum = 0;
  uint64_t weight = 0;
  for (const auto& [x, n] : parts) {
    const long double scaled = std::ldexp(static_cast<long double>(x) * static_cast<long double>(n), fraction_bits);
    sum += static_cast<int64_t>(std::nearbyint(scaled));
    weight += n;
  }
  return static_cast<float>(static_cast<double>(parent) +
                            static_cast<double>(sum) / std::ldexp(static_cast<double>(weight), fraction_bits));
}

TEST(FedAvg, ThousandsOfUpdatesAtEveryLimitDoNotOverflow) {
  AggregatorOptions options;
  options.max_abs = 16.0;
  options.max_num_examples = uint64_t{1} << 20;
  options.max_updates = 5000;
  const int bits =
      FixedPointGrid::Make(options.max_abs, options.max_num_examples, options.max_updates)->fraction_bits();
  const std::vector<float> extremes = {16.0F, -16.0F, std::nextafter(16.0F, 0.0F), -0.0F, 0x1p-149F};
  auto aggregator = Make(Single({0, 0, 0, 0, 1}), options);
  std::vector<std::vector<std::pair<float, uint64_t>>> parts(extremes.size());
  for (uint64_t k = 0; k < options.max_updates; ++k) {
    // Now and then a sign turns, so that both limbs move both ways.
    std::vector<float> values = extremes;
    if (k % 7 == 3) values[2] = -values[2];
    const uint64_t weight = k % 3 == 0 ? options.max_num_examples - k : options.max_num_examples;
    ASSERT_TRUE(aggregator->Validate(Single(values), {weight}).ok());
    ASSERT_TRUE(aggregator->Fold(Single(values), {weight}).ok());
    for (size_t i = 0; i < values.size(); ++i) parts[i].emplace_back(values[i], weight);
  }
  const StateDict next = (*std::move(*aggregator).Finish()).model;
  const auto result = next.at("x").values<float>();
  EXPECT_EQ(result[0], 16.0F);
  EXPECT_EQ(result[1], -16.0F);
  for (size_t i = 0; i < extremes.size(); ++i) EXPECT_EQ(result[i], ExactOnGrid(i == 4 ? 1.0F : 0.0F, parts[i], bits));
}

TEST(FedAvg, OrderDoesNotCountBeyondTheFirstLimbEither) {
  AggregatorOptions options;
  options.max_abs = 1.0;
  options.max_num_examples = 64;
  const Shapes shapes = {{"x", {37}}};
  const StateDict parent = RandomUpdate(shapes, 1);
  auto updates = RandomUpdates(shapes, 1500, 3, 1.0F, options.max_num_examples);
  const std::string expected = SerializeSafetensors(Aggregate(parent, updates, options));
  for (uint64_t seed = 0; seed < 3; ++seed) {
    Shuffle(&updates, seed);
    EXPECT_TRUE(SerializeSafetensors(Aggregate(parent, updates, options)) == expected);
  }
}

TEST(FedAvg, RefusesMoreUpdatesThanItMayFoldAndKeepsTheRest) {
  AggregatorOptions options;
  options.max_updates = 2;
  auto aggregator = Make(Single({0.0F}), options);
  ASSERT_TRUE(aggregator->Fold(Single({1.0F}), {1}).ok());
  ASSERT_TRUE(aggregator->Fold(Single({3.0F}), {1}).ok());
  EXPECT_EQ(aggregator->Fold(Single({9.0F}), {1}).code(), Code::kResourceExhausted);
  EXPECT_EQ(aggregator->num_folded(), 2U);
  EXPECT_EQ(aggregator->total_examples(), 2U);
  EXPECT_EQ((*std::move(*aggregator).Finish()).model.at("x").values<float>()[0], 2.0F);
}

TEST(FedAvg, ARefusedUpdateChangesNothing) {
  const StateDict parent = RandomUpdate(kMixed, 1);
  const auto good = RandomUpdates(kMixed, 3, 8, 1.0F, 100);
  const std::string expected = SerializeSafetensors(Aggregate(parent, good, {}));
  auto aggregator = Make(parent);
  ASSERT_TRUE(aggregator->Fold(good[0].update, {good[0].weight}).ok());
  StateDict missing = good[1].update, extra = good[1].update, reshaped = good[1].update;
  missing.erase("b");
  extra.emplace("c", Tensor::FromFloats({1}, std::vector<float>{1}));
  reshaped["a.lora_A"] = Tensor::FromFloats({33, 4}, std::vector<float>(132, 1.0F));
  for (const StateDict* bad : {&missing, &extra, &reshaped}) {
    EXPECT_EQ(aggregator->Fold(*bad, {10}).code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(aggregator->Fold(good[1].update, {0}).code(), Code::kInvalidArgument);
  EXPECT_EQ(aggregator->Fold(good[1].update, {1'000'001}).code(), Code::kInvalidArgument);
  EXPECT_EQ(aggregator->num_folded(), 1U);
  EXPECT_EQ(aggregator->total_examples(), good[0].weight);
  ASSERT_TRUE(aggregator->Fold(good[1].update, {good[1].weight}).ok());
  ASSERT_TRUE(aggregator->Fold(good[2].update, {good[2].weight}).ok());
  EXPECT_TRUE(SerializeSafetensors((*std::move(*aggregator).Finish()).model) == expected);
}

TEST(FedAvg, FinishWithoutAnUpdateIsAnErrorNotTheParent) {
  EXPECT_EQ(std::move(*Make(Single({1.0F}))).Finish().status().code(), Code::kFailedPrecondition);
}

TEST(FedAvg, ValuesThatNobodyValidatedGiveAWrongSumOfThatElementOnly) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  auto aggregator = Make(Single({0, 0, 0, 0}));
  ASSERT_TRUE(aggregator->Fold(Single({nan, inf, 3e38F, 2.0F}), {4}).ok());
  EXPECT_EQ((*std::move(*aggregator).Finish()).model.at("x").values<float>()[3], 2.0F);
}

}  // namespace
}  // namespace heddle::aggregation
