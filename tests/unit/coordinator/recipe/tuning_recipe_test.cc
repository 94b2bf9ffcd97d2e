// [tuning] and what came with it: keys, what they make of an adapter, and runs on models that get a new head.
#include <gmock/gmock.h>

#include "common/file.h"
#include "common/safetensors.h"
#include "coordinator/recipe/base_folder.h"
#include "coordinator/recipe/recipe.h"
#include "model/config/new_head.h"
#include "model/config/registry.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Result<Recipe> Load(const std::string& lines, const fs::path& folder = "/recipes") {
  return Recipe::LoadText("name = \"tuned\"\nseed = 3\n[model]\nbase = \"base\"\n" + lines, folder, "tuned.toml");
}

TEST(TuningKeys, MakeAnAdapterOfEachKind) {
  for (const std::string& method : TuningMethodNames()) {
    const auto recipe = Load("[tuning]\nmethod = \"" + method + "\"\n");
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_TRUE(recipe->lora.Validate().ok()) << method;
    EXPECT_EQ(recipe->lora.target_modules.empty(), method != "lora") << "lora's default is lora's only";
  }
  EXPECT_EQ(Load("[tuning]\nmethod = \"prefix-tuning\"\nnum_virtual_tokens = 7\n")->lora.num_virtual_tokens, 7);
  const auto lora = Load(R"([lora]
use_dora = true
loraplus_lr_ratio = 16
rank_pattern = { down_proj = 4, "mlp.up_proj" = 2 }
alpha_pattern = { q_proj = 3.5 }
[tuning]
modules_to_save = ["classifier"]
layers_to_transform = [0, 3]
)");
  ASSERT_TRUE(lora.ok()) << lora.status();
  EXPECT_TRUE(lora->lora.use_dora);
  EXPECT_EQ(lora->lora.loraplus_lr_ratio, 16);
  EXPECT_EQ(lora->lora.rank_pattern, (std::map<std::string, int64_t>{{"down_proj", 4}, {"mlp.up_proj", 2}}));
  EXPECT_EQ(lora->lora.alpha_pattern, (std::map<std::string, double>{{"q_proj", 3.5}}));
  EXPECT_THAT(lora->lora.layers_to_transform, ElementsAre(0, 3));
  EXPECT_THAT(Load("[tuning]\ntarget_modules_regex = \".*q_proj\"\n")->lora.target_modules, ElementsAre());
}

TEST(TuningKeys, AreSilentAtTheirDefaults) {
  const std::string json = Load("")->resolved_json;
  EXPECT_THAT(json, Not(HasSubstr("tuning")));
  EXPECT_THAT(json, Not(HasSubstr("pattern")));
  EXPECT_THAT(json, Not(HasSubstr("regex")));
  EXPECT_THAT(json, Not(HasSubstr("num_labels")));
  EXPECT_THAT(json, Not(HasSubstr("use_dora")));
  EXPECT_EQ(Load("[tuning]\nmethod = \"lora\"\nplacement = \"houlsby\"\n[lora]\nuse_dora = false\n")->resolved_json,
            json);
  EXPECT_THAT(Load("[lora]\nrank_pattern = { q_proj = 2 }\n")->resolved_json, HasSubstr("rank_pattern"));
}

TEST(TuningKeys, MistakesAreToldWithTheirKeys) {
  const auto refused = [](const std::string& lines, const char* said) {
    const auto recipe = Load(lines);
    EXPECT_EQ(recipe.status().code(), Code::kInvalidArgument) << lines;
    EXPECT_THAT(recipe.status().message(), HasSubstr(said));
  };
  refused("[tuning]\nmethod = \"lorra\"\n", "tuning.method");
  refused("[tuning]\nplacement = \"parallel\"\n", "tuning.placement");
  refused("[tuning]\nnum_virtual_tokens = 0\n", "tuning.num_virtual_tokens");
  refused("[tuning]\nmethd = \"lora\"\n", "tuning.method");
  refused("[lora]\nrank_pattern = { q_proj = \"four\" }\n", "the value of 'q_proj' is no whole number");
  refused("[lora]\nrank_pattern = { q_proj = 0 }\n", "rank_pattern");
  // HetLoRA's devices cut all modules to one rank; where each has its own, they would cut what they have not pruned.
  refused("[lora]\nrank_pattern = { q_proj = 4 }\n[strategy]\nname = \"HetLoRA\"\n", "strategy.prune_gamma = 0");
  EXPECT_TRUE(Load("[lora]\nrank_pattern = { q_proj = 4 }\n[strategy]\nname = \"HetLoRA\"\nprune_gamma = 0\n").ok());
  refused("[lora]\nuse_dora = true\ninit_lora_weights = \"pissa\"\n", "do not go together");
  refused("label_names = [\"no\", \"yes\"]\n", "model.label_names");
  refused("[tuning]\ntarget_modules = [\"a\"]\ntarget_modules_regex = \"b\"\n", "tuning.target_modules_regex");
}

