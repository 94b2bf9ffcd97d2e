// Methods with shared seeds, held to a walk of a device's own and to sums in float64.
#include "aggregation/ledger/methods.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "aggregation/ledger/ledger_model.h"
#include "aggregation/ledger/scalar_rules.h"
#include "common/random.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::aggregation {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kPool = 24;

StateDict Start() {
  PhiloxStream random(7);
  StateDict start;
  for (const char* name : {"base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"}) {
    std::vector<float> values(60);
    for (float& value : values) value = 0.1F * (random.NextUniform() - 0.5F);
    start.emplace(name, Tensor::FromFloats({6, 10}, values));
  }
  return start;
}

AggregatorOptions Options(uint32_t round, uint32_t steps = 10, uint32_t perturbations = 1) {
  AggregatorOptions options;
  options.seed = 5;
  options.round = round;
  options.zo = {.learning_rate = 1e-4,
                .local_steps = steps,
                .num_perturbations = perturbations,
                .epsilon = 1e-3,
                .max_scalar = 100};
  options.method["resolution_bits"] = 30;
  options.parent_digest = Sha256("start");
  options.load_model = [](const Sha256Digest& digest) -> Result<StateDict> {
    if (digest != Sha256("start")) return NotFound("no such model");
    return Start();
  };
  return options;
}

AggregatorOptions PoolOptions(uint32_t round) {
  AggregatorOptions options = Options(round);
  options.method["pool_size"] = kPool;
  return options;
}

StateDict Update(const Sha256Digest& weights, std::vector<zo::Scalar> steps) {
  std::sort(steps.begin(), steps.end(), [](const auto& a, const auto& b) { return a.ref < b.ref; });
  const zo::Scalars scalars{.steps = std::move(steps), .weights = weights, .skipped = 0};
  return {{std::string(kScalarsName), ByteTensor(zo::EncodeScalars(scalars, zo::ScalarFormat::kFloat32))}};
}

std::vector<zo::Scalar> Random(uint64_t key, uint64_t first, uint32_t refs, size_t count, bool distinct) {
  PhiloxStream random(key);
  std::vector<zo::Scalar> steps;
  for (size_t i = 0; i < count; ++i) {
    steps.push_back({first + (distinct ? i : random.NextBelow(refs)), 40 * (random.NextUniform() - 0.5F)});
  }
  return steps;
}

Sha256Digest StartDigest() { return zo::DigestOfWeights(WeightsOf(Start(), 1e-3)->parameters); }

struct Sender {
  std::string device;
  uint64_t examples;
  std::vector<zo::Scalar> steps;
};
Result<RoundModel> Merge(std::string_view method, const AggregatorOptions& options, const RoundModel& parent,
                         const Sha256Digest& weights, const std::vector<Sender>& senders) {
  HEDDLE_ASSIGN_OR_RETURN(auto aggregator, MakeAggregator(method, parent.model, options, parent.state));
  for (const Sender& sender : senders) {
    const UpdateInfo info{.num_examples = sender.examples, .num_steps = 1, .rank = 0, .device = sender.device};
    const StateDict update = Update(weights, sender.steps);
    const Validity validity = aggregator->Validate(update, info);
    if (!validity.ok()) return InvalidArgument(validity.message);
    HEDDLE_RETURN_IF_ERROR(aggregator->Fold(update, info));
  }
  return std::move(*aggregator).Finish();
}

std::map<uint64_t, int64_t> EntriesOf(const RoundModel& model) {
  std::map<uint64_t, int64_t> entries;
  const zo::Ledger ledger = *LedgerOf(model.model);
  for (const zo::LedgerEntry& entry : ledger.entries) entries[entry.ref] = entry.n;
  return entries;
}

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

// ---- FwdLLM ----

AggregatorOptions FwdOptions(uint32_t round, double threshold) {
  AggregatorOptions options = Options(round, 1, 6);
  options.method = {{"candidates", 50}, {"variance_threshold", threshold}, {"resolution_bits", 30}};
  return options;
}

// What the definition says in float64, over all scalars so far in order of devices.
double VarianceOf(const zo::LedgerHead& head, const std::vector<zo::Scalar>& scalars,
                  const AggregatorOptions& options) {
  const std::string name = Start().begin()->first;  // both tensors are of one size: the first
  const size_t size = 60, half = scalars.size() / 2;
  std::vector<double> first(size), second(size);
  for (size_t i = 0; i < scalars.size(); ++i) {
    // As it arrives: a whole number of the ledger.
    const double n = std::nearbyint(-options.zo.RatePerDirection() * static_cast<double>(scalars[i].gradient) * 0x1p30);
    const double scalar = -n * 0x1p-30 / options.zo.RatePerDirection();
    for (size_t k = 0; k < size; ++k) {
      const double z =
          zo::DirectionAt({head.distribution, zo::SeedOf(head, scalars[i].ref), zo::ParameterStream(name)}, k);
      (i < half ? first : second)[k] += scalar * z / static_cast<double>(i < half ? half : scalars.size() - half);
    }
  }
  double sum = 0;
  for (size_t k = 0; k < size; ++k) {
    const double mean = (first[k] + second[k]) / 2;
    sum += (first[k] - mean) * (first[k] - mean) + (second[k] - mean) * (second[k] - mean);
  }
  return sum / static_cast<double>(size);
}

