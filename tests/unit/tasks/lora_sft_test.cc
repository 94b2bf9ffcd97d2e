// The local task: what it returns, that it is repeatable to the bit, and what it refuses.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <boost/json.hpp>
#include <cmath>
#include <numeric>
#include <thread>

#include "client/worker/task_resources.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "peft/lora/lora.h"
#include "tests/unit/model/test_data.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

class LoraSftTest : public TaskTest {};

std::string Bytes(const Result<TaskOutput>& output) {
  EXPECT_TRUE(output.ok()) << output.status();
  return output.ok() ? SerializeSafetensors(output->update) : "";
}

TEST_F(LoraSftTest, UpdateHasTheAdaptersTensorsAndStatsCountTheWork) {
  const auto output = Run();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(SpecOf(output->update), SpecOf(initial_));
  EXPECT_EQ(output->stats.steps, 4U);
  EXPECT_EQ(output->stats.num_examples, 8U);
  EXPECT_EQ(output->stats.num_tokens, 128U);
  EXPECT_GT(output->stats.train_seconds, 0.0);
  // lora_B starts at zero, so it moves first; nothing may stay as it was.
  for (const auto& [name, tensor] : output->update) {
    const auto values = tensor.values<float>();
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float x) { return x != 0; })) << name;
    EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) << name;
  }
}

TEST_F(LoraSftTest, SameSeedGivesTheSameBytesAndAnotherSeedDoesNot) {
  const std::string first = Bytes(Run());
  EXPECT_TRUE(Bytes(Run()) == first);
  resources_ = MakeTaskResources();  // loaded anew
  EXPECT_TRUE(Bytes(Run()) == first);
  input_.seed = 12;
  EXPECT_FALSE(Bytes(Run()) == first);
}

TEST_F(LoraSftTest, DropoutIsDrawnFromTheTasksSeed) {
  peft::AdapterConfig config;
  config.lora_dropout = 0.3;
  const std::string without = Bytes(Run());
  WriteAdapter(config);
  const std::string first = Bytes(Run());
  EXPECT_FALSE(first == without);
  torch::manual_seed(99);  // what the process draws elsewhere does not count
  EXPECT_TRUE(Bytes(Run()) == first);
}

TEST_F(LoraSftTest, TasksAtOnceOnOneBaseModelGiveTheBytesOfTasksAlone) {
  peft::AdapterConfig config;
  config.lora_dropout = 0.1;
  WriteAdapter(config);
  constexpr size_t kTasks = 4;
  std::vector<std::string> alone(kTasks), together(kTasks);
  for (size_t i = 0; i < kTasks; ++i) {
    TaskInput input = input_;
    input.seed = i;
    alone[i] = Bytes(Task()->Run(input, *resources_, {}));
  }
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < kTasks; ++i) {
      threads.emplace_back([&, i] {
        TaskInput input = input_;
        input.seed = i;
        together[i] = Bytes(Task()->Run(input, *resources_, {}));
      });
    }
  }
  for (size_t i = 0; i < kTasks; ++i) EXPECT_TRUE(alone[i] == together[i]) << "task " << i;
}

TEST_F(LoraSftTest, RunsShareOneCopyOfTheFrozenBaseAndLeaveItAlone) {
  auto before = resources_->GetBase(input_.base_model_dir);
  ASSERT_TRUE(before.ok()) << before.status();
  std::map<std::string, torch::Tensor> copies;
  for (const auto& [name, tensor] : before->weights->tensors) copies[name] = tensor.clone();
  const long users = before->weights.use_count();
  std::vector<long> during;
  const auto watch = [&](uint32_t, uint32_t, double) {
    during.push_back(before->weights.use_count());
    return true;
  };
  ASSERT_TRUE(Task()->Run(input_, *resources_, watch).ok());
  EXPECT_GT(during.back(), users);  // the task's model holds the very same weights
  auto after = resources_->GetBase(input_.base_model_dir);
  EXPECT_EQ(after->weights, before->weights);
  for (const auto& [name, tensor] : after->weights->tensors) {
    EXPECT_TRUE(torch::equal(tensor, copies.at(name))) << name;
    EXPECT_FALSE(tensor.grad().defined()) << name;
  }
}

