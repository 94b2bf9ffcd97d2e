// Momentum and weight decay against a float64 reading of the formulas and against torch::optim::SGD.
#include "model/training/sgd.h"

#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim.h>

#include <cmath>

#include "tests/unit/model/random_tensor.h"

namespace heddle::model {
namespace {

std::vector<torch::Tensor> SgdParameters(at::ScalarType type = at::kFloat) {
  return {RandomTensor({4, 5}, 1).to(type).requires_grad_(true), RandomTensor({7}, 2).to(type).requires_grad_(true)};
}
std::vector<torch::Tensor> SgdGradients(uint64_t step) {
  return {RandomTensor({4, 5}, 10 * step), RandomTensor({7}, 10 * step + 1)};
}

struct SgdCase {
  double momentum, weight_decay, max_grad_norm;
};
class SgdCases : public testing::TestWithParam<SgdCase> {};
INSTANTIATE_TEST_SUITE_P(Settings, SgdCases,
                         testing::Values(SgdCase{0, 0, 0}, SgdCase{0.9, 0, 0}, SgdCase{0, 0.1, 0.7},
                                         SgdCase{0.5, 0.3, 1.5}));

TEST_P(SgdCases, FollowsTheFormulasInFloat64AndAgreesWithLibTorchs) {
  const auto [momentum, decay, max_norm] = GetParam();
  OptimizerOptions options;
  options.momentum = momentum;
  options.weight_decay = decay;
  options.max_grad_norm = max_norm;
  auto ours = SgdParameters(), wide = SgdParameters(at::kDouble), theirs = SgdParameters();
  std::vector<torch::Tensor> p, b;
  for (const auto& tensor : wide) {
    p.push_back(tensor.detach().clone());
    b.push_back(torch::zeros_like(p.back()));
  }
  const auto plain = MakeOptimizer(OptimizerKind::kSgd, ours, options);
  Sgd operators(wide, options);
  torch::optim::SGD other(theirs, torch::optim::SGDOptions(0.05).momentum(momentum).weight_decay(decay));
  for (uint64_t step = 1; step <= 20; ++step) {
    const auto gradients = SgdGradients(step);
    double squares = 0;
    for (size_t k = 0; k < 2; ++k) {
      squares += gradients[k].to(at::kDouble).square().sum().item<double>();
      ours[k].mutable_grad() = gradients[k].clone();
      theirs[k].mutable_grad() = gradients[k].clone();
      wide[k].mutable_grad() = gradients[k].to(at::kDouble);
    }
    const double norm = std::sqrt(squares), clip = max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1;
    EXPECT_NEAR(plain->Step(0.05), norm, 1e-12);
    EXPECT_NEAR(operators.Step(0.05), norm, 1e-12);
    if (max_norm > 0) torch::nn::utils::clip_grad_norm_(theirs, max_norm);
    other.step();
    for (size_t k = 0; k < 2; ++k) {
      b[k] = momentum * b[k] + gradients[k].to(at::kDouble) * clip + decay * p[k];
      p[k] = p[k] - 0.05 * b[k];
      ASSERT_LT((wide[k] - p[k]).abs().max().item<double>(), 1e-13) << step;
      ASSERT_LT((ours[k] - p[k]).abs().max().item<double>(), 2e-6) << step;
      ASSERT_LT((ours[k] - theirs[k]).abs().max().item<double>(), 2e-6) << step;
    }
  }
  EXPECT_EQ(plain->StateBytes(), momentum > 0 ? 4U * 27 : 0U);
}

TEST(Sgd, AParameterWithoutAGradientStillDecaysAndKeepsItsMomentum) {
  OptimizerOptions options;
  options.momentum = 0.5;
  options.weight_decay = 0.1;
  torch::Tensor missing = torch::ones({3}).requires_grad_(true), zero = torch::ones({3}).requires_grad_(true);
  Sgd a({missing}, options), b({zero}, options);
  for (int step = 0; step < 3; ++step) {
    zero.mutable_grad() = torch::zeros({3});
    a.Step(0.1);
    b.Step(0.1);
    EXPECT_TRUE(torch::equal(missing, zero));
  }
  EXPECT_LT(missing[0].item<float>(), 1.0F);
}

TEST(RateFactors, OneParameterLearnsSoManyTimesAsFastAsAnother) {
  for (const OptimizerKind kind : {OptimizerKind::kSgd, OptimizerKind::kAdamW, OptimizerKind::kAdamW8bit}) {
    auto with = SgdParameters(), alone = SgdParameters();
    OptimizerOptions options;
    options.weight_decay = 0.1;
    options.rate_factors = {1, 16};
    const auto one = MakeOptimizer(kind, with, options);
    options.rate_factors.clear();
    const auto slow = MakeOptimizer(kind, {alone[0]}, options), fast = MakeOptimizer(kind, {alone[1]}, options);
    for (uint64_t step = 1; step <= 3; ++step) {
      const auto gradients = SgdGradients(step);
      for (size_t k = 0; k < 2; ++k) {
        with[k].mutable_grad() = gradients[k].clone();
        alone[k].mutable_grad() = gradients[k].clone();
      }
      one->Step(0.01);
      slow->Step(0.01);
      fast->Step(0.16);
    }
    for (size_t k = 0; k < 2; ++k) EXPECT_TRUE(torch::equal(with[k], alone[k])) << static_cast<int>(kind) << " " << k;
  }
  OptimizerOptions wrong;
  wrong.rate_factors = {1, 2, 3};
  EXPECT_THROW(MakeOptimizer(OptimizerKind::kSgd, SgdParameters(), wrong), c10::Error);
}

}  // namespace
}  // namespace heddle::model
