// Which layers an emulator keeps, what its config.json says, and names there and back.
#include "model/parts/sub_model.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

std::string ConfigOf(const std::string& folder) {
  return *ReadFile(fs::path(HEDDLE_SOURCE_DIR) / "tests/data" / folder / "config.json");
}

TEST(SubModel, LayersAreSpreadAsOffsiteTuningDoes) {
  EXPECT_THAT(SpreadLayers(20, 8), ElementsAre(0, 3, 5, 8, 11, 14, 16, 19));
  EXPECT_THAT(SpreadLayers(4, 4), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(SpreadLayers(6, 2), ElementsAre(0, 5));
  EXPECT_THAT(SpreadLayers(6, 1), ElementsAre(0));
  EXPECT_TRUE(SpreadLayers(6, 0).empty());
}

TEST(SubModel, SpreadLayersRiseWhateverTheNumbers) {
  for (int64_t count = 1; count <= 80; ++count) {
    for (int64_t kept = 0; kept <= count; ++kept) {
      const auto layers = SpreadLayers(count, kept);
      ASSERT_EQ(static_cast<int64_t>(layers.size()), kept);
      EXPECT_EQ(std::adjacent_find(layers.begin(), layers.end(), std::greater_equal<>()), layers.end());
      if (kept > 1) {
        EXPECT_EQ(layers.front(), 0);
        EXPECT_EQ(layers.back(), count - 1);
      }
    }
  }
}

TEST(SubModel, AnEmulatorKeepsBothEndsWhole) {
  EXPECT_THAT(*EmulatorLayers(24, 2, 8), ElementsAre(0, 1, 2, 5, 7, 10, 13, 16, 18, 21, 22, 23));
  EXPECT_THAT(*EmulatorLayers(6, 1, 4), ElementsAre(0, 1, 2, 3, 4, 5)) << "nothing is dropped";
  EXPECT_THAT(*EmulatorLayers(6, 1, 0), ElementsAre(0, 5));
  for (const auto& [layers, ends, kept] : {std::tuple{6, 0, 2}, {6, 3, 0}, {6, 1, 5}, {6, 1, -1}, {1, 1, 0}}) {
    EXPECT_EQ(EmulatorLayers(layers, ends, kept).status().code(), Code::kInvalidArgument) << layers << ends << kept;
  }
}

TEST(SubModel, EveryFamilysConfigSaysTheNewNumberOfLayers) {
  for (const char* folder : {"models/gpt2", "models/gpt-neox", "models/llama", "models/opt", "models/qwen2",
                             "models/mistral", "encoders/bert-masked", "encoders/distilbert-classes", "encoders/vit"}) {
    const std::string text = ConfigOf(folder);
    const ModelSpec whole = *ParseModelConfig(text);
    ASSERT_GE(whole.num_hidden_layers, 2) << folder;
    const auto smaller = ConfigOfLayers(text, {whole.num_hidden_layers - 1});
    ASSERT_TRUE(smaller.ok()) << folder << ": " << smaller.status();
    ModelSpec expected = whole;
    expected.num_hidden_layers = 1;
    ModelSpec got = *ParseModelConfig(*smaller);
    got.full_attention_layers = expected.full_attention_layers;
    EXPECT_EQ(got, expected) << folder;
  }
}

TEST(SubModel, WhatIsSaidOfSingleLayersFollowsThem) {
  const std::string text =
      R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 8, "intermediate_size": 8,
          "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32,
          "max_position_embeddings": 64, "use_sliding_window": true, "sliding_window": 4, "max_window_layers": 2,
          "layer_types": ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]})";
  const auto whole = ParseModelConfig(text);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const auto smaller = ConfigOfLayers(text, {1, 3});
  ASSERT_TRUE(smaller.ok()) << smaller.status();
  const ModelSpec spec = *ParseModelConfig(*smaller);
  EXPECT_EQ(spec.WindowOf(0), 0);
  EXPECT_EQ(spec.WindowOf(1), 4);
}

TEST(SubModel, LayersThatTheModelDoesNotHaveAreRefused) {
  const std::string text = ConfigOf("models/llama");
  const int64_t count = ParseModelConfig(text)->num_hidden_layers;
  for (const std::vector<int64_t>& layers : {std::vector<int64_t>{}, {count}, {-1}, {1, 0}, {0, 0}}) {
    EXPECT_EQ(ConfigOfLayers(text, layers).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(ConfigOfLayers("no JSON", {0}).status().code(), Code::kInvalidArgument);
}

TEST(SubModel, NamesGoThereAndBack) {
  ModelSpec spec = TinyConfig();
  spec.num_hidden_layers = 12;
  const std::vector<int64_t> layers = {0, 4, 11};
  EXPECT_EQ(NameAmongLayers(spec, "model.layers.11.mlp.up_proj.weight", layers), "model.layers.2.mlp.up_proj.weight");
  EXPECT_EQ(NameAmongLayers(spec, "model.layers.1.mlp.up_proj.weight", layers), std::nullopt);
  EXPECT_EQ(NameAmongLayers(spec, "model.norm.weight", layers), "model.norm.weight");
  EXPECT_EQ(NameInWhole(spec, "model.layers.3.mlp.up_proj.weight", layers), std::nullopt);
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    const auto there = NameAmongLayers(spec, name, layers);
    if (there) {
      EXPECT_EQ(NameInWhole(spec, *there, layers), name);
    }
  }
}

TEST(SubModel, TensorsOfLayersAreThoseOfTheSmallerModel) {
  ModelSpec spec = TinyConfig();
  spec.num_hidden_layers = 5;
  const StateDict whole = RandomWeights(spec, 7);
  const auto smaller = TensorsOfLayers(spec, whole, {0, 3});
  ASSERT_TRUE(smaller.ok()) << smaller.status();
  ModelSpec expected = spec;
  expected.num_hidden_layers = 2;
  EXPECT_EQ(SpecOf(*smaller), expected.WeightSpec());
  EXPECT_EQ(smaller->at("model.layers.1.mlp.up_proj.weight").bytes().data(),
            whole.at("model.layers.3.mlp.up_proj.weight").bytes().data());
  StateDict other = whole;
  other.erase("model.norm.weight");
  EXPECT_THAT(TensorsOfLayers(spec, other, {0}).status().message(), HasSubstr("model.norm.weight"));
}

}  // namespace
}  // namespace heddle::model
