// What a plan's settings do to a task.
#include "client/worker/train_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cmath>

#include "client/worker/memory_need.h"
#include "client/worker/task_resources.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

using testing::HasSubstr;

class TrainOptionsTest : public TaskTest {
 protected:
  std::string Bytes() {
    const auto output = Run();
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? SerializeSafetensors(output->update) : "";
  }
  StateDict Update() {
    auto output = Run();
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? output->update : StateDict();
  }
  // |a - b| / |b| over all tensors.
  static double Distance(const StateDict& a, const StateDict& b) {
    double apart = 0, size = 0;
    for (const auto& [name, tensor] : a) {
      const auto x = tensor.values<float>(), y = b.at(name).values<float>();
      for (size_t i = 0; i < x.size(); ++i) {
        apart += std::pow(static_cast<double>(x[i]) - y[i], 2);
        size += std::pow(static_cast<double>(y[i]), 2);
      }
    }
    return std::sqrt(apart / size);
  }
  Status Refusal() {
    const auto output = Run();
    EXPECT_FALSE(output.ok());
    return output.status();
  }
};

TEST_F(TrainOptionsTest, NamesOfTheDefaultsGiveTheBytesOfSayingNothing) {
  const std::string silent = Bytes();
  input_.train.optimizer = "AdamW";
  input_.train.lr_scheduler_type = "constant_with_warmup";
  input_.train.base_dtype = "float32";
  input_.device = "cpu";
  EXPECT_TRUE(Bytes() == silent);
}

TEST_F(TrainOptionsTest, AccumulatedBatchesMakeTheUpdateOfOneLargeBatch) {
  input_.train.batch_size = 8;
  const StateDict large = Update();
  input_.train.batch_size = 2;
  input_.train.gradient_accumulation_steps = 4;
  const auto output = Run();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->stats.num_examples, 32U);
  EXPECT_EQ(output->stats.num_tokens, 32U * 16);
  EXPECT_EQ(output->stats.steps, 4U);
  // Adam divides by the size of a gradient: where that is near zero, last bits count.
  EXPECT_LT(Distance(output->update, large), 1e-3);
  input_.train.gradient_accumulation_steps = 1;
  EXPECT_GT(Distance(Update(), large), 0.1) << "the batch does not matter here";
}

TEST_F(TrainOptionsTest, CheckpointingChangesNoBit) {
  peft::AdapterConfig config;
  config.lora_dropout = 0.2;
  WriteAdapter(config);
  const std::string kept = Bytes();
  input_.train.gradient_checkpointing = true;
  EXPECT_TRUE(Bytes() == kept);
}

TEST_F(TrainOptionsTest, EveryOptimizerTrainsInItsOwnWay) {
  const StateDict adamw = Update();
  input_.train.optimizer = "AdamW8bit";
  const double apart = Distance(Update(), adamw);
  EXPECT_LT(apart, 0.2);
  EXPECT_GT(apart, 0.0);
  input_.train.optimizer = "SGD";
  EXPECT_GT(Distance(Update(), adamw), 0.5);
  const StateDict plain = Update();
  input_.train.momentum = 0.9;
  EXPECT_GT(Distance(Update(), plain), 0.1);
}

TEST_F(TrainOptionsTest, TheFirstStepOfSgdIsTheGradientTimesTheRate) {
  input_.train.optimizer = "SGD";
  input_.train.local_steps = 1;
  input_.train.learning_rate = 0.5;
  const StateDict one = Update();
  input_.train.learning_rate = 0.25;
  StateDict half = Update();
  for (auto& [name, tensor] : half) {
    std::vector<float> twice;
    for (const float x : tensor.values<float>()) twice.push_back(2 * x);
    tensor = Tensor::FromFloats(tensor.shape(), twice);
  }
  EXPECT_LT(Distance(half, one), 1e-3);
}

