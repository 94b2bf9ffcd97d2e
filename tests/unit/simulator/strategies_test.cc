// Every aggregation method in a whole run, with real tasks on the small base model: it completes, what it commits does
// not depend on threads, and what devices keep or are given is what its rules say.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/averaging/few_shot.h"
#include "aggregation/layer_choice.h"
#include "aggregation/parts/sub_models.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "peft/adapter/adapter.h"
#include "simulator/world/simulation.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

constexpr int kDevices = 4;

class Strategies : public ::testing::TestWithParam<std::string> {
 protected:
  Strategies() {
    LogOptions quiet;
    quiet.level = "error";
    EXPECT_TRUE(InitLogging(quiet).ok());
    std::string devices, data;
    for (int device = 0; device < kDevices; ++device) {
      const std::string name = "device-" + std::to_string(device);
      std::string text;
      for (int i = 0; i < 40; ++i) text += name + " counts " + std::to_string(i * (device + 3)) + " sheep.\n\n";
      folder_.Write(name + ".txt", text);
      devices += (device == 0 ? "\"" : ", \"") + name + "\"";
      data += (device == 0 ? "\"" : ", \"") + name + ".txt\"";
    }
    recipe_ = folder_.Write("recipe.toml", std::string("name = \"test\"\nseed = 3\nmodel.base = \"") +
                                               HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny\"\n" + R"(
[lora]
r = 4
lora_alpha = 8
[strategy]
name = "FedAvg"
num_server_rounds = 3
cohort_size = 4
[train]
optimizer = "SGD"
learning_rate = 0.5
local_steps = 2
batch_size = 2
sequence_length = 16
[simulation]
seconds_per_step = 1
speed_spread = 0.5
)" + "devices = [" + devices + "]\ndata = [" + data +
                                               "]\n");
  }

  // Of the kind of adapter that grows; trials end and begin in three rounds.
  static std::map<std::string, std::string> Bottlenecks() {
    return {{"tuning.method", "bottleneck"},
            {"tuning.placement", "pfeiffer"},
            {"tuning.bottleneck_size", "24"},
            {"strategy.trial_rounds", "2"}};
  }

  static std::map<std::string, std::string> Prefixes() {
    return {
        {"tuning.method", "prefix-tuning"}, {"tuning.num_virtual_tokens", "2"}, {"strategy.communicated_layers", "1"}};
  }

  // Of the first device's texts some have a label; the others label their own.
  std::map<std::string, std::string> Prompted() {
    std::string data;
    for (int device = 0; device < kDevices; ++device) {
      const std::string name = "device-" + std::to_string(device);
      std::string lines;
      for (int i = 0; i < 12; ++i) {
        lines += "{\"text\": \"" + name + " counts " + std::to_string(i * (device + 3)) + " sheep\"" +
                 (device == 0 && i < 4 ? ", \"label\": " + std::to_string(i % 2) : "") + "}\n";
      }
      folder_.Write(name + ".jsonl", lines);
      data += (device == 0 ? "[\"" : ", \"") + (folder_ / (name + ".jsonl")).string() + "\"";
    }
    return {{"prompt.pattern", "{text} it is {mask}"}, {"prompt.words", "[\"all\", \"no\"]"},
            {"simulation.data", data + "]"},           {"strategy.warmup_rounds", "1"},
            {"strategy.infer_samples", "4"},           {"strategy.min_logit", "-1000"}};
  }

  coordinator::RunRecord Run(const std::string& out, std::map<std::string, std::string> overrides = {}) {
    SimulationOptions options;
    options.recipe = recipe_;
    overrides.emplace("strategy.name", GetParam());
    if (coordinator::UsesSharedSeeds(GetParam())) overrides.emplace("train.learning_rate", "1e-2");
    if (GetParam() == "FwdLLM") {
      overrides.insert({{"train.local_steps", "1"}, {"zo.num_perturbations", "4"}});
      overrides.emplace("strategy.variance_threshold", "1e30");  // it moves in every round
    }
    if (GetParam() == "FedBPT") {  // it searches prompts
      overrides.insert({{"tuning.method", "prompt-tuning"}, {"zo.intrinsic_dim", "20"}, {"zo.population", "6"}});
    }
    if (GetParam() == "FedPepTAO") overrides.merge(std::map(Prefixes()));
    if (GetParam() == "SPRY") overrides.insert({{"train.learning_rate", "0.01"}, {"strategy.layer_groups", "2"}});
    if (GetParam() == "FedAdapter") overrides.merge(Bottlenecks());
    if (GetParam() == "FeS" || GetParam() == "LP-FL") overrides.merge(Prompted());
    if (aggregation::UsesSubModels(GetParam())) overrides.emplace("strategy.num_layers", "4");
    options.overrides = std::move(overrides);
    options.out = folder_ / out;
    const auto result = Simulate(options);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->run : coordinator::RunRecord{};
  }

