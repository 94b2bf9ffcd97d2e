// What is done with an estimate of the gradient (estimator/estimator.h), g = sum_k p_k z_k, which is never stored: it
// is made again block by block from its seeds.
//
//   kSgd, MeZO (2305.17333): w -= lr (g + wd w); with momentum mu: m = mu m + g + wd w, w -= lr m
//   kAdam, ZO-AdaMM (Chen et al., 1910.06513): m, v as Adam's with bias correction, w -= lr (m / (sqrt(v) + eps) + wd
//   w) kSign, ZO-signSGD (Liu et al., 2019): w -= lr (sign(g) + wd w); of an element without gradient the sign is 0
//
// Memory beside the weights: none without momentum; 4 bytes an element with it, 8 with kAdam.
//
// Life cycle: Make for the weights that are trained, Step after each estimate. One thread at a time. Free of LibTorch.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "zo_optim/estimator/estimator.h"

namespace heddle::zo {

enum class ZoOptimizerKind : uint8_t { kSgd, kAdam, kSign };
// "zo_sgd" (also when empty), "zo_adam", "zo_sign_sgd". Errors: kInvalidArgument with the names there are.
Result<ZoOptimizerKind> ZoOptimizerKindFromName(std::string_view name);

struct ZoOptimizerOptions {
  ZoOptimizerKind kind = ZoOptimizerKind::kSgd;
  double momentum = 0;                                // of kSgd
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  // of kAdam
  double weight_decay = 0;
};

class ZoOptimizer {
 public:
  // Errors: kInvalidArgument for options out of range.
  static Result<ZoOptimizer> Make(const ZoOptimizerOptions& options, const TrainedWeights& weights);

  // An estimate and the step on it, in fewer passes over the weights than one after the other where there is one
  // direction and the step is plain; the same bits. Errors: those of Estimator::Run.
  Result<Estimate> EstimateAndStep(const Estimator& estimator, TrainedWeights& weights, std::span<const uint64_t> seeds,
                                   Objective& objective, double learning_rate);
  // Of an estimate without terms (all were skipped) there is no step.
  void Step(TrainedWeights& weights, const Estimate& estimate, double learning_rate);
  // Whether a step is the sum of its directions and nothing else, so that it can be taken back.
  bool plain() const;

 private:
  explicit ZoOptimizer(const ZoOptimizerOptions& options) : options_(options) {}

  ZoOptimizerOptions options_;
  std::vector<float> mean_, square_;  // moments, by place
  uint64_t steps_ = 0;
};

// Estimates with less variance, in the manner of SVRG (Johnson and Zhang 2013; ZO-SVRG, Liu et al., 1805.10367). At an
// anchor w_a, taken anew every `interval` steps, G = the mean of many directions over several batches is made once;
// then
//   g = sum_k (p_k(w) - p_k(w_a)) z_k / n + G, both projections of the same batch and directions.
// Neither G nor w_a is stored: both are seeds and scalars, and the weights go to w_a by taking the steps since back,
// and return by taking them again, exactly (trained_weights.h). So steps must be plain ones of kSgd.
class AnchoredEstimator {
 public:
  // interval above 0. `optimizer` is the one whose steps are Taken. Errors: kInvalidArgument when its steps are not
  // plain, or interval is 0.
  static Result<AnchoredEstimator> Make(const Estimator& estimator, uint32_t interval, const ZoOptimizer& optimizer);

  // Whether the next estimate begins with an anchor: then Anchor comes first.
  bool due() const { return since_ == 0; }
  // G, of these directions; `objective` may go to another batch with each call of `next`, which is called before each
  // direction. Errors: those of the objective and of `next`.
  Result<Estimate> Anchor(TrainedWeights& weights, std::span<const uint64_t> seeds, Objective& objective,
                          const std::function<Status()>& next);
  Result<Estimate> Run(TrainedWeights& weights, std::span<const uint64_t> seeds, Objective& objective) const;
  // The step that was taken of an estimate of Run.
  void Took(const Estimate& estimate, double learning_rate);

 private:
  AnchoredEstimator(const Estimator& estimator, uint32_t interval) : estimator_(estimator), interval_(interval) {}

  Estimator estimator_;
  uint32_t interval_, since_ = 0;
  std::vector<Term> anchor_, steps_;  // G; the steps since
};

}  // namespace heddle::zo
