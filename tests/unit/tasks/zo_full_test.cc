// Forward passes only over all weights of a model (tuning.method "full"): held to gradients by back-propagation and to
// the arithmetic of a step, and to the memory of the weights once.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "aggregation/ledger/ledger_model.h"
#include "client/worker/ledger_replay.h"
#include "client/worker/task_resources.h"
#include "tests/unit/tasks/counting_allocator.h"
#include "tests/unit/tasks/counting_new.h"
#include "tests/unit/tasks/task_fixture.h"
#include "zo_optim/direction/direction.h"

namespace heddle::client {
namespace {

constexpr uint64_t kLedgerSeed = 77;

class ZoFull : public TaskTest {
 protected:
  explicit ZoFull(const model::ModelSpec& spec = model::TinyConfig()) {
    model::WriteModelFolder(folder_ / "base", spec);
    config_ = {};
    config_.peft_type = "FULL";
    initial_ = *peft::MakeInitialAdapter(spec, config_, model::RandomWeights(spec, 1), 5);
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

// ---- memory ----

// Some 2 MB of weights, beside which a network's objects, names and texts are little.
model::ModelSpec WideConfig() {
  model::ModelSpec spec = model::TinyConfig();
  spec.hidden_size = 128;
  spec.intermediate_size = 512;
  spec.head_dim = 32;
  return spec;
}

class ZoFullMemory : public ZoFull {
 protected:
  ZoFullMemory() : ZoFull(WideConfig()), weights_(static_cast<int64_t>(TotalBytes(initial_))) {
    CountingAllocator::Install();
    input_.train.local_steps = 6;
    input_.train.zo.clip_projected_grad = 1000;
  }

  // Runs the task again: what tasks share is there, and what the worker remembers. At the end of each step there are
  // the trained weights once, as tensors, and nothing else of their size anywhere. Of vectors and the like there is not
  // that much at any time, or, of a task that sends the weights, until it makes its update.
  void ExpectTheWeightsOnce(const char* task, bool sends_weights) {
    const int64_t tensors = CountingAllocator::Install().now().live_bytes, others = CountingNew::live_bytes();
    int64_t most_tensors = 0, most_others = 0, peak = 0;
    CountingNew::ForgetPeak();
    const auto done = (*FindLocalTask(task))->Run(input_, *resources_, [&](uint32_t, uint32_t, double) {
      most_tensors = std::max(most_tensors, CountingAllocator::Install().now().live_bytes - tensors);
      most_others = std::max(most_others, CountingNew::live_bytes() - others);
      peak = CountingNew::peak_bytes() - others;
      return true;
    });
    if (!sends_weights) peak = CountingNew::peak_bytes() - others;
    ASSERT_TRUE(done.ok()) << done.status();
    const auto share = [&](int64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(weights_); };
    EXPECT_GE(most_tensors, weights_);
    EXPECT_LT(share(most_tensors), 1.05);
    EXPECT_LT(share(most_others), 0.25);
    EXPECT_LT(share(peak), 0.9);  // a ledger's task reads the adapter for its digest, a MiB at a time
  }

  void GiveLedger(uint32_t round, std::vector<zo::LedgerEntry> entries) {
    zo::Ledger ledger = zo::EmptyLedger({.seed = kLedgerSeed, .epsilon = 1e-3});
    ledger.head.start = *Sha256File(folder_ / "adapter" / "adapter_model.safetensors");
    ledger.round = round;
    const zo::Ledger nothing = ledger;
    ledger.entries = std::move(entries);
    auto weights = *aggregation::WeightsOf(initial_, 1e-3);
    const auto moves = zo::MovesBetween(nothing, ledger);
    ASSERT_TRUE(zo::ApplyMoves(ledger.head.distribution, moves, weights.parameters).ok());
    ledger.weights = zo::DigestOfWeights(weights.parameters);
    ASSERT_TRUE(WriteFileAtomically(folder_ / "adapter" / zo::kLedgerFile, zo::EncodeLedger(ledger)).ok());
  }

  const int64_t weights_;
};

TEST_F(ZoFullMemory, AStepHoldsNoSecondCopyOfTheWeights) {
  ASSERT_TRUE(RunTask("zo_sft", input_).ok());
  ExpectTheWeightsOnce("zo_sft", true);
}

// FwdLLM, whose devices compare directions with the model's last step; the second task replays what has changed.
TEST_F(ZoFullMemory, ATaskWithALedgerHoldsNoSecondCopyOfTheWeights) {
  constexpr uint64_t kSpan = 1000;
  input_.train.zo.num_perturbations = 2;
  input_.train.seeds = SharedSeedSettings{
      .seed = kLedgerSeed, .first_ref = 2 * kSpan, .pool_size = 0, .resolution_bits = 30, .scalars = ""};
  input_.train.seeds->span = kSpan;
  input_.train.seeds->candidates = 40;
  GiveLedger(1, {{3, 1 << 20}, {9, -(1 << 21)}});
  ASSERT_TRUE(RunTask("zo_ledger", input_).ok());
  const uint64_t reused = resources_->ledgers().reused();
  GiveLedger(2, {{3, 1 << 20}, {9, -(1 << 21)}, {kSpan + 5, 3 << 20}, {kSpan + 900, -(2 << 20)}});
  ExpectTheWeightsOnce("zo_ledger", false);
  EXPECT_EQ(resources_->ledgers().reused(), reused + 1);
}

// The counting sees a task that keeps a copy in a vector: a negative control.
TEST_F(ZoFullMemory, ACopyInAVectorIsSeen) {
  const int64_t before = CountingNew::live_bytes();
  const std::vector<float> copy(static_cast<size_t>(weights_) / sizeof(float), 1.0F);
  EXPECT_GE(CountingNew::live_bytes() - before, weights_);
  EXPECT_EQ(copy.back(), 1.0F);
}

}  // namespace
}  // namespace heddle::client
