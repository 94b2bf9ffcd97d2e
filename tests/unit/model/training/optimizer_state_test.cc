// An optimizer goes on from what it has saved as if it had never stopped.
#include <gtest/gtest.h>

#include "model/training/optimizer.h"
#include "tests/unit/model/random_tensor.h"

namespace heddle::model {
namespace {

using torch::Tensor;

std::vector<Tensor> Start() {
  return {RandomTensor({7, 90}, 1, 1.0F).requires_grad_(true), RandomTensor({3}, 2, 1.0F).requires_grad_(true)};
}

void Steps(Optimizer& optimizer, std::vector<Tensor>& parameters, uint64_t first, uint64_t count) {
  for (uint64_t step = first; step < first + count; ++step) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].mutable_grad() = RandomTensor(parameters[i].sizes().vec(), 10 * step + i, 1.0F);
    }
    optimizer.Step(0.01);
  }
}

OptimizerOptions Options() {
  OptimizerOptions options;
  options.momentum = 0.9;
  options.weight_decay = 0.1;
  return options;
}

TEST(OptimizerState, TrainingGoesOnFromItBitForBit) {
  for (const OptimizerKind kind : {OptimizerKind::kAdamW, OptimizerKind::kAdamW8bit, OptimizerKind::kSgd}) {
    std::vector<Tensor> straight = Start();
    const auto one = MakeOptimizer(kind, straight, Options());
    Steps(*one, straight, 0, 4);
    std::vector<Tensor> resumed;
    for (const Tensor& p : straight) resumed.push_back(p.detach().clone().requires_grad_(true));
    const OptimizerState state = one->SaveState();
    Steps(*one, straight, 4, 3);  // the state is a copy
    const auto two = MakeOptimizer(kind, resumed, Options());
    ASSERT_TRUE(two->LoadState(state).ok());
    Steps(*two, resumed, 4, 3);
    for (size_t i = 0; i < straight.size(); ++i) EXPECT_TRUE(torch::equal(straight[i], resumed[i]));
  }
}

TEST(OptimizerState, OfAnotherKindOrOtherParametersIsRefused) {
  std::vector<Tensor> parameters = Start();
  const auto adamw = MakeOptimizer(OptimizerKind::kAdamW, parameters, Options());
  const auto sgd = MakeOptimizer(OptimizerKind::kSgd, parameters, Options());
  const auto fewer = MakeOptimizer(OptimizerKind::kAdamW, {parameters[0]}, Options());
  EXPECT_EQ(adamw->LoadState(sgd->SaveState()).code(), Code::kInvalidArgument);
  EXPECT_EQ(adamw->LoadState(fewer->SaveState()).code(), Code::kInvalidArgument);
  OptimizerState negative = adamw->SaveState();
  negative.steps = -1;
  EXPECT_EQ(adamw->LoadState(negative).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::model