TEST_F(TrainOptionsTest, SchedulesMoveTheRateWithinTheTask) {
  // Without a gradient's sign changing, Adam's steps are as long as the rate: the ways add up to the factors' sum.
  input_.train.optimizer = "SGD";
  input_.train.learning_rate = 1e-3;
  input_.train.local_steps = 4;
  const auto way = [&](const std::string& schedule) {
    input_.train.lr_scheduler_type = schedule;
    double sum = 0;
    for (const auto& [name, tensor] : Update()) {
      for (const float x : tensor.values<float>()) sum += std::abs(static_cast<double>(x));
    }
    return sum;
  };
  const double constant = way("constant");
  EXPECT_NEAR(way("linear") / constant, (1 + 0.75 + 0.5 + 0.25) / 4, 0.1);
  EXPECT_NEAR(way("cosine") / constant, (1 + 0.8536 + 0.5 + 0.1464) / 4, 0.1);
}

TEST_F(TrainOptionsTest, AFrozenBaseInFewBitsTrainsNearlyTheSameAdapter) {
  input_.train.optimizer = "SGD";  // whose update is proportional to the gradient
  const StateDict exact = Update();
  const std::map<std::string, double> bounds = {{"bfloat16", 0.05}, {"int8", 0.05}, {"nf4", 0.5}};
  for (const auto& [dtype, bound] : bounds) {
    input_.train.base_dtype = dtype;
    const double apart = Distance(Update(), exact);
    EXPECT_LT(apart, bound) << dtype;
    EXPECT_GT(apart, 0.0) << dtype;
  }
  input_.train.base_dtype = "float32";
  input_.train.bf16 = true;
  EXPECT_LT(Distance(Update(), exact), 0.1);
}

TEST_F(TrainOptionsTest, EachFormOfABaseIsKeptOnceAndWithOneTokenizer) {
  const auto exact = *resources_->GetBase(input_.base_model_dir);
  const model::WeightOptions nf4{model::WeightType::kNf4, torch::kCPU};
  const auto packed = *resources_->GetBase(input_.base_model_dir, nf4);
  EXPECT_NE(packed.weights, exact.weights);
  EXPECT_EQ(packed.tokenizer, exact.tokenizer);
  EXPECT_EQ(resources_->GetBase(input_.base_model_dir)->weights, exact.weights);
  EXPECT_EQ(resources_->GetBase(input_.base_model_dir, nf4)->weights, packed.weights);
  // And both go when the folder changes.
  model::WriteModelFolder(input_.base_model_dir, model::TinyConfig(), 2);
  EXPECT_NE(resources_->GetBase(input_.base_model_dir, nf4)->weights, packed.weights);
  EXPECT_NE(resources_->GetBase(input_.base_model_dir)->weights, exact.weights);
}

TEST_F(TrainOptionsTest, UnknownNamesAreRefusedWithTheKnownOnes) {
  const TaskInput good = input_;
  input_.train.optimizer = "Adagrad";
  EXPECT_EQ(Refusal().code(), Code::kInvalidArgument);
  EXPECT_THAT(Refusal().message(), HasSubstr("AdamW8bit"));
  input_ = good;
  input_.train.lr_scheduler_type = "step";
  EXPECT_THAT(Refusal().message(), HasSubstr("cosine"));
  input_ = good;
  input_.train.base_dtype = "fp4";
  EXPECT_THAT(Refusal().message(), HasSubstr("nf4"));
  input_ = good;
  input_.device = "tpu";
  EXPECT_THAT(Refusal().message(), HasSubstr("cuda"));
  input_ = good;
  input_.train.gradient_accumulation_steps = 0;
  EXPECT_THAT(Refusal().message(), HasSubstr("gradient_accumulation_steps"));
  input_ = good;
  input_.train.momentum = 1;
  EXPECT_THAT(Refusal().message(), HasSubstr("momentum"));
}

TEST_F(TrainOptionsTest, WithoutAGpuCudaIsRefusedWithTheCure) {
  if (torch::cuda::is_available()) GTEST_SKIP() << "this machine has a GPU";
  input_.device = "cuda";
  EXPECT_EQ(Refusal().code(), Code::kFailedPrecondition);
  EXPECT_THAT(Refusal().message(), HasSubstr("set it to cpu"));
}

