// The optimizer against a float64 reading of the paper's formulas, and against torch::optim::AdamW.
#include "model/training/adamw.h"

#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "tests/unit/model/difference.h"
#include "tests/unit/model/random_tensor.h"

namespace heddle::model {
namespace {

// One parameter after another, every quantity a double.
class Reference {
 public:
  Reference(const std::vector<torch::Tensor>& parameters, OptimizerOptions options) : options_(options) {
    for (const auto& p : parameters) {
      p_.push_back(p.detach().to(torch::kDouble).clone());
      m_.push_back(torch::zeros_like(p_.back()));
      v_.push_back(torch::zeros_like(p_.back()));
    }
  }
  double Step(const std::vector<torch::Tensor>& gradients, double lr) {
    double squares = 0;
    for (const auto& g : gradients) squares += g.to(torch::kDouble).pow(2).sum().item<double>();
    const double norm = std::sqrt(squares);
    const double clip = options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (norm + 1e-6)) : 1.0;
    ++t_;
    for (size_t k = 0; k < p_.size(); ++k) {
      const auto g = gradients[k].to(torch::kDouble) * clip;
      m_[k] = options_.beta1 * m_[k] + (1 - options_.beta1) * g;
      v_[k] = options_.beta2 * v_[k] + (1 - options_.beta2) * g * g;
      const auto m_hat = m_[k] / (1 - std::pow(options_.beta1, t_));
      const auto v_hat = v_[k] / (1 - std::pow(options_.beta2, t_));
      p_[k] = p_[k] - lr * options_.weight_decay * p_[k] - lr * m_hat / (v_hat.sqrt() + options_.epsilon);
    }
    return norm;
  }
  const std::vector<torch::Tensor>& parameters() const { return p_; }

 private:
  OptimizerOptions options_;
  std::vector<torch::Tensor> p_, m_, v_;
  int t_ = 0;
};

const std::vector<std::vector<int64_t>> kShapes = {{4, 7}, {13}, {1}, {3, 3, 3}};

std::vector<torch::Tensor> Parameters() {
  std::vector<torch::Tensor> out;
  for (size_t k = 0; k < kShapes.size(); ++k) out.push_back(RandomTensor(kShapes[k], k).requires_grad_(true));
  return out;
}
std::vector<torch::Tensor> Gradients(uint64_t step) {
  std::vector<torch::Tensor> out;
  // Gradients of very different sizes, so that clipping acts in some steps only.
  const float scale = step % 3 == 0 ? 10.0F : 0.01F;
  for (size_t k = 0; k < kShapes.size(); ++k) out.push_back(RandomTensor(kShapes[k], 100 * step + k, scale));
  return out;
}
void SetGradients(std::vector<torch::Tensor>& parameters, const std::vector<torch::Tensor>& gradients) {
  for (size_t k = 0; k < parameters.size(); ++k) parameters[k].mutable_grad() = gradients[k].clone();
}
struct Case {
  OptimizerOptions options;
  double learning_rate;
};

class AdamWCases : public testing::TestWithParam<Case> {};

TEST_P(AdamWCases, FollowsTheFormulasInFloat64) {
  auto parameters = Parameters();
  Reference reference(parameters, GetParam().options);
  AdamW optimizer(parameters, GetParam().options);
  for (uint64_t step = 1; step <= 50; ++step) {
    const auto gradients = Gradients(step);
    SetGradients(parameters, gradients);
    const double lr = GetParam().learning_rate * static_cast<double>(step) / 50;  // a rate that changes
    const double norm = optimizer.Step(lr);
    EXPECT_NEAR(norm, reference.Step(gradients, lr), 1e-12 * norm);
    for (size_t k = 0; k < parameters.size(); ++k) {
      ASSERT_LT(MaxDifference(parameters[k], reference.parameters()[k]), 2e-6) << "step " << step << ", tensor " << k;
    }
  }
}

TEST_P(AdamWCases, AgreesWithLibTorchs) {
  const auto& [options, lr] = GetParam();
  auto ours = Parameters(), theirs = Parameters();
  AdamW optimizer(ours, options);
  torch::optim::AdamW other(theirs, torch::optim::AdamWOptions(lr)
                                        .betas(std::make_tuple(options.beta1, options.beta2))
                                        .eps(options.epsilon)
                                        .weight_decay(options.weight_decay));
  for (uint64_t step = 1; step <= 50; ++step) {
    const auto gradients = Gradients(step);
    SetGradients(ours, gradients);
    SetGradients(theirs, gradients);
    optimizer.Step(lr);
    if (options.max_grad_norm > 0) torch::nn::utils::clip_grad_norm_(theirs, options.max_grad_norm);
    other.step();
    for (size_t k = 0; k < ours.size(); ++k) ASSERT_LT(MaxDifference(ours[k], theirs[k]), 2e-6) << "step " << step;
  }
}

// {beta1, beta2, epsilon, momentum, weight_decay, max_grad_norm}
INSTANTIATE_TEST_SUITE_P(Settings, AdamWCases,
                         testing::Values(Case{{}, 1e-2}, Case{{0.9, 0.95, 1e-6, 0, 0.1, 1.0}, 1e-2},
                                         Case{{0.5, 0.9, 1e-3, 0, 0.0, 0.3}, 3e-2},
                                         Case{{0.0, 0.5, 1e-8, 0, 0.5, 0}, 1e-3}));

// The order of operations is part of what a run is: its bits are in the hashes of old runs.
TEST(AdamW, TheBitsOfAStepAreFixed) {
  const OptimizerOptions o{0.9, 0.95, 1e-6, 0, 0.1, 0.5};
  auto parameters = Parameters();
  std::vector<std::vector<float>> p, m, v;
  for (const auto& tensor : parameters) {
    const auto flat = tensor.detach().flatten().clone();
    p.emplace_back(flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel());
    m.emplace_back(p.back().size());
    v.emplace_back(p.back().size());
  }
  AdamW optimizer(parameters, o);
  for (int step = 1; step <= 20; ++step) {
    const double lr = 0.01 / step;
    const auto gradients = Gradients(static_cast<uint64_t>(step));
    SetGradients(parameters, gradients);
    const double norm = optimizer.Step(lr);
    const auto clip = static_cast<float>(std::min(1.0, o.max_grad_norm / (norm + 1e-6)));
    const auto b1 = static_cast<float>(o.beta1), b2 = static_cast<float>(o.beta2);
    const auto keep = static_cast<float>(1.0 - lr * o.weight_decay);
    const auto rate = static_cast<float>(lr / (1.0 - std::pow(o.beta1, step)));
    const auto root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(o.beta2, step)));
    for (size_t k = 0; k < p.size(); ++k) {
      for (size_t i = 0; i < p[k].size(); ++i) {
        const float g = gradients[k].data_ptr<float>()[i] * clip;
        m[k][i] = b1 * m[k][i] + (1.0F - b1) * g;
        v[k][i] = b2 * v[k][i] + (1.0F - b2) * g * g;
        p[k][i] = p[k][i] * keep - rate * m[k][i] / (std::sqrt(v[k][i]) * root + static_cast<float>(o.epsilon));
        ASSERT_EQ(parameters[k].data_ptr<float>()[i], p[k][i]) << "step " << step << ", tensor " << k << ", " << i;
      }
    }
  }
}

