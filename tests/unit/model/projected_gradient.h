// Two-sided projected gradients along given directions, as "spsa" of a gradients.json of the test data has them; and
// models to move. Include only from translation units of targets with TORCH.
#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "model/transformer/transformer.h"

namespace heddle::model {

// A trainable model with the weights of a checkpoint, in `type`.
inline Transformer TrainableCopy(const BaseWeights& base, at::ScalarType type = at::kFloat) {
  Transformer model(base.spec, 1, ComputeOptions{.type = type});
  model->to(type);
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) item.value().copy_(base.tensors.at(item.key()));
  return model;
}

// `parameter` and `direction` of a name; `loss` in float64 at the parameters as they are. They are as they were
// afterwards.
template <typename Parameter, typename Direction, typename Loss>
void ExpectProjectedGradient(const boost::json::value& spsa, const Parameter& parameter, const Direction& direction,
                             const Loss& loss) {
  torch::NoGradGuard no_grad;
  const auto names = boost::json::value_to<std::vector<std::string>>(spsa.at("tensors"));
  ASSERT_FALSE(names.empty());
  const double eps = spsa.at("eps").to_number<double>();
  const auto loss_at = [&](double step) {
    std::vector<torch::Tensor> before;
    for (const std::string& name : names) {
      torch::Tensor values = parameter(name);
      before.push_back(values.clone());
      values.add_(direction(name).to(at::kDouble), step);
    }
    const double value = loss();
    for (size_t i = 0; i < names.size(); ++i) parameter(names[i]).copy_(before[i]);
    return value;
  };
  const double plus = loss_at(eps), minus = loss_at(-eps);
  EXPECT_NEAR(plus, spsa.at("loss_plus").to_number<double>(), 1e-9);
  EXPECT_NEAR(minus, spsa.at("loss_minus").to_number<double>(), 1e-9);
  const double expected = spsa.at("projected_grad").to_number<double>();
  EXPECT_NEAR((plus - minus) / (2 * eps), expected, 1e-6 * std::abs(expected));
}

}  // namespace heddle::model
