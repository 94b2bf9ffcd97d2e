// Emulators of models and the way of what was tuned on them back into the whole.
#include "peft/parts/emulator.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::peft {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class EmulatorTest : public testing::Test {
 protected:
  EmulatorTest() {
    spec_.num_hidden_layers = 6;
    model::WriteModelFolder(folder_ / "model", spec_, 3);
    weights_ = ReadSafetensors(folder_ / "model/model.safetensors")->tensors;
    emulator_ = {{0, 1, 4, 5}, 6, 1, {}};
    small_.num_hidden_layers = 4;
  }
  Adapter TunedOn(const AdapterConfig& config) const {
    StateDict tensors;
    const auto slots = AdapterSpec(small_, config);
    EXPECT_TRUE(slots.ok()) << slots.status();
    if (!slots.ok()) return {config, {}};
    for (const auto& [key, spec] : *slots) {
      std::vector<float> values(static_cast<size_t>(*NumElements(spec.shape)), static_cast<float>(tensors.size()));
      tensors.emplace(key, Tensor::FromFloats(spec.shape, values));
    }
    return {config, tensors};
  }
  static AdapterConfig Lora(std::vector<int64_t> layers) {
    AdapterConfig config;
    config.r = 2;
    config.target_modules = {"q_proj", "v_proj"};
    config.layers_to_transform = std::move(layers);
    return config;
  }

  TempDir folder_;
  model::ModelSpec spec_ = model::TinyConfig(), small_ = model::TinyConfig();
  StateDict weights_;
  Emulator emulator_;
};

TEST_F(EmulatorTest, WithNoLayerDroppedItIsTheModel) {
  const auto made = MakeEmulator(folder_ / "model", 1, 4, folder_ / "out");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(*model::ReadModelConfig(folder_ / "out"), *model::ReadModelConfig(folder_ / "model"));
  EXPECT_EQ(Sha256File(folder_ / "out/model.safetensors").value(),
            Sha256File(folder_ / "model/model.safetensors").value());
}

TEST_F(EmulatorTest, ItHasTheLayersThatItSaysAndTheModelsOtherFiles) {
  const auto made = MakeEmulator(folder_ / "model", 1, 2, folder_ / "out");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(made->layers, ElementsAre(0, 1, 4, 5));
  const model::ModelSpec spec = *model::ReadModelConfig(folder_ / "out");
  EXPECT_EQ(spec.num_hidden_layers, 4);
  const StateDict tensors = ReadModelSafetensors(folder_ / "out")->tensors;
  ASSERT_EQ(SpecOf(tensors), spec.WeightSpec());
  const auto same = [&](const std::string& there, const std::string& here) {
    return std::ranges::equal(tensors.at(there).bytes(), weights_.at(here).bytes());
  };
  EXPECT_TRUE(same("model.layers.2.mlp.up_proj.weight", "model.layers.4.mlp.up_proj.weight"));
  EXPECT_TRUE(same("model.layers.3.self_attn.q_proj.weight", "model.layers.5.self_attn.q_proj.weight"));
  EXPECT_TRUE(same("model.embed_tokens.weight", "model.embed_tokens.weight"));
  EXPECT_EQ(*ReadFile(folder_ / "out/tokenizer.json"), *ReadFile(folder_ / "model/tokenizer.json"));
  const auto read = ReadEmulator(folder_ / "out");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->layers, made->layers);
  EXPECT_EQ(read->num_layers, 6);
  EXPECT_EQ(read->ends, 1);
  ASSERT_EQ(read->weights.size(), 1U);
  EXPECT_EQ(read->weights[0].second, Sha256File(folder_ / "model/model.safetensors").value());
}

TEST_F(EmulatorTest, DistilledValuesTakeTheirLayersPlacesAndTheRecordSaysHow) {
  const std::string learned = "model.layers.4.mlp.up_proj.weight";
  const Tensor value = Tensor::FromFloats(weights_.at(learned).shape(), std::vector<float>(32 * 48, 0.5F));
  Distilled distilled{{{learned, value}}, {}};
  distilled.how.data = "own.txt";
  distilled.how.sha256 = Sha256("own");
  distilled.how.steps = 7;
  distilled.how.seed = UINT64_MAX;
  distilled.how.kd_weight = 30;
  distilled.how.last_kd = 0.25;
  const auto made = MakeEmulator(folder_ / "model", 1, 2, folder_ / "out", &distilled);
  ASSERT_TRUE(made.ok()) << made.status();
  const StateDict tensors = ReadModelSafetensors(folder_ / "out")->tensors;
  EXPECT_TRUE(std::ranges::equal(tensors.at("model.layers.2.mlp.up_proj.weight").bytes(), value.bytes()));
  EXPECT_TRUE(std::ranges::equal(tensors.at("model.layers.2.mlp.down_proj.weight").bytes(),
                                 weights_.at("model.layers.4.mlp.down_proj.weight").bytes()));
  const auto read = ReadEmulator(folder_ / "out");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->distilled, distilled.how);
  EXPECT_FALSE(fs::exists(folder_ / "out/model.safetensors.new"));
}

