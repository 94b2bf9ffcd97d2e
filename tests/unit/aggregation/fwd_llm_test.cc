// FwdLLM's gate, held to sums in float64.
#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/unit/aggregation/ledger_rounds.h"

namespace heddle::aggregation {
namespace {

using ::testing::HasSubstr;

// What the definition says in float64, over all scalars so far in order of devices: the mean over the first so many
// elements of each of these tensors.
using Elements = std::map<std::string, size_t>;
double VarianceOf(const zo::LedgerHead& head, const std::vector<zo::Scalar>& scalars, const AggregatorOptions& options,
                  const Elements& elements) {
  const size_t half = scalars.size() / 2;
  double sum = 0;
  size_t all = 0;
  for (const auto& [name, size] : elements) {
    std::vector<double> first(size), second(size);
    for (size_t i = 0; i < scalars.size(); ++i) {
      // As it arrives: a whole number of the ledger.
      const double rate = options.zo.RatePerDirection();
      const double n = std::nearbyint(-rate * static_cast<double>(scalars[i].gradient) * 0x1p30);
      const double scalar = -n * 0x1p-30 / rate;
      const zo::Direction direction{head.distribution, zo::SeedOf(head, scalars[i].ref), zo::ParameterStream(name)};
      for (size_t k = 0; k < size; ++k) {
        const auto z = static_cast<double>(zo::DirectionAt(direction, k));
        (i < half ? first : second)[k] += scalar * z / static_cast<double>(i < half ? half : scalars.size() - half);
      }
    }
    for (size_t k = 0; k < size; ++k) {
      const double mean = (first[k] + second[k]) / 2;
      sum += (first[k] - mean) * (first[k] - mean) + (second[k] - mean) * (second[k] - mean);
    }
    all += size;
  }
  return sum / static_cast<double>(all);
}
double VarianceOf(const zo::LedgerHead& head, const std::vector<zo::Scalar>& scalars,
                  const AggregatorOptions& options) {
  Elements elements;
  const StateDict start = Start();
  for (const auto& [name, tensor] : start) elements[name] = static_cast<size_t>(tensor.numel());
  return VarianceOf(head, scalars, options, elements);
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

// The authors' code looks at one tensor. Here small ones count as much as their elements, whatever the order of names,
// and of a model with more than 65 536 elements each has its share.
TEST(FwdLlm, TheVarianceIsOfAllTensorsEachWithItsShare) {
  struct Case {
    std::map<std::string, Shape> shapes;
    Elements gated;
  };
  const std::vector<Case> cases = {
      {{{"a", {7}}, {"b", {6, 10}}, {"c", {1}}}, {{"a", 7}, {"b", 60}, {"c", 1}}},
      {{{"a", {6, 10}}, {"b", {6, 10}}, {"c", {200}}}, {{"a", 60}, {"b", 60}, {"c", 200}}},
      // 2^17 elements: half of each.
      {{{"a", {100, 1000}}, {"b", {31'072}}}, {{"a", 50'000}, {"b", 15'536}}},
  };
  for (const Case& one : cases) {
    StateDict start;
    for (const auto& [name, shape] : one.shapes) {
      start.emplace(name,
                    Tensor::FromFloats(shape, std::vector<float>(static_cast<size_t>(*NumElements(shape)), 0.1F)));
    }
    AggregatorOptions options = FwdOptions(1, 0);
    options.load_model = [&](const Sha256Digest&) -> Result<StateDict> { return start; };
    const Sha256Digest weights = zo::DigestOfWeights(WeightsOf(start, 1e-3)->parameters);
    const std::vector<Sender> senders = {{"a", 1, Random(1, 100, 0, 6, true)}};
    const auto moves = [&](double threshold) {
      options.method["variance_threshold"] = threshold;
      const auto made = Merge("FwdLLM", options, {start, {}}, weights, senders);
      EXPECT_TRUE(made.ok()) << made.status();
      return made.ok() && !EntriesOf(*made).empty();
    };
    // The least threshold at which it moves, from both sides.
    const auto head = LedgerOf(Merge("FwdLLM", options, {start, {}}, weights, senders)->model)->head;
    const double variance = VarianceOf(head, senders[0].steps, options, one.gated);
    EXPECT_TRUE(moves(variance * (1 + 1e-9)));
    EXPECT_FALSE(moves(variance * (1 - 1e-9)));
    // No tensor alone has this variance, so that a gate of one would be seen.
    for (const auto& [name, size] : one.gated) {
      const double alone = VarianceOf(head, senders[0].steps, options, {{name, size}});
      EXPECT_GT(std::abs(alone / variance - 1), 1e-6) << name;
    }
  }
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

}  // namespace
}  // namespace heddle::aggregation
