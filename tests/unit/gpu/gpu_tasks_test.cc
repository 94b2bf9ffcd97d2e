// Local tasks and evaluation with device = "cuda": the same training as on the processor but for rounding. Skips
// without a GPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include <cmath>
#include <optional>

#include "aggregation/ledger/ledger_model.h"
#include "client/worker/task_resources.h"
#include "common/file.h"
#include "peft/adapter/prompt_projection.h"
#include "tests/unit/tasks/task_fixture.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::client {
namespace {

class TasksOnGpu : public TaskTest {
 protected:
  TasksOnGpu() {
    WriteLearntAdapter();
    input_.train.optimizer = "SGD";
  }
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "LibTorch finds no GPU here";
  }

  Result<TaskOutput> RunOn(const std::string& task, const std::string& device) {
    input_.device = device;
    return (*FindLocalTask(task))->Run(input_, *resources_, {});
  }
  // ||gpu - cpu|| / ||cpu|| of all of the update.
  double Apart(const std::string& task) {
    const auto here = RunOn(task, "cpu"), there = RunOn(task, "cuda");
    EXPECT_TRUE(here.ok()) << here.status();
    EXPECT_TRUE(there.ok()) << there.status();
    if (!here.ok() || !there.ok()) return NAN;
    EXPECT_NEAR(there->stats.train_loss, here->stats.train_loss, 1e-3);
    double apart = 0, size = 0;
    for (const auto& [name, tensor] : here->update) {
      const auto a = tensor.values<float>(), b = there->update.at(name).values<float>();
      for (size_t i = 0; i < a.size(); ++i) {
        apart += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
        size += std::pow(static_cast<double>(a[i]), 2);
      }
    }
    EXPECT_GT(size, 0);
    return std::sqrt(apart / size);
  }
};

TEST_F(TasksOnGpu, GradientsTrainAsOnTheProcessor) {
  EXPECT_LT(Apart("sft"), 1e-3);
  for (const char* type : {"bfloat16", "int8", "nf4"}) {
    input_.train.base_dtype = type;
    EXPECT_LT(Apart("sft"), 0.05) << type;
  }
}

TEST_F(TasksOnGpu, ForwardPassesTrainAsOnTheProcessor) {
  input_.train.zo.zo_eps = 1e-2;
  input_.train.learning_rate = 1e-3;
  for (const char* estimator : {"spsa", "spsa_one_sided", "forward_gradient"}) {
    input_.train.zo.estimator = estimator;
    EXPECT_LT(Apart("zo_sft"), 0.02) << estimator;
  }
}

// From the replay of a ledger, which moves every weight off the start.
TEST_F(TasksOnGpu, SharedSeedsNameTheSameWeightsAndNearlyTheSameScalars) {
  input_.train.zo.zo_eps = 1e-2;
  input_.train.zo.clip_projected_grad = 1000;
  input_.train.zo.distribution = "rademacher";
  input_.train.seeds =
      SharedSeedSettings{.seed = 5, .first_ref = 0, .pool_size = 64, .resolution_bits = 20, .scalars = ""};
  zo::Ledger ledger = zo::EmptyLedger({.resolution_bits = 20, .seed = 5, .pool_size = 64, .epsilon = 1e-2});
  ledger.head.start = *Sha256File(folder_ / "adapter" / "adapter_model.safetensors");
  ledger.round = 1;
  ledger.entries = {{3, 1 << 10}, {17, -(3 << 9)}, {40, 77}};
  aggregation::Weights weights = *aggregation::WeightsOf(initial_, zo::LargestScale(ledger.head));
  const Sha256Digest start = zo::DigestOfWeights(weights.parameters);
  const auto moves = zo::MovesBetween(zo::EmptyLedger(ledger.head), ledger);
  ASSERT_TRUE(zo::ApplyMoves(ledger.head.distribution, moves, weights.parameters).ok());
  ledger.weights = zo::DigestOfWeights(weights.parameters);
  ASSERT_NE(ledger.weights, start);
  ASSERT_TRUE(WriteFileAtomically(folder_ / "adapter" / zo::kLedgerFile, zo::EncodeLedger(ledger)).ok());
  std::optional<zo::Scalars> found[2];
  for (const bool gpu : {false, true}) {
    resources_ = MakeTaskResources();  // so that each replays the whole of it
    const auto output = RunOn("zo_ledger", gpu ? "cuda" : "cpu");
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->stats.forward_passes, 2U * input_.train.local_steps);
    const Tensor& packed = output->update.at(std::string(aggregation::kScalarsName));
    found[gpu] = *zo::DecodeScalars(packed.bytes(), 1000, zo::kMaxRef);
  }
  EXPECT_EQ(found[0]->weights, ledger.weights);
  EXPECT_EQ(found[1]->weights, ledger.weights);
  ASSERT_EQ(found[0]->steps.size(), found[1]->steps.size());
  for (size_t i = 0; i < found[0]->steps.size(); ++i) {
    EXPECT_EQ(found[0]->steps[i].ref, found[1]->steps[i].ref);
    EXPECT_NEAR(static_cast<double>(found[0]->steps[i].gradient), static_cast<double>(found[1]->steps[i].gradient),
                5e-3);
  }
}

TEST_F(TasksOnGpu, ASearchedPromptAndAnEvaluationAgree) {
  const auto evaluate = [&](const char* device) {
    return EvaluateModel(input_.base_model_dir, folder_ / "adapter", input_.data_path, 16, *resources_, 0,
                         {.device = device, .base_dtype = ""});
  };
  const auto here = evaluate("cpu"), there = evaluate("cuda");
  ASSERT_TRUE(here.ok()) << here.status();
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_NEAR(there->loss, here->loss, 1e-4);
  EXPECT_EQ(there->num_tokens, here->num_tokens);
  config_ = {};
  config_.peft_type = "PROMPT_TUNING";
  config_.num_virtual_tokens = 3;
  initial_ = peft::PromptProjection{3, model::TinyConfig().hidden_size, 12, 0.5}.InitialModel(1);
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
  input_.train.zo.intrinsic_dim = 12;
  input_.train.zo.population = 6;
  input_.train.local_steps = 1;  // later ones begin from what equal losses ranked
  EXPECT_LT(Apart("bbpt"), 0.02);
}

}  // namespace
}  // namespace heddle::client
