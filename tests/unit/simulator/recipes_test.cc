// Every recipe of the repository runs: two rounds with the small base model or a small classifier in place of what it
// asks for, few devices and steps of a few tokens; everything else as the recipe has it.
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <sstream>

#include "aggregation/parts/sub_models.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "model/config/new_head.h"
#include "model/config/registry.h"
#include "simulator/world/simulation.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_encoder.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::vector<std::string> Recipes() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(HEDDLE_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() == ".toml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class EveryRecipe : public ::testing::TestWithParam<std::string> {
 protected:
  EveryRecipe() {
    LogOptions quiet;
    quiet.level = "error";
    EXPECT_TRUE(InitLogging(quiet).ok());
  }

  // BERT's body, without a head.
  std::string Encoder() {
    const std::string config = R"({"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 12,
      "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": 400,
      "max_position_embeddings": 64, "pad_token_id": 0})";
    fs::create_directories(folder_ / "base");
    folder_.Write("base/config.json", config);
    folder_.Write("base/tokenizer.json", model::TinyTokenizerJson(400));
    const auto whole = model::ParseModelConfig(*model::ConfigWithNewHead(config, 2));
    StateDict weights;
    for (const auto& [name, tensor] : model::RandomWeights(*whole, 1)) {
      const std::string prefix = "bert.";
      if (name.starts_with(prefix)) weights.emplace(name.substr(prefix.size()), tensor);
    }
    EXPECT_TRUE(WriteSafetensors(folder_ / "base/model.safetensors", weights).ok());
    return (folder_ / "base").string();
  }

  // A masked language model of a few words.
  std::string Masked() {
    model::WriteMaskedFolder(folder_ / "base", {"number", "went", "up", "hill", "1", "##1"});
    return (folder_ / "base").string();
  }

  // Texts of six sources with one of four labels.
  std::string Data() {
    std::string lines;
    for (int i = 0; i < 96; ++i) {
      lines += json::serialize(json::object{{"text", "number " + std::to_string(i * 37 % 100) + " went up the hill"},
                                            {"label", i % 4},
                                            {"source", "source " + std::to_string(i % 6)}}) +
               "\n";
    }
    return "[\"" + folder_.Write("data.jsonl", lines).string() + "\"]";
  }

  TempDir folder_;
};

TEST_P(EveryRecipe, RunsTwoRoundsWithATinyModel) {
  SimulationOptions options;
  options.recipe = fs::path(HEDDLE_SOURCE_DIR) / "recipes" / (GetParam() + ".toml");
  options.out = folder_ / "out";
  options.overrides = {{"strategy.num_server_rounds", "2"},
                       {"strategy.cohort_size", "2"},
                       {"train.local_steps", "1"},
                       {"train.batch_size", "2"},
                       {"train.gradient_accumulation_steps", "1"},
                       {"train.sequence_length", "16"},
                       {"train.warmup_steps", "0"}};
  const auto recipe = coordinator::Recipe::Load(options.recipe);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const bool encoder = recipe->simulation.source == "split" && recipe->head.num_labels > 0;
  if (recipe->simulation.source == "split") {
    const bool masked = recipe->lora.SavesWhole("cls");
    options.overrides["model.base"] = encoder  ? Encoder()
                                      : masked ? Masked()
                                               : HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny";
    if (aggregation::UsesSubModels(recipe->strategy)) {
      options.overrides["strategy.num_layers"] = encoder || masked ? "2" : "4";
      if (!recipe->depths.empty()) options.overrides["strategy.layer_tiers"] = "[1, 2]";
      if (recipe->aggregator.method.contains("rounds_per_layer")) options.overrides["strategy.rounds_per_layer"] = "1";
    }
    if (encoder) {
      options.overrides["model.num_labels"] = "4";
      options.overrides["model.label_names"] = "[]";
      options.overrides["simulation.columns"] = "[]";
    }
    options.overrides["simulation.data"] = Data();
    options.overrides["simulation.num_devices"] = "6";
    options.overrides["simulation.max_test_examples"] = "4";
  }
  // The held-out text of the Bible in windows of 16 takes a minute, and fedavg-lora is tested on it elsewhere.
  if (recipe->simulation.source == "kjv") options.overrides["simulation.eval_every"] = "0";
  const bool stages = recipe->spec.first_stage_rounds > 0;
  if (stages) {  // a round of each
    options.overrides["strategy.first_stage_rounds"] = options.overrides["compression.upload_rounds"] = "1";
    options.overrides["strategy.later_cohort_size"] = "6";
    options.overrides["train.later_local_steps"] = "3";
  }
  if (recipe->lora.r > 80) options.overrides["lora.r"] = "8";  // the small models are narrower
  // The small models have two layers.
  const bool biases = !recipe->lora.bias_only_layers.empty();
  if (biases || (encoder && !recipe->lora.layers_to_transform.empty())) {
    options.overrides["tuning.layers_to_transform"] = "[1]";
  }
  if (biases) options.overrides["tuning.bias_only_layers"] = "[0]";
  const auto result = Simulate(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->run.committed_rounds, 2U);
  if (recipe->simulation.source == "split") {
    EXPECT_TRUE(std::isfinite(FigureOf(result->figures.test, "loss"))) << "its model was not tested";
  }
  std::istringstream history(Slurp(folder_ / "out" / "history.jsonl"));
  std::string first, second;
  ASSERT_TRUE(std::getline(history, first) && std::getline(history, second));
  const json::object last = json::parse(second).as_object();
  EXPECT_NE(last.at("model_sha256"), last.at("parent_sha256")) << "the second round changed nothing";
  EXPECT_GT(last.at("compute_seconds").to_number<double>(), 0);
  if (stages) {
    const json::object before = json::parse(first).as_object();
    EXPECT_EQ(before.at("num_accepted").to_number<int>(), 2);
    EXPECT_EQ(before.at("num_examples").to_number<int>(), 2 * 1 * 2);
    EXPECT_EQ(last.at("num_accepted").to_number<int>(), 6);
    EXPECT_EQ(last.at("num_examples").to_number<int>(), 6 * 3 * 2);
  }
  bool power = false;
  for (const auto& profile : recipe->simulation.profiles) power = power || profile.watts > 0;
  EXPECT_EQ(last.contains("tokens_per_joule"), power);
}

INSTANTIATE_TEST_SUITE_P(Recipes, EveryRecipe, ::testing::ValuesIn(Recipes()), [](const auto& info) {
  std::string name;
  for (const char c : info.param) name += c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace heddle::simulator