// A recipe that narrows what is trained must not train everything in silence.
TEST(TuningKeys, SettingsThatMeanNothingToTheMethodAreRefusedByName) {
  const auto refused = [](const std::string& lines, const std::string& key) {
    const auto recipe = Load(lines);
    EXPECT_EQ(recipe.status().code(), Code::kInvalidArgument) << lines;
    EXPECT_THAT(recipe.status().message(), HasSubstr(key + ": tuning.method \"")) << lines;
  };
  refused("[tuning]\nmethod = \"full\"\ntarget_modules = [\"q_proj\"]\n", "tuning.target_modules");
  refused("[tuning]\nmethod = \"bottleneck\"\ntarget_modules_regex = \".*q_proj\"\n", "tuning.target_modules_regex");
  refused("[tuning]\nmethod = \"ia3\"\ntarget_modules = [\"k_proj\"]\nlayers_to_transform = [1]\n",
          "tuning.layers_to_transform");
  refused("[tuning]\nbias_only_layers = [1]\n", "tuning.bias_only_layers");
  refused("[tuning]\nmethod = \"bitfit\"\nbottleneck_size = 3\n", "tuning.bottleneck_size");
  refused("[tuning]\nnum_virtual_tokens = 3\n", "tuning.num_virtual_tokens");
  refused("[tuning]\nmethod = \"prefix-tuning\"\n[lora]\nuse_dora = true\n", "lora.use_dora");
  refused("[tuning]\nmethod = \"bitfit\"\n[lora]\nrank_pattern = { q_proj = 2 }\n", "lora.rank_pattern");
  EXPECT_THAT(
      Load("[tuning]\nmethod = \"full\"\nlayers_to_transform = [0, 1]\nbias_only_layers = [1]\n").status().message(),
      HasSubstr("tuning.bias_only_layers: layer 1 is in layers_to_transform too"));
  // A run that an earlier version began with such a setting is taken up.
  EXPECT_TRUE(
      Recipe::LoadText("name = \"tuned\"\n[model]\nbase = \"base\"\n[tuning]\nmethod = \"full\"\ntarget_modules = "
                       "[\"q_proj\"]\n",
                       "/recipes", "tuned.toml", {}, Recipe::Origin::kStored)
          .ok());
  // A sweep over methods leaves these where they are.
  EXPECT_TRUE(
      Load("[tuning]\nmethod = \"bitfit\"\n[lora]\nr = 4\nlora_alpha = 8\ntarget_modules = [\"q_proj\"]\n").ok());
}

class NewHeadTest : public ::testing::Test {
 protected:
  // BERT's body, with its pooler or not, under the names that its class has.
  void WriteBase(const std::string& architecture, bool pooler, const std::string& prefix) {
    const std::string config = R"({"architectures": [")" + architecture + R"("], "model_type": "bert",
      "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
      "vocab_size": 400, "max_position_embeddings": 64, "a_key_of_its_own": [1, 2]})";
    ASSERT_TRUE(MakeDirectories(base()).ok());
    ASSERT_TRUE(WriteFileAtomically(base() / "config.json", config).ok());
    auto whole = model::ParseModelConfig(*model::ConfigWithNewHead(config, 2));
    ASSERT_TRUE(whole.ok()) << whole.status();
    StateDict weights;
    for (const auto& [name, tensor] : model::RandomWeights(*whole, 1)) {
      if (name.starts_with("classifier") || (!pooler && name.starts_with("bert.pooler"))) continue;
      weights.emplace(prefix + name.substr(std::string("bert.").size()), tensor);
    }
    const float one = 1;
    if (!pooler) weights.emplace("cls.predictions.bias", Tensor::FromFloats({1}, {&one, 1}));
    ASSERT_TRUE(WriteSafetensors(base() / "model.safetensors", weights).ok());
    ASSERT_TRUE(WriteFileAtomically(base() / "tokenizer.json", model::TinyTokenizerJson(400)).ok());
  }
  fs::path base() const { return folder_.path() / "base"; }
  Result<RunMaterial> Prepare(const std::string& lines) const {
    HEDDLE_ASSIGN_OR_RETURN(const Recipe recipe, Load(lines + "[train]\nsequence_length = 32\n", folder_.path()));
    return PrepareRun(recipe);
  }
  static const Tensor& At(const StateDict& dict, const std::string& key) {
    const auto found = dict.find(key);
    EXPECT_NE(found, dict.end()) << key;
    static const Tensor none;
    return found == dict.end() ? none : found->second;
  }

  testing::TempFolder folder_;
};