TEST_F(LoraSftTest, InterruptionAtAnyStepReturnsCancelled) {
  for (uint32_t stop = 1; stop <= input_.train.local_steps; ++stop) {
    std::vector<uint32_t> seen;
    const auto output = Task()->Run(input_, *resources_, [&](uint32_t step, uint32_t total, double loss) {
      EXPECT_EQ(total, input_.train.local_steps);
      EXPECT_TRUE(std::isfinite(loss));
      seen.push_back(step);
      return step < stop;
    });
    EXPECT_EQ(output.status().code(), Code::kCancelled);
    std::vector<uint32_t> expected(stop);
    std::iota(expected.begin(), expected.end(), 1U);
    EXPECT_EQ(seen, expected);
  }
}

TEST_F(LoraSftTest, LossGoesDownOnAText) {
  input_.train.local_steps = 60;
  input_.train.batch_size = 8;
  input_.train.warmup_steps = 5;
  input_.train.max_grad_norm = 1.0;
  const auto output = Run();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_LT(output->stats.last_loss, 0.87 * output->stats.first_loss);
  EXPECT_GT(output->stats.first_loss, output->stats.train_loss);
  EXPECT_GT(output->stats.train_loss, output->stats.last_loss);

  // And so does that of the text it has learnt, with the update added to the adapter.
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "trained", config_, Sum(initial_, output->update)).ok());
  const auto evaluate = [&](const std::filesystem::path& adapter) {
    auto result = EvaluateModel(input_.base_model_dir, adapter, input_.data_path, 16, *resources_);
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_DOUBLE_EQ(result->perplexity, std::exp(result->loss));
    return result->loss;
  };
  EXPECT_NEAR(evaluate(folder_ / "adapter"), evaluate({}), 1e-6);  // the initial adapter changes nothing
  EXPECT_LT(evaluate(folder_ / "trained"), 0.9 * evaluate({}));
}

