// What holds for every method whose updates are tensors: only the set of updates counts, threads change no bit, a
// restart in mid-round gives the same model, what is refused changes nothing, settings are checked.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "aggregation/layer_choice.h"
#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

constexpr int64_t kRank = 4;
// An adapter with two modules and a head; tensors that threads' shares cut through.
const Shapes kAdapter = {{"m.q.lora_A.weight", {kRank, 12}},
                         {"m.q.lora_B.weight", {10, kRank}},
                         {"m.v.lora_A.weight", {kRank, 12}},
                         {"m.v.lora_B.weight", {6, kRank}},
                         {"score.weight", {3, 12}}};

// Of the kind that the method takes.
Shapes AdapterFor(const std::string& method) {
  Shapes shapes = kAdapter;
  if (ChoosesLayers(method)) return {{"prompt_embeddings", {5, 24}}, {"score.weight", {3, 12}}};
  if (method != "FedAdapter") return shapes;
  std::erase_if(shapes, [](const auto& one) { return one.first.find("lora") != std::string::npos; });
  for (const char* layer : {"m.0", "m.1"}) {
    const std::string network = std::string(layer) + ".adapter_mlp.";
    shapes.emplace_back(network + "down.weight", Shape{24, 5});
    shapes.emplace_back(network + "down.bias", Shape{24});
    shapes.emplace_back(network + "up.weight", Shape{5, 24});
    shapes.emplace_back(network + "up.bias", Shape{5});
  }
  return shapes;
}

class EveryMethod : public testing::TestWithParam<std::string> {
 protected:
  EveryMethod() {
    options_.fresh_adapter = [](uint32_t round) { return RandomUpdate(kAdapter, 500 + round); };
  }

  // With what the method adds from the start.
  StateDict First(const StateDict& adapter) const {
    auto first = FirstModel(GetParam(), adapter, options_);
    EXPECT_TRUE(first.ok()) << first.status();
    return *std::move(first);
  }

  // Random values for what the method lets travel, from nine devices.
  std::vector<Sent> Updates(const StateDict& model, uint64_t seed, float max_abs = 0.5F) const {
    const auto rules = RulesOf(GetParam(), options_);
    EXPECT_TRUE(rules.ok()) << rules.status();
    Shapes shapes;
    for (const auto& [name, spec] : UpdateSpec(SpecOf(model), *rules, 0)) shapes.emplace_back(name, spec.shape);
    return RandomSent(shapes, 9, seed, max_abs);
  }

  AggregatorOptions options_ = WithLayers(GetParam(), {}, 2);
  const StateDict parent_ = First(RandomUpdate(AdapterFor(GetParam()), 1, 2.0F));
};
INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, testing::ValuesIn(MethodsOnTensors()), [](const auto& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
});

// The method makes what it makes of a model that never had those tensors.
TEST_P(EveryMethod, TensorsThatARecipeKeepsOnTheDevicesStayAsTheyAre) {
  options_.kept = {"score"};
  const auto rules = RulesOf(GetParam(), options_);
  ASSERT_TRUE(rules.ok()) << rules.status();
  EXPECT_TRUE(MatchesAny(rules->kept, "score.weight"));
  const auto sent = Updates(parent_, 5);
  for (const Sent& one : sent) EXPECT_FALSE(one.update.contains("score.weight"));
  const RoundModel made = RunRound(GetParam(), parent_, sent, options_);
  const auto score = made.model.at("score.weight").values<float>(), before = parent_.at("score.weight").values<float>();
  EXPECT_TRUE(std::equal(score.begin(), score.end(), before.begin(), before.end()));
  StateDict without = parent_;
  without.erase("score.weight");
  AggregatorOptions plain = options_;
  plain.kept.clear();
  RoundModel expected = RunRound(GetParam(), without, sent, plain);
  expected.model.insert_or_assign("score.weight", parent_.at("score.weight"));
  EXPECT_EQ(BytesOf(made), BytesOf(expected));
  // A device that sends what it should have kept is refused, and the round is as if it had not.
  auto aggregator = MakeMethod(GetParam(), parent_, options_);
  for (const Sent& one : sent) {
    StateDict all = one.update;
    all.emplace("score.weight", RandomUpdate({{"score.weight", {3, 12}}}, 3).at("score.weight"));
    EXPECT_EQ(aggregator->Validate(all, one.info).refusal, Refusal::kWrongTensors);
    EXPECT_EQ(aggregator->Fold(all, one.info).code(), Code::kInvalidArgument);
    ASSERT_TRUE(aggregator->Fold(one.update, one.info).ok());
  }
  EXPECT_EQ(aggregator->num_folded(), sent.size());
  const auto again = std::move(*aggregator).Finish();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(BytesOf(*again), BytesOf(made));
  options_.kept = {"weight", "bias", "prompt_embeddings"};
  EXPECT_EQ(MakeAggregator(GetParam(), parent_, options_).status().code(), Code::kInvalidArgument) << "nothing is left";
}