TEST_F(EmulatorTest, ValuesThatAreNotOfItsMiddleAreRefused) {
  const auto refused = [this](const std::string& name, const Shape& shape) {
    const std::vector<float> zeros(static_cast<size_t>(*NumElements(shape)));
    const Distilled distilled{{{name, Tensor::FromFloats(shape, zeros)}}, {}};
    const Status status = MakeEmulator(folder_ / "model", 1, 2, folder_ / "out", &distilled).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << name;
    EXPECT_THAT(status.message(), HasSubstr(name));
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  const Shape shape = weights_.at("model.layers.0.mlp.up_proj.weight").shape();
  refused("model.layers.0.mlp.up_proj.weight", shape);  // an end
  refused("model.layers.2.mlp.up_proj.weight", shape);  // left out
  refused("model.layers.4.mlp.up_proj.weight", {2, 2});
  refused("model.layers.4.mlp.other.weight", shape);
  refused("model.embed_tokens.weight", weights_.at("model.embed_tokens.weight").shape());
}

TEST_F(EmulatorTest, ALayerThatWasDistilledIsNotPluggedIn) {
  emulator_.distilled = Distillation{};
  EXPECT_TRUE(PlugIn(spec_, emulator_, TunedOn(Lora({0, 3}))).ok());
  for (const std::vector<int64_t>& layers : {std::vector<int64_t>{0, 1}, {2}, {}}) {
    EXPECT_THAT(PlugIn(spec_, emulator_, TunedOn(Lora(layers))).status().message(), HasSubstr("was distilled"));
  }
}

TEST_F(EmulatorTest, AFolderThatHoldsSomethingIsNotWrittenOver) {
  EXPECT_EQ(MakeEmulator(folder_ / "model", 1, 2, folder_ / "model").status().code(), Code::kAlreadyExists);
  EXPECT_EQ(MakeEmulator(folder_ / "model", 3, 2, folder_ / "out").status().code(), Code::kInvalidArgument);
  EXPECT_FALSE(fs::exists(folder_ / "out")) << "nothing is left of a refusal";
  EXPECT_EQ(MakeEmulator(folder_ / "none", 1, 2, folder_ / "out").status().code(), Code::kNotFound);
}

TEST_F(EmulatorTest, WhatWasTunedOnItBelongsToTheSameLayersOfTheWhole) {
  const Adapter tuned = TunedOn(Lora({0, 3}));
  const auto plugged = PlugIn(spec_, emulator_, tuned);
  ASSERT_TRUE(plugged.ok()) << plugged.status();
  EXPECT_THAT(plugged->config.layers_to_transform, ElementsAre(0, 5));
  EXPECT_EQ(SpecOf(plugged->tensors), *AdapterSpec(spec_, plugged->config));
  const auto bytes = [](const Adapter& adapter, const std::string& path) {
    return adapter.tensors.at(LoraAKey(path)).bytes().data();
  };
  EXPECT_EQ(bytes(*plugged, "model.layers.5.self_attn.q_proj"), bytes(tuned, "model.layers.3.self_attn.q_proj"));
  EXPECT_EQ(bytes(*plugged, "model.layers.0.self_attn.v_proj"), bytes(tuned, "model.layers.0.self_attn.v_proj"));
}

TEST_F(EmulatorTest, EveryKindThatIsSaidByLayerCanBePluggedIn) {
  for (const char* type : {"LORA", "BOTTLENECK", "BITFIT", "FULL"}) {
    if (std::string(type) == "BITFIT") spec_.attention_out_bias = small_.attention_out_bias = true;
    AdapterConfig config = Lora({0, 3});
    config.peft_type = type;
    if (std::string(type) != "LORA") config.target_modules.clear();
    const auto plugged = PlugIn(spec_, emulator_, TunedOn(config));
    ASSERT_TRUE(plugged.ok()) << type << ": " << plugged.status();
    EXPECT_EQ(SpecOf(plugged->tensors), *AdapterSpec(spec_, plugged->config)) << type;
  }
}

TEST_F(EmulatorTest, AnAdapterOfAllItsLayersIsOneOfThoseLayers) {
  AdapterConfig config = Lora({});
  config.rank_pattern["model.layers.2.self_attn.q_proj"] = 3;
  const auto plugged = PlugIn(spec_, emulator_, TunedOn(config));
  ASSERT_TRUE(plugged.ok()) << plugged.status();
  EXPECT_THAT(plugged->config.layers_to_transform, ElementsAre(0, 1, 4, 5));
  EXPECT_EQ(plugged->config.RankOf("model.layers.4.self_attn.q_proj"), 3);
}

TEST_F(EmulatorTest, WhatIsNotSaidByLayerIsRefused) {
  AdapterConfig scales = Lora({});
  scales.peft_type = "IA3";
  scales.target_modules = {"k_proj"};
  EXPECT_THAT(PlugIn(spec_, emulator_, TunedOn(scales)).status().message(), HasSubstr("IA3"));
  AdapterConfig full;
  full.peft_type = "FULL";
  EXPECT_THAT(PlugIn(spec_, emulator_, TunedOn(full)).status().message(), HasSubstr("layers_to_transform"));
  Adapter beyond = TunedOn(Lora({3}));
  emulator_.layers = {0, 5};
  EXPECT_THAT(PlugIn(spec_, emulator_, beyond).status().message(), HasSubstr("layer 3"));
  emulator_.num_layers = 7;
  EXPECT_THAT(PlugIn(spec_, emulator_, beyond).status().message(), HasSubstr("7 layers"));
}

TEST_F(EmulatorTest, FoldersThatDoNotBelongTogetherAreRefused) {
  ASSERT_TRUE(MakeEmulator(folder_ / "model", 1, 2, folder_ / "emulator").ok());
  const Adapter tuned = TunedOn(Lora({0, 3}));
  ASSERT_TRUE(WriteAdapter(folder_ / "tuned", tuned.config, tuned.tensors).ok());
  ASSERT_TRUE(PlugInFolder(folder_ / "emulator", folder_ / "tuned", folder_ / "model", folder_ / "out").ok());
  EXPECT_TRUE(CheckBaseModel(folder_ / "out", folder_ / "model").ok());
  EXPECT_FALSE(CheckBaseModel(folder_ / "out", folder_ / "emulator").ok());
  EXPECT_EQ(ReadAdapter(folder_ / "out")->tensors.size(), tuned.tensors.size());
  // Tuned on another base; an emulator of another model; no emulator; a damaged one.
  model::WriteModelFolder(folder_ / "other", spec_, 4);
  const auto plug = [&](const char* emulator, const char* model) {
    return PlugInFolder(folder_ / emulator, folder_ / "tuned", folder_ / model, folder_ / "out2");
  };
  EXPECT_THAT(plug("emulator", "other").message(), HasSubstr("other weights"));
  EXPECT_EQ(plug("model", "model").code(), Code::kNotFound);
  folder_.Write("tuned/base_model.json", BaseModelJson({{"model.safetensors", Sha256("x")}}));
  EXPECT_THAT(plug("emulator", "model").message(), HasSubstr("another base model"));
  fs::remove(folder_ / "tuned/base_model.json");
  for (const char* text : {"", "[]", R"({"layers": [1, 0], "num_layers": 6, "ends": 1, "weights": []})",
                           R"({"layers": [], "num_layers": 6, "ends": 1, "weights": []})",
                           R"({"layers": [0, 6], "num_layers": 6, "ends": 1, "weights": []})",
                           R"({"layers": [0, 1], "num_layers": 6, "ends": 1, "weights": [], "distilled": {}})",
                           R"({"layers": [0, 1], "num_layers": 6, "ends": 1, "weights": [], "distilled": "yes"})"}) {
    folder_.Write("emulator/emulator.json", text);
    EXPECT_EQ(plug("emulator", "model").code(), Code::kInvalidArgument) << text;
  }
  EXPECT_FALSE(fs::exists(folder_ / "out2"));
}

}  // namespace
}  // namespace heddle::peft