TEST_F(LoraSftTest, LossGoesDownOnShakespeareWithTheModelOfTheRepository) {
  const std::filesystem::path base = HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny";
  const auto text = model::TestDataFolder() / "shakespeare" / "speakers.jsonl";
  if (!std::filesystem::exists(base / "model.safetensors")) GTEST_SKIP() << "heddle-tiny is not there";
  HEDDLE_NEEDS_TEST_DATA("shakespeare");
  auto config = model::ReadModelConfig(base);
  ASSERT_TRUE(config.ok()) << config.status();
  config_.target_modules = {"q_proj", "v_proj"};
  const auto targets = *peft::FindTargets(config->LinearModules(), config_);
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "real", config_, peft::MakeInitialAdapter(targets, config_, 1)).ok());
  folder_.Write("play.jsonl", Slurp(text).substr(0, Slurp(text).rfind('\n', 200'000) + 1));
  input_.base_model_dir = base;
  input_.adapter_dir = folder_ / "real";
  input_.data_path = folder_ / "play.jsonl";
  input_.train.local_steps = 12;
  input_.train.batch_size = 4;
  input_.train.sequence_length = 64;
  std::vector<double> losses;
  const auto output = Task()->Run(input_, *resources_, [&](uint32_t, uint32_t, double loss) {
    losses.push_back(loss);
    return true;
  });
  ASSERT_TRUE(output.ok()) << output.status();
  const auto mean = [](auto begin, auto end) { return std::accumulate(begin, end, 0.0) / (end - begin); };
  EXPECT_LT(mean(losses.end() - 4, losses.end()), mean(losses.begin(), losses.begin() + 4));
}

TEST_F(LoraSftTest, OneStepIsTheStepOfTheFormulas) {
  // With one step, the update is -lr * sign-like Adam step of the gradient: computed here with autograd alone.
  input_.train.local_steps = 1;
  const auto output = Run();
  ASSERT_TRUE(output.ok()) << output.status();
  auto base = *resources_->GetBase(input_.base_model_dir);
  auto data = *resources_->GetData(input_.data_path, base, 16);
  model::Transformer network(base.weights);
  ASSERT_TRUE(peft::InjectLora(network, config_, initial_).ok());
  model::SampleOrder order(data->num_sequences(), DeriveSeed(input_.seed, "samples", ""));
  std::vector<torch::Tensor> x, y;
  for (int row = 0; row < 2; ++row) {
    const auto window = data->Sequence(order.Next());
    const auto ids = torch::tensor(std::vector<int64_t>(window.begin(), window.end()), torch::kLong);
    x.push_back(ids.slice(0, 0, 16));
    y.push_back(ids.slice(0, 1, 17));
  }
  const auto loss = network->Loss(torch::stack(x), torch::stack(y));
  EXPECT_NEAR(loss.item<double>(), output->stats.first_loss, 1e-6);
  loss.backward();
  for (const auto& [key, parameter] : peft::LoraParameters(network)) {
    const auto g = parameter.grad().flatten();
    const auto update = output->update.at(key).values<float>();
    for (int64_t i = 0; i < g.numel(); ++i) {
      const double gi = g[i].item<double>();
      const double expected = -input_.train.learning_rate * gi / (std::abs(gi) + input_.train.epsilon);
      // The difference of two float32 values of up to 0.2: eps of those.
      ASSERT_NEAR(update[static_cast<size_t>(i)], expected, 5e-8 + 1e-3 * std::abs(expected)) << key << "[" << i << "]";
    }
  }
}

TEST_F(LoraSftTest, WarmUpRaisesTheLearningRateInEvenSteps) {
  input_.train.local_steps = 1;
  input_.train.epsilon = 1e-12;
  const auto largest = [&](uint32_t warmup) {
    input_.train.warmup_steps = warmup;
    const auto output = Run();
    float most = 0;
    for (const auto& [name, tensor] : output->update) {
      for (const float x : tensor.values<float>()) most = std::max(most, std::abs(x));
    }
    return most;
  };
  // The first step of Adam is as long as the learning rate.
  EXPECT_NEAR(largest(0), 1e-2, 1e-6);
  EXPECT_NEAR(largest(1), 1e-2, 1e-6);
  EXPECT_NEAR(largest(4), 0.25e-2, 1e-6);
}

TEST_F(LoraSftTest, AMemoryLimitThatIsTooSmallIsRefusedBeforeTraining) {
  input_.memory_limit_bytes = 100'000;
  bool stepped = false;
  const auto output = Task()->Run(input_, *resources_, [&](uint32_t, uint32_t, double) { return stepped = true; });
  EXPECT_EQ(output.status().code(), Code::kResourceExhausted);
  EXPECT_FALSE(stepped);
  input_.memory_limit_bytes = uint64_t{64} << 30;
  EXPECT_TRUE(Run().ok());
}

TEST_F(LoraSftTest, AWorkerThatHasGrownBeyondItsLimitStops) {
  // Enough for the estimate, less than any process with LibTorch takes.
  input_.memory_limit_bytes = uint64_t{8} << 20;
  EXPECT_EQ(Run().status().code(), Code::kResourceExhausted);
}

TEST_F(LoraSftTest, DataShorterThanOneSequenceIsRefused) {
  folder_.Write("short.txt", "the old river");
  input_.data_path = folder_ / "short.txt";
  const auto output = Run();
  EXPECT_EQ(output.status().code(), Code::kInvalidArgument);
  EXPECT_NE(output.status().message().find("short.txt"), std::string::npos) << output.status();
}

TEST_F(LoraSftTest, MissingAndMalformedInputsAreStatuses) {
  const TaskInput good = input_;
  input_.data_path = folder_ / "nowhere.txt";
  EXPECT_EQ(Run().status().code(), Code::kNotFound);
  input_ = good;
  input_.base_model_dir = folder_ / "nowhere";
  EXPECT_EQ(Run().status().code(), Code::kNotFound);
  input_ = good;
  input_.adapter_dir = folder_ / "nowhere";
  EXPECT_EQ(Run().status().code(), Code::kNotFound);
  input_ = good;
  folder_.Write("bad.jsonl", "{\"text\": \"fine\"}\n{nonsense\n");
  input_.data_path = folder_ / "bad.jsonl";
  EXPECT_EQ(Run().status().code(), Code::kInvalidArgument);
  EXPECT_NE(Run().status().message().find("line 2"), std::string::npos);
}

TEST_F(LoraSftTest, SettingsThatDoNotFitAreRefused) {
  const TaskInput good = input_;
  const auto refused = [&](const auto& change) {
    input_ = good;
    change(input_.train);
    return Run().status().code() == Code::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](TrainSettings& t) { t.local_steps = 0; }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.batch_size = 0; }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.sequence_length = 0; }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.sequence_length = 65; }));  // the model has 64 positions
  EXPECT_TRUE(refused([](TrainSettings& t) { t.learning_rate = -1; }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.learning_rate = std::nan(""); }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.beta1 = 1; }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.beta2 = std::nan(""); }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.epsilon = -1; }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.weight_decay = -0.1; }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.max_grad_norm = std::nan(""); }));
  EXPECT_TRUE(refused([](TrainSettings& t) { t.batch_size = 4'000'000'000; }));
}

TEST_F(LoraSftTest, AnAdapterForAnotherModelIsRefused) {
  auto wide = model::TinyConfig();
  wide.hidden_size = 64;
  const auto targets = *peft::FindTargets(wide.LinearModules(), config_);
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, peft::MakeInitialAdapter(targets, config_, 5)).ok());
  const auto output = Run();
  EXPECT_EQ(output.status().code(), Code::kInvalidArgument);
  EXPECT_NE(output.status().message().find("does not fit"), std::string::npos) << output.status();
}

