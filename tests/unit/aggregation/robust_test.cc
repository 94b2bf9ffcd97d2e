// The robust rules against each rule written down in double, on random input and at the edges of their formulas; and
// what they are for: attackers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

using Rows = std::vector<std::vector<double>>;

const Shapes kRobustShapes = {
    {"a.lora_A.weight", {3, 17}}, {"a.lora_B.weight", {9, 3}}, {"empty", {0, 2}}, {"one", {}}};

// ---- the rules by the book ----

double MedianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double TrimmedOf(std::vector<double> values, size_t cut) {
  std::sort(values.begin(), values.end());
  double sum = 0;
  for (size_t k = cut; k < values.size() - cut; ++k) sum += values[k];
  return sum / static_cast<double>(values.size() - 2 * cut);
}

double NearestOf(std::vector<double> values, size_t keep) {
  const double median = MedianOf(values);
  std::sort(values.begin(), values.end(), [&](double a, double b) {
    const double left = std::abs(a - median), right = std::abs(b - median);
    return left != right ? left < right : a < b;
  });
  return std::accumulate(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(keep), 0.0) /
         static_cast<double>(keep);
}

template <typename Rule>
std::vector<double> ByColumn(const Rows& rows, const Rule& rule) {
  std::vector<double> out;
  for (size_t i = 0; i < rows[0].size(); ++i) {
    std::vector<double> column;
    for (const auto& row : rows) column.push_back(row[i]);
    out.push_back(rule(column));
  }
  return out;
}

double SquaredDistance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

// Scores among the rows `of`.
std::vector<double> KrumScoresOf(const Rows& rows, const std::vector<size_t>& of, size_t f) {
  std::vector<double> scores;
  for (const size_t i : of) {
    std::vector<double> distances;
    for (const size_t j : of) {
      if (j != i) distances.push_back(SquaredDistance(rows[i], rows[j]));
    }
    std::sort(distances.begin(), distances.end());
    const size_t wanted = std::min(distances.size(), of.size() > f + 2 ? of.size() - f - 2 : 1);
    scores.push_back(std::accumulate(distances.begin(), distances.begin() + static_cast<std::ptrdiff_t>(wanted), 0.0));
  }
  return scores;
}

std::vector<size_t> Iota(size_t n) {
  std::vector<size_t> all(n);
  std::iota(all.begin(), all.end(), size_t{0});
  return all;
}

std::vector<double> MultiKrumOf(const Rows& rows, size_t f, size_t count) {
  auto order = Iota(rows.size());
  const auto scores = KrumScoresOf(rows, order, f);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  std::vector<double> mean(rows[0].size(), 0.0);
  for (size_t k = 0; k < count; ++k) {
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += rows[order[k]][i] / static_cast<double>(count);
  }
  return mean;
}

std::vector<double> BulyanOf(const Rows& rows, size_t f) {
  auto left = Iota(rows.size());
  Rows selected;
  const size_t theta = rows.size() - 2 * f;
  while (selected.size() < theta) {
    const auto scores = KrumScoresOf(rows, left, f);
    const auto best = std::min_element(scores.begin(), scores.end()) - scores.begin();
    selected.push_back(rows[left[static_cast<size_t>(best)]]);
    left.erase(left.begin() + best);
  }
  return ByColumn(selected, [&](const std::vector<double>& column) { return NearestOf(column, theta - 2 * f); });
}

std::vector<double> WeiszfeldOf(const Rows& rows, std::vector<double> alpha, double smoothing, int iterations) {
  const auto normalise = [](std::vector<double>* w) {
    const double sum = std::accumulate(w->begin(), w->end(), 0.0);
    for (double& x : *w) x /= sum;
  };
  normalise(&alpha);
  std::vector<double> weights = alpha, z;
  for (int t = 0; t <= iterations; ++t) {
    z.assign(rows[0].size(), 0.0);
    for (size_t k = 0; k < rows.size(); ++k) {
      for (size_t i = 0; i < z.size(); ++i) z[i] += weights[k] * rows[k][i];
    }
    for (size_t k = 0; k < rows.size(); ++k) {
      weights[k] = alpha[k] / std::max(smoothing, std::sqrt(SquaredDistance(z, rows[k])));
    }
    normalise(&weights);
  }
  return z;
}

