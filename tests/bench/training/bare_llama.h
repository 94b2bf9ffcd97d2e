// The yardstick of the training benchmark: the same fine-tuning step put together from LibTorch's own operators,
// autograd and torch::optim::AdamW, without any of Heddle's modules.
#pragma once

#include <torch/optim.h>
#include <torch/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/weights/base_weights.h"

namespace heddle::bench {

struct BareOptions {
  double learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, max_grad_norm = 0;
  double scaling = 0;  // of LoRA
};

class BareTrainer {
 public:
  // `adapter`: the initial factors by module path, {A [r, in], B [out, r]}.
  BareTrainer(std::shared_ptr<const model::BaseWeights> base,
              std::map<std::string, std::pair<torch::Tensor, torch::Tensor>> adapter, const BareOptions& options);
  // One step; returns the loss.
  double Step(const torch::Tensor& ids, const torch::Tensor& targets);

 private:
  torch::Tensor Linear(const std::string& path, const torch::Tensor& x) const;
  torch::Tensor Norm(const std::string& name, const torch::Tensor& x) const;
  torch::Tensor Rotate(const torch::Tensor& x) const;
  torch::Tensor Attention(const std::string& path, const torch::Tensor& x) const;
  torch::Tensor Loss(const torch::Tensor& ids, const torch::Tensor& targets);

  std::shared_ptr<const model::BaseWeights> base_;
  std::map<std::string, std::pair<torch::Tensor, torch::Tensor>> adapter_;
  BareOptions options_;
  std::vector<torch::Tensor> parameters_;
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  torch::Tensor cos_, sin_, mask_;  // for the length in use
};

}  // namespace heddle::bench