TEST_F(LoraSftTest, ALossThatIsNotFiniteIsAnErrorNotAnUpdate) {
  StateDict poisoned = initial_;
  auto& [name, tensor] = *poisoned.begin();
  // Finite, as a file's must be; what is multiplied with them is not.
  const std::vector<float> values(static_cast<size_t>(tensor.numel()), std::numeric_limits<float>::max());
  tensor = Tensor::FromFloats(Shape(tensor.shape()), values);
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, poisoned).ok());
  EXPECT_EQ(Run().status().code(), Code::kInternal);
}

TEST_F(LoraSftTest, EvaluationIsTheMeanOverAllWindowsOfTheFile) {
  // 37 windows: two batches of the evaluation and a part of one. Here one window after the other, from the logits.
  auto base = *resources_->GetBase(input_.base_model_dir);
  std::string text = model::SampleText(30'000, 6);
  // A token is a byte or more, so this many bytes are never too many.
  for (size_t tokens; (tokens = base.tokenizer->Encode(text).size()) > 37 * 16 + 9;) {
    text.resize(text.size() - (tokens - (37 * 16 + 9)));
  }
  folder_.Write("heldout.jsonl", boost::json::serialize(boost::json::object{{"text", text}}));
  const auto data = *resources_->GetData(folder_ / "heldout.jsonl", base, 16);
  ASSERT_EQ(data->num_sequences(), 37);
  model::Transformer network(base.weights);
  torch::NoGradGuard no_grad;
  double sum = 0;
  for (int64_t i = 0; i < 37; ++i) {
    const auto window = data->Sequence(i);
    const auto ids = torch::tensor(std::vector<int64_t>(window.begin(), window.end()), torch::kLong);
    const auto logits =
        torch::log_softmax(network->forward(ids.slice(0, 0, 16).unsqueeze(0))[0].to(torch::kDouble), -1);
    for (int64_t t = 0; t < 16; ++t) sum -= logits[t][ids[t + 1].item<int64_t>()].item<double>();
  }
  const auto evaluation = EvaluateModel(input_.base_model_dir, {}, folder_ / "heldout.jsonl", 16, *resources_);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_NEAR(evaluation->loss, sum / (37 * 16), 1e-5);
  EXPECT_EQ(evaluation->num_tokens, 37U * 16);
  EXPECT_EQ(EvaluateModel(input_.base_model_dir, {}, folder_ / "nowhere.txt", 16, *resources_).status().code(),
            Code::kNotFound);
}

TEST_F(LoraSftTest, EvaluationOfASequenceTooLongForTheModelIsAStatus) {
  EXPECT_FALSE(EvaluateModel(input_.base_model_dir, {}, input_.data_path, 65, *resources_).ok());
  EXPECT_FALSE(EvaluateModel(input_.base_model_dir, {}, input_.data_path, 0, *resources_).ok());
}

TEST(LocalTasks, UnknownNameGetsTheNearest) {
  const auto names = LocalTaskNames();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  for (const std::string& name : names) EXPECT_TRUE(FindLocalTask(name).ok());
  const auto missing = FindLocalTask("lora_stf");
  EXPECT_EQ(missing.status().code(), Code::kNotFound);
  EXPECT_NE(missing.status().message().find("'lora_sft'"), std::string::npos) << missing.status();
}

}  // namespace
}  // namespace heddle::client
