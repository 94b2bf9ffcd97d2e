// Estimators of gradients against quadratics in double, whose gradients and moments are known, and what they leave of
// the weights.
#include "zo_optim/estimator/estimator.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/random.h"
#include "zo_optim/estimator/loss_watch.h"

namespace heddle::zo {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// L(w) = 1/2 sum_i c_i w_i^2 + sum_i b_i w_i over two tensors, whose gradient at w is c_i w_i + b_i.
class Quadratic : public Objective {
 public:
  Quadratic() : a_(kFirst), b_(kSecond) {
    PhiloxStream random(3);
    for (std::vector<float>* part : {&a_, &b_}) {
      for (float& w : *part) w = random.NextUniform() - 0.5F;
    }
    for (size_t i = 0; i < kFirst + kSecond; ++i) {
      curvature_.push_back(0.5 + static_cast<double>(random.NextUniform()));
      slope_.push_back(static_cast<double>(random.NextUniform()) - 0.5);
    }
  }
  std::vector<TrainedTensor> parameters() { return {{"a", a_}, {"b", b_}}; }
  std::vector<float> all() const {
    std::vector<float> out = a_;
    out.insert(out.end(), b_.begin(), b_.end());
    return out;
  }
  std::vector<double> Gradient() const {
    const std::vector<float> w = all();
    std::vector<double> out(w.size());
    for (size_t i = 0; i < w.size(); ++i) out[i] = curvature_[i] * static_cast<double>(w[i]) + slope_[i];
    return out;
  }
  Result<double> Loss() override {
    ++calls;
    if (fail_at == calls) return Internal("the model failed");
    if (nan_at == calls) return kNan;
    const std::vector<float> weights = all();
    double loss = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const double w = weights[i];
      loss += 0.5 * curvature_[i] * w * w + slope_[i] * w;
    }
    return loss;
  }

  static constexpr size_t kFirst = 5, kSecond = 15;
  int calls = 0, fail_at = 0, nan_at = 0;

 private:
  std::vector<float> a_, b_;
  std::vector<double> curvature_, slope_;
};

// The same with its derivative along a direction, in closed form.
class Differentiable final : public Quadratic {
 public:
  Result<Derivative> Along(const TrainedWeights& weights, uint64_t seed) override {
    const std::vector<double> gradient = Gradient();
    double along = 0;
    size_t place = 0;
    for (size_t p = 0; p < weights.num_parameters(); ++p) {
      std::vector<float> z(weights.parameter(p).values.size());
      weights.FillDirection(seed, p, z);
      for (const float one : z) along += gradient[place++] * static_cast<double>(one);
    }
    return Derivative{*Loss(), along};
  }
};

std::vector<double> Dense(const TrainedWeights& weights, const std::vector<Term>& terms) {
  std::vector<double> sum(weights.size());
  for (const Term& term : terms) {
    size_t place = 0;
    for (size_t p = 0; p < weights.num_parameters(); ++p) {
      std::vector<float> z(weights.parameter(p).values.size());
      weights.FillDirection(term.seed, p, z);
      for (const float one : z) sum[place++] += term.scale * static_cast<double>(one);
    }
  }
  return sum;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

std::vector<uint64_t> Seeds(uint64_t first, size_t n) {
  std::vector<uint64_t> seeds(n);
  std::iota(seeds.begin(), seeds.end(), first);
  return seeds;
}

Estimator Make(EstimatorKind kind, double epsilon = 1e-2, double clip = 0, double difference = 0) {
  return *Estimator::Make({.kind = kind, .epsilon = epsilon, .clip = clip, .max_loss_difference = difference});
}

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> out;
  for (const float value : values) out.push_back(std::bit_cast<uint32_t>(value));
  return out;
}