TEST(FwdLlm, ScalarsWaitUntilTheGradientsVarianceIsSmallEnough) {
  std::vector<Sender> first = {{"b", 1, Random(1, 100, 0, 6, true)}, {"a", 7, Random(2, 700, 0, 6, true)}};
  std::vector<zo::Scalar> all = first[1].steps;  // in order of devices
  all.insert(all.end(), first[0].steps.begin(), first[0].steps.end());
  const auto head = LedgerOf(Merge("FwdLLM", FwdOptions(1, 0), {Start(), {}}, StartDigest(), first)->model)->head;
  const double once = VarianceOf(head, all, FwdOptions(1, 0));
  const auto moved = Merge("FwdLLM", FwdOptions(1, once * 1.0001), {Start(), {}}, StartDigest(), first);
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_NE(LedgerOf(moved->model)->weights, StartDigest());
  const double threshold = once * 0.9999;
  auto model = Merge("FwdLLM", FwdOptions(1, threshold), {Start(), {}}, StartDigest(), first);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(LedgerOf(model->model)->weights, StartDigest()) << "it waits";
  EXPECT_TRUE(LedgerOf(model->model)->entries.empty());
  // More of them until it moves: by the mean of all that have come.
  for (uint32_t round = 2; round < 60; ++round) {
    const uint64_t from = (round - 1) * kFwdLlmRoundSpan;
    const std::vector<Sender> more = {{"a", 1, Random(round, from, 0, 6, true)}};
    all.insert(all.end(), more[0].steps.begin(), more[0].steps.end());
    model = Merge("FwdLLM", FwdOptions(round, threshold), *model, StartDigest(), more);
    ASSERT_TRUE(model.ok()) << model.status();
    const bool enough = VarianceOf(head, all, FwdOptions(round, 0)) <= threshold;
    ASSERT_EQ(LedgerOf(model->model)->entries.empty(), !enough) << round;
    if (!enough) continue;
    const auto entries = EntriesOf(*model);
    ASSERT_EQ(entries.size(), all.size());
    for (const zo::Scalar& one : all) {
      EXPECT_NEAR(static_cast<double>(entries.at(one.ref)) * 0x1p-30,
                  -1e-4 * static_cast<double>(one.gradient) / static_cast<double>(all.size()), 4e-9);
    }
    return;
  }
  FAIL() << "the gate never opened";
}

TEST(FwdLlm, AfterSoManyScalarsItMovesWhateverTheVariance) {
  AggregatorOptions options = FwdOptions(1, 0);
  options.method["max_waiting"] = 12;
  RoundModel model{Start(), {}};
  for (uint32_t round = 1; round <= 2; ++round) {
    options.round = round;
    const auto made = Merge("FwdLLM", options, model, StartDigest(),
                            {{"a", 1, Random(round, (round - 1) * kFwdLlmRoundSpan, 0, 6, true)}});
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(LedgerOf(made->model)->entries.size(), round == 1 ? 0U : 12U);
    model = *made;
  }
}

TEST(FwdLlm, AStateThatIsNotItsOwnIsRefused) {
  const auto first =
      Merge("FwdLLM", FwdOptions(1, 0), {Start(), {}}, StartDigest(), {{"a", 1, Random(1, 5, 0, 6, true)}});
  StateDict state = first->state;
  const std::vector<float> values(4);
  state.insert_or_assign("heddle.ledger.waiting", Tensor::FromFloats({2, 2}, values));
  const auto made = Merge("FwdLLM", FwdOptions(2, 0), {first->model, state}, StartDigest(),
                          {{"a", 1, Random(1, kFwdLlmRoundSpan, 0, 6, true)}});
  EXPECT_EQ(made.status().code(), Code::kInvalidArgument);
}

TEST(FwdLlm, NeedsOneStepATaskAndEnoughCandidates) {
  AggregatorOptions options = FwdOptions(1, 0);
  options.zo.local_steps = 2;
  EXPECT_THAT(MakeAggregator("FwdLLM", Start(), options).status().message(), HasSubstr("local_steps = 1"));
  options = FwdOptions(1, 0);
  options.method["candidates"] = 5;
  EXPECT_THAT(MakeAggregator("FwdLLM", Start(), options).status().message(), HasSubstr("candidates"));
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
      {"not finite", {{key, ByteTensor(nan)}}, 1, Refusal::kOutOfBounds},
      {"an unknown generator", {{key, ByteTensor(generator)}}, 1, Refusal::kOutOfBounds},
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
