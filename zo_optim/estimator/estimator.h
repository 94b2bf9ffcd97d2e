// Estimates of a gradient from losses alone: projections of it onto random directions. One interface for all kinds.
//
//   g = (1/n) sum_k p_k z_k over n directions z_k, each named by a seed, with the projected gradient p_k:
//   kSpsa (Spall 1992; MeZO, Malladi et al., 2305.17333)   p = (L(w + e z) - L(w - e z)) / (2 e)
//   kSpsaOneSided (FedZO, BAFFLE)                          p = (L(w + e z) - L(w)) / e; L(w) once for all directions
//   kForwardGradient (Baydin et al., 2202.08587; SPRY)     p = the derivative of L along z, by forward-mode
//                                                              differentiation: no error of a difference
//   On a quadratic L with gradient v: E[g] = v with each of them, and E|g|^2 = |v|^2 (n - 1 + d + 2) / n with normal
//   directions, |v|^2 (n - 1 + d) / n with Rademacher ones, in d dimensions (tests/unit/zo_optim/estimator_test.cc).
//
// Losses must be those of one batch, without dropout. A loss that is not finite, or two that differ by more than
// max_loss_difference, make a direction skipped: it is counted and no part of the mean.
//
// Thread-safety: none needed; an Estimator is a value without state. Free of LibTorch.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "zo_optim/estimator/trained_weights.h"

namespace heddle::zo {

enum class EstimatorKind : uint8_t { kSpsa, kSpsaOneSided, kForwardGradient };
// "spsa" (also when empty), "spsa_one_sided", "forward_gradient"; "normal" (also when empty), "rademacher". Errors:
// kInvalidArgument with the names there are.
Result<EstimatorKind> EstimatorKindFromName(std::string_view name);
Result<Distribution> DistributionFromName(std::string_view name);

struct EstimatorOptions {
  EstimatorKind kind = EstimatorKind::kSpsa;
  double epsilon = 1e-3;           // above 0; not of kForwardGradient
  double clip = 0;                 // bound of |p|; 0: none
  double max_loss_difference = 0;  // of the two losses of a difference; 0: no bound
};

// What a direction is tried on: the loss as a function of the weights as they are now.
class Objective {
 public:
  virtual ~Objective() = default;
  // Not finite where training diverged: no error. Errors: those of the model.
  virtual Result<double> Loss() = 0;
  struct Derivative {
    double loss = 0, along = 0;
  };
  // The derivative along the direction of that seed of `weights`. Errors: kUnimplemented where there is no forward-mode
  // differentiation of this model, with the operator that lacks it.
  virtual Result<Derivative> Along(const TrainedWeights& weights, uint64_t seed);
};

struct Estimate {
  std::vector<Term> terms;  // p_k / n of each direction that counts, n: of those that count
  double loss = 0;          // mean of the losses that were seen, near the weights; NaN when no direction counts
  uint64_t forward_passes = 0, skipped = 0;
};

class Estimator {
 public:
  // Errors: kInvalidArgument for options out of range.
  static Result<Estimator> Make(const EstimatorOptions& options);
  // Leaves the weights as they were, to the bit, also after an error. Errors: those of the objective.
  Result<Estimate> Run(TrainedWeights& weights, std::span<const uint64_t> seeds, Objective& objective) const;
  // Run of one direction, and the step -learning_rate p z: the same bits as Run and TrainedWeights::Add, and with kSpsa
  // one pass over the weights less. After an error, and of a direction that is skipped, there is no step.
  Result<Estimate> RunAndStep(TrainedWeights& weights, uint64_t seed, Objective& objective, double learning_rate) const;
  const EstimatorOptions& options() const { return options_; }

 private:
  explicit Estimator(const EstimatorOptions& options) : options_(options) {}
  struct Projection {
    double projected = 0, loss = 0;
    bool counts = false;
  };
  // Leaves the weights moved by -learning_rate p along the direction, if it counts.
  Result<Projection> Project(TrainedWeights& weights, uint64_t seed, double here, Objective& objective,
                             double learning_rate, uint64_t* passes) const;
  Result<Estimate> RunAll(TrainedWeights& weights, std::span<const uint64_t> seeds, Objective& objective,
                          double learning_rate) const;

  EstimatorOptions options_;
};

}  // namespace heddle::zo