TEST(Estimator, ProjectsTheGradientOntoTheDirection) {
  Quadratic loss;
  TrainedWeights weights = *TrainedWeights::Make(loss.parameters(), Distribution::kNormal, 1e-2);
  for (const uint64_t seed : Seeds(100, 20)) {
    const double expected = Dot(loss.Gradient(), Dense(weights, {{seed, 1.0}}));
    const auto both = Make(EstimatorKind::kSpsa).Run(weights, {&seed, 1}, loss);
    ASSERT_TRUE(both.ok()) << both.status();
    ASSERT_EQ(both->terms.size(), 1U);
    // On a quadratic the two-sided difference is exact; what is left is the grid of the moves.
    EXPECT_NEAR(both->terms[0].scale, expected, 2e-3 * (1 + std::abs(expected)));
    EXPECT_EQ(both->forward_passes, 2U);
    // The one-sided one is wrong by e/2 z^T C z, at most 0.01/2 * 1.5 |z|^2.
    const auto one = Make(EstimatorKind::kSpsaOneSided).Run(weights, {&seed, 1}, loss);
    ASSERT_TRUE(one.ok());
    const double z2 = Dot(Dense(weights, {{seed, 1.0}}), Dense(weights, {{seed, 1.0}}));
    EXPECT_GE(one->terms[0].scale, expected + 0.5 * 0.5 * 1e-2 * z2 - 5e-3);
    EXPECT_LE(one->terms[0].scale, expected + 0.5 * 1.5 * 1e-2 * z2 + 5e-3);
    EXPECT_EQ(one->forward_passes, 2U);
  }
}

// E[g] = v and E|g|^2 = |v|^2 (n - 1 + d + 2) / n (normal), |v|^2 (n - 1 + d) / n (Rademacher), over 6 000 estimates,
// of each kind. The one-sided difference is off by e/2 z^T C z along z: an odd moment, which vanishes in the mean, and
// adds (e/2)^2 E[(z^T C z)^2 |z|^2] to the square, with e = 1e-3 a ten-thousandth of it.
class EstimatorMoments : public ::testing::TestWithParam<EstimatorKind> {};
INSTANTIATE_TEST_SUITE_P(All, EstimatorMoments,
                         ::testing::Values(EstimatorKind::kSpsa, EstimatorKind::kSpsaOneSided,
                                           EstimatorKind::kForwardGradient),
                         [](const auto& info) {
                           return info.param == EstimatorKind::kSpsa           ? "TwoSided"
                                  : info.param == EstimatorKind::kSpsaOneSided ? "OneSided"
                                                                               : "ForwardGradient";
                         });
TEST_P(EstimatorMoments, HasTheExpectationAndVarianceOfTheory) {
  struct Case {
    Distribution distribution;
    size_t n;
    double extra;
  };
  for (const Case& one : {Case{Distribution::kNormal, 1, 2}, Case{Distribution::kRademacher, 1, 0},
                          Case{Distribution::kNormal, 4, 2}, Case{Distribution::kRademacher, 4, 0}}) {
    Differentiable loss;
    TrainedWeights weights = *TrainedWeights::Make(loss.parameters(), one.distribution, 1e-2);
    const std::vector<double> gradient = loss.Gradient();
    const double v2 = Dot(gradient, gradient);
    constexpr size_t kTries = 6000;
    std::vector<double> mean(weights.size());
    double square = 0;
    const Estimator estimator = Make(GetParam(), GetParam() == EstimatorKind::kSpsaOneSided ? 1e-3 : 1e-2);
    for (size_t i = 0; i < kTries; ++i) {
      const auto estimate = estimator.Run(weights, Seeds(1 + i * one.n, one.n), loss);
      ASSERT_TRUE(estimate.ok());
      const std::vector<double> g = Dense(weights, estimate->terms);
      square += Dot(g, g) / kTries;
      for (size_t k = 0; k < g.size(); ++k) mean[k] += g[k] / kTries;
    }
    const auto n = static_cast<double>(one.n), d = static_cast<double>(weights.size());
    const double expected = v2 * (n - 1 + d + one.extra) / n;
    EXPECT_NEAR(square / expected, 1, 0.08);  // about 4 standard errors
    double off = 0;
    for (size_t k = 0; k < mean.size(); ++k) off += (mean[k] - gradient[k]) * (mean[k] - gradient[k]);
    // The squared distance of a mean of kTries estimates from v is E|g|^2 / kTries.
    EXPECT_LT(off, 3 * expected / kTries);
    EXPECT_GT(off, expected / kTries / 5);
  }
}

