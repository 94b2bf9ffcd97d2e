// The local task with every kind of adapter: what travels, that it learns, and that evaluation reads it.
#include <array>
#include <cmath>

#include "common/safetensors.h"
#include "peft/adapter/slots.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

class TuningTask : public TaskTest {
 protected:
  void Write(const peft::AdapterConfig& config) {
    config_ = config;
    const auto made =
        peft::MakeInitialAdapter(model::TinyConfig(), config, model::RandomWeights(model::TinyConfig(), 1), 5);
    ASSERT_TRUE(made.ok()) << made.status();
    initial_ = *made;
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
  }
};

std::vector<peft::AdapterConfig> Configs() {
  std::vector<peft::AdapterConfig> out;
  for (const peft::TuningKind kind : {peft::TuningKind::kLora, peft::TuningKind::kIa3, peft::TuningKind::kPromptTuning,
                                      peft::TuningKind::kPrefixTuning, peft::TuningKind::kPTuning,
                                      peft::TuningKind::kBottleneck, peft::TuningKind::kFull}) {
    peft::AdapterConfig config;
    config.peft_type = peft::PeftTypeOf(kind);
    config.num_virtual_tokens = 4;
    config.bottleneck_size = 4;
    if (kind == peft::TuningKind::kLora) config.target_modules = {"q_proj", "up_proj"};
    out.push_back(config);
  }
  for (const char* how : {"dora", "pissa", "lora+", "layers", "saved", "key_value"}) {
    peft::AdapterConfig config = out[how == std::string("key_value") ? 5 : 0];
    config.use_dora = how == std::string("dora");
    if (how == std::string("pissa")) config.init_lora_weights = "pissa";
    if (how == std::string("lora+")) config.loraplus_lr_ratio = 8;
    if (how == std::string("layers")) config.layers_to_transform = {1};
    if (how == std::string("saved")) config.modules_to_save = {"norm"};
    if (how == std::string("key_value")) config.placement = "key_value";
    out.push_back(config);
  }
  return out;
}

TEST_F(TuningTask, EveryKindLearnsAndSendsItsOwnTensorsOnly) {
  input_.train.local_steps = 12;
  for (const peft::AdapterConfig& config : Configs()) {
    const std::string what = config.ToJson();
    Write(config);
    const auto first = Run(), again = Run();
    ASSERT_TRUE(first.ok()) << what << first.status();
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(SpecOf(first->update), *peft::AdapterSpec(model::TinyConfig(), config)) << what;
    EXPECT_EQ(SerializeSafetensors(first->update), SerializeSafetensors(again->update)) << what;
    double moved = 0;
    for (const auto& [key, tensor] : first->update) {
      for (const float x : tensor.values<float>()) moved = std::max(moved, std::abs(double{x}));
    }
    EXPECT_GT(moved, 1e-4) << what;
    // On the data of its training the next adapter is better than the first.
    const auto loss = [&] {
      const auto evaluation =
          EvaluateModel(input_.base_model_dir, input_.adapter_dir, input_.data_path, 16, *resources_);
      EXPECT_TRUE(evaluation.ok()) << evaluation.status();
      return evaluation.ok() ? evaluation->loss : 0;
    };
    const double before = loss();
    StateDict next = initial_;
    for (const auto& [key, tensor] : first->update) {
      StateDict one;
      one.emplace(key, initial_.at(key));
      next[key] = Sum(one, {{key, tensor}}).at(key);
    }
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config, next).ok());
    EXPECT_LT(loss(), before) << what;
  }
}

TEST_F(TuningTask, AHigherRateOfFactorBMovesItFurther) {
  peft::AdapterConfig config;
  config.target_modules = {"q_proj"};
  input_.train.local_steps = 1;
  input_.train.optimizer = "SGD";
  input_.train.learning_rate = 0.125;
  std::vector<StateDict> updates;
  for (const double ratio : {1.0, 8.0}) {
    config.loraplus_lr_ratio = ratio;
    Write(config);
    const auto output = Run();
    ASSERT_TRUE(output.ok()) << output.status();
    updates.push_back(output->update);
  }
  for (const auto& [key, tensor] : updates[0]) {
    const auto slow = tensor.values<float>(), fast = updates[1].at(key).values<float>();
    const float factor = key.ends_with("lora_B.weight") ? 8 : 1;  // one step from the same start
    for (size_t i = 0; i < slow.size(); ++i) EXPECT_EQ(fast[i], factor * slow[i]) << key;
  }
}

// The columns of layer 1 of two layers, of a prefix.
std::vector<float> SecondHalf(const Tensor& prefix, bool second) {
  const auto values = prefix.values<float>();
  const auto width = static_cast<size_t>(prefix.shape()[1]);
  std::vector<float> out;
  for (size_t i = 0; i < values.size(); ++i) {
    if ((i % width >= width / 2) == second) out.push_back(values[i]);
  }
  return out;
}

TEST_F(TuningTask, OfAPrefixTheChosenLayersTravelAndTheOthersStay) {
  peft::AdapterConfig config;
  config.peft_type = peft::PeftTypeOf(peft::TuningKind::kPrefixTuning);
  config.num_virtual_tokens = 3;
  Write(config);
  const std::array<float, 2> zeros{};
  StateDict model = initial_;
  model.emplace("heddle.layer_scores", Tensor::FromFloats({2}, zeros));
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, model).ok());
  const auto scored = Run();
  ASSERT_TRUE(scored.ok()) << scored.status();
  EXPECT_EQ(scored->update.at("prompt_embeddings").shape(), initial_.at("prompt_embeddings").shape());
  ASSERT_EQ(scored->update.at("heddle.layer_scores").shape(), Shape{2});
  for (const float score : scored->update.at("heddle.layer_scores").values<float>()) {
    EXPECT_GT(score, 0);
    EXPECT_LT(score, 2);
  }
  EXPECT_TRUE(scored->personal.empty());

  model.emplace("heddle.travels.1", Tensor::FromFloats({1}, std::span(zeros).first(1)));
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, model).ok());
  const auto chosen = Run();
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  ASSERT_EQ(chosen->update.size(), 1U);
  const Tensor& sent = chosen->update.at("prompt_embeddings");
  const Tensor& own = chosen->personal.at("prompt_embeddings");
  const Tensor& start = initial_.at("prompt_embeddings");
  EXPECT_EQ(sent.shape(), (Shape{3, start.shape()[1] / 2}));
  const std::vector<float> before = SecondHalf(start, true), after = SecondHalf(own, true);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(sent.values<float>()[i], after[i] - before[i]);
  EXPECT_NE(SecondHalf(own, false), SecondHalf(start, false)) << "what stays is trained too";

  // The next task goes on from the device's own layer and the model's other one.
  ASSERT_TRUE(WriteSafetensors(folder_ / "personal.safetensors", chosen->personal).ok());
  input_.personal_path = folder_ / "personal.safetensors";
  input_.train.learning_rate = 0;
  const auto still = Run();
  ASSERT_TRUE(still.ok()) << still.status();
  EXPECT_EQ(SecondHalf(still->personal.at("prompt_embeddings"), false), SecondHalf(own, false));
  EXPECT_EQ(SecondHalf(still->personal.at("prompt_embeddings"), true), before);
}

}  // namespace
}  // namespace heddle::client
