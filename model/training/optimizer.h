// What the optimizers share: gradients are clipped by their global norm, used, and dropped.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "common/status.h"
#include "model/training/optimizer_kind.h"

namespace heddle::model {

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  // AdamW, AdamW8bit
  double momentum = 0;                                // SGD
  double weight_decay = 0;
  double max_grad_norm = 0;  // 0: no clipping
  // The learning rate of each parameter is so many times that of the step; empty: of all alike.
  std::vector<double> rate_factors = {};
};

// What an optimizer remembers, copied: for checkpoints.
struct OptimizerState {
  int64_t steps = 0;
  std::vector<torch::Tensor> moments;
};

// Owns its state; shares storage with the parameters, which it changes in place. Parameters are float32 or float64
// leaves on any device; contiguous float32 on the CPU takes the fast paths, whose steps have the same bits whatever the
// number of threads. One thread at a time. LibTorch's exceptions pass through (a parameter of another type:
// c10::Error).
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // One step with the gradients that are there (a parameter without one has gradient zero), then drops them.
  //   g <- g * min(1, max_grad_norm / (||g|| + 1e-6))          as torch.nn.utils.clip_grad_norm_
  // Returns the gradients' L2 norm, over all parameters, before clipping. When that is not finite nothing is changed.
  double Step(double learning_rate);

  // Memory of the state, in bytes.
  virtual uint64_t StateBytes() const = 0;

  // With the parameters of then, an optimizer of the same kind goes on from a state as if it had never stopped, bit for
  // bit. Errors: kInvalidArgument when the state is that of another kind or of other parameters; nothing is changed.
  OptimizerState SaveState() const;
  Status LoadState(const OptimizerState& state);

 protected:
  Optimizer(std::vector<torch::Tensor> parameters, const OptimizerOptions& options);
  // Changes parameter k; its gradient is `gradient` (undefined: zero) times `clip`. steps() counts this step already.
  virtual void Update(size_t k, const torch::Tensor& gradient, double clip, double learning_rate) = 0;

  // Handles on the moments, in an order of the optimizer's own.
  virtual std::vector<torch::Tensor> Moments() const = 0;

  // Whether plain memory can be used for parameter k.
  bool IsPlain(size_t k) const;
  std::vector<torch::Tensor>& parameters() { return parameters_; }
  const std::vector<torch::Tensor>& parameters() const { return parameters_; }
  const OptimizerOptions& options() const { return options_; }
  int64_t steps() const { return steps_; }

 private:
  std::vector<torch::Tensor> parameters_;
  OptimizerOptions options_;
  int64_t steps_ = 0;
};

std::unique_ptr<Optimizer> MakeOptimizer(OptimizerKind kind, std::vector<torch::Tensor> parameters,
                                         const OptimizerOptions& options);

}  // namespace heddle::model