constexpr const char* kThree = "num_labels = 3\nlabel_names = [\"no\", \"perhaps\", \"yes\"]\n";

TEST_F(NewHeadTest, AModelWithoutAHeadIsTunedForClassificationAndItsClassifierTravels) {
  WriteBase("BertModel", true, "");
  EXPECT_THAT(Prepare("[lora]\ntarget_modules = [\"query\"]\n").status().message(), HasSubstr("model.num_labels"));
  const auto material = Prepare(std::string(kThree) + "[lora]\ntarget_modules = [\"query\"]\n");
  ASSERT_TRUE(material.ok()) << material.status();
  const Tensor& head = At(material->initial_adapter, "base_model.model.classifier.weight");
  EXPECT_EQ(head.shape(), (Shape{3, 12}));
  double squares = 0;
  for (const float x : head.values<float>()) {
    squares += double{x} * double{x};
  }
  EXPECT_NEAR(std::sqrt(squares / 36), 0.02, 0.006);
  EXPECT_FALSE(material->initial_adapter.contains("base_model.model.bert.pooler.dense.weight"));
  const auto config = peft::AdapterConfig::FromJson(material->adapter_config_json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->modules_to_save, ElementsAre("classifier"));
  EXPECT_EQ(config->task_type, "SEQ_CLS");
  // What devices get says what it needs.
  ASSERT_EQ(material->base_model[0].first.name(), "config.json");
  EXPECT_TRUE(material->base_model[0].second.empty());
  EXPECT_EQ(material->base_model[0].first.size_bytes(), material->model_config_json.size());
  const auto spec = model::ParseModelConfig(material->model_config_json);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->architecture, "BertForSequenceClassification");
  EXPECT_THAT(spec->label_names, ElementsAre("no", "perhaps", "yes"));
  EXPECT_THAT(material->model_config_json, HasSubstr("a_key_of_its_own"));
}

TEST_F(NewHeadTest, WhatAPretrainedModelLacksBesideTheClassifierTravelsToo) {
  WriteBase("BertForMaskedLM", false, "bert.");
  const auto material = Prepare("num_labels = 2\n[lora]\ntarget_modules = [\"query\"]\n");
  ASSERT_TRUE(material.ok()) << material.status();
  const auto config = peft::AdapterConfig::FromJson(material->adapter_config_json);
  EXPECT_THAT(config->modules_to_save, ElementsAre("classifier", "pooler"));
  EXPECT_EQ(At(material->initial_adapter, "base_model.model.bert.pooler.dense.weight").shape(), (Shape{12, 12}));
}

TEST_F(NewHeadTest, GoesWithEveryMethod) {
  WriteBase("BertModel", true, "");
  for (const std::string& method : TuningMethodNames()) {
    const std::string targets = method == "lora" ? "target_modules = [\"query\", \"value\"]\n" : "";
    const auto material = Prepare(std::string(kThree) + "[tuning]\nmethod = \"" + method + "\"\n" + targets);
    ASSERT_TRUE(material.ok()) << method << ": " << material.status();
    const auto config = peft::AdapterConfig::FromJson(material->adapter_config_json);
    ASSERT_TRUE(config.ok()) << config.status();
    const std::string root = peft::IsPromptLearning(config->kind()) ? "base_model." : "base_model.model.";
    EXPECT_TRUE(material->initial_adapter.contains(root + "classifier.bias")) << method;
    const auto spec = model::ParseModelConfig(material->model_config_json);
    EXPECT_EQ(*peft::AdapterSpec(*spec, *config), SpecOf(material->initial_adapter)) << method;
  }
}

