// AdamW (Loshchilov and Hutter, 1711.05101) over a handful of small float32 tensors, with clipping by global norm.
//
// Written for adapters: hundreds of small tensors, where an optimizer made of one LibTorch operator after the other
// spends its time between the operators. One flat pass over plain memory; the order of operations is fixed, so steps
// have the same bits whatever the number of threads.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/torch.h>

#include <vector>

namespace heddle::client {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double max_grad_norm = 0;  // 0: no clipping
};

// Owns the moments; shares storage with the parameters (contiguous float32 CPU leaves). Not thread-safe.
class AdamW {
 public:
  AdamW(std::vector<torch::Tensor> parameters, const AdamWOptions& options);

  // One step with the gradients that are there (a parameter without one has gradient zero), then drops them.
  //   g <- g * min(1, max_grad_norm / (||g|| + 1e-6))          as torch.nn.utils.clip_grad_norm_
  //   p <- p * (1 - lr * wd);  m, v moments;  p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
  // Returns the gradients' L2 norm before clipping. When that is not finite nothing is changed.
  double Step(double learning_rate);

 private:
  std::vector<torch::Tensor> parameters_;
  std::vector<std::vector<float>> m_, v_;
  AdamWOptions options_;
  int64_t steps_ = 0;
};

}  // namespace heddle::client
