// A prompt's generator under zo_sft: what is sent, that estimates are those of the losses of the prompts it makes, that
// it learns, that its prompt is what evaluations and plain adapters have, and which tasks refuse it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/safetensors.h"
#include "peft/adapter/prompt_generator.h"
#include "peft/adapter/prompt_projection.h"
#include "tests/unit/tasks/task_fixture.h"
#include "zo_optim/direction/direction.h"

namespace heddle::client {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kTokens = 3, kDim = 4;
constexpr uint32_t kLength = 16;

class GeneratorTask : public TaskTest {
 protected:
  GeneratorTask() {
    config_ = {};
    config_.peft_type = "PROMPT_TUNING";
    config_.num_virtual_tokens = kTokens;
    input_.train.sequence_length = kLength;
    input_.train.learning_rate = 0.1;
    input_.train.zo.zo_eps = 0.05;
    input_.train.zo.distribution = "rademacher";
    Write(peft::PromptGenerator{kTokens, model::TinyConfig().hidden_size, kDim, kDim, 1}.InitialModel(2));
  }

  void Write(StateDict tensors) {
    initial_ = std::move(tensors);
    EXPECT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
  }
  // One whose output is not zero, so that all of its weights have a derivative.
  void WriteLearnt() {
    StateDict model = initial_;
    PhiloxStream random(3);
    std::vector<float> values(static_cast<size_t>(model.at(std::string(peft::kGeneratorOutput)).numel()));
    for (float& value : values) value = random.NextUniform() - 0.5F;
    const Shape shape = model.at(std::string(peft::kGeneratorOutput)).shape();
    model.insert_or_assign(std::string(peft::kGeneratorOutput), Tensor::FromFloats(shape, values));
    Write(std::move(model));
  }