  TempDir folder_;
  fs::path recipe_;
};

TEST_P(Strategies, ARunCompletesAndDoesNotDependOnThreads) {
  const coordinator::RunRecord one = Run("one", {{"simulation.threads", "1"}});
  EXPECT_EQ(one.state, coordinator::RunState::kComplete);
  EXPECT_EQ(one.committed_rounds, 3U);
  EXPECT_EQ(Run("many", {{"simulation.threads", "3"}}).model, one.model);
  // Three rounds, three models, each a PEFT adapter without anything of ours beside it.
  std::set<std::string> models;
  for (const char* round : {"round-1", "round-2", "round-3"}) {
    const auto adapter = peft::ReadAdapter(folder_ / "one" / "checkpoints" / round);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    models.insert(SerializeSafetensors(adapter->tensors));
    for (const auto& [key, tensor] : adapter->tensors) {
      EXPECT_FALSE(key.starts_with(aggregation::kOwnPrefix)) << key;
      for (const float value : tensor.values<float>()) ASSERT_TRUE(std::isfinite(value)) << key;
    }
  }
  EXPECT_EQ(models.size(), 3U) << "every round moves the model";
}

TEST_P(Strategies, DevicesKeepWhatTheRulesSay) {
  aggregation::AggregatorOptions options;
  const auto rules = aggregation::RulesOf(GetParam(), options);
  ASSERT_TRUE(rules.ok()) << rules.status();
  Run("out");
  const bool keeps = !rules->kept.empty() || rules->correction != aggregation::Correction::kNone;
  for (int device = 0; device < kDevices; ++device) {
    const fs::path file = folder_ / "out" / "personal" / ("device-" + std::to_string(device) + ".safetensors");
    const bool own = aggregation::LabellingOf(GetParam(), options).on || aggregation::ChoosesLayers(GetParam());
    if (rules->prune_gamma == 0 && !own) {
      EXPECT_EQ(fs::exists(file), keeps) << file;
    }
  }
}

TEST_P(Strategies, DevicesOfDifferentRanksShareARunWhereTheMethodTakesThem) {
  const auto rules = aggregation::RulesOf(GetParam(), {});
  ASSERT_TRUE(rules.ok()) << rules.status();
  const std::map<std::string, std::string> ranks = {{"lora.device_ranks", R"(["device-0:1", "device-1:2"])"}};
  if (!rules->mixed_ranks) {
    SimulationOptions simulation;
    simulation.recipe = recipe_;
    simulation.overrides = ranks;
    simulation.overrides.emplace("strategy.name", GetParam());
    simulation.out = folder_ / "refused";
    const auto refused = Simulate(simulation);
    EXPECT_EQ(refused.status().code(), Code::kInvalidArgument) << refused.status();
    return;
  }
  const coordinator::RunRecord mixed = Run("mixed", ranks);
  EXPECT_EQ(mixed.committed_rounds, 3U);
  EXPECT_NE(mixed.model, Run("same").model);
}

// Fed-BBPT: a generator's weights are what devices train and send; a checkpoint is the prompt that they make.
class Generators : public Strategies {};

TEST_P(Generators, ARunCompletesAndItsCheckpointsArePrompts) {
  const auto run = [&](const std::string& out, const char* threads) {
    return Run(out, {{"tuning.method", "prompt-tuning"},
                     {"tuning.num_virtual_tokens", "3"},
                     {"tuning.generator_dim", "4"},
                     {"train.local_task", "zo_sft"},
                     {"train.learning_rate", "0.01"},
                     {"simulation.threads", threads}});
  };
  const coordinator::RunRecord one = run("one", "1");
  EXPECT_EQ(one.state, coordinator::RunState::kComplete);
  EXPECT_EQ(one.committed_rounds, 3U);
  EXPECT_EQ(run("many", "3").model, one.model);
  std::set<std::string> prompts;
  for (const char* round : {"round-1", "round-2", "round-3"}) {
    const auto adapter = peft::ReadAdapter(folder_ / "one" / "checkpoints" / round);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ(SpecOf(adapter->tensors), (StateDictSpec{{"prompt_embeddings", {DType::kF32, {3, 160}}}}));
    prompts.insert(SerializeSafetensors(adapter->tensors));
  }
  EXPECT_EQ(prompts.size(), 3U) << "every round moves the prompt";
}

INSTANTIATE_TEST_SUITE_P(FedBbpt, Generators, testing::Values("FedAvg", "FedAdam"),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(All, Strategies, testing::ValuesIn(aggregation::AggregatorNames()), [](const auto& info) {
  std::string name = info.param;
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
});

}  // namespace
}  // namespace heddle::simulator