TEST(Estimator, LeavesTheBitsOfTheWeightsWhateverHappens) {
  for (const EstimatorKind kind : {EstimatorKind::kSpsa, EstimatorKind::kSpsaOneSided}) {
    for (const double sparse : {0.0, 0.3}) {
      Quadratic loss;
      TrainedWeights weights = *TrainedWeights::Make(loss.parameters(), Distribution::kNormal, 0.1, sparse);
      const auto before = Bits(loss.all());
      ASSERT_TRUE(Make(kind, 0.1).Run(weights, Seeds(1, 500), loss).ok());
      EXPECT_EQ(Bits(loss.all()), before);
      for (int fail = 1; fail <= 3; ++fail) {
        loss.calls = 0;
        loss.fail_at = fail;
        EXPECT_EQ(Make(kind, 0.1).Run(weights, Seeds(7, 2), loss).status().code(), Code::kInternal);
        EXPECT_EQ(Bits(loss.all()), before) << fail;
      }
    }
  }
}

TEST(Estimator, SkipsAndCountsDirectionsWithoutAFiniteLoss) {
  Quadratic loss;
  TrainedWeights weights = *TrainedWeights::Make(loss.parameters(), Distribution::kNormal, 1e-2);
  const Estimator estimator = Make(EstimatorKind::kSpsa);
  const auto whole = estimator.Run(weights, Seeds(1, 3), loss);
  loss.calls = 0;
  loss.nan_at = 3;  // of the second direction
  const auto skipped = estimator.Run(weights, Seeds(1, 3), loss);
  ASSERT_TRUE(skipped.ok());
  EXPECT_EQ(skipped->skipped, 1U);
  EXPECT_EQ(skipped->forward_passes, 6U);
  ASSERT_EQ(skipped->terms.size(), 2U);
  EXPECT_EQ(skipped->terms[1].seed, 3U);
  EXPECT_NEAR(skipped->terms[1].scale, whole->terms[2].scale * 3 / 2, 1e-12) << "the mean is over those that count";
  EXPECT_TRUE(std::isfinite(skipped->loss));

  loss.calls = 0;
  loss.nan_at = 1;  // the loss that all one-sided differences start from
  const auto none = Make(EstimatorKind::kSpsaOneSided).Run(weights, Seeds(1, 3), loss);
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->skipped, 3U);
  EXPECT_TRUE(none->terms.empty());
}

TEST(Estimator, ClipsProjectionsAndSkipsDirectionsThatLeapTooFar) {
  Quadratic loss;
  TrainedWeights weights = *TrainedWeights::Make(loss.parameters(), Distribution::kNormal, 1e-2);
  const auto free = *Make(EstimatorKind::kSpsa).Run(weights, Seeds(1, 50), loss);
  const auto clipped = *Make(EstimatorKind::kSpsa, 1e-2, 0.5).Run(weights, Seeds(1, 50), loss);
  const auto skipped = *Make(EstimatorKind::kSpsa, 1e-2, 0, 0.01).Run(weights, Seeds(1, 50), loss);
  size_t large = 0;
  for (size_t i = 0; i < 50; ++i) {
    const double projected = free.terms[i].scale * 50;
    EXPECT_NEAR(clipped.terms[i].scale * 50, std::clamp(projected, -0.5, 0.5), 1e-12);
    if (std::abs(projected) * 2e-2 > 0.01) ++large;
  }
  EXPECT_GT(large, 0U);
  EXPECT_EQ(skipped.skipped, large);
}

