// zo_sft: what it returns, that it is repeatable to the bit, that it learns, what it skips and what it refuses.
#include "client/worker/zo_sft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <set>

#include "aggregation/layer_groups.h"
#include "client/worker/train_options.h"
#include "client/worker/trained_tensors.h"
#include "common/safetensors.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

using ::testing::HasSubstr;

class ZoSftTest : public TaskTest {
 protected:
  ZoSftTest() {
    input_.train.learning_rate = 2e-2;
    input_.train.zo.zo_eps = 1e-2;
    input_.train.zo.distribution = "rademacher";
  }
  Result<TaskOutput> RunZo() { return MakeZoSft()->Run(input_, *resources_, {}); }
  std::string Bytes() {
    const auto output = RunZo();
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? SerializeSafetensors(output->update) : "";
  }
};

TEST_F(ZoSftTest, SendsTheUpdateOfTheAdapterAndCountsItsForwardPasses) {
  struct Case {
    const char* estimator;
    uint32_t perturbations;
    uint64_t passes;
  };
  for (const Case& one :
       {Case{"spsa", 1, 8}, Case{"spsa", 3, 24}, Case{"spsa_one_sided", 3, 16}, Case{"forward_gradient", 2, 8}}) {
    input_.train.zo.estimator = one.estimator;
    input_.train.zo.num_perturbations = one.perturbations;
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << one.estimator << output.status();
    EXPECT_EQ(SpecOf(output->update), SpecOf(initial_));
    EXPECT_EQ(output->stats.steps, 4U);
    EXPECT_EQ(output->stats.num_examples, 8U);
    EXPECT_EQ(output->stats.num_tokens, 128U);
    EXPECT_EQ(output->stats.forward_passes, one.passes) << one.estimator;
    EXPECT_EQ(output->stats.skipped_directions, 0U);
    EXPECT_NEAR(output->stats.first_loss, std::log(256.0), 1.5);
    bool moved = false;
    for (const auto& [name, tensor] : output->update) {
      for (const float x : tensor.values<float>()) {
        ASSERT_TRUE(std::isfinite(x)) << name;
        moved = moved || x != 0;
      }
    }
    EXPECT_TRUE(moved);
  }
}

TEST_F(ZoSftTest, SameSeedGivesTheSameBytesAndAnotherSeedDoesNot) {
  for (const char* estimator : {"spsa", "forward_gradient"}) {
    input_.seed = 11;
    input_.train.zo.estimator = estimator;
    const std::string first = Bytes();
    EXPECT_EQ(Bytes(), first);
    input_.seed = 12;
    EXPECT_NE(Bytes(), first);
  }
}

TEST_F(ZoSftTest, DropoutIsOffSoThatBothLossesAreOfOneFunction) {
  const std::string without = Bytes();
  peft::AdapterConfig config = config_;
  config.lora_dropout = 0.5;
  WriteAdapter(config);
  EXPECT_EQ(Bytes(), without);
}

TEST_F(ZoSftTest, AStepSizeOfZeroLeavesEveryBitAsItIs) {
  input_.train.learning_rate = 0;
  input_.train.local_steps = 40;
  for (const char* estimator : {"spsa", "spsa_one_sided", "forward_gradient"}) {
    input_.train.zo.estimator = estimator;
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    for (const auto& [name, tensor] : output->update) {
      const auto start = initial_.at(name).values<float>(), change = tensor.values<float>();
      for (size_t i = 0; i < change.size(); ++i) {
        // Rounded to the grid once, at the start, and not moved from there.
        ASSERT_LE(std::abs(change[i]), 0x1p-20F) << name;
        ASSERT_TRUE(start[i] != 0 || change[i] == 0) << name;
      }
    }
  }
}