TEST_P(EveryMethod, AnyOrderGivesTheSameBytesRoundAfterRound) {
  StateDict model = parent_, state;
  for (uint32_t round = 1; round <= 3; ++round) {
    options_.round = round;
    auto sent = Updates(model, round);
    const RoundModel made = RunRound(GetParam(), model, sent, options_, state);
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      Shuffle(&sent, seed);
      ASSERT_EQ(BytesOf(RunRound(GetParam(), model, sent, options_, state)), BytesOf(made)) << "round " << round;
    }
    model = made.model;
    state = made.state;
  }
}

TEST_P(EveryMethod, DevicesWithoutNamesHaveNoOrderEither) {
  auto sent = Updates(parent_, 4);
  for (Sent& item : sent) item.info.device.clear();
  const std::string expected = BytesOf(RunRound(GetParam(), parent_, sent, options_));
  std::reverse(sent.begin(), sent.end());
  EXPECT_EQ(BytesOf(RunRound(GetParam(), parent_, sent, options_)), expected);
}

TEST_P(EveryMethod, ThreadsChangeNoBit) {
  const std::string expected = BytesOf(RunRound(GetParam(), parent_, Updates(parent_, 5), options_));
  options_.threads = 5;
  EXPECT_EQ(BytesOf(RunRound(GetParam(), parent_, Updates(parent_, 5), options_)), expected);
}

TEST_P(EveryMethod, FoldingAgainAfterARestartInMidRoundGivesTheSameBytes) {
  const auto sent = Updates(parent_, 6);
  const std::string expected = BytesOf(RunRound(GetParam(), parent_, sent, options_));
  {
    auto lost = MakeMethod(GetParam(), parent_, options_);
    for (size_t k = 0; k < 4; ++k) ASSERT_TRUE(lost->Fold(sent[k].update, sent[k].info).ok());
  }
  EXPECT_EQ(BytesOf(RunRound(GetParam(), parent_, sent, options_)), expected);
}

TEST_P(EveryMethod, ModelAndStateAreFiniteAndCanBeBegunWithAgain) {
  const RoundModel made = RunRound(GetParam(), parent_, Updates(parent_, 7, 16.0F), options_);
  options_.round = 2;
  const auto again = MakeAggregator(GetParam(), made.model, options_, made.state);
  EXPECT_TRUE(again.ok()) << again.status();
}

TEST_P(EveryMethod, ARefusedUpdateChangesNothing) {
  const auto sent = Updates(parent_, 8);
  auto aggregator = MakeMethod(GetParam(), parent_, options_);
  for (const Sent& item : sent) {
    StateDict missing = item.update;
    missing.erase(missing.begin());
    StateDict extra = item.update;
    extra.emplace("stray", Tensor::FromFloats({1}, std::vector<float>{1}));
    // An adapter of another kind, by itself and beside the right one.
    StateDict other = RandomUpdate({{"m.q.ia3_l", {10, 1}}}, 2);
    StateDict both = item.update;
    both.insert(other.begin(), other.end());
    for (const StateDict* bad : {&missing, &extra, &other, &both}) {
      EXPECT_EQ(aggregator->Validate(*bad, item.info).refusal, Refusal::kWrongTensors);
      EXPECT_EQ(aggregator->Fold(*bad, item.info).code(), Code::kInvalidArgument);
    }
    EXPECT_EQ(aggregator->Validate({}, item.info).refusal, Refusal::kWrongTensors);
    UpdateInfo weightless = item.info;
    weightless.num_examples = 0;
    EXPECT_EQ(aggregator->Validate(item.update, weightless).refusal, Refusal::kBadNumExamples);
    EXPECT_EQ(aggregator->Fold(item.update, weightless).code(), Code::kInvalidArgument);
    ASSERT_TRUE(aggregator->Fold(item.update, item.info).ok());
  }
  EXPECT_EQ(aggregator->num_folded(), sent.size());
  const auto made = std::move(*aggregator).Finish();
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(BytesOf(*made), BytesOf(RunRound(GetParam(), parent_, sent, options_)));
}

TEST_P(EveryMethod, WithoutUpdatesThereIsNoNextModel) {
  auto aggregator = MakeMethod(GetParam(), parent_, options_);
  EXPECT_EQ(std::move(*aggregator).Finish().status().code(), Code::kFailedPrecondition);
}

