// Optimizers on estimates against the same steps in double, element by element, and variance reduction.
#include "zo_optim/optimizer/zo_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"

namespace heddle::zo {
namespace {

constexpr size_t kSize = 5000;  // more than a block

std::vector<float> Start() {
  PhiloxStream random(8);
  std::vector<float> out(kSize);
  for (float& value : out) value = random.NextUniform() - 0.5F;
  return out;
}

std::vector<double> Gradient(const TrainedWeights& weights, const std::vector<Term>& terms) {
  std::vector<double> sum(kSize);
  std::vector<float> z(kSize);
  for (const Term& term : terms) {
    weights.FillDirection(term.seed, 0, z);
    for (size_t i = 0; i < kSize; ++i) sum[i] += term.scale * static_cast<double>(z[i]);
  }
  return sum;
}

// What the headers say, in double; without the grid.
struct Reference {
  ZoOptimizerOptions options;
  std::vector<double> w, m = std::vector<double>(kSize), v = std::vector<double>(kSize);
  int t = 0;
  void Step(const std::vector<double>& g, double lr) {
    ++t;
    for (size_t i = 0; i < kSize; ++i) {
      const double decay = options.weight_decay * w[i];
      switch (options.kind) {
        case ZoOptimizerKind::kSgd:
          m[i] = options.momentum * m[i] + g[i] + decay;
          w[i] -= lr * m[i];
          break;
        case ZoOptimizerKind::kAdam: {
          m[i] = options.beta1 * m[i] + (1 - options.beta1) * g[i];
          v[i] = options.beta2 * v[i] + (1 - options.beta2) * g[i] * g[i];
          const double mean = m[i] / (1 - std::pow(options.beta1, t)), square = v[i] / (1 - std::pow(options.beta2, t));
          w[i] -= lr * (mean / (std::sqrt(square) + options.epsilon) + decay);
          break;
        }
        case ZoOptimizerKind::kSign:
          w[i] -= lr * ((g[i] > 0) - (g[i] < 0) + decay);
          break;
      }
    }
  }
};

TEST(ZoOptimizer, StepsAsItsFormulasSay) {
  for (const ZoOptimizerOptions& options :
       {ZoOptimizerOptions{}, ZoOptimizerOptions{.momentum = 0.9}, ZoOptimizerOptions{.weight_decay = 0.1},
        ZoOptimizerOptions{.kind = ZoOptimizerKind::kAdam, .weight_decay = 0.1},
        ZoOptimizerOptions{.kind = ZoOptimizerKind::kSign, .weight_decay = 0.1}}) {
    for (const double sparse : {0.0, 0.25}) {
      std::vector<float> values = Start();
      TrainedWeights weights = *TrainedWeights::Make({{"w", values}}, Distribution::kNormal, 1e-3, sparse);
      Reference reference{.options = options, .w = {values.begin(), values.end()}};
      ZoOptimizer optimizer = *ZoOptimizer::Make(options, weights);
      const std::vector<float> before = values;
      for (uint64_t step = 0; step < 6; ++step) {
        const Estimate estimate{.terms = {{3 * step, 0.3}, {3 * step + 1, -0.7}, {3 * step + 2, 0.2}}};
        optimizer.Step(weights, estimate, 1e-2);
        reference.Step(Gradient(weights, estimate.terms), 1e-2);
      }
      std::vector<float> mask(kSize);
      weights.FillDirection(99, 0, mask);
      for (size_t i = 0; i < kSize; ++i) {
        if (mask[i] == 0 && sparse > 0) {
          ASSERT_EQ(values[i], before[i]) << "an element outside the mask";
        } else {
          // Each step is rounded to the grid of 2^-23 once for each term.
          ASSERT_NEAR(values[i], reference.w[i], 6 * 3 * 0x1p-24 + 2e-7) << i;
        }
      }
    }
  }
}

// L(w) = the sum of the weights' squares.
class Squares : public Objective {
 public:
  explicit Squares(std::span<const float> w) : w_(w) {}
  Result<double> Loss() override {
    if (++calls_ == fail_at) return Internal("the model failed");
    double sum = 0;
    for (const float w : w_) sum += static_cast<double>(w) * static_cast<double>(w);
    return calls_ == nan_at ? NAN : sum;
  }
  int fail_at = 0, nan_at = 0;