TEST_F(ZoSftTest, LearnsWithEachEstimatorAndOptimizer) {
  input_.train.local_steps = 120;
  input_.train.batch_size = 4;
  input_.train.zo.num_perturbations = 4;
  struct Case {
    const char *estimator, *optimizer;
    double learning_rate, momentum, sparse;
    uint32_t anchor;
  };
  for (const Case& one :
       {Case{"spsa", "zo_sgd", 3e-2, 0, 0, 0}, Case{"spsa_one_sided", "zo_sgd", 3e-3, 0.9, 0, 0},
        Case{"forward_gradient", "zo_adam", 1e-2, 0, 0, 0}, Case{"spsa", "zo_sign_sgd", 3e-3, 0, 0, 0},
        Case{"spsa", "zo_adam", 1e-2, 0, 0.5, 0}, Case{"spsa", "zo_sgd", 3e-2, 0, 0, 10}}) {
    input_.train.zo.estimator = one.estimator;
    input_.train.zo.optimizer = one.optimizer;
    input_.train.zo.sparse_fraction = one.sparse;
    input_.train.zo.anchor_interval = one.anchor;
    input_.train.learning_rate = one.learning_rate;
    input_.train.momentum = one.momentum;
    const auto before = EvaluateModel(input_.base_model_dir, input_.adapter_dir, input_.data_path, 16, *resources_);
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "trained", config_, Sum(initial_, output->update)).ok());
    const auto after = EvaluateModel(input_.base_model_dir, folder_ / "trained", input_.data_path, 16, *resources_);
    ASSERT_TRUE(before.ok() && after.ok());
    EXPECT_LT(after->loss, before->loss - 0.01) << one.estimator << " " << one.optimizer << " " << one.anchor;
    // Steps of the size of a sign fall too slowly to be seen in the noise of 120 small batches.
    if (std::string_view(one.optimizer) != "zo_sign_sgd") {
      EXPECT_FALSE(output->stats.loss_stalled) << one.estimator << " " << one.optimizer;
    }
  }
}

TEST_F(ZoSftTest, SaysWhenTheLossDoesNotFall) {
  input_.train.learning_rate = 1e-9;
  input_.train.local_steps = 32;
  const auto output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_TRUE(output->stats.loss_stalled);
}

TEST_F(ZoSftTest, TrainsTheLayersOfItsGroupOnly) {
  input_.train.zo.layer_groups = 2;
  std::set<std::string> seen;
  for (const uint32_t group : {0U, 1U}) {
    input_.train.zo.layer_group = group;
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    for (const auto& [name, tensor] : output->update) {
      EXPECT_TRUE(aggregation::InLayerGroup(name, 2, group)) << name;
      EXPECT_TRUE(seen.insert(name).second) << name;
    }
  }
  EXPECT_EQ(seen.size(), initial_.size());
  // More groups than layers are as many as there are layers: no device is left without one.
  input_.train.zo.layer_groups = 4000;
  input_.train.zo.layer_group = 3999;
  const auto output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  for (const auto& [name, tensor] : output->update) EXPECT_TRUE(aggregation::InLayerGroup(name, 2, 1)) << name;
  EXPECT_FALSE(output->update.empty());
}

// The mask is of the start, so data and seeds of a device do not change it.
TEST_F(ZoSftTest, TwoDevicesWithOneStartMoveTheSameSparseWeights) {
  WriteLearntAdapter();
  input_.train.local_steps = 1;
  input_.train.zo.sparse_fraction = 0.25;
  const auto moved = [&] {
    const auto output = RunZo();
    EXPECT_TRUE(output.ok()) << output.status();
    std::set<std::pair<std::string, size_t>> out;
    for (const auto& [name, tensor] : output->update) {
      const auto change = tensor.values<float>();
      size_t count = 0;
      for (size_t i = 0; i < change.size(); ++i) {
        if (std::abs(change[i]) <= 0x1p-20F) continue;  // at most rounded to the grid
        out.emplace(name, i);
        ++count;
      }
      EXPECT_EQ(count, (change.size() + 3) / 4) << name;
    }
    return out;
  };
  const auto first = moved();
  folder_.Write("data.txt", model::SampleText(30'000, 4));
  input_.seed = 12;
  EXPECT_EQ(moved(), first);
}

TEST_F(ZoSftTest, WeightsOfSixteenBitsAreNotTrained) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const auto made = TrainedTensors::Make({torch::zeros({4, 3}), torch::zeros({5}, type)});
    EXPECT_EQ(made.status().code(), Code::kInternal);
    EXPECT_THAT(made.status().message(), HasSubstr("what is trained is not float32"));
  }
  EXPECT_TRUE(TrainedTensors::Make({torch::zeros({4, 3}), torch::zeros({5})}).ok());
}

