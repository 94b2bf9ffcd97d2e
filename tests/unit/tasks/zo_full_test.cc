// Forward passes only over all weights of a model (tuning.method "full"): held to gradients by back-propagation and to
// the arithmetic of a step, and to the memory of the weights once.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "aggregation/ledger/ledger_model.h"
#include "tests/unit/tasks/counting_allocator.h"
#include "tests/unit/tasks/task_fixture.h"
#include "zo_optim/direction/direction.h"

namespace heddle::client {
namespace {

constexpr uint64_t kLedgerSeed = 77;

class ZoFull : public TaskTest {
 protected:
  ZoFull() {
    config_ = {};
    config_.peft_type = "FULL";
    initial_ = *peft::MakeInitialAdapter(model::TinyConfig(), config_, model::RandomWeights(model::TinyConfig(), 1), 5);
    EXPECT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
    input_.train.local_steps = 1;
    input_.train.learning_rate = 1e-3;
    input_.train.zo.zo_eps = 1e-3;
    input_.train.zo.distribution = "rademacher";
  }

  Result<TaskOutput> RunTask(const char* name, const TaskInput& input) {
    return (*FindLocalTask(name))->Run(input, *resources_, {});
  }
  // The gradient of the same batch by back-propagation: minus SGD's step of size 1.
  StateDict Gradient() {
    TaskInput sgd = input_;
    sgd.train.seeds.reset();
    sgd.train.zo = {};
    sgd.train.optimizer = "SGD";
    sgd.train.learning_rate = 1;
    const auto step = RunTask("sft", sgd);
    EXPECT_TRUE(step.ok()) << step.status();
    return step.ok() ? step->update : StateDict();
  }
  // Of all weights, the gradient along a direction and its norm, in float64.
  static std::pair<double, double> Along(const StateDict& step, uint64_t seed) {
    double along = 0, size = 0;
    for (const auto& [name, tensor] : step) {
      const auto values = tensor.values<float>();
      const zo::Direction direction{zo::Distribution::kRademacher, seed, zo::ParameterStream(name)};
      for (size_t i = 0; i < values.size(); ++i) {
        along -= static_cast<double>(values[i]) * static_cast<double>(zo::DirectionAt(direction, i));
        size += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      }
    }
    return {along, std::sqrt(size)};
  }
};

TEST_F(ZoFull, AStepMovesEachWeightOfTheModelAlongTheDirectionByItsGradient) {
  const auto output = RunTask("zo_sft", input_);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(SpecOf(output->update), SpecOf(initial_));
  const uint64_t seed = DeriveSeed(input_.seed, "zo direction", "0");
  const auto [gradient, norm] = Along(Gradient(), seed);
  ASSERT_GT(norm, 1e-2);
  double moved = 0;
  size_t weights = 0;
  for (const auto& [name, tensor] : output->update) {
    const zo::Direction direction{zo::Distribution::kRademacher, seed, zo::ParameterStream(name)};
    const auto values = tensor.values<float>();
    for (size_t i = 0; i < values.size(); ++i, ++weights) {
      const double step = static_cast<double>(values[i]) * static_cast<double>(zo::DirectionAt(direction, i));
      if (weights == 0) moved = step;
      // The same length for each, but for the start's rounding to its grid.
      ASSERT_NEAR(step, moved, 0x1p-20) << name << "[" << i << "]";
    }
  }
  EXPECT_NEAR(moved, -input_.train.learning_rate * gradient, input_.train.learning_rate * 0.05 * norm);
  int64_t all = 0;
  for (const auto& [name, spec] : model::TinyConfig().WeightSpec()) all += *NumElements(spec.shape);
  EXPECT_EQ(static_cast<int64_t>(weights), all) << "every weight, embeddings and norms too";
}

TEST_F(ZoFull, ALedgersScalarIsTheGradientOfTheWholeModelAlongItsDirection) {
  input_.train.zo.clip_projected_grad = 1000;
  input_.train.seeds =
      SharedSeedSettings{.seed = kLedgerSeed, .first_ref = 5, .pool_size = 0, .resolution_bits = 30, .scalars = ""};
  const auto output = RunTask("zo_ledger", input_);
  ASSERT_TRUE(output.ok()) << output.status();
  const auto scalars =
      zo::DecodeScalars(output->update.at(std::string(aggregation::kScalarsName)).bytes(), 1000, zo::kMaxRef);
  ASSERT_TRUE(scalars.ok()) << scalars.status();
  ASSERT_EQ(scalars->steps.size(), 1U);
  const auto [gradient, norm] = Along(Gradient(), zo::SeedOf({.seed = kLedgerSeed}, scalars->steps[0].ref));
  EXPECT_EQ(scalars->steps[0].ref, 5U);
  EXPECT_NEAR(static_cast<double>(scalars->steps[0].gradient), gradient, 0.05 * norm);
}

TEST_F(ZoFull, TheLossOfAllWeightsFalls) {
  input_.train.local_steps = 600;
  input_.train.learning_rate = 5e-4;
  const auto output = RunTask("zo_sft", input_);
  ASSERT_TRUE(output.ok()) << output.status();
  const auto loss = [&](const StateDict& weights) {
    EXPECT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, weights).ok());
    return EvaluateModel(input_.base_model_dir, input_.adapter_dir, input_.data_path, 16, *resources_)->loss;
  };
  EXPECT_LT(loss(Sum(initial_, output->update)), loss(initial_) - 0.05);
}

// What LibTorch holds at the end of each step: the weights once, and nothing of the step.
TEST_F(ZoFull, AStepHoldsNoSecondCopyOfTheWeights) {
  const int64_t weights = static_cast<int64_t>(TotalBytes(initial_));
  input_.train.local_steps = 6;
  for (const char* task : {"zo_sft", "zo_ledger"}) {
    if (task == std::string("zo_ledger")) {
      input_.train.zo.clip_projected_grad = 1000;
      input_.train.seeds =
          SharedSeedSettings{.seed = kLedgerSeed, .first_ref = 0, .pool_size = 0, .resolution_bits = 30, .scalars = ""};
    }
    CountingAllocator& counting = CountingAllocator::Install();
    ASSERT_TRUE(RunTask(task, input_).ok());  // what tasks share is there now
    const int64_t before = counting.now().live_bytes;
    int64_t most = 0;
    const auto done = (*FindLocalTask(task))->Run(input_, *resources_, [&](uint32_t, uint32_t, double) {
      most = std::max(most, counting.now().live_bytes - before);
      return true;
    });
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_GE(most, weights) << task;
    EXPECT_LT(static_cast<double>(most), 1.05 * static_cast<double>(weights)) << task;
  }
}

}  // namespace
}  // namespace heddle::client