std::vector<double> FoolsGoldWeightsOf(const Rows& histories) {
  const size_t n = histories.size();
  std::vector<std::vector<double>> cs(n, std::vector<double>(n, 0.0));
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  std::vector<double> most(n, 0.0), weights(n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (i != j) {
        cs[i][j] = dot(histories[i], histories[j]) /
                   std::sqrt(dot(histories[i], histories[i]) * dot(histories[j], histories[j]));
      }
      most[i] = std::max(most[i], cs[i][j]);
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (i != j && most[i] < most[j]) cs[i][j] *= most[i] / most[j];
    }
    weights[i] = std::clamp(1 - *std::max_element(cs[i].begin(), cs[i].end()), 0.0, 1.0);
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  for (double& w : weights) {
    w /= largest;
    if (w == 1) w = 0.99;
    w = std::clamp(std::log(w / (1 - w)) + 0.5, 0.0, 1.0);
  }
  return weights;
}

std::vector<double> WeightedMeanOf(const Rows& rows, const std::vector<double>& weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> mean(rows[0].size(), 0.0);
  for (size_t k = 0; k < rows.size(); ++k) {
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += rows[k][i] * weights[k] / total;
  }
  return mean;
}

std::vector<double> Plus(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

AggregatorOptions With(const Settings& settings) {
  AggregatorOptions options;
  options.method = settings;
  return options;
}

// ---- each against its book ----

class RobustRules : public testing::TestWithParam<size_t> {
 protected:
  const size_t n = GetParam();
  const StateDict parent = RandomUpdate(kRobustShapes, 11, 2.0F);
  const std::vector<Sent> sent = RandomSent(kRobustShapes, n, 17 + n);
  const Rows rows = FlatRows(sent);
};
INSTANTIATE_TEST_SUITE_P(Updates, RobustRules, testing::Values(1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 33, 100));

TEST_P(RobustRules, TheCoordinateMedianIsThatOfEachElement) {
  ExpectRoundedFrom(Plus(Flat(parent), ByColumn(rows, MedianOf)), RunRound("CoordinateMedian", parent, sent).model);
}

TEST_P(RobustRules, TheTrimmedMeanLeavesOutTheExtremesOfEachElement) {
  for (const double fraction : {0.0, 0.1, 0.2, 0.34, 0.4999}) {
    const auto cut = static_cast<size_t>(std::floor(fraction * static_cast<double>(n)));
    const auto step = ByColumn(rows, [&](const std::vector<double>& column) { return TrimmedOf(column, cut); });
    ExpectRoundedFrom(Plus(Flat(parent), step),
                      RunRound("TrimmedMean", parent, sent, With({{"trim_fraction", fraction}})).model);
  }
}

TEST_P(RobustRules, KrumAndMultiKrumTakeTheUpdatesWithTheNearestNeighbours) {
  for (size_t f = 0; 2 * f + 3 <= n; f = 2 * f + 1) {
    const auto attackers = static_cast<double>(f);
    ExpectRoundedFrom(Plus(Flat(parent), MultiKrumOf(rows, f, 1)),
                      RunRound("Krum", parent, sent, With({{"num_attackers", attackers}})).model);
    ExpectRoundedFrom(Plus(Flat(parent), MultiKrumOf(rows, f, n - f)),
                      RunRound("MultiKrum", parent, sent, With({{"num_attackers", attackers}})).model);
    ExpectRoundedFrom(
        Plus(Flat(parent), MultiKrumOf(rows, f, 2)),
        RunRound("MultiKrum", parent, sent, With({{"num_attackers", attackers}, {"num_selected", 2}})).model);
  }
}

TEST_P(RobustRules, BulyanIsKrumsChoiceAndThenTheMeanNearTheMedian) {
  for (size_t f = 0; 4 * f + 3 <= n; f = 2 * f + 1) {
    ExpectRoundedFrom(Plus(Flat(parent), BulyanOf(rows, f)),
                      RunRound("Bulyan", parent, sent, With({{"num_attackers", static_cast<double>(f)}})).model);
  }
}

TEST_P(RobustRules, TheGeometricMedianIsWeiszfelds) {
  std::vector<double> equal(n, 1.0), examples;
  for (const Sent& item : sent) examples.push_back(static_cast<double>(item.info.num_examples));
  ExpectRoundedFrom(Plus(Flat(parent), WeiszfeldOf(rows, equal, 1e-6, 10)),
                    RunRound("GeometricMedian", parent, sent).model, 1e-9);
  ExpectRoundedFrom(Plus(Flat(parent), WeiszfeldOf(rows, examples, 0.5, 3)),
                    RunRound("GeometricMedian", parent, sent,
                             With({{"weigh_by_examples", 1}, {"max_iterations", 3}, {"smoothing", 0.5}}))
                        .model,
                    1e-9);
}

TEST_P(RobustRules, FoolsGoldWeighsByTheLikenessOfHistories) {
  StateDict model = parent, state;
  Rows histories(n, std::vector<double>(rows[0].size(), 0.0));
  AggregatorOptions options;
  for (uint32_t round = 1; round <= 3; ++round) {
    options.round = round;
    auto of_round = RandomSent(kRobustShapes, n, 100 * n + round);
    // Some of them are nearly one.
    for (size_t k = 1; k < n; k += 3) of_round[k].update = of_round[k - 1].update;
    const Rows changes = FlatRows(of_round);
    for (size_t k = 0; k < n; ++k) histories[k] = Plus(histories[k], changes[k]);
    const auto weights = FoolsGoldWeightsOf(histories);
    if (n == 2) continue;  // all are alike: tested below
    RoundModel made = RunRound("FoolsGold", model, of_round, options, state);
    ExpectRoundedFrom(Plus(Flat(model), WeightedMeanOf(changes, weights)), made.model, 1e-6);
    model = std::move(made.model);
    state = std::move(made.state);
    for (auto& history : histories) {
      for (double& value : history) value = static_cast<double>(static_cast<float>(value));
    }
  }
}

// ---- edges ----

const std::vector<std::string> kRobust = {"CoordinateMedian", "TrimmedMean", "Krum",           "MultiKrum",
                                          "Bulyan",           "FoolsGold",   "GeometricMedian"};

TEST(RobustEdges, WhereOneDeviceIsEnoughItsUpdateIsTheStep) {
  const StateDict parent = RandomUpdate(kRobustShapes, 1);
  const auto sent = RandomSent(kRobustShapes, 1, 2);
  const auto expected = Plus(Flat(parent), Flat(sent[0].update));
  for (const char* method : {"CoordinateMedian", "TrimmedMean", "FoolsGold", "GeometricMedian"}) {
    SCOPED_TRACE(method);
    ExpectRoundedFrom(expected, RunRound(method, parent, sent).model);
  }
}

TEST(RobustEdges, OfEqualUpdatesTheStepIsThatUpdate) {
  const StateDict parent = RandomUpdate(kRobustShapes, 1);
  auto sent = RandomSent(kRobustShapes, 7, 2);
  for (Sent& item : sent) item.update = sent[0].update;
  const auto expected = Plus(Flat(parent), Flat(sent[0].update));
  for (const std::string& method : kRobust) {
    if (method == "FoolsGold") continue;
    SCOPED_TRACE(method);
    ExpectRoundedFrom(expected, RunRound(method, parent, sent).model);
  }
}

// Its public code divides by zero here.
TEST(RobustEdges, WhenAllAreAlikeFoolsGoldTrustsNobodyAndTheModelStays) {
  const StateDict parent = RandomUpdate(kRobustShapes, 1);
  auto sent = RandomSent(kRobustShapes, 4, 2);
  for (Sent& item : sent) item.update = sent[0].update;
  const RoundModel made = RunRound("FoolsGold", parent, sent);
  EXPECT_EQ(Flat(made.model), Flat(parent));
  EXPECT_EQ(made.state.size(), 8U);
}

TEST(RobustEdges, UpdatesOfZerosLeaveTheModel) {
  const StateDict parent = RandomUpdate(kRobustShapes, 1);
  auto sent = RandomSent(kRobustShapes, 7, 2);
  for (Sent& item : sent) item.update = RandomUpdate(kRobustShapes, 1, 0.0F);
  for (const std::string& method : kRobust) EXPECT_EQ(Flat(RunRound(method, parent, sent).model), Flat(parent));
}

TEST(RobustEdges, OfUpdatesThatAreEquallyGoodKrumTakesThatOfTheFirstName) {
  // A square: each has the same distances to the others.
  const std::vector<std::vector<float>> corners = {{1, 1}, {-1, 1}, {-1, -1}, {1, -1}};
  std::vector<Sent> sent;
  for (size_t k = 0; k < 4; ++k) {
    sent.push_back({Single(corners[k]), {.num_examples = 1, .device = "device-" + std::to_string(9 - k)}});
  }
  const auto expected = std::vector<double>{1, -1};  // of device-6
  EXPECT_EQ(Flat(RunRound("Krum", Single({0, 0}), sent).model), expected);
}

// Of whole numbers, so that distances are equal to the bit: neighbours, scores and values near the median all have
// ties.
TEST(RobustEdges, AmongEqualsTheFirstNameAndTheSmallerValueCount) {
  const std::vector<std::vector<float>> points = {{1, 0}, {0, 1}, {-1, 0}, {0, -1}, {0, 0}, {0, 0}, {2, 2}};
  for (size_t turn = 0; turn < points.size(); ++turn) {
    SCOPED_TRACE(turn);
    std::vector<Sent> sent;
    for (size_t k = 0; k < points.size(); ++k) {
      sent.push_back({Single(points[(k + turn) % points.size()]),
                      {.num_examples = 1 + k, .device = "device-" + std::to_string(k)}});
    }
    const Rows rows = FlatRows(sent);
    std::vector<Sent> backwards(sent.rbegin(), sent.rend());
    const auto expect = [&](const char* method, const Settings& settings, const std::vector<double>& step) {
      SCOPED_TRACE(method);
      ExpectRoundedFrom(step, RunRound(method, Single({0, 0}), sent, With(settings)).model);
      ExpectRoundedFrom(step, RunRound(method, Single({0, 0}), backwards, With(settings)).model);
    };
    for (const size_t f : {size_t{0}, size_t{1}, size_t{2}}) {
      const auto attackers = static_cast<double>(f);
      expect("Krum", {{"num_attackers", attackers}}, MultiKrumOf(rows, f, 1));
      expect("MultiKrum", {{"num_attackers", attackers}}, MultiKrumOf(rows, f, rows.size() - f));
      expect("MultiKrum", {{"num_attackers", attackers}, {"num_selected", 3}}, MultiKrumOf(rows, f, 3));
      if (f < 2) expect("Bulyan", {{"num_attackers", attackers}}, BulyanOf(rows, f));
    }
  }
}

// Their likeness is mutual, so whatever it is short of one both are trusted in full.
TEST(RobustEdges, OfTwoFoolsGoldTrustsBothUnlessTheyAreOne) {
  const StateDict parent = Single({1, 2, 3});
  const std::vector<float> one = {1, 2, -1};
  for (const std::vector<float>& other :
       std::vector<std::vector<float>>{{-1, -2, 1}, {2, 0, 2}, {1, 2, -0.5F}, {0, 0, 0}, {3, -1, 0}}) {
    const std::vector<Sent> sent = {{Single(one), {.num_examples = 5, .device = "anna"}},
                                    {Single(other), {.num_examples = 1, .device = "bert"}}};
    const Rows rows = FlatRows(sent);
    const bool still = other == std::vector<float>{0, 0, 0};  // no direction: like nobody
    const std::vector<double> weights = still ? std::vector<double>{1, 1} : FoolsGoldWeightsOf(rows);
    EXPECT_EQ(weights, (std::vector<double>{1, 1}));
    ExpectRoundedFrom(Plus(Flat(parent), WeightedMeanOf(rows, weights)), RunRound("FoolsGold", parent, sent).model);
  }
  const std::vector<Sent> same = {{Single(one), {.num_examples = 5, .device = "anna"}},
                                  {Single(one), {.num_examples = 1, .device = "bert"}}};
  EXPECT_EQ(Flat(RunRound("FoolsGold", parent, same).model), Flat(parent));
}

TEST(RobustEdges, FewerUpdatesThanTheBoundAreRefusedAndTheBoundItselfIsNot) {
  struct Case {
    const char* method;
    uint64_t f, least;
  };
  const StateDict parent = RandomUpdate(kRobustShapes, 1);
  for (const Case& c :
       {Case{"Krum", 0, 3}, Case{"Krum", 2, 7}, Case{"MultiKrum", 2, 7}, Case{"Bulyan", 0, 3}, Case{"Bulyan", 2, 11}}) {
    auto options = With({{"num_attackers", static_cast<double>(c.f)}});
    EXPECT_TRUE(FinishStatus(c.method, parent, RandomSent(kRobustShapes, c.least, 3), options).ok()) << c.method;
    const Status few = FinishStatus(c.method, parent, RandomSent(kRobustShapes, c.least - 1, 3), options);
    EXPECT_EQ(few.code(), Code::kFailedPrecondition) << c.method;
    EXPECT_NE(few.message().find(std::to_string(c.least)), std::string::npos) << few;
    // A run that can never have enough is not begun.
    options.cohort = c.least - 1;
    EXPECT_EQ(MakeAggregator(c.method, parent, options).status().code(), Code::kInvalidArgument) << c.method;
    options.cohort = c.least;
    EXPECT_TRUE(MakeAggregator(c.method, parent, options).ok()) << c.method;
  }
  const auto select = With({{"num_selected", 5}});
  EXPECT_EQ(FinishStatus("MultiKrum", parent, RandomSent(kRobustShapes, 4, 3), select).code(),
            Code::kFailedPrecondition);
  EXPECT_TRUE(FinishStatus("MultiKrum", parent, RandomSent(kRobustShapes, 5, 3), select).ok());
}

TEST(RobustEdges, AnUnequalSetOfTensorsOrAnotherShapeIsRefusedAndChangesNothing) {
  const StateDict parent = RandomUpdate(kRobustShapes, 1);
  const auto sent = RandomSent(kRobustShapes, 7, 3);
  for (const std::string& method : kRobust) {
    auto aggregator = MakeMethod(method, parent);
    for (const Sent& item : sent) {
      ASSERT_TRUE(aggregator->Fold(item.update, item.info).ok());
      StateDict missing = item.update, reshaped = item.update;
      missing.erase("one");
      reshaped["a.lora_A.weight"] = Tensor::FromFloats({17, 3}, std::vector<float>(51, 9.0F));
      EXPECT_EQ(aggregator->Fold(missing, item.info).code(), Code::kInvalidArgument);
      EXPECT_EQ(aggregator->Fold(reshaped, item.info).code(), Code::kInvalidArgument);
      EXPECT_EQ(aggregator->Fold(item.update, {.num_examples = 0}).code(), Code::kInvalidArgument);
    }
    EXPECT_EQ(aggregator->num_folded(), sent.size());
    const auto made = std::move(*aggregator).Finish();
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(BytesOf(*made), BytesOf(RunRound(method, parent, sent))) << method;
  }
}

TEST(RobustEdges, NothingFoldedIsNoRound) {
  for (const std::string& method : kRobust) {
    EXPECT_EQ(FinishStatus(method, Single({1}), {}).code(), Code::kFailedPrecondition) << method;
  }
}

// ---- what they are for ----

TEST(Attackers, WhoFlipTheSignTimesAHundredDoNotTurnARobustRule) {
  const Shapes shapes = {{"x", {200}}};
  const StateDict truth = RandomUpdate(shapes, 77, 0.1F);
  const StateDict parent = RandomUpdate(shapes, 1, 0.0F);
  std::vector<Sent> sent = RandomSent(shapes, 20, 5, 0.01F);
  for (size_t k = 0; k < sent.size(); ++k) {
    std::vector<float> values;
    for (size_t i = 0; i < 200; ++i) {
      const float honest = truth.at("x").values<float>()[i] + sent[k].update.at("x").values<float>()[i];
      values.push_back(k % 5 == 0 ? -100 * honest : honest);  // 4 of 20, each with its own noise
    }
    sent[k].update["x"] = Tensor::FromFloats({200}, values);
  }
  const auto error = [&](const std::string& method, const Settings& settings) {
    const auto model = Flat(RunRound(method, parent, sent, With(settings)).model);
    return std::sqrt(SquaredDistance(model, Flat(truth)));
  };
  const double length = std::sqrt(SquaredDistance(Flat(truth), std::vector<double>(200, 0.0)));
  EXPECT_GT(error("FedAvg", {}), 5 * length);
  EXPECT_LT(error("CoordinateMedian", {}), 0.1 * length);
  EXPECT_LT(error("TrimmedMean", {{"trim_fraction", 0.2}}), 0.1 * length);
  EXPECT_LT(error("Krum", {{"num_attackers", 4}}), 0.2 * length);
  EXPECT_LT(error("MultiKrum", {{"num_attackers", 4}}), 0.1 * length);
  EXPECT_LT(error("Bulyan", {{"num_attackers", 4}}), 0.1 * length);
  EXPECT_LT(error("GeometricMedian", {{"max_iterations", 100}}), 0.1 * length);
}

TEST(Attackers, OfOneMindAreWhomFoolsGoldStopsHoweverManyTheyAre) {
  const Shapes shapes = {{"x", {400}}};
  const StateDict parent = RandomUpdate(shapes, 1, 0.0F);
  // Five honest devices whose data differ, and ten that push one way.
  StateDict state;
  AggregatorOptions options;
  RoundModel made;
  for (uint32_t round = 1; round <= 4; ++round) {
    options.round = round;
    auto sent = RandomSent(shapes, 15, 40, 0.1F);
    for (size_t k = 5; k < 15; ++k) sent[k].update = RandomUpdate(shapes, 9, 1.0F);
    made = RunRound("FoolsGold", parent, sent, options, state);
    state = made.state;
    std::vector<Sent> honest(sent.begin(), sent.begin() + 5);
    const auto rows = FlatRows(honest);
    ExpectRoundedFrom(WeightedMeanOf(rows, std::vector<double>(5, 1.0)), made.model, 1e-6);
  }
}

TEST(FoolsGold, OfALargeModelASketchTellsAttackersToo) {
  const Shapes shapes = {{"x", {20'000}}, {"y", {30, 40}}};
  const StateDict parent = RandomUpdate(shapes, 1, 0.0F);
  auto sent = RandomSent(shapes, 12, 41, 0.1F);
  for (size_t k = 6; k < 12; ++k) sent[k].update = RandomUpdate(shapes, 9, 1.0F);
  const AggregatorOptions options = With({{"history_size", 2048}});
  const RoundModel made = RunRound("FoolsGold", parent, sent, options);
  EXPECT_EQ(made.state.at("history.device-00").shape(), Shape{2048});
  const auto rows = FlatRows(std::vector<Sent>(sent.begin(), sent.begin() + 6));
  ExpectRoundedFrom(WeightedMeanOf(rows, std::vector<double>(6, 1.0)), made.model, 1e-6);
  // A state of another size is not taken for one of this run.
  auto aggregator = MakeMethod("FoolsGold", parent, With({{"history_size", 1024}}), made.state);
  ASSERT_TRUE(aggregator->Fold(sent[0].update, sent[0].info).ok());
  EXPECT_EQ(std::move(*aggregator).Finish().status().code(), Code::kInvalidArgument);
}

TEST(FoolsGold, ForgetsThoseWhoWereAwayTheLongest) {
  AggregatorOptions options = With({{"max_histories", 3}});
  const StateDict parent = Single({0, 0});
  StateDict state;
  for (uint32_t round = 1; round <= 5; ++round) {
    options.round = round;
    const Sent one{Single({1, static_cast<float>(round)}), {.num_examples = 1, .device = "d" + std::to_string(round)}};
    state = RunRound("FoolsGold", parent, {one}, options, state).state;
  }
  EXPECT_EQ(state.size(), 6U);
  for (const char* device : {"d3", "d4", "d5"}) EXPECT_TRUE(state.contains(std::string("history.") + device)) << device;
}

}  // namespace
}  // namespace heddle::aggregation