  Result<TaskOutput> RunTask(const char* task = "zo_sft") {
    return (*FindLocalTask(task))->Run(input_, *resources_, {});
  }
  double LossOf(const StateDict& tensors) {
    EXPECT_TRUE(peft::WriteAdapter(folder_ / "other", config_, tensors).ok());
    const auto evaluation =
        EvaluateModel(input_.base_model_dir, folder_ / "other", input_.data_path, kLength, *resources_);
    EXPECT_TRUE(evaluation.ok()) << evaluation.status();
    return evaluation.ok() ? evaluation->loss : NAN;
  }
  // The generator's weights, all tensors but the form.
  StateDict Weights() const {
    StateDict weights = initial_;
    weights.erase(weights.find(peft::kPromptGenerator));
    return weights;
  }
  StateDict WithForm(StateDict weights) const {
    weights.emplace(peft::kPromptGenerator, initial_.find(peft::kPromptGenerator)->second);
    return weights;
  }
  StateDict After(const StateDict& update) const { return WithForm(Sum(Weights(), update)); }
};

// The direction of the first step, `by` times.
StateDict Direction(const StateDict& weights, uint64_t seed, float by) {
  StateDict out;
  for (const auto& [name, tensor] : weights) {
    std::vector<float> values(static_cast<size_t>(tensor.numel()));
    zo::FillDirection({zo::Distribution::kRademacher, DeriveSeed(seed, "zo direction", "0"), zo::ParameterStream(name)},
                      0, values);
    for (float& value : values) value *= by;
    out.emplace(name, Tensor::FromFloats(tensor.shape(), values));
  }
  return out;
}

double Dot(const StateDict& a, const StateDict& b) {
  double sum = 0;
  for (const auto& [name, tensor] : a) {
    const auto x = tensor.values<float>(), y = b.at(name).values<float>();
    for (size_t i = 0; i < x.size(); ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  }
  return sum;
}

TEST_F(GeneratorTask, SendsTheGeneratorsWeightsAndNothingElse) {
  for (const char* estimator : {"spsa", "spsa_one_sided", "forward_gradient"}) {
    input_.train.zo.estimator = estimator;
    const auto output = RunTask();
    ASSERT_TRUE(output.ok()) << estimator << output.status();
    EXPECT_EQ(SpecOf(output->update), SpecOf(Weights())) << estimator;
    EXPECT_TRUE(output->personal.empty());
    const auto again = RunTask();
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(SerializeSafetensors(again->update), SerializeSafetensors(output->update));
  }
  input_.train.rules.frozen = {"prompt_generator.input"};
  const auto output = RunTask();
  ASSERT_TRUE(output.ok()) << output.status();
  ASSERT_EQ(output->update.size(), 1U);
  EXPECT_EQ(output->update.begin()->first, peft::kGeneratorOutput);
}

// On data of one window, so that an evaluation has the loss of each batch.
TEST_F(GeneratorTask, EstimatesAreThoseOfTheLossesOfThePromptsItMakes) {
  folder_.Write("data.txt", "the old river weaver pulls threads over and under the loom while rain falls");
  WriteLearnt();
  input_.train.local_steps = 1;
  input_.train.batch_size = 1;
  const auto whole = EvaluateModel(input_.base_model_dir, input_.adapter_dir, input_.data_path, kLength, *resources_);
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_EQ(whole->num_tokens, kLength) << "one window";
  // Of the weights that are trained.
  StateDict trained = Weights();
  const auto difference = [&](float epsilon) {
    const auto loss = [&](float by) {
      StateDict weights = Weights();
      StateDict moved = Sum(trained, Direction(trained, input_.seed, by));
      for (auto& [name, tensor] : moved) weights.insert_or_assign(name, tensor);
      return LossOf(WithForm(std::move(weights)));
    };
    return (loss(epsilon) - loss(-epsilon)) / (2 * static_cast<double>(epsilon));
  };
  // The step is -learning_rate times the projected gradient along the direction.
  const auto projected = [&](const char* estimator) {
    input_.train.zo.estimator = estimator;
    const auto output = RunTask();
    EXPECT_TRUE(output.ok()) << output.status();
    if (!output.ok()) return std::pair<double, double>(NAN, NAN);
    const StateDict way = Direction(trained, input_.seed, 1);
    return std::pair(-Dot(output->update, way) / (input_.train.learning_rate * Dot(way, way)),
                     output->stats.first_loss);
  };
  const double expected = difference(0.05F);
  ASSERT_GT(std::abs(expected), 0.01);
  EXPECT_NEAR(projected("spsa").first, expected, 1e-3 * (1 + std::abs(expected)));
  const auto [along, loss] = projected("forward_gradient");
  EXPECT_NEAR(along, difference(0.01F), 0.01 * (1 + std::abs(expected)));
  EXPECT_NEAR(loss, whole->loss, 1e-5);
  // With a part of the weights alone, too.
  input_.train.rules.frozen = {"prompt_generator.output"};
  trained.erase(trained.find(peft::kGeneratorOutput));
  const double of_input = difference(0.05F);
  ASSERT_GT(std::abs(of_input), 1e-3);
  EXPECT_NEAR(projected("spsa").first, of_input, 1e-3 * (1 + std::abs(of_input)));
  EXPECT_NEAR(projected("forward_gradient").first, difference(0.01F), 0.01 * (1 + std::abs(of_input)));
}

TEST_F(GeneratorTask, LearnsWithEachEstimatorFromAZeroOutput) {
  input_.train.local_steps = 150;
  input_.train.batch_size = 8;
  input_.train.zo.num_perturbations = 2;
  input_.train.zo.optimizer = "zo_adam";
  input_.train.learning_rate = 3e-2;
  const double before = LossOf(initial_);
  for (const char* estimator : {"spsa", "forward_gradient"}) {
    input_.train.zo.estimator = estimator;
    const auto output = RunTask();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_LT(LossOf(After(output->update)), before - 0.01) << estimator;
  }
}

TEST_F(GeneratorTask, AStepSizeOfZeroLeavesEveryBitAsItIs) {
  WriteLearnt();
  input_.train.learning_rate = 0;
  input_.train.local_steps = 40;
  const auto output = RunTask();
  ASSERT_TRUE(output.ok()) << output.status();
  for (const auto& [name, tensor] : output->update) {
    // Rounded to the grid once, at the start, and not moved from there.
    for (const float change : tensor.values<float>()) ASSERT_LE(std::abs(change), 0x1p-20F) << name;
  }
}

TEST_F(GeneratorTask, ItsPromptIsAPlainAdapterWithTheSameLoss) {
  WriteLearnt();
  const auto plain = peft::WithPrompt(initial_);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(SpecOf(*plain), (StateDictSpec{{"prompt_embeddings", {DType::kF32, {kTokens, 32}}}}));
  EXPECT_EQ(LossOf(*plain), LossOf(initial_));
  Write(*plain);
  const auto trained = RunTask();
  EXPECT_TRUE(trained.ok()) << trained.status();
}

TEST_F(GeneratorTask, OtherTasksSayWhichOneTrainsIt) {
  for (const char* task : {"lora_sft", "sft", "bbpt"}) {
    const auto refused = RunTask(task);
    EXPECT_EQ(refused.status().code(), Code::kInvalidArgument) << task << refused.status();
    EXPECT_THAT(refused.status().message(), HasSubstr("zo_sft")) << task;
  }
  Write(peft::PromptProjection{kTokens, 32, 5, 1}.InitialModel(1));
  const auto refused = RunTask();
  EXPECT_EQ(refused.status().code(), Code::kInvalidArgument) << refused.status();
  EXPECT_THAT(refused.status().message(), HasSubstr("bbpt"));
}

TEST_F(GeneratorTask, RefusesWhatDoesNotFitTheModelOrItself) {
  const auto refused = [&](const peft::PromptGenerator& form) {
    Write(form.InitialModel(1));
    EXPECT_EQ(RunTask().status().code(), Code::kInvalidArgument);
  };
  refused({kTokens, 33, kDim, kDim, 1});
  refused({kTokens + 1, 32, kDim, kDim, 1});
  StateDict torn = peft::PromptGenerator{kTokens, 32, kDim, kDim, 1}.InitialModel(1);
  torn.erase(torn.find(peft::kGeneratorBias));
  Write(torn);
  EXPECT_EQ(RunTask().status().code(), Code::kInvalidArgument);
  // With a module that is trained beside it.
  config_.modules_to_save = {"norm"};
  const std::vector<float> ones(32, 1);
  StateDict more = peft::PromptGenerator{kTokens, 32, kDim, kDim, 1}.InitialModel(1);
  more.emplace("base_model.model.norm.weight", Tensor::FromFloats({32}, ones));
  Write(more);
  const auto beside = RunTask();
  EXPECT_EQ(beside.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(beside.status().message(), HasSubstr("nothing beside"));
}

}  // namespace
}  // namespace heddle::client
