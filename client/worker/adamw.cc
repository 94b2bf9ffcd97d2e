#include "client/worker/adamw.h"

#include <cmath>
#include <cstdint>

namespace heddle::client {
namespace {

double SumOfSquares(const float* g, size_t count) {
  double lanes[8] = {};
  size_t whole = count / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) {
    for (size_t j = 0; j < 8; ++j) lanes[j] += static_cast<double>(g[i + j]) * static_cast<double>(g[i + j]);
  }
  for (size_t i = whole; i < count; ++i) lanes[i - whole] += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

AdamW::AdamW(std::vector<torch::Tensor> parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const torch::Tensor& p : parameters_) {
    TORCH_CHECK(p.is_contiguous() && p.scalar_type() == torch::kFloat32 && p.is_cpu(),
                "AdamW needs contiguous float32");
    m_.emplace_back(static_cast<size_t>(p.numel()), 0.0F);
    v_.emplace_back(static_cast<size_t>(p.numel()), 0.0F);
  }
}

double AdamW::Step(double learning_rate) {
  std::vector<torch::Tensor> gradients;
  double squares = 0;
  for (torch::Tensor& p : parameters_) {
    torch::Tensor g = p.grad().defined() ? p.grad().contiguous() : torch::Tensor();
    if (g.defined()) squares += SumOfSquares(g.data_ptr<float>(), static_cast<size_t>(g.numel()));
    gradients.push_back(std::move(g));
  }
  double norm = std::sqrt(squares);
  for (torch::Tensor& p : parameters_) p.mutable_grad() = torch::Tensor();
  if (!std::isfinite(norm)) return norm;

  ++steps_;
  auto t = static_cast<double>(steps_);
  const auto clip =
      static_cast<float>(options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (norm + 1e-6)) : 1.0);
  const auto b1 = static_cast<float>(options_.beta1);
  const auto b2 = static_cast<float>(options_.beta2);
  const auto keep = static_cast<float>(1.0 - learning_rate * options_.weight_decay);
  const auto step_size = static_cast<float>(learning_rate / (1.0 - std::pow(options_.beta1, t)));
  const auto inverse_root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(options_.beta2, t)));
  const auto epsilon = static_cast<float>(options_.epsilon);
  for (size_t k = 0; k < parameters_.size(); ++k) {
    float* p = parameters_[k].data_ptr<float>();
    float* m = m_[k].data();
    float* v = v_[k].data();
    const float* g = gradients[k].defined() ? gradients[k].data_ptr<float>() : nullptr;
    const size_t count = m_[k].size();
    for (size_t i = 0; i < count; ++i) {
      float gi = g != nullptr ? g[i] * clip : 0.0F;
      m[i] = b1 * m[i] + (1.0F - b1) * gi;
      v[i] = b2 * v[i] + (1.0F - b2) * gi * gi;
      p[i] = p[i] * keep - step_size * m[i] / (std::sqrt(v[i]) * inverse_root + epsilon);
    }
  }
  return norm;
}

}  // namespace heddle::client