TEST_F(TrainOptionsTest, TheEstimateFallsWithTheBitsOfTheBaseAndWithCheckpointing) {
  const auto spec = *model::ReadModelConfig(input_.base_model_dir);
  input_.train.batch_size = 64;
  const auto estimate = [&] {
    const auto options = MakeTrainOptions(input_, spec);
    EXPECT_TRUE(options.ok()) << options.status();
    return EstimateTrainingBytes(spec, input_.train, *options);
  };
  const uint64_t plain = estimate();
  input_.train.base_dtype = "bfloat16";
  const uint64_t narrow = estimate();
  input_.train.base_dtype = "nf4";
  const uint64_t packed = estimate();
  input_.train.gradient_checkpointing = true;
  const uint64_t checkpointed = estimate();
  EXPECT_GT(plain, narrow);
  EXPECT_GT(plain, packed);
  EXPECT_GT(packed, checkpointed);
}

// A causal loss works through logits piece by piece, and a classifier has none of the vocabulary: what a large one adds
// is its rows in the embedding, and at most one piece.
TEST_F(TrainOptionsTest, TheEstimateHasNoLogitsOfAllTokens) {
  input_.train.batch_size = 64;  // 1 024 tokens
  const auto estimate = [&](model::ModelSpec spec, int64_t vocab) {
    spec.vocab_size = vocab;
    const auto options = MakeTrainOptions(input_, spec);
    EXPECT_TRUE(options.ok()) << options.status();
    const auto weights = static_cast<uint64_t>(4 * spec.NumParameters());
    return std::pair(EstimateTrainingBytes(spec, input_.train, *options) - weights,
                     EstimateForwardBytes(spec, input_.train, *options) - weights);
  };
  const model::ModelSpec causal = *model::ReadModelConfig(input_.base_model_dir);
  constexpr uint64_t kAll = uint64_t{4} * 64 * 16 * (1 << 17);  // 512 MiB
  EXPECT_LT(estimate(causal, 1 << 17).first, kAll / 4);
  EXPECT_LT(estimate(causal, 1 << 17).second, kAll / 4);
  const auto classes = model::ParseModelConfig(
      R"({"architectures": ["BertForSequenceClassification"], "hidden_size": 32, "num_hidden_layers": 2,
          "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 320, "max_position_embeddings": 64})");
  ASSERT_TRUE(classes.ok()) << classes.status();
  EXPECT_EQ(estimate(*classes, 1 << 17), estimate(*classes, 320));
  // Forward-mode differentiation does hold them, each with its tangent.
  input_.train.zo.estimator = "forward_gradient";
  EXPECT_GT(estimate(causal, 1 << 17).second, 2 * kAll);
}

TEST_F(TrainOptionsTest, TheEstimateGrowsWithTheLayersThatAnAdapterTrains) {
  const auto spec = *model::ReadModelConfig(input_.base_model_dir);
  const auto options = MakeTrainOptions(input_, spec);
  ASSERT_TRUE(options.ok()) << options.status();
  const auto beyond = [&](const std::string& key, Shape shape) {
    StateDict adapter;
    adapter.emplace(key, Tensor::FromFloats(shape, std::vector<float>(*NumElements(shape), 1)));
    return EstimateTrainingBytes(spec, input_.train, *options, adapter) - 4 * TotalBytes(adapter) -
           EstimateTrainingBytes(spec, input_.train, *options);
  };
  // Four bytes of the input of one layer's down_proj, 48 wide, for each token; in both layers it is counted.
  const uint64_t tokens = uint64_t{input_.train.batch_size} * input_.train.sequence_length;
  EXPECT_EQ(beyond("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", {4, 48}), 2 * 4 * tokens * 48);
  EXPECT_EQ(beyond("base_model.model.model.layers.0.mlp.down_proj.bias", {32}), 0U);
  EXPECT_EQ(beyond("base_model.prompt_embeddings", {4, 32}), 0U);
}

}  // namespace
}  // namespace heddle::client
