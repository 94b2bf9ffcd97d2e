#include "model/training/adamw.h"

#include <ATen/Parallel.h>

#include <cmath>

namespace heddle::model {

AdamW::AdamW(std::vector<torch::Tensor> parameters, const OptimizerOptions& options)
    : Optimizer(std::move(parameters), options) {
  torch::NoGradGuard no_grad;
  for (const torch::Tensor& p : this->parameters()) {
    m_.push_back(torch::zeros_like(p));
    v_.push_back(torch::zeros_like(p));
  }
}

uint64_t AdamW::StateBytes() const {
  uint64_t bytes = 0;
  for (const torch::Tensor& m : m_) bytes += 2 * m.nbytes();
  return bytes;
}

std::vector<torch::Tensor> AdamW::Moments() const {
  std::vector<torch::Tensor> all = m_;
  all.insert(all.end(), v_.begin(), v_.end());
  return all;
}

void AdamW::Update(size_t k, const torch::Tensor& gradient, double clip, double learning_rate) {
  const OptimizerOptions& o = options();
  const auto t = static_cast<double>(steps());
  const double step_size = learning_rate / (1.0 - std::pow(o.beta1, t));
  const double inverse_root = 1.0 / std::sqrt(1.0 - std::pow(o.beta2, t));
  torch::Tensor& parameter = parameters()[k];
  if (!IsPlain(k)) {
    const torch::Tensor g = gradient.defined() ? gradient * clip : torch::zeros_like(parameter);
    m_[k].mul_(o.beta1).add_(g, 1.0 - o.beta1);
    v_[k].mul_(o.beta2).addcmul_(g, g, 1.0 - o.beta2);
    parameter.mul_(1.0 - learning_rate * o.weight_decay)
        .addcdiv_(m_[k], v_[k].sqrt().mul_(inverse_root).add_(o.epsilon), -step_size);
    return;
  }
  const auto b1 = static_cast<float>(o.beta1);
  const auto b2 = static_cast<float>(o.beta2);
  const auto keep = static_cast<float>(1.0 - learning_rate * o.weight_decay);
  const auto rate = static_cast<float>(step_size);
  const auto root = static_cast<float>(inverse_root);
  const auto epsilon = static_cast<float>(o.epsilon);
  const auto scale = static_cast<float>(clip);
  float* p = parameter.data_ptr<float>();
  float* m = m_[k].data_ptr<float>();
  float* v = v_[k].data_ptr<float>();
  const float* g = gradient.defined() ? gradient.data_ptr<float>() : nullptr;
  // Element by element: no bit depends on who computes which. Adapters' tensors are below the grain: one thread.
  at::parallel_for(0, parameter.numel(), int64_t{1} << 16, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float gi = g != nullptr ? g[i] * scale : 0.0F;
      m[i] = b1 * m[i] + (1.0F - b1) * gi;
      v[i] = b2 * v[i] + (1.0F - b2) * gi * gi;
      p[i] = p[i] * keep - rate * m[i] / (std::sqrt(v[i]) * root + epsilon);
    }
  });
}

}  // namespace heddle::model
