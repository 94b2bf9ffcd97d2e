#include "model/training/sgd.h"

namespace heddle::model {

Sgd::Sgd(std::vector<torch::Tensor> parameters, const OptimizerOptions& options)
    : Optimizer(std::move(parameters), options) {
  if (!(options.momentum > 0)) return;
  torch::NoGradGuard no_grad;
  for (const torch::Tensor& p : this->parameters()) momentum_.push_back(torch::zeros_like(p));
}

uint64_t Sgd::StateBytes() const {
  uint64_t bytes = 0;
  for (const torch::Tensor& buffer : momentum_) bytes += buffer.nbytes();
  return bytes;
}

void Sgd::Update(size_t k, const torch::Tensor& gradient, double clip, double learning_rate) {
  const OptimizerOptions& o = options();
  torch::Tensor& parameter = parameters()[k];
  // A buffer of zeros makes the first step the general one.
  if (!IsPlain(k)) {
    torch::Tensor g = gradient.defined() ? gradient * clip : torch::zeros_like(parameter);
    g.add_(parameter, o.weight_decay);
    if (!momentum_.empty()) g = momentum_[k].mul_(o.momentum).add_(g);
    parameter.sub_(g, learning_rate);
    return;
  }
  const auto rate = static_cast<float>(learning_rate);
  const auto decay = static_cast<float>(o.weight_decay);
  const auto momentum = static_cast<float>(o.momentum);
  const auto scale = static_cast<float>(clip);
  float* p = parameter.data_ptr<float>();
  float* b = momentum_.empty() ? nullptr : momentum_[k].data_ptr<float>();
  const float* g = gradient.defined() ? gradient.data_ptr<float>() : nullptr;
  const auto count = static_cast<size_t>(parameter.numel());
  for (size_t i = 0; i < count; ++i) {
    float step = (g != nullptr ? g[i] * scale : 0.0F) + decay * p[i];
    if (b != nullptr) step = b[i] = momentum * b[i] + step;
    p[i] -= rate * step;
  }
}

}  // namespace heddle::model