TEST_P(EveryMethod, UpdatesThatAllWeighNothingAreNoMean) {
  auto aggregator = MakeMethod(GetParam(), parent_, options_);
  auto sent = Updates(parent_, 11);
  for (Sent& item : sent) {
    item.info.num_examples = 0;
    EXPECT_EQ(aggregator->Validate(item.update, item.info).refusal, Refusal::kBadNumExamples);
    EXPECT_EQ(aggregator->Fold(item.update, item.info).code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(aggregator->num_folded(), 0U);
  EXPECT_EQ(aggregator->total_examples(), 0U);
  EXPECT_EQ(std::move(*aggregator).Finish().status().code(), Code::kFailedPrecondition);
}

TEST_P(EveryMethod, HoldsNoMoreUpdatesThanItMay) {
  options_.max_updates = 3;
  const auto sent = Updates(parent_, 9);
  auto aggregator = MakeMethod(GetParam(), parent_, options_);
  for (size_t k = 0; k < 3; ++k) ASSERT_TRUE(aggregator->Fold(sent[k].update, sent[k].info).ok());
  EXPECT_EQ(aggregator->Fold(sent[3].update, sent[3].info).code(), Code::kResourceExhausted);
  EXPECT_EQ(aggregator->num_folded(), 3U);
}

TEST_P(EveryMethod, SettingsOutOfRangeAreRefusedAndBoundsAreTaken) {
  for (const Setting& setting : SettingsOf(GetParam())) {
    SCOPED_TRACE(std::string(setting.name));
    EXPECT_FALSE(setting.help.empty());
    EXPECT_TRUE(setting.min <= setting.value && setting.value <= setting.max);
    for (const double good : {setting.min, setting.max, setting.value}) {
      options_.method = {{std::string(setting.name), good}};
      EXPECT_TRUE(MakeAggregator(GetParam(), parent_, options_).ok()) << good;
    }
    const double infinity = std::numeric_limits<double>::infinity();
    for (const double bad :
         {std::nextafter(setting.min, -infinity), std::nextafter(setting.max, infinity), std::nan("")}) {
      options_.method = {{std::string(setting.name), bad}};
      EXPECT_EQ(MakeAggregator(GetParam(), parent_, options_).status().code(), Code::kInvalidArgument) << bad;
    }
    if (setting.whole) {
      options_.method = {{std::string(setting.name), setting.value + 0.5}};
      EXPECT_EQ(MakeAggregator(GetParam(), parent_, options_).status().code(), Code::kInvalidArgument);
    }
  }
}

TEST_P(EveryMethod, ClippingIsFoldingTheShorterUpdate) {
  auto sent = Updates(parent_, 10);
  std::vector<Sent> shorter = sent;
  for (size_t k = 0; k < sent.size(); ++k) {
    double squares = 0;
    for (const auto& [name, tensor] : sent[k].update) {
      if (name.starts_with(kControlPrefix)) continue;
      for (const double x : Flat({{name, tensor}})) squares += x * x;
    }
    const double factor = std::min(1.0, 1.5 / std::sqrt(squares));
    for (auto& [name, tensor] : shorter[k].update) {
      if (name.starts_with(kControlPrefix)) {
        tensor = Tensor::FromFloats(Shape(tensor.shape()), std::vector<float>(tensor.values<float>().size(), 0.0F));
        sent[k].update[name] = tensor;  // a vector of its own, tested with the clipping
        continue;
      }
      std::vector<float> values;
      for (const double x : Flat({{name, tensor}})) values.push_back(static_cast<float>(x * factor));
      tensor = Tensor::FromFloats(Shape(tensor.shape()), values);
    }
  }
  const auto expected = Flat(RunRound(GetParam(), parent_, shorter, options_).model);
  options_.clip_norm = 1.5;
  const auto clipped = Flat(RunRound(GetParam(), parent_, sent, options_).model);
  ASSERT_EQ(clipped.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(clipped[i], expected[i], 1e-5) << i;
}

// ---- large enough for threads and several blocks ----

class LargeModels : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, LargeModels,
                         testing::Values("FedAdam", "FedDyn", "CoordinateMedian", "MultiKrum", "Bulyan",
                                         "GeometricMedian", "FoolsGold"),
                         [](const auto& info) { return info.param; });

TEST_P(LargeModels, ThreadsChangeNoBitOverManyBlocks) {
  const Shapes shapes = {{"a", {5, 3}}, {"b", {700'001}}, {"c", {2, 300'007}}, {"d", {31}}};
  const StateDict parent = RandomUpdate(shapes, 1, 2.0F);
  auto sent = RandomSent(shapes, 7, 2);
  AggregatorOptions options;
  const RoundModel made = RunRound(GetParam(), parent, sent, options);
  options.threads = 3;
  std::rotate(sent.begin(), sent.begin() + 2, sent.end());
  EXPECT_TRUE(BytesOf(RunRound(GetParam(), parent, sent, options)) == BytesOf(made));
}

}  // namespace
}  // namespace heddle::aggregation