TEST(Estimator, RefusesWhatIsOutOfRangeAndNamesTheKinds) {
  EXPECT_EQ(Estimator::Make({.epsilon = 0}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Estimator::Make({.epsilon = kNan}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Estimator::Make({.clip = -1}).status().code(), Code::kInvalidArgument);
  EXPECT_TRUE(Estimator::Make({.kind = EstimatorKind::kForwardGradient, .epsilon = 0}).ok());
  EXPECT_THAT(EstimatorKindFromName("mezo").status().message(), HasSubstr("spsa_one_sided"));
  EXPECT_THAT(DistributionFromName("sphere").status().message(), HasSubstr("rademacher"));
  Quadratic loss;
  TrainedWeights weights = *TrainedWeights::Make(loss.parameters(), Distribution::kNormal, 1e-2);
  EXPECT_EQ(Make(EstimatorKind::kForwardGradient).Run(weights, Seeds(1, 1), loss).status().code(),
            Code::kUnimplemented);
}

TEST(TrainedWeights, RefusesWhatCannotBeTrained) {
  std::vector<float> values = {1, 2}, wrong = {1, std::numeric_limits<float>::infinity()};
  const auto code = [](const Result<TrainedWeights>& made) { return made.status().code(); };
  EXPECT_EQ(code(TrainedWeights::Make({}, Distribution::kNormal, 1e-3)), Code::kInvalidArgument);
  EXPECT_EQ(code(TrainedWeights::Make({{"a", values}, {"a", values}}, Distribution::kNormal, 1e-3)),
            Code::kInvalidArgument);
  EXPECT_EQ(code(TrainedWeights::Make({{"a", wrong}}, Distribution::kNormal, 1e-3)), Code::kInvalidArgument);
  EXPECT_EQ(code(TrainedWeights::Make({{"a", values}}, Distribution::kNormal, 1e-3, 1.5)), Code::kInvalidArgument);
  EXPECT_EQ(code(TrainedWeights::Make({{"a", values}}, Distribution::kNormal, kNan)), Code::kInvalidArgument);
}

TEST(TrainedWeights, TrainOnlyTheSmallestWhenTheyAreSparse) {
  std::vector<float> values = {0.5F, -0.1F, 0.3F, -0.3F, 0.3F, 0.9F, -0.01F, 0.7F};
  const std::vector<float> before = values;
  TrainedWeights weights = *TrainedWeights::Make({{"a", values}}, Distribution::kRademacher, 1e-2, 0.5);
  EXPECT_EQ(weights.size(), 8U);
  EXPECT_EQ(weights.num_trained(), 4U);
  weights.Shift(5, 0, 0.0625);
  // 0.01, 0.1, and of the three of size 0.3 the first two.
  for (size_t i = 0; i < values.size(); ++i) {
    const bool trained = i == 1 || i == 2 || i == 3 || i == 6;
    EXPECT_NEAR(std::abs(values[i] - before[i]), trained ? 0.0625 : 0.0, 1e-6) << i;
  }
  std::vector<float> z(8);
  weights.FillDirection(5, 0, z);
  EXPECT_EQ(z[0], 0);
  EXPECT_NEAR(values[1] - before[1], 0.0625 * z[1], 1e-6);
}

TEST(TrainedWeights, TwoDevicesWithTheSameStartHaveTheSameMask) {
  std::vector<float> a(1000), b(333);
  PhiloxStream random(2);
  for (std::vector<float>* part : {&a, &b}) {
    for (float& value : *part) value = 0.01F * static_cast<float>(random.NextBelow(50)) - 0.25F;  // many equals
  }
  std::vector<float> other_a = a, other_b = b;
  TrainedWeights one = *TrainedWeights::Make({{"a", a}, {"b", b}}, Distribution::kRademacher, 1e-2, 0.3);
  // In another order, with another plan of steps and after others' moves.
  TrainedWeights other = *TrainedWeights::Make({{"b", other_b}, {"a", other_a}}, Distribution::kRademacher, 3e-2, 0.3);
  other.SetThreads(3);
  other.Shift(77, 0, 0.01);
  EXPECT_EQ(one.num_trained(), 400U);
  EXPECT_EQ(other.num_trained(), 400U);
  for (const uint64_t seed : {1U, 2U}) {
    std::vector<float> z(a.size()), other_z(a.size());
    one.FillDirection(seed, 0, z);
    other.FillDirection(seed, 1, other_z);
    EXPECT_EQ(z, other_z);
    EXPECT_EQ(std::count(z.begin(), z.end(), 0.0F), 700);
  }
}

TEST(TrainedWeights, TakeStepsBackToTheBitAndSayWhenTheyOutgrowTheirGrid) {
  std::vector<float> values(9000);
  PhiloxStream random(1);
  for (float& value : values) value = random.NextUniform() - 0.5F;
  TrainedWeights weights = *TrainedWeights::Make({{"a", values}}, Distribution::kNormal, 1e-3);
  const std::vector<float> before = values;
  std::vector<Term> terms;
  for (const uint64_t seed : Seeds(1, 100)) terms.push_back({seed, 1e-4 * static_cast<double>(seed)});
  weights.Add(terms);
  EXPECT_NE(values, before);
  EXPECT_TRUE(weights.CheckRange().ok());
  std::reverse(terms.begin(), terms.end());
  weights.Subtract(terms);
  EXPECT_EQ(values, before);
  for (int i = 0; i < 200; ++i) weights.Add(std::vector<Term>{{1, 1e30}});
  EXPECT_EQ(weights.CheckRange().code(), Code::kOutOfRange);
}

TEST(TrainedWeights, ThreadsAndMasksChangeNoBitOfAMove) {
  constexpr size_t kMany = (1U << 20) + 77;
  std::vector<float> one(kMany), other;
  PhiloxStream random(4);
  for (float& value : one) value = random.NextUniform() - 0.5F;
  other = one;
  for (const double sparse : {0.0, 0.5}) {
    TrainedWeights alone = *TrainedWeights::Make({{"a", one}}, Distribution::kNormal, 1e-2, sparse);
    TrainedWeights together = *TrainedWeights::Make({{"a", other}}, Distribution::kNormal, 1e-2, sparse);
    together.SetThreads(5);
    for (TrainedWeights* weights : {&alone, &together}) {
      weights->Shift(3, 0, 1e-2);
      weights->Add(std::vector<Term>{{4, 0.01}, {5, -0.02}});
    }
    EXPECT_EQ(one, other);
  }
}

TEST(LossWatch, TellsPeopleBothHalvesAndWhatToTry) {
  LossWatch watch;
  for (const double loss : {2.0, 2.0, kNan, 3.0, 3.0}) watch.Add(loss);
  EXPECT_EQ(watch.Sentence(),
            "the loss does not fall: 2.000000 in the first half of 4 steps, 3.000000 in the second; a larger "
            "learning_rate, more num_perturbations or another zo_eps may help");
}

TEST(LossWatch, SaysWhetherALossFalls) {
  PhiloxStream random(9);
  LossWatch flat, falling, rising, few;
  for (int i = 0; i < 100; ++i) {
    const double noise = 0.2 * static_cast<double>(random.NextUniform());
    flat.Add(2 + noise);
    falling.Add(2 - 0.01 * i + noise);
    rising.Add(2 + 0.01 * i + noise);
    if (i < 10) few.Add(2);
  }
  flat.Add(kNan);
  EXPECT_TRUE(flat.Stalled());
  EXPECT_FALSE(falling.Stalled());
  EXPECT_TRUE(rising.Stalled());
  EXPECT_FALSE(few.Stalled()) << "too few to say";
  EXPECT_NEAR(falling.first_half() - falling.second_half(), 0.5, 0.05);
}

}  // namespace
}  // namespace heddle::zo