 private:
  std::span<const float> w_;
  int calls_ = 0;
};

TEST(ZoOptimizer, EstimatingAndSteppingAtOnceGivesTheBitsOfOneAfterTheOther) {
  for (const EstimatorKind kind : {EstimatorKind::kSpsa, EstimatorKind::kSpsaOneSided}) {
    const Estimator estimator = *Estimator::Make({.kind = kind, .epsilon = 1e-3});
    std::vector<float> fused = Start(), apart = Start();
    TrainedWeights a = *TrainedWeights::Make({{"w", fused}}, Distribution::kNormal, 1e-3);
    TrainedWeights b = *TrainedWeights::Make({{"w", apart}}, Distribution::kNormal, 1e-3);
    ZoOptimizer of_a = *ZoOptimizer::Make({}, a), of_b = *ZoOptimizer::Make({}, b);
    Squares loss_a(fused), loss_b(apart);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      ASSERT_TRUE(of_a.EstimateAndStep(estimator, a, {&seed, 1}, loss_a, 1e-4).ok());
      const auto estimate = estimator.Run(b, {&seed, 1}, loss_b);
      ASSERT_TRUE(estimate.ok());
      of_b.Step(b, *estimate, 1e-4);
      ASSERT_EQ(fused, apart) << seed;
    }
    EXPECT_NE(fused, Start());
    // A failure or a skipped direction leaves the weights where they were.
    for (const int bad : {1, 2}) {
      const std::vector<float> before = fused;
      Squares failing(fused), without(fused);
      failing.fail_at = bad;
      without.nan_at = bad;
      const uint64_t seed = 99;
      EXPECT_FALSE(of_a.EstimateAndStep(estimator, a, {&seed, 1}, failing, 1e-4).ok());
      EXPECT_EQ(of_a.EstimateAndStep(estimator, a, {&seed, 1}, without, 1e-4)->skipped, 1U);
      EXPECT_EQ(fused, before);
    }
  }
}

TEST(ZoOptimizer, TakesNoStepWithoutAnEstimate) {
  std::vector<float> values = Start();
  TrainedWeights weights = *TrainedWeights::Make({{"w", values}}, Distribution::kNormal, 1e-3);
  ZoOptimizer optimizer = *ZoOptimizer::Make({.momentum = 0.9, .weight_decay = 0.1}, weights);
  const std::vector<float> before = values;
  optimizer.Step(weights, Estimate{}, 1);
  EXPECT_EQ(values, before);
}

TEST(ZoOptimizer, RefusesWhatIsOutOfRange) {
  std::vector<float> values = Start();
  const TrainedWeights weights = *TrainedWeights::Make({{"w", values}}, Distribution::kNormal, 1e-3);
  for (const ZoOptimizerOptions& options :
       {ZoOptimizerOptions{.momentum = 1}, ZoOptimizerOptions{.kind = ZoOptimizerKind::kAdam, .epsilon = 0},
        ZoOptimizerOptions{.weight_decay = -1}, ZoOptimizerOptions{.beta2 = NAN}}) {
    EXPECT_EQ(ZoOptimizer::Make(options, weights).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(ZoOptimizerKindFromName("adamw").status().code(), Code::kInvalidArgument);
}

// Losses of batches that differ: L_b(w) = 1/2 |w - target_b|^2 / n, with targets around one point.
class Batches : public Objective {
 public:
  explicit Batches(std::span<const float> w) : w_(w) {}
  void Take(uint64_t batch) { batch_ = batch; }
  double Of(uint64_t batch) const {
    const PhiloxStream noise(77, batch);
    double sum = 0;
    for (size_t i = 0; i < w_.size(); ++i) {
      const double target = 0.2 + 4 * (static_cast<double>(noise.UniformAt(i)) - 0.5);
      sum += (static_cast<double>(w_[i]) - target) * (static_cast<double>(w_[i]) - target);
    }
    return sum / 2;
  }
  Result<double> Loss() override { return Of(batch_); }

 private:
  std::span<const float> w_;
  uint64_t batch_ = 0;
};

TEST(AnchoredEstimator, HasLessVarianceNearItsAnchorAndTheSameMean) {
  std::vector<float> values(30, 0.5F);
  TrainedWeights weights = *TrainedWeights::Make({{"w", values}}, Distribution::kRademacher, 1e-2);
  const Estimator estimator = *Estimator::Make({.epsilon = 1e-2});
  ZoOptimizer optimizer = *ZoOptimizer::Make({}, weights);
  AnchoredEstimator anchored = *AnchoredEstimator::Make(estimator, 10, optimizer);
  EXPECT_TRUE(anchored.due());
  Batches loss(values);
  uint64_t batch = 1'000'000;
  std::vector<uint64_t> many(3000);
  for (size_t i = 0; i < many.size(); ++i) many[i] = 500'000 + i;
  const auto anchor = anchored.Anchor(weights, many, loss, [&] {
    loss.Take(batch++);
    return OkStatus();
  });
  ASSERT_TRUE(anchor.ok());
  EXPECT_EQ(anchor->terms.size(), many.size());
  // One step away from the anchor.
  const std::vector<uint64_t> first = {1};
  const auto step = anchored.Run(weights, first, loss);
  ASSERT_TRUE(step.ok());
  EXPECT_EQ(step->forward_passes, 4U);
  optimizer.Step(weights, *step, 1e-3);
  anchored.Took(*step, 1e-3);
  EXPECT_FALSE(anchored.due());

  const auto sum = [&](const std::vector<Term>& terms) {
    std::vector<double> out(values.size());
    std::vector<float> z(values.size());
    for (const Term& term : terms) {
      weights.FillDirection(term.seed, 0, z);
      for (size_t i = 0; i < z.size(); ++i) out[i] += term.scale * static_cast<double>(z[i]);
    }
    return out;
  };
  const std::vector<float> before = values;
  std::vector<double> gradient;  // of the mean of all batches
  for (const float w : values) gradient.push_back(static_cast<double>(w) - 0.2);
  double plain_error = 0, anchored_error = 0;
  std::vector<double> mean(values.size());
  constexpr int kTries = 100;
  for (uint64_t i = 0; i < kTries; ++i) {
    loss.Take(i);
    const std::vector<uint64_t> seed = {10 + i};
    const auto plain = estimator.Run(weights, seed, loss), reduced = anchored.Run(weights, seed, loss);
    ASSERT_TRUE(plain.ok() && reduced.ok());
    const std::vector<double> a = sum(plain->terms), b = sum(reduced->terms);
    for (size_t k = 0; k < gradient.size(); ++k) {
      plain_error += (a[k] - gradient[k]) * (a[k] - gradient[k]) / kTries;
      anchored_error += (b[k] - gradient[k]) * (b[k] - gradient[k]) / kTries;
      mean[k] += b[k] / kTries;
    }
  }
  EXPECT_EQ(values, before) << "weights went to the anchor and back";
  EXPECT_LT(anchored_error, plain_error / 10);
  double off = 0;
  for (size_t k = 0; k < mean.size(); ++k) off += (mean[k] - gradient[k]) * (mean[k] - gradient[k]);
  EXPECT_LT(off, plain_error / 10);
}

TEST(AnchoredEstimator, NeedsStepsThatCanBeTakenBack) {
  std::vector<float> values(10, 0.5F);
  const TrainedWeights weights = *TrainedWeights::Make({{"w", values}}, Distribution::kNormal, 1e-2);
  const Estimator estimator = *Estimator::Make({});
  for (const ZoOptimizerOptions& options :
       {ZoOptimizerOptions{.momentum = 0.5}, ZoOptimizerOptions{.kind = ZoOptimizerKind::kAdam},
        ZoOptimizerOptions{.weight_decay = 0.1}}) {
    const ZoOptimizer optimizer = *ZoOptimizer::Make(options, weights);
    EXPECT_EQ(AnchoredEstimator::Make(estimator, 5, optimizer).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(AnchoredEstimator::Make(estimator, 0, *ZoOptimizer::Make({}, weights)).status().code(),
            Code::kInvalidArgument);
}

// L(w) = |w|^2 / 2, also by its derivative.
class Bowl final : public Objective {
 public:
  explicit Bowl(std::span<const float> w) : w_(w) {}
  double Square() const {
    double sum = 0;
    for (const float w : w_) sum += static_cast<double>(w) * static_cast<double>(w);
    return sum;
  }
  Result<double> Loss() override { return Square() / 2; }
  Result<Derivative> Along(const TrainedWeights& weights, uint64_t seed) override {
    std::vector<float> z(w_.size());
    weights.FillDirection(seed, 0, z);
    double along = 0;
    for (size_t i = 0; i < z.size(); ++i) along += static_cast<double>(w_[i]) * static_cast<double>(z[i]);
    return Derivative{Square() / 2, along};
  }

 private:
  std::span<const float> w_;
};

// A known complaint about forward gradients. Along signs in d dimensions a step of the rate r changes |w|^2 by
// r (r d - 2) (z^T w)^2, so with r d = 2.5 each step takes the weights further away. A rate that decays from there to
// nothing, of which that is so for the first fifth of the steps only, shrinks them by exp(-6) in the mean.
TEST(ZoOptimizer, AFixedRateDivergesWhereADecayingOneConverges) {
  constexpr size_t kDimensions = 20;
  constexpr uint64_t kSteps = 300;
  for (const EstimatorKind kind : {EstimatorKind::kForwardGradient, EstimatorKind::kSpsa}) {
    const Estimator estimator = *Estimator::Make({.kind = kind, .epsilon = 0x1p-9});
    double ends[2] = {0, 0};
    for (const bool decays : {false, true}) {
      std::vector<float> values(kDimensions, 0.25F);
      TrainedWeights weights = *TrainedWeights::Make({{"w", values}}, Distribution::kRademacher, 16);
      ZoOptimizer optimizer = *ZoOptimizer::Make({}, weights);
      Bowl bowl(values);
      const double start = bowl.Square();
      for (uint64_t step = 0; step < kSteps && weights.CheckRange().ok(); ++step) {
        const double left = static_cast<double>(kSteps - step) / static_cast<double>(kSteps);
        const double rate = 2.5 / static_cast<double>(kDimensions) * (decays ? left : 1);
        ASSERT_TRUE(optimizer.EstimateAndStep(estimator, weights, {&step, 1}, bowl, rate).ok());
      }
      ends[decays] = bowl.Square() / start;
    }
    EXPECT_GT(ends[0], 100);
    EXPECT_LT(ends[1], 0.1);
  }
}

}  // namespace
}  // namespace heddle::zo
