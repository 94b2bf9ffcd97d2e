#include "zo_optim/optimizer/zo_optimizer.h"

#include <algorithm>
#include <cmath>

#include "common/assert.h"

namespace heddle::zo {
namespace {

std::vector<Term> StepsOf(const Estimate& estimate, double learning_rate) {
  std::vector<Term> steps = estimate.terms;
  for (Term& step : steps) step.scale *= -learning_rate;
  return steps;
}

}  // namespace

Result<ZoOptimizerKind> ZoOptimizerKindFromName(std::string_view name) {
  if (name.empty() || name == "zo_sgd") return ZoOptimizerKind::kSgd;
  if (name == "zo_adam") return ZoOptimizerKind::kAdam;
  if (name == "zo_sign_sgd") return ZoOptimizerKind::kSign;
  return InvalidArgument("there is no zeroth-order optimizer '" + std::string(name) +
                         "'; known are zo_sgd, zo_adam, zo_sign_sgd");
}

Result<ZoOptimizer> ZoOptimizer::Make(const ZoOptimizerOptions& options, const TrainedWeights& weights) {
  for (const double share : {options.momentum, options.beta1, options.beta2}) {
    if (!(share >= 0 && share < 1)) return InvalidArgument("momentum, beta1 and beta2 must be from 0 to below 1");
  }
  if (!(std::isfinite(options.epsilon) && options.epsilon > 0) && options.kind == ZoOptimizerKind::kAdam) {
    return InvalidArgument("epsilon must be a finite number above 0");
  }
  if (!(std::isfinite(options.weight_decay) && options.weight_decay >= 0)) {
    return InvalidArgument("weight_decay must be a finite number from 0");
  }
  ZoOptimizer out(options);
  const bool adam = options.kind == ZoOptimizerKind::kAdam;
  if (adam || (options.kind == ZoOptimizerKind::kSgd && options.momentum > 0)) out.mean_.assign(weights.size(), 0);
  if (adam) out.square_.assign(weights.size(), 0);
  return out;
}

bool ZoOptimizer::plain() const {
  return options_.kind == ZoOptimizerKind::kSgd && options_.momentum == 0 && options_.weight_decay == 0;
}

Result<Estimate> ZoOptimizer::EstimateAndStep(const Estimator& estimator, TrainedWeights& weights,
                                              std::span<const uint64_t> seeds, Objective& objective,
                                              double learning_rate) {
  if (plain() && seeds.size() == 1) return estimator.RunAndStep(weights, seeds[0], objective, learning_rate);
  HEDDLE_ASSIGN_OR_RETURN(Estimate estimate, estimator.Run(weights, seeds, objective));
  Step(weights, estimate, learning_rate);
  return estimate;
}

void ZoOptimizer::Step(TrainedWeights& weights, const Estimate& estimate, double learning_rate) {
  if (estimate.terms.empty()) return;
  ++steps_;
  if (plain()) {
    weights.Add(StepsOf(estimate, learning_rate));
    return;
  }
  const double decay = options_.weight_decay;
  const auto sgd = [&](size_t place, std::span<const float> w, std::span<float> g) {
    for (size_t i = 0; i < g.size(); ++i) {
      double step = static_cast<double>(g[i]) + decay * static_cast<double>(w[i]);
      if (!mean_.empty()) {
        step += options_.momentum * static_cast<double>(mean_[place + i]);
        mean_[place + i] = static_cast<float>(step);
      }
      g[i] = static_cast<float>(-learning_rate * step);
    }
  };
  const double correction1 = 1 - std::pow(options_.beta1, static_cast<double>(steps_));
  const double correction2 = 1 - std::pow(options_.beta2, static_cast<double>(steps_));
  const auto adam = [&](size_t place, std::span<const float> w, std::span<float> g) {
    for (size_t i = 0; i < g.size(); ++i) {
      const double gradient = g[i];
      const double m = options_.beta1 * static_cast<double>(mean_[place + i]) + (1 - options_.beta1) * gradient;
      const double v =
          options_.beta2 * static_cast<double>(square_[place + i]) + (1 - options_.beta2) * gradient * gradient;
      mean_[place + i] = static_cast<float>(m);
      square_[place + i] = static_cast<float>(v);
      const double scaled = m / correction1 / (std::sqrt(v / correction2) + options_.epsilon);
      g[i] = static_cast<float>(-learning_rate * (scaled + decay * static_cast<double>(w[i])));
    }
  };
  const auto sign = [&](size_t, std::span<const float> w, std::span<float> g) {
    for (size_t i = 0; i < g.size(); ++i) {
      const double direction = g[i] > 0 ? 1 : g[i] < 0 ? -1 : 0;
      g[i] = static_cast<float>(-learning_rate * (direction + decay * static_cast<double>(w[i])));
    }
  };
  switch (options_.kind) {
    case ZoOptimizerKind::kSgd:
      return weights.Apply(estimate.terms, sgd);
    case ZoOptimizerKind::kAdam:
      return weights.Apply(estimate.terms, adam);
    case ZoOptimizerKind::kSign:
      return weights.Apply(estimate.terms, sign);
  }
}

Result<AnchoredEstimator> AnchoredEstimator::Make(const Estimator& estimator, uint32_t interval,
                                                  const ZoOptimizer& optimizer) {
  if (interval == 0) return InvalidArgument("anchor_interval must be above 0");
  if (!optimizer.plain()) {
    return InvalidArgument(
        "variance reduction goes with zo_sgd without momentum and weight_decay; remove anchor_interval, or these");
  }
  return AnchoredEstimator(estimator, interval);
}

Result<Estimate> AnchoredEstimator::Anchor(TrainedWeights& weights, std::span<const uint64_t> seeds,
                                           Objective& objective, const std::function<Status()>& next) {
  Estimate whole;
  double losses = 0;
  for (const uint64_t seed : seeds) {
    HEDDLE_RETURN_IF_ERROR(next());
    HEDDLE_ASSIGN_OR_RETURN(const Estimate one, estimator_.Run(weights, {&seed, 1}, objective));
    whole.forward_passes += one.forward_passes;
    whole.skipped += one.skipped;
    if (one.terms.empty()) continue;
    whole.terms.push_back(one.terms.front());
    losses += one.loss;
  }
  for (Term& term : whole.terms) term.scale /= static_cast<double>(whole.terms.size());
  whole.loss = losses / static_cast<double>(whole.terms.size());
  anchor_ = whole.terms;
  steps_.clear();
  return whole;
}

Result<Estimate> AnchoredEstimator::Run(TrainedWeights& weights, std::span<const uint64_t> seeds,
                                        Objective& objective) const {
  HEDDLE_ASSIGN_OR_RETURN(Estimate here, estimator_.Run(weights, seeds, objective));
  weights.Subtract(steps_);
  const Result<Estimate> there = estimator_.Run(weights, seeds, objective);
  weights.Add(steps_);
  HEDDLE_RETURN_IF_ERROR(there.status());
  here.forward_passes += there->forward_passes;
  here.skipped += there->skipped;
  // A direction counts when it does at both places; each estimate is divided by its own number of them.
  const auto counted = [](const Estimate& of) { return static_cast<double>(of.terms.size()); };
  std::vector<Term> both;
  for (const Term& term : here.terms) {
    const auto same = std::find_if(there->terms.begin(), there->terms.end(),
                                   [&](const Term& other) { return other.seed == term.seed; });
    if (same == there->terms.end()) continue;
    both.push_back({term.seed, term.scale * counted(here) - same->scale * counted(*there)});
  }
  for (Term& term : both) term.scale /= static_cast<double>(both.size());
  here.terms = std::move(both);
  if (!here.terms.empty()) here.terms.insert(here.terms.end(), anchor_.begin(), anchor_.end());
  return here;
}

void AnchoredEstimator::Took(const Estimate& estimate, double learning_rate) {
  const std::vector<Term> steps = StepsOf(estimate, learning_rate);
  steps_.insert(steps_.end(), steps.begin(), steps.end());
  since_ = (since_ + 1) % interval_;
}

}  // namespace heddle::zo