TEST(AdamW, DropsTheGradientsOfAStep) {
  auto parameters = Parameters();
  AdamW optimizer(parameters, {});
  SetGradients(parameters, Gradients(1));
  optimizer.Step(1e-3);
  for (const auto& p : parameters) EXPECT_FALSE(p.grad().defined());
}

TEST(AdamW, AParameterWithoutAGradientCountsAsOneOfZero) {
  auto parameters = Parameters(), zeros = Parameters();
  AdamW a(parameters, {}), b(zeros, {});
  for (uint64_t step = 1; step <= 3; ++step) {
    auto gradients = Gradients(step);
    gradients[1].zero_();
    SetGradients(parameters, gradients);
    SetGradients(zeros, gradients);
    parameters[1].mutable_grad() = torch::Tensor();
    EXPECT_EQ(a.Step(1e-2), b.Step(1e-2));
  }
  for (size_t k = 0; k < zeros.size(); ++k) EXPECT_TRUE(torch::equal(parameters[k], zeros[k]));
}

TEST(AdamW, AGradientThatIsNotFiniteChangesNothing) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto parameters = Parameters(), expected = Parameters();
    AdamW optimizer(parameters, {}), other(expected, {});
    auto gradients = Gradients(1);
    gradients[3].flatten()[5] = bad;
    SetGradients(parameters, gradients);
    EXPECT_FALSE(std::isfinite(optimizer.Step(1e-2)));
    for (size_t k = 0; k < kShapes.size(); ++k) EXPECT_TRUE(torch::equal(parameters[k], expected[k]));
    // Nor does it leave a trace in the moments or in the count of steps.
    SetGradients(parameters, Gradients(2));
    SetGradients(expected, Gradients(2));
    optimizer.Step(1e-2);
    other.Step(1e-2);
    for (size_t k = 0; k < kShapes.size(); ++k) EXPECT_TRUE(torch::equal(parameters[k], expected[k]));
  }
}

// What a GPU or a check in float64 takes.
TEST(AdamW, OtherTypesAndLayoutsGoThroughLibTorchsOperators) {
  const OptimizerOptions options{0.9, 0.95, 1e-6, 0, 0.1, 1.0};
  auto parameters = Parameters(), narrow = Parameters();
  for (auto& p : parameters) p = p.detach().to(torch::kDouble).requires_grad_(true);
  narrow[0] = narrow[0].detach().t().contiguous().t().requires_grad_(true);  // the same values, laid out by columns
  ASSERT_FALSE(narrow[0].is_contiguous());
  Reference reference(parameters, options);
  AdamW optimizer(parameters, options), strided(narrow, options);
  for (uint64_t step = 1; step <= 20; ++step) {
    auto gradients = Gradients(step);
    SetGradients(narrow, gradients);
    for (auto& g : gradients) g = g.to(torch::kDouble);
    SetGradients(parameters, gradients);
    const double norm = reference.Step(gradients, 1e-2);
    EXPECT_NEAR(optimizer.Step(1e-2), norm, 1e-12 * norm);
    EXPECT_NEAR(strided.Step(1e-2), norm, 1e-6 * norm);
    for (size_t k = 0; k < parameters.size(); ++k) {
      ASSERT_LT(MaxDifference(parameters[k], reference.parameters()[k]), 1e-13) << "step " << step;
      ASSERT_LT(MaxDifference(narrow[k], reference.parameters()[k]), 2e-6) << "step " << step;
    }
  }
}

TEST(AdamW, StateIsTwoMoments) {
  AdamW optimizer(Parameters(), {});
  EXPECT_EQ(optimizer.StateBytes(), 8U * (28 + 13 + 1 + 27));
}

TEST(AdamW, ParametersOfHalfPrecisionAreRefused) {
  EXPECT_THROW(AdamW({torch::zeros({3}, torch::kBFloat16)}, {}), c10::Error);
  EXPECT_THROW(AdamW({torch::zeros({3}, torch::kLong)}, {}), c10::Error);
}

}  // namespace
}  // namespace heddle::model
