// AdamW (Loshchilov and Hutter, 1711.05101).
//   p <- p * (1 - lr * wd);  m, v moments of g;  p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
//
// Adapters are hundreds of small tensors, over which an optimizer made of one LibTorch operator after the other spends
// its time between the operators: the fast path is one flat pass over plain memory in a fixed order.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include "model/training/optimizer.h"

namespace heddle::model {

class AdamW final : public Optimizer {
 public:
  AdamW(std::vector<torch::Tensor> parameters, const OptimizerOptions& options);
  uint64_t StateBytes() const override;

 private:
  std::vector<torch::Tensor> Moments() const override;
  void Update(size_t k, const torch::Tensor& gradient, double clip, double learning_rate) override;
  std::vector<torch::Tensor> m_, v_;  // as the parameters
};

}  // namespace heddle::model
