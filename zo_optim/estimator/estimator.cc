#include "zo_optim/estimator/estimator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace heddle::zo {

Result<EstimatorKind> EstimatorKindFromName(std::string_view name) {
  if (name.empty() || name == "spsa") return EstimatorKind::kSpsa;
  if (name == "spsa_one_sided") return EstimatorKind::kSpsaOneSided;
  if (name == "forward_gradient") return EstimatorKind::kForwardGradient;
  return InvalidArgument("there is no gradient estimator '" + std::string(name) +
                         "'; known are spsa, spsa_one_sided, forward_gradient");
}

Result<Distribution> DistributionFromName(std::string_view name) {
  if (name.empty() || name == "normal") return Distribution::kNormal;
  if (name == "rademacher") return Distribution::kRademacher;
  return InvalidArgument("there is no distribution of directions '" + std::string(name) +
                         "'; known are normal, rademacher");
}

Result<Objective::Derivative> Objective::Along(const TrainedWeights&, uint64_t) {
  return Unimplemented("the forward gradient needs forward-mode differentiation, which is not there for this loss");
}

Result<Estimator> Estimator::Make(const EstimatorOptions& options) {
  const bool differences = options.kind != EstimatorKind::kForwardGradient;
  if (differences && !(std::isfinite(options.epsilon) && options.epsilon > 0)) {
    return InvalidArgument("zo_eps must be a finite number above 0");
  }
  if (!(options.clip >= 0) || !(options.max_loss_difference >= 0)) {
    return InvalidArgument("clip_projected_grad and max_loss_difference must be numbers from 0");
  }
  return Estimator(options);
}

Result<Estimator::Projection> Estimator::Project(TrainedWeights& weights, uint64_t seed, double here,
                                                 Objective& objective, double learning_rate, uint64_t* passes) const {
  Projection out;
  const double e = options_.epsilon;
  double at = 0, difference = 0;  // where the weights are along the direction
  if (options_.kind == EstimatorKind::kForwardGradient) {
    ++*passes;
    HEDDLE_ASSIGN_OR_RETURN(const Objective::Derivative derivative, objective.Along(weights, seed));
    out.loss = derivative.loss;
    out.projected = derivative.along;
  } else {
    const bool both = options_.kind == EstimatorKind::kSpsa;
    weights.Shift(seed, 0, e);
    at = e;
    ++*passes;
    std::array<Result<double>, 2> losses = {objective.Loss(), here};
    if (both && losses[0].ok()) {
      weights.Shift(seed, e, -e);
      at = -e;
      ++*passes;
      losses[1] = objective.Loss();
    }
    for (const Result<double>& loss : losses) {
      if (loss.ok()) continue;
      weights.Shift(seed, at, 0);
      return loss.status();
    }
    out.loss = both ? (*losses[0] + *losses[1]) / 2 : here;
    difference = *losses[0] - *losses[1];
    out.projected = difference / (both ? 2 * e : e);
  }
  out.counts = std::isfinite(out.projected) && std::isfinite(out.loss) &&
               (options_.max_loss_difference == 0 || std::abs(difference) <= options_.max_loss_difference);
  if (options_.clip > 0) out.projected = std::clamp(out.projected, -options_.clip, options_.clip);
  // To the step at once: moves add up exactly, so that the way back need not be gone by itself.
  const double to = out.counts ? -learning_rate * out.projected : 0;
  if (at != 0 || to != 0) weights.Shift(seed, at, to);
  return out;
}

Result<Estimate> Estimator::Run(TrainedWeights& weights, std::span<const uint64_t> seeds, Objective& objective) const {
  return RunAll(weights, seeds, objective, 0);
}

Result<Estimate> Estimator::RunAndStep(TrainedWeights& weights, uint64_t seed, Objective& objective,
                                       double learning_rate) const {
  return RunAll(weights, {&seed, 1}, objective, learning_rate);
}

Result<Estimate> Estimator::RunAll(TrainedWeights& weights, std::span<const uint64_t> seeds, Objective& objective,
                                   double learning_rate) const {
  Estimate out;
  double here = 0, losses = 0;
  if (options_.kind == EstimatorKind::kSpsaOneSided && !seeds.empty()) {
    ++out.forward_passes;
    HEDDLE_ASSIGN_OR_RETURN(here, objective.Loss());
  }
  for (const uint64_t seed : seeds) {
    HEDDLE_ASSIGN_OR_RETURN(const Projection one,
                            Project(weights, seed, here, objective, learning_rate, &out.forward_passes));
    if (!one.counts) {
      ++out.skipped;
      continue;
    }
    losses += one.loss;
    out.terms.push_back({seed, one.projected});
  }
  const auto counted = static_cast<double>(out.terms.size());
  out.loss = out.terms.empty() ? std::numeric_limits<double>::quiet_NaN() : losses / counted;
  for (Term& term : out.terms) term.scale /= counted;
  return out;
}

}  // namespace heddle::zo
