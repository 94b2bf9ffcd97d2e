// Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD without dampening:
//   g <- g + wd * p;  b <- momentum * b + g (b = g at the first step);  p <- p - lr * b
// Without momentum nothing is kept between steps.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include "model/training/optimizer.h"

namespace heddle::model {

class Sgd final : public Optimizer {
 public:
  Sgd(std::vector<torch::Tensor> parameters, const OptimizerOptions& options);
  uint64_t StateBytes() const override;

 private:
  std::vector<torch::Tensor> Moments() const override { return momentum_; }
  void Update(size_t k, const torch::Tensor& gradient, double clip, double learning_rate) override;
  std::vector<torch::Tensor> momentum_;  // as the parameters; empty without momentum
};

}  // namespace heddle::model
