// Methods with shared seeds, held to a walk of a device's own and to sums in float64.
#include "aggregation/ledger/methods.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "aggregation/ledger/scalar_rules.h"
#include "tests/unit/aggregation/ledger_rounds.h"

namespace heddle::aggregation {
namespace {

using ::testing::HasSubstr;

TEST(FedKSeed, WithOneDeviceTheModelIsItsOwnWalkToTheBit) {
  const auto steps = Random(1, 0, kPool, 10, false);
  const auto made = Merge("FedKSeed", PoolOptions(1), {Start(), {}}, StartDigest(), {{"a", 3, steps}});
  ASSERT_TRUE(made.ok()) << made.status();
  // The walk: each step in turn, perturbations and all.
  Weights walked = *WeightsOf(Start(), 1e-3);
  const zo::LedgerHead head = LedgerOf(made->model)->head;
  std::map<uint64_t, int64_t> scales;
  for (const zo::Scalar& step : steps) {
    const int64_t n = scales[step.ref];
    const int64_t next = n + std::llrint(-1e-4 * static_cast<double>(step.gradient) * 0x1p30);
    for (const zo::Parameter& p : walked.parameters) {
      const zo::Direction direction{head.distribution, zo::SeedOf(head, step.ref), p.stream};
      zo::MoveOnGrid(direction, 0, std::vector<zo::Move>{{0, 1e-3F}}, p.grid, p.values);
      zo::MoveOnGrid(direction, 0, std::vector<zo::Move>{{1e-3F, -1e-3F}}, p.grid, p.values);
      zo::MoveOnGrid(direction, 0, std::vector<zo::Move>{{-1e-3F, 0}, {zo::ScaleOf(head, n), zo::ScaleOf(head, next)}},
                     p.grid, p.values);
    }
    scales[step.ref] = next;
  }
  EXPECT_EQ(zo::DigestOfWeights(walked.parameters), LedgerOf(made->model)->weights);
  for (const zo::Parameter& p : walked.parameters) {
    const auto kept = made->state.find(p.name)->second.values<float>();
    EXPECT_TRUE(std::equal(kept.begin(), kept.end(), p.values.begin()));
  }
}

TEST(FedKSeed, ScalarsAreWeightedByExamplesOfAllDevices) {
  const std::vector<Sender> senders = {{"a", 1, Random(1, 0, kPool, 10, false)},
                                       {"b", 5, Random(2, 0, kPool, 8, false)},
                                       {"c", 2, Random(3, 0, kPool, 10, false)}};
  const auto made = Merge("FedKSeed", PoolOptions(1), {Start(), {}}, StartDigest(), senders);
  ASSERT_TRUE(made.ok()) << made.status();
  std::map<uint64_t, double> expected;
  for (const Sender& sender : senders) {
    for (const zo::Scalar& step : sender.steps) {
      expected[step.ref] -= 1e-4 * static_cast<double>(step.gradient) * static_cast<double>(sender.examples) / 8;
    }
  }
  const auto entries = EntriesOf(*made);
  EXPECT_EQ(entries.size(), expected.size());
  for (const auto& [ref, scale] : expected) EXPECT_NEAR(static_cast<double>(entries.at(ref)) * 0x1p-30, scale, 1e-8);
}

TEST(FedKSeed, TheOrderOfUpdatesDoesNotMatter) {
  std::vector<Sender> senders;
  for (uint64_t i = 0; i < 6; ++i) senders.push_back({"d" + std::to_string(i), i + 1, Random(i, 0, kPool, 10, false)});
  const auto one = Merge("FedKSeed-Pro", PoolOptions(1), {Start(), {}}, StartDigest(), senders);
  std::reverse(senders.begin(), senders.end());
  const auto other = Merge("FedKSeed-Pro", PoolOptions(1), {Start(), {}}, StartDigest(), senders);
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_EQ(*LedgerOf(one->model), *LedgerOf(other->model));
}

// Rounds one after the other: the state spares a replay of all, and is not needed for one.
TEST(FedKSeed, AfterManyRoundsTheReplayIsTheSameWithAndWithoutTheState) {
  RoundModel model{Start(), {}};
  Sha256Digest weights = StartDigest();
  for (uint32_t round = 1; round <= 4; ++round) {
    const std::vector<Sender> senders = {{"a", 1, Random(round, 0, kPool, 10, false)},
                                         {"b", 2, Random(round + 100, 0, kPool, 10, false)}};
    AggregatorOptions options = PoolOptions(round);
    options.parent_digest = round == 1 ? Sha256("start") : Sha256("another");
    options.threads = round;
    const auto with = Merge("FedKSeed", options, model, weights, senders);
    ASSERT_TRUE(with.ok()) << with.status();
    const auto without = Merge("FedKSeed", options, {model.model, {}}, weights, senders);
    ASSERT_TRUE(without.ok()) << without.status();
    EXPECT_EQ(*LedgerOf(with->model), *LedgerOf(without->model));
    StateDict wrong = model.state;
    for (auto& [name, tensor] : wrong) tensor = Start().begin()->second;
    const auto mended = Merge("FedKSeed", options, {model.model, wrong}, weights, senders);
    ASSERT_TRUE(mended.ok()) << mended.status();
    EXPECT_EQ(*LedgerOf(with->model), *LedgerOf(mended->model));
    model = *with;
    weights = LedgerOf(model.model)->weights;
  }
  const auto replayed = ReplayLedger(Start(), *LedgerOf(model.model), 2);
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  for (const auto& [name, tensor] : *replayed) {
    const auto kept = model.state.find(name)->second.values<float>();
    EXPECT_TRUE(std::equal(kept.begin(), kept.end(), tensor.values<float>().begin())) << name;
  }
  StateDict other = Start();
  other.begin()->second = Tensor::FromFloats({6, 10}, std::vector<float>(60, 0.5F));
  EXPECT_THAT(ReplayLedger(other, *LedgerOf(model.model), 1).status().message(), HasSubstr("another one's"));
}

TEST(FedKSeedPro, ImportanceIsTheMeanSizeOfScalarsSoFar) {
  RoundModel model{Start(), {}};
  Sha256Digest weights = StartDigest();
  std::map<uint64_t, std::vector<double>> sizes;
  for (uint32_t round = 1; round <= 3; ++round) {
    const auto steps = Random(round, 0, kPool, 10, false);
    for (const zo::Scalar& step : steps) sizes[step.ref].push_back(std::abs(static_cast<double>(step.gradient)));
    const auto made = Merge("FedKSeed-Pro", PoolOptions(round), model, weights, {{"a", 1, steps}});
    ASSERT_TRUE(made.ok()) << made.status();
    model = *made;
    weights = LedgerOf(model.model)->weights;
  }
  std::vector<double> means(kPool);
  for (const auto& [ref, list] : sizes) {
    for (const double size : list) means[ref] += size / static_cast<double>(list.size());
  }
  const double most = *std::max_element(means.begin(), means.end());
  const std::vector<uint8_t> importance = LedgerOf(model.model)->importance;
  ASSERT_EQ(importance.size(), kPool);
  for (size_t k = 0; k < kPool; ++k) EXPECT_NEAR(importance[k], 255 * means[k] / most, 1.01) << k;
}

TEST(DeComFl, EveryDeviceCountsOnce) {
  const std::vector<Sender> senders = {{"a", 1, Random(1, 12, 0, 12, true)}, {"b", 900, Random(2, 12, 0, 12, true)}};
  RoundModel model{Start(), {}};
  const auto first = Merge("DeComFL", Options(1, 4, 3), model, StartDigest(), {{"a", 1, Random(9, 0, 0, 12, true)}});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto made = Merge("DeComFL", Options(2, 4, 3), *first, LedgerOf(first->model)->weights, senders);
  ASSERT_TRUE(made.ok()) << made.status();
  const auto entries = EntriesOf(*made);
  EXPECT_EQ(entries.size(), 24U);
  for (size_t i = 0; i < 12; ++i) {
    const double mean = (static_cast<double>(senders[0].steps[i].gradient) + senders[1].steps[i].gradient) / 2;
    EXPECT_NEAR(static_cast<double>(entries.at(12 + i)) * 0x1p-30, -1e-4 / 3 * mean, 4e-9);
  }
}

TEST(Baffle, ScalarsAreWeightedByExamples) {
  const std::vector<Sender> senders = {{"a", 1, Random(1, 0, 0, 12, true)}, {"b", 3, Random(2, 0, 0, 12, true)}};
  const auto made = Merge("BAFFLE", Options(1, 1, 12), {Start(), {}}, StartDigest(), senders);
  ASSERT_TRUE(made.ok()) << made.status();
  const auto entries = EntriesOf(*made);
  for (size_t i = 0; i < 12; ++i) {
    const double mean = 0.25 * static_cast<double>(senders[0].steps[i].gradient) + 0.75 * senders[1].steps[i].gradient;
    EXPECT_NEAR(static_cast<double>(entries.at(i)) * 0x1p-30, -1e-4 / 12 * mean, 4e-9);
  }
}

// Four honest devices that agree but for noise, two that turn the signs and shout.
TEST(DeComFl, RobustRulesStandAgainstAttackersThatTurnTheSigns) {
  const auto truth = Random(1, 0, 0, 12, true);
  std::vector<Sender> senders;
  for (int i = 0; i < 7; ++i) {
    std::vector<zo::Scalar> steps = truth;
    const auto noise = Random(50 + static_cast<uint64_t>(i), 0, 0, 12, true);
    for (size_t k = 0; k < steps.size(); ++k) {
      steps[k].gradient = i < 5 ? steps[k].gradient + 0.02F * noise[k].gradient : -4 * steps[k].gradient;
    }
    senders.push_back({"d" + std::to_string(i), 1, steps});
  }
  const auto error = [&](const char* key, double value) {
    AggregatorOptions options = Options(1, 4, 3);
    if (key != nullptr) options.method[key] = value;
    const auto made = Merge("DeComFL", options, {Start(), {}}, StartDigest(), senders);
    EXPECT_TRUE(made.ok()) << made.status();
    const auto entries = EntriesOf(*made);
    double worst = 0;
    for (const zo::Scalar& step : truth) {
      const auto found = entries.find(step.ref);
      const double scale = found == entries.end() ? 0 : static_cast<double>(found->second) * 0x1p-30;
      worst = std::max(worst, std::abs(scale * -3e4 - static_cast<double>(step.gradient)));
    }
    return worst;
  };
  EXPECT_GT(error(nullptr, 0), 10);  // the mean is turned round
  EXPECT_LT(error("trim", 0.5), 1);
  EXPECT_LT(error("trim", 0.3), 1);
  EXPECT_LT(error("num_attackers", 2), 1);
}

TEST(DeComFl, KrumNeedsTwiceTheAttackersAndThreeDevices) {
  for (const char* method : {"DeComFL", "BAFFLE"}) {
    AggregatorOptions options = Options(1, 4, 3);
    options.method["num_attackers"] = 2;
    const auto merged = [&](uint64_t devices) {
      std::vector<Sender> senders;
      for (uint64_t i = 0; i < devices; ++i) senders.push_back({"d" + std::to_string(i), 1, Random(i, 0, 0, 12, true)});
      return Merge(method, options, {Start(), {}}, StartDigest(), senders).status();
    };
    EXPECT_TRUE(merged(7).ok()) << method;
    const Status few = merged(6);
    EXPECT_EQ(few.code(), Code::kFailedPrecondition) << method;
    EXPECT_THAT(few.message(), HasSubstr("at least 7")) << method;
    // A run that can never have enough is not begun.
    options.cohort = 6;
    EXPECT_EQ(MakeAggregator(method, Start(), options).status().code(), Code::kInvalidArgument) << method;
    options.cohort = 7;
    EXPECT_TRUE(MakeAggregator(method, Start(), options).ok()) << method;
    // Without Krum two devices are enough.
    options.cohort = 2;
    options.method["num_attackers"] = 0;
    EXPECT_TRUE(MakeAggregator(method, Start(), options).ok()) << method;
    EXPECT_TRUE(merged(2).ok()) << method;
  }
}

TEST(LedgerMethods, TheResolutionFollowsTheStepSizeAndStaysOverTheRounds) {
  for (const double rate : {3e-7, 1e-4, 1e-2, 0.5}) {
    AggregatorOptions options = Options(1, 1, 4);
    options.method.clear();
    options.zo.peak_learning_rate = options.zo.learning_rate = rate;
    const uint32_t bits = RulesOf("DeComFL", options)->seeds.resolution_bits;
    const double step = std::ldexp(rate / 4, static_cast<int>(bits));
    EXPECT_GE(step, 512);
    EXPECT_LT(step, 1024);
    options.zo.learning_rate /= 7;  // a schedule
    EXPECT_EQ(RulesOf("DeComFL", options)->seeds.resolution_bits, bits);
  }
}

TEST(ScalarRules, TheRatioIsRoundedToTheNearestAndTiesToTheEvenOne) {
  for (int64_t n = -40; n <= 40; ++n) {
    for (int64_t d = 1; d < 9; ++d) {
      EXPECT_EQ(RoundedRatio(n, d), std::llrint(static_cast<double>(n) / static_cast<double>(d))) << n << "/" << d;
    }
  }
}

TEST(ScalarRules, TheTrimmedMeanLeavesBothEndsOut) {
  std::vector<int64_t> values = {100, 1, 2, 3, -900};
  EXPECT_EQ(TrimmedMean(values, 0.2), 2);
  EXPECT_EQ(TrimmedMean(values, 0.5), 2);
  values = {1, 3, 100, -7};
  EXPECT_EQ(TrimmedMean(values, 0.5), 2);
  EXPECT_EQ(TrimmedMean({}, 0.5), 0);
}

struct Bad {
  const char* name;
  StateDict update;
  uint64_t examples;
  Refusal refusal;
};
TEST(LedgerUpdates, EachThatDoesNotFitIsRefusedForItsReason) {
  const Sha256Digest weights = StartDigest();
  const auto aggregator = *MakeAggregator("FedKSeed", Start(), PoolOptions(1));
  std::string nan =
      zo::EncodeScalars({.steps = {{1, 1.0F}}, .weights = weights, .skipped = 0}, zo::ScalarFormat::kFloat32);
  nan[nan.size() - 1] = 0x7f;
  nan[nan.size() - 2] = static_cast<char>(0xc0);
  std::string generator = nan;
  generator[5] = 77;
  StateDict two = Update(weights, {{1, 1.0F}});
  two.emplace("base_model.model.q.lora_A.weight", Start().begin()->second);
  const std::string key(kScalarsName);
  const std::vector<Bad> cases = {
      {"outside the pool", Update(weights, {{kPool, 1.0F}}), 1, Refusal::kOutOfBounds},
      {"beyond the bound", Update(weights, {{1, -100.5F}}), 1, Refusal::kOutOfBounds},
      {"too many steps", Update(weights, Random(1, 0, kPool, 11, false)), 1, Refusal::kOutOfBounds},
      {"not finite", {{key, ByteTensor(nan)}}, 1, Refusal::kNotFinite},
      {"an unknown generator", {{key, ByteTensor(generator)}}, 1, Refusal::kBadUpdate},
      {"cut off", {{key, ByteTensor(nan.substr(0, 20))}}, 1, Refusal::kBadUpdate},
      {"no scalars", Start(), 1, Refusal::kWrongTensors},
      {"more than scalars", two, 1, Refusal::kWrongTensors},
      {"floats", {{key, Tensor::FromFloats({1}, std::vector<float>{1})}}, 1, Refusal::kWrongDtype},
      {"another model's weights", Update(Sha256("x"), {{1, 1.0F}}), 1, Refusal::kWrongState},
      {"no examples", Update(weights, {{1, 1.0F}}), 0, Refusal::kBadNumExamples},
  };
  for (const Bad& bad : cases) {
    const UpdateInfo info{.num_examples = bad.examples, .num_steps = 1, .rank = 0, .device = "x"};
    EXPECT_EQ(aggregator->Validate(bad.update, info).refusal, bad.refusal) << bad.name;
    EXPECT_EQ(aggregator->Fold(bad.update, info).code(), Code::kInvalidArgument) << bad.name;
  }
  EXPECT_EQ(aggregator->num_folded(), 0U);
}

// What an honest device makes of a gradient beyond a bound that no float is.
TEST(LedgerUpdates, AScalarThatADeviceHasCutIsWithinTheBound) {
  for (const double bound : {0.1, 0.3, 999.0, 1e-3}) {
    AggregatorOptions options = PoolOptions(1);
    options.zo.max_scalar = bound;
    const auto aggregator = *MakeAggregator("FedKSeed", Start(), options);
    for (const zo::ScalarFormat format : {zo::ScalarFormat::kFloat32, zo::ScalarFormat::kBfloat16}) {
      for (const double sign : {1.0, -1.0}) {
        const float cut = zo::TravellingScalar(sign * 2 * bound, bound, format);
        const StateDict honest = Update(StartDigest(), {{1, cut}});
        const UpdateInfo info{.num_examples = 1, .num_steps = 1, .rank = 0, .device = "x"};
        EXPECT_TRUE(aggregator->Validate(honest, info).ok()) << bound;
        const StateDict beyond = Update(StartDigest(), {{1, cut * 1.01F}});
        EXPECT_EQ(aggregator->Validate(beyond, info).refusal, Refusal::kOutOfBounds) << bound;
      }
    }
  }
}

TEST(LedgerUpdates, ADirectionOfAnotherRoundOrTwiceIsRefused) {
  const auto first =
      Merge("DeComFL", Options(1, 4, 3), {Start(), {}}, StartDigest(), {{"a", 1, Random(9, 0, 0, 12, true)}});
  const Sha256Digest weights = LedgerOf(first->model)->weights;
  const auto aggregator = *MakeAggregator("DeComFL", first->model, Options(2, 4, 3), first->state);
  const UpdateInfo info{.num_examples = 1, .num_steps = 1, .rank = 0, .device = "x"};
  EXPECT_TRUE(aggregator->Validate(Update(weights, {{12, 1.0F}, {23, 1.0F}}), info).ok());
  EXPECT_EQ(aggregator->Validate(Update(weights, {{11, 1.0F}}), info).refusal, Refusal::kOutOfBounds);
  EXPECT_EQ(aggregator->Validate(Update(weights, {{24, 1.0F}}), info).refusal, Refusal::kOutOfBounds);
  EXPECT_EQ(aggregator->Validate(Update(weights, {{13, 1.0F}, {13, 1.0F}}), info).refusal, Refusal::kOutOfBounds);
}

TEST(LedgerMethods, AParentOrSettingsThatDoNotFitAreRefused) {
  AggregatorOptions options = PoolOptions(1);
  options.method["pool_size"] = 0;
  EXPECT_EQ(MakeAggregator("FedKSeed", Start(), options).status().code(), Code::kInvalidArgument);
  const auto first =
      Merge("FedKSeed", PoolOptions(1), {Start(), {}}, StartDigest(), {{"a", 1, Random(9, 0, kPool, 10, false)}});
  options = PoolOptions(2);
  options.method["pool_size"] = kPool + 1;
  EXPECT_THAT(MakeAggregator("FedKSeed", first->model, options).status().message(), HasSubstr("other settings"));
  EXPECT_EQ(
      MakeAggregator("FedKSeed", {{std::string(kLedgerName), ByteTensor("HDLG")}}, PoolOptions(2)).status().code(),
      Code::kInvalidArgument);
}

TEST(LedgerMethods, AFirstAdapterOfSixteenBitsIsRefusedByEachMethod) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    StateDict start = Start();
    std::span<std::byte> bytes;
    start.begin()->second = Tensor::Allocate({dtype, {6, 10}}, &bytes);
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    for (const char* method : {"FedKSeed", "FedKSeed-Pro", "DeComFL", "BAFFLE", "FwdLLM"}) {
      const std::string_view name = method;
      const AggregatorOptions options = name == "FwdLLM"               ? FwdOptions(1, 0)
                                        : name.starts_with("FedKSeed") ? PoolOptions(1)
                                                                       : Options(1);
      EXPECT_TRUE(MakeAggregator(method, Start(), options).ok()) << method;
      const Status status = MakeAggregator(method, start, options).status();
      EXPECT_EQ(status.code(), Code::kInvalidArgument) << method;
      EXPECT_THAT(status.message(), HasSubstr("lora_A.weight' is " + std::string(DTypeName(dtype)))) << method;
    }
    const auto made =
        Merge("FedKSeed", PoolOptions(1), {Start(), {}}, StartDigest(), {{"a", 1, Random(9, 0, kPool, 10, false)}});
    ASSERT_TRUE(made.ok()) << made.status();
    const Status replayed = ReplayLedger(start, *LedgerOf(made->model), 1).status();
    EXPECT_EQ(replayed.code(), Code::kInvalidArgument);
    EXPECT_THAT(replayed.message(), HasSubstr("a ledger of directions is for float32 weights"));
  }
}

TEST(LedgerMethods, AStepThatTheGridCannotHoldFailsTheRoundAndSaysWhy) {
  AggregatorOptions options = PoolOptions(1);
  options.zo.learning_rate = 1e-2;
  const auto made = Merge("FedKSeed", options, {Start(), {}}, StartDigest(), {{"a", 1, {{1, 99.0F}}}});
  EXPECT_EQ(made.status().code(), Code::kFailedPrecondition);
  EXPECT_THAT(made.status().message(), HasSubstr("learning rate"));
}

}  // namespace
}  // namespace heddle::aggregation