TEST_F(ZoSftTest, FrozenTensorsStayAndSparseOnesMoveInPart) {
  input_.train.rules.frozen = {"lora_A"};
  auto output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  for (const auto& [name, tensor] : output->update) EXPECT_THAT(name, HasSubstr("lora_B"));
  input_.train.rules.frozen = {"lora_B"};
  input_.train.zo.sparse_fraction = 0.25;
  output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  // B is zero, so that nothing of A shows in the loss: there is no gradient, and no step.
  for (const auto& [name, tensor] : output->update) {
    for (const float x : tensor.values<float>()) ASSERT_LE(std::abs(x), 1e-4F) << name;
  }
}

TEST_F(ZoSftTest, RefusesWhatItCannotDo) {
  const auto refusal = [&](const std::function<void(TaskInput&)>& change) {
    TaskInput input = input_;
    change(input);
    return MakeZoSft()->Run(input, *resources_, {}).status();
  };
  const auto bad = [&](const std::function<void(TaskInput&)>& change) {
    const Status status = refusal(change);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << status;
  };
  bad([](TaskInput& in) { in.train.zo.zo_eps = 0; });
  bad([](TaskInput& in) { in.train.zo.zo_eps = std::nan(""); });
  bad([](TaskInput& in) { in.train.zo.zo_eps = 1e300; });
  bad([](TaskInput& in) { in.train.zo.estimator = "mezo"; });
  bad([](TaskInput& in) { in.train.zo.optimizer = "AdamW"; });
  bad([](TaskInput& in) { in.train.zo.distribution = "cauchy"; });
  bad([](TaskInput& in) { in.train.zo.sparse_fraction = 2; });
  bad([](TaskInput& in) { in.train.zo.clip_projected_grad = -1; });
  bad([](TaskInput& in) { in.train.rules.proximal_mu = 0.1; });
  bad([](TaskInput& in) { in.train.rules.correction = "scaffold"; });
  bad([](TaskInput& in) {
    in.train.zo.anchor_interval = 3;
    in.train.momentum = 0.5;
  });
  EXPECT_EQ(refusal([](TaskInput& in) { in.train.zo.max_loss_difference = 1e-30; }).code(), Code::kInternal);
  int steps = 0;
  const auto stopped = MakeZoSft()->Run(input_, *resources_, [&](uint32_t, uint32_t, double) { return ++steps < 2; });
  EXPECT_EQ(stopped.status().code(), Code::kCancelled);
}

TEST_F(ZoSftTest, FitsWhereTrainingWithGradientsDoesNot) {
  input_.train.batch_size = 64;
  input_.train.sequence_length = 64;
  const auto config = model::TinyConfig();
  const auto options = MakeTrainOptions(input_, config);
  ASSERT_TRUE(options.ok());
  const uint64_t training = EstimateTrainingBytes(config, input_.train, *options);
  const uint64_t forward = EstimateForwardBytes(config, input_.train, *options);
  ASSERT_LT(forward, training);
  input_.memory_limit_bytes = (training + forward) / 2;
  EXPECT_EQ(Run().status().code(), Code::kResourceExhausted);
  const auto output = RunZo();
  EXPECT_TRUE(output.ok()) << output.status();
}

}  // namespace
}  // namespace heddle::client