TEST_F(NewHeadTest, TheTaskIsThatOfTheModelAndOneThatPeftKnows) {
  const auto task = [this](const std::string& lines, const char* what) {
    const auto material = Prepare(lines);
    EXPECT_TRUE(material.ok()) << what << ": " << material.status();
    return material.ok() ? peft::AdapterConfig::FromJson(material->adapter_config_json)->task_type : "none";
  };
  const std::string query = "[lora]\ntarget_modules = [\"query\"]\n";
  WriteBase("BertModel", true, "");
  // Heads of their own, with nothing to store whole.
  for (const auto& [architecture, expected] :
       {std::pair("BertForMaskedLM", ""), std::pair("BertForSequenceClassification", "SEQ_CLS")}) {
    const std::string config = R"({"architectures": [")" + std::string(architecture) + R"("], "model_type": "bert",
      "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": 400,
      "max_position_embeddings": 64})";
    const auto spec = model::ParseModelConfig(config);
    ASSERT_TRUE(spec.ok()) << spec.status();
    ASSERT_TRUE(WriteFileAtomically(base() / "config.json", config).ok());
    ASSERT_TRUE(WriteSafetensors(base() / "model.safetensors", model::RandomWeights(*spec, 1)).ok());
    EXPECT_EQ(task(query, architecture), expected);
  }
  fs::remove_all(base());
  model::WriteModelFolder(base(), model::TinyConfig());
  EXPECT_EQ(task("", "a language model"), "CAUSAL_LM");
  fs::remove_all(base());
  fs::copy(fs::path(HEDDLE_SOURCE_DIR) / "tests/data/encoders/vit", base());
  EXPECT_EQ(task(query, "images"), "");
  EXPECT_EQ(task("[tuning]\nmethod = \"full\"\n", "images"), "");
}

TEST_F(NewHeadTest, ANameThatStandsForNothingIsRefusedWithTheNearest) {
  WriteBase("BertModel", true, "");
  const auto refused = [this](const std::string& lines, const char* said) {
    const Status status = Prepare(kThree + lines).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << lines;
    EXPECT_THAT(status.message(), HasSubstr(said));
  };
  refused("[lora]\ntarget_modules = [\"query\", \"vlaue\"]\n", "'vlaue' is none of");
  refused("[lora]\ntarget_modules = [\"query\", \"vlaue\"]\n", "did you mean 'value'?");
  const std::string query = "[lora]\ntarget_modules = [\"query\"]\nr = 4\n";
  refused(query + "exclude_modules = [\"layer.7.attention.self.query\"]\n", "exclude_modules: ");
  refused(query + "exclude_modules_regex = \".*qeury\"\n", "exclude_modules: '.*qeury'");
  refused(query + "rank_pattern = { value = 2 }\n", "rank_pattern: 'value' is none of query");
  refused(query + "alpha_pattern = { value = 2 }\n", "alpha_pattern: 'value' is none of query");
  refused("[lora]\ntarget_modules = [\"query\"]\nr = 13\n", "the rank 13 is above the width");
  refused(query + "[lora.rank_pattern]\n\"bert.encoder.layer.0.attention.self.query\" = 13\n",
          "the rank 13 is above the width");
  refused("[tuning]\nmethod = \"ia3\"\ntarget_modules = [\"key\"]\nfeedforward_modules_regex = \".*output.dense\"\n",
          "feedforward_modules: '.*output.dense' is none of key");
  EXPECT_TRUE(Prepare(kThree + query + "exclude_modules_regex = \".*layer.0.*\"\n").ok());
  refused(query + "[strategy]\nkept = [\"lora_\"]\n", "no tensor of the adapter has 'lora_' between the dots");
}

TEST_F(NewHeadTest, AModelThatHasNoClassifierHereIsRefused) {
  model::WriteModelFolder(base(), model::TinyConfig());
  const auto material = Prepare("num_labels = 2\n");
  EXPECT_EQ(material.status().code(), Code::kUnimplemented);
  EXPECT_THAT(material.status().message(), HasSubstr("no classifier for LlamaForCausalLM"));
}

TEST_F(NewHeadTest, ProgramsOnThisMachineGetAFolderOfLinks) {
  WriteBase("BertModel", true, "");
  const auto plain = Load("", folder_.path());
  EXPECT_EQ(*DeviceBaseFolder(*plain, folder_.path() / "out"), base());
  const auto recipe = Load(kThree, folder_.path());
  const auto folder = DeviceBaseFolder(*recipe, folder_.path() / "out");
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(*DeviceBaseFolder(*recipe, folder_.path() / "out"), *folder) << "again";
  EXPECT_EQ(model::ReadModelConfig(*folder)->num_labels, 3);
  EXPECT_TRUE(fs::is_symlink(*folder / "model.safetensors"));
  EXPECT_TRUE(ReadModelSafetensors(*folder).ok());
  EXPECT_EQ(model::ReadModelConfig(base())->architecture, "BertModel") << "the base is as it was";
}

TEST_F(NewHeadTest, VirtualTokensCountAmongThoseThatTheModelTakes) {
  WriteBase("BertModel", true, "");
  const auto material = Prepare("num_labels = 2\n[tuning]\nmethod = \"prompt-tuning\"\nnum_virtual_tokens = 40\n");
  EXPECT_EQ(material.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(material.status().message(), HasSubstr("beside 40 virtual tokens"));
}

}  // namespace
}  // namespace heddle::coordinator
