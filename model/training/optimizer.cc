#include "model/training/optimizer.h"

#include <algorithm>
#include <cmath>

#include "model/training/adamw.h"
#include "model/training/adamw_8bit.h"
#include "model/training/sgd.h"

namespace heddle::model {
namespace {

// In a fixed order, so that the sum has the same bits whatever the number of threads.
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

Optimizer::Optimizer(std::vector<torch::Tensor> parameters, const OptimizerOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  TORCH_CHECK(options_.rate_factors.empty() || options_.rate_factors.size() == parameters_.size(),
              "an optimizer needs a rate factor for each parameter, or none");
  for (const torch::Tensor& p : parameters_) {
    TORCH_CHECK(p.scalar_type() == torch::kFloat32 || p.scalar_type() == torch::kFloat64,
                "an optimizer trains float32 or float64 parameters, not ", p.scalar_type());
  }
}

bool Optimizer::IsPlain(size_t k) const {
  const torch::Tensor& p = parameters_[k];
  return p.is_cpu() && p.scalar_type() == torch::kFloat32 && p.is_contiguous();
}

double Optimizer::Step(double learning_rate) {
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> gradients;
  double squares = 0;
  torch::Tensor elsewhere;  // the part of the sum that is on another device: fetched once
  for (size_t k = 0; k < parameters_.size(); ++k) {
    torch::Tensor& p = parameters_[k];
    torch::Tensor g = p.grad().defined() ? p.grad().contiguous() : torch::Tensor();
    p.mutable_grad() = torch::Tensor();
    if (g.defined() && g.is_cpu() && g.scalar_type() == torch::kFloat32) {
      squares += SumOfSquares(g.data_ptr<float>(), static_cast<size_t>(g.numel()));
    } else if (g.defined()) {
      torch::Tensor part = g.to(torch::kFloat64).square().sum();
      elsewhere = elsewhere.defined() ? elsewhere + part.to(elsewhere.device()) : part;
    }
    gradients.push_back(std::move(g));
  }
  if (elsewhere.defined()) squares += elsewhere.item<double>();
  const double norm = std::sqrt(squares);
  if (!std::isfinite(norm)) return norm;
  ++steps_;
  const double clip = options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (norm + 1e-6)) : 1.0;
  for (size_t k = 0; k < parameters_.size(); ++k) {
    const double factor = options_.rate_factors.empty() ? 1.0 : options_.rate_factors[k];
    Update(k, gradients[k], clip, learning_rate * factor);
  }
  return norm;
}

OptimizerState Optimizer::SaveState() const {
  torch::NoGradGuard no_grad;
  OptimizerState state{steps_, {}};
  for (const torch::Tensor& moment : Moments()) state.moments.push_back(moment.clone());
  return state;
}

Status Optimizer::LoadState(const OptimizerState& state) {
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> moments = Moments();
  bool fits = state.steps >= 0 && moments.size() == state.moments.size();
  for (size_t i = 0; fits && i < moments.size(); ++i) {
    const torch::Tensor& given = state.moments[i];
    fits = given.defined() && given.sizes() == moments[i].sizes() && given.scalar_type() == moments[i].scalar_type();
  }
  if (!fits) return InvalidArgument("the optimizer's state is that of another kind or of other parameters");
  for (size_t i = 0; i < moments.size(); ++i) moments[i].copy_(state.moments[i]);
  steps_ = state.steps;
  return OkStatus();
}

std::unique_ptr<Optimizer> MakeOptimizer(OptimizerKind kind, std::vector<torch::Tensor> parameters,
                                         const OptimizerOptions& options) {
  switch (kind) {
    case OptimizerKind::kAdamW8bit:
      return std::make_unique<AdamW8bit>(std::move(parameters), options);
    case OptimizerKind::kSgd:
      return std::make_unique<Sgd>(std::move(parameters), options);
    case OptimizerKind::kAdamW:
      break;
  }
  return std::make_unique<AdamW>(std::move(parameters), options);
}

}  // namespace heddle::model
