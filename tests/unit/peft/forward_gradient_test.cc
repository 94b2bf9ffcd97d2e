// Forward gradients against back-propagation and against differences, over every architecture and every kind of
// adapter.
#include "zo_optim/estimator/forward_gradient.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <boost/json.hpp>
#include <cmath>
#include <thread>

#include "tests/unit/model/reference_case.h"
#include "tests/unit/peft/tuning_cases.h"

namespace heddle::peft {
namespace {

using model::ReferenceCase;

struct Trained {
  std::vector<torch::Tensor> parameters, tangents;
  // Normal tangents, the same each time.
  void Draw() {
    torch::manual_seed(5);
    for (const torch::Tensor& p : parameters) tangents.push_back(torch::randn(p.sizes(), p.options()).detach());
  }
  // <gradient, tangents> by back-propagation of the loss.
  double Backward(const torch::Tensor& loss) const {
    loss.backward();
    double sum = 0;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i].grad().defined()) {
        sum += (parameters[i].grad().to(at::kDouble) * tangents[i].to(at::kDouble)).sum().item<double>();
      }
    }
    return sum;
  }
};

class ForwardGradientOfArchitecture : public testing::TestWithParam<std::string> {};

TEST_P(ForwardGradientOfArchitecture, IsThatOfBackPropagation) {
  const ReferenceCase reference(GetParam());
  for (const auto type : {at::kDouble, at::kFloat}) {
    model::Transformer network(reference.base(), model::ComputeOptions{.type = type});
    reference.Inject(network, type);
    Trained trained;
    for (const auto& [path, linear] : network->LinearModules()) {
      if (!linear->lora_A.defined()) continue;
      trained.parameters.push_back(linear->lora_A);
      trained.parameters.push_back(linear->lora_B);
    }
    ASSERT_FALSE(trained.parameters.empty());
    trained.Draw();
    const auto loss = [&] { return network->Loss(reference.Input(), reference.Array("targets")); };
    const auto derivative = zo::DirectionalDerivative(trained.parameters, trained.tangents, loss);
    ASSERT_TRUE(derivative.ok()) << derivative.status();
    const torch::Tensor value = loss();
    const double expected = trained.Backward(value);
    const double tolerance = type == at::kDouble ? 1e-9 : 1e-3;
    EXPECT_NEAR(derivative->along, expected, tolerance * (1 + std::abs(expected)));
    EXPECT_NEAR(derivative->loss, value.item<double>(), type == at::kDouble ? 1e-11 : 1e-4);
    // Nothing is left on the tensors: an ordinary pass is what it was.
    EXPECT_FALSE(trained.parameters.front()._fw_grad(0).defined());
    EXPECT_EQ(loss().item<double>(), value.item<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ForwardGradientOfArchitecture, testing::ValuesIn(ReferenceCase::Names()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class ForwardGradientOfTuning : public testing::TestWithParam<std::string> {};

TEST_P(ForwardGradientOfTuning, IsThatOfBackPropagation) {
  const TuningCase c(GetParam());
  model::Transformer network(c.base, model::ComputeOptions{.type = at::kDouble});
  const auto tuning = Tuning::Inject(network, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  network->eval();
  Trained trained;
  for (const TunedParameter& one : tuning->parameters()) trained.parameters.push_back(one.tensor);
  trained.Draw();
  const auto loss = [&] { return network->Loss(c.Input(), c.Targets()); };
  const auto derivative = zo::DirectionalDerivative(trained.parameters, trained.tangents, loss);
  ASSERT_TRUE(derivative.ok()) << derivative.status();
  // By differences of two widths, whose cubic terms cancel; weights are float32.
  const auto difference = [&](double width) {
    const torch::NoGradGuard no_grad;
    const auto at = [&](double by) {
      std::vector<torch::Tensor> before;
      for (size_t i = 0; i < trained.parameters.size(); ++i) {
        before.push_back(trained.parameters[i].detach().clone());
        trained.parameters[i].add_(trained.tangents[i], by);
      }
      const double value = loss().item<double>();
      for (size_t i = 0; i < before.size(); ++i) trained.parameters[i].copy_(before[i]);
      return value;
    };
    return (at(width) - at(-width)) / (2 * width);
  };
  const double differences = (4 * difference(5e-4) - difference(1e-3)) / 3;
  EXPECT_NEAR(derivative->along, differences, 2e-3 * (1 + std::abs(differences)));
  // In back-propagation DoRA's norms count as constants; here the derivative is the whole one.
  if (c.adapter.config.use_dora) return;
  const double expected = trained.Backward(loss());
  EXPECT_NEAR(derivative->along, expected, 1e-5 * (1 + std::abs(expected)));
}

INSTANTIATE_TEST_SUITE_P(All, ForwardGradientOfTuning, testing::ValuesIn(TuningCase::Names()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(ForwardGradient, OnAPackedBaseIsThatOfBackPropagation) {
  const std::string name = TuningCase::Names().front();
  for (const auto type : {model::WeightType::kBfloat16, model::WeightType::kInt8, model::WeightType::kNf4}) {
    const TuningCase c(name, type);
    model::Transformer network(c.base);
    const auto tuning = Tuning::Inject(network, c.adapter.config, c.adapter.tensors);
    ASSERT_TRUE(tuning.ok()) << tuning.status();
    Trained trained;
    for (const TunedParameter& one : tuning->parameters()) trained.parameters.push_back(one.tensor);
    trained.Draw();
    const auto loss = [&] { return network->Loss(c.Input(), c.Targets()); };
    const auto derivative = zo::DirectionalDerivative(trained.parameters, trained.tangents, loss);
    ASSERT_TRUE(derivative.ok()) << derivative.status();
    const double expected = trained.Backward(loss());
    EXPECT_NEAR(derivative->along, expected, 2e-3 * (1 + std::abs(expected)));
  }
}

TEST(ForwardGradient, FromSeveralThreadsAtOnceIsThatOfOneAlone) {
  std::vector<double> along(4);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < along.size(); ++i) {
      threads.emplace_back([&, i] {
        const torch::Tensor x = torch::full({3}, 2.0, at::kDouble).requires_grad_(true);
        const torch::Tensor v = torch::full({3}, static_cast<double>(i), at::kDouble);
        for (int k = 0; k < 50; ++k)
          along[i] = zo::DirectionalDerivative({x}, {v}, [&] { return (x * x).sum(); })->along;
      });
    }
  }
  for (size_t i = 0; i < along.size(); ++i) EXPECT_NEAR(along[i], 12.0 * static_cast<double>(i), 1e-12);
}

// A function of our own making, as LibTorch's are without a formula.
struct Opaque : torch::autograd::Function<Opaque> {
  static torch::Tensor forward(torch::autograd::AutogradContext*, const torch::Tensor& x) { return x * 2; }
  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext*, torch::autograd::tensor_list grads) {
    return {grads[0] * 2};
  }
};

TEST(ForwardGradient, OfAnOperatorWithoutAFormulaIsRefusedAndLeavesTheNextOneAlone) {
  const torch::Tensor x = torch::ones({3}).requires_grad_(true), v = torch::ones({3});
  const auto refused = zo::DirectionalDerivative({x}, {v}, [&] { return Opaque::apply(x).sum(); });
  EXPECT_EQ(refused.status().code(), Code::kUnimplemented);
  EXPECT_THAT(refused.status().message(), testing::HasSubstr("spsa"));
  EXPECT_NEAR(zo::DirectionalDerivative({x}, {v}, [&] { return (x * x).sum(); })->along, 6, 1e-6);
  EXPECT_EQ(zo::DirectionalDerivative({x}, {v}, [&] { return v.sum(); })->along, 0) << "it does not depend on x";
}

}  // namespace
}  // namespace heddle::peft
