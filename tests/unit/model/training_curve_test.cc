// Fifty steps of LoRA training: losses equal to those of an independent implementation in float64
// (tests/data/models/make_reference.py).
#include <gtest/gtest.h>
#include <torch/types.h>

#include <boost/json.hpp>

#include "common/file.h"
#include "model/training/adamw.h"
#include "tests/unit/model/reference_case.h"

namespace heddle::model {
namespace {

// The largest difference of the fifty losses.
double LargestDifference(const ComputeOptions& compute) {
  const ReferenceCase reference("curve");
  const auto settings = boost::json::parse(*ReadFile(ReferenceCase::Root() / "curve" / "curve.json"));
  const auto number = [&settings](const char* key) { return settings.at(key).to_number<double>(); };
  Transformer model(reference.base(), compute);
  reference.Inject(model, at::kFloat, number("scale"));
  std::vector<torch::Tensor> factors;
  for (const auto& [path, linear] : model->LinearModules()) {
    if (linear->lora_A.defined()) factors.insert(factors.end(), {linear->lora_A, linear->lora_B});
  }
  OptimizerOptions options;
  options.beta1 = number("beta1");
  options.beta2 = number("beta2");
  options.epsilon = number("epsilon");
  options.weight_decay = number("weight_decay");
  options.max_grad_norm = number("max_grad_norm");
  AdamW optimizer(factors, options);
  const auto ids = reference.Array("ids"), losses = reference.Array("losses");
  EXPECT_EQ(losses.size(0), 50);
  EXPECT_GT(losses[0].item<double>() - losses[49].item<double>(), 0.1);  // or the curve shows nothing
  double largest = 0;
  for (int64_t step = 0; step < losses.size(0); ++step) {
    const auto batch = ids[step];
    const auto loss = model->Loss(batch.slice(1, 0, -1), batch.slice(1, 1));
    loss.backward();
    optimizer.Step(number("learning_rate"));
    largest = std::max(largest, std::abs(loss.item<double>() - losses[step].item<double>()));
  }
  return largest;
}

TEST(TrainingCurve, FiftyStepsEqualThoseOfIndependentFloat64) {
  EXPECT_LT(LargestDifference({}), 1e-4);
  EXPECT_LT(LargestDifference({.checkpoint_layers = true}), 1e-4);
}

TEST(TrainingCurve, InBfloat16ItStaysNearby) { EXPECT_LT(LargestDifference({.type = at::kBFloat16}), 0.1); }

}  // namespace
}  // namespace heddle::model
