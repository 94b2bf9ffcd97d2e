// PrepareRun on base folders made here, which then begin to lie.
#include <gmock/gmock.h>

#include <fstream>

#include "coordinator/engine/engine.h"
#include "coordinator/recipe/recipe.h"
#include "model/config/registry.h"
#include "protocol/validate.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class PrepareRunTest : public ::testing::Test {
 protected:
  PrepareRunTest() { model::WriteModelFolder(base(), model::TinyConfig()); }

  fs::path base() const { return folder_.path() / "base"; }
  Result<Recipe> LoadRecipe(const std::string& lines = "") const {
    return Recipe::LoadText(
        "name = \"tiny\"\nseed = 3\n[model]\nbase = \"base\"\n[train]\nsequence_length = 32\n" + lines, folder_.path(),
        "tiny.toml");
  }
  Result<RunMaterial> Prepare(const std::string& lines = "") const {
    HEDDLE_ASSIGN_OR_RETURN(Recipe recipe, LoadRecipe(lines));
    return PrepareRun(recipe);
  }
  void ExpectRefused(Code code, const std::string& sentence, const std::string& lines = "") const {
    auto material = Prepare(lines);
    ASSERT_FALSE(material.ok()) << sentence;
    EXPECT_EQ(material.status().code(), code) << material.status();
    EXPECT_THAT(material.status().message(), HasSubstr(sentence));
  }
  void WriteConfig(const model::ModelSpec& config) const {
    ASSERT_TRUE(WriteFileAtomically(base() / "config.json", model::LlamaConfigJson(config)).ok());
  }

  testing::TempFolder folder_;
};

TEST_F(PrepareRunTest, MakesTheMaterialOfARun) {
  auto material = Prepare();
  ASSERT_TRUE(material.ok()) << material.status();
  std::vector<std::string> names;
  for (const auto& [ref, path] : material->base_model) {
    names.push_back(ref.name());
    EXPECT_EQ(ref.sha256(), Sha256File(path)->raw());
    EXPECT_EQ(ref.size_bytes(), fs::file_size(path));
  }
  EXPECT_THAT(names, ElementsAre("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"));
  // q_proj and v_proj of two layers, A and B each.
  EXPECT_EQ(material->initial_adapter.size(), 8U);
  for (const auto& [name, tensor] : material->initial_adapter) {
    bool is_b = name.find("lora_B") != std::string::npos;
    bool zero = true;
    auto values = tensor.ToFloats();
    for (float value : *values) zero = zero && value == 0;
    EXPECT_EQ(zero, is_b) << name;
  }
  EXPECT_EQ(material->initial_adapter_bytes, SerializeSafetensors(material->initial_adapter));
  EXPECT_GT(material->spec.max_update_bytes, material->initial_adapter_bytes.size());
  EXPECT_EQ(material->spec.local_task, "lora_sft");
  EXPECT_THAT(material->spec.id.value(), StartsWith("tiny-"));
  EXPECT_EQ(material->spec.id.value().size(), std::string("tiny-").size() + 8);
  EXPECT_TRUE(CheckRunSpec(material->spec).ok()) << CheckRunSpec(material->spec);
}

TEST_F(PrepareRunTest, TheLongestUpdateFollowsFromHowItIsMadeSmaller) {
  const auto material = Prepare("[compression]\nupload = [\"int4\"]\n");
  ASSERT_TRUE(material.ok()) << material.status();
  // Header and stage, then of each tensor half a byte a value and a scale for each 256.
  uint64_t bytes = 22 + 5;
  for (const auto& [name, tensor] : material->initial_adapter) {
    const auto count = static_cast<uint64_t>(tensor.numel());
    bytes += (count + 1) / 2 + (count + 255) / 256 * 4;
  }
  EXPECT_EQ(material->spec.max_update_bytes, bytes);
  EXPECT_EQ(material->spec.local_task, "sft");
  // Control variates are as many again.
  const auto scaffold = Prepare(
      "optimizer = \"SGD\"\n[strategy]\nname = \"SCAFFOLD\"\nnum_devices = 9\n[compression]\nupload = [\"int4\"]\n");
  ASSERT_TRUE(scaffold.ok()) << scaffold.status();
  EXPECT_EQ(scaffold->spec.max_update_bytes, 2 * (bytes - 27) + 27);
}

TEST_F(PrepareRunTest, NamesTheSameRunForTheSameMaterialOnly) {
  std::string id = Prepare()->spec.id.value();
  EXPECT_EQ(Prepare()->spec.id.value(), id);
  EXPECT_NE(Prepare("local_steps = 11\n")->spec.id.value(), id);
  model::WriteModelFolder(base(), model::TinyConfig(), /*seed=*/2);
  EXPECT_NE(Prepare()->spec.id.value(), id);
}

TEST_F(PrepareRunTest, MakesPlansThatTheProtocolTakes) {
  auto recipe = LoadRecipe();
  auto material = Prepare();
  ASSERT_TRUE(recipe.ok() && material.ok());
  Sha256Digest adapter = Sha256(material->initial_adapter_bytes);
  auto plan = [&](uint32_t round, const char* device) {
    const std::string& config = material->adapter_config_json;
    const AdapterBlobs blobs{
        protocol::MakeBlobRef(Sha256(config), config.size(), "adapter_config.json"),
        protocol::MakeBlobRef(adapter, material->initial_adapter_bytes.size(), "adapter_model.safetensors")};
    return MakeTaskPlan(*recipe, *material, round, blobs, DeviceId(device));
  };
  v1::TaskPlan one = plan(1, "a");
  EXPECT_TRUE(protocol::Validate(one).ok()) << protocol::Validate(one);
  EXPECT_EQ(one.base_model_size(), 4);
  EXPECT_EQ(one.adapter(1).sha256(), adapter.raw());
  EXPECT_EQ(one.adapter(0).sha256(), Sha256(material->adapter_config_json).raw());
  EXPECT_EQ(one.max_num_examples(), material->spec.max_num_examples);
  // Every task has its own seed, and the same task always the same.
  EXPECT_EQ(one.seed(), plan(1, "a").seed());
  EXPECT_NE(one.seed(), plan(2, "a").seed());
  EXPECT_NE(one.seed(), plan(1, "b").seed());
}

TEST_F(PrepareRunTest, RefusesAFolderWithAFileMissing) {
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    fs::rename(base() / name, base() / "away");
    auto material = Prepare();
    EXPECT_FALSE(material.ok()) << name;
    EXPECT_EQ(material.status().code(), Code::kNotFound) << material.status();
    fs::rename(base() / "away", base() / name);
  }
  EXPECT_TRUE(Prepare().ok());
  fs::remove_all(base());
  EXPECT_EQ(Prepare().status().code(), Code::kNotFound);
}

TEST_F(PrepareRunTest, RefusesWeightsThatLackATensor) {
  StateDict weights = model::RandomWeights(model::TinyConfig(), 1);
  weights.erase("model.layers.1.mlp.up_proj.weight");
  ASSERT_TRUE(WriteSafetensors(base() / "model.safetensors", weights).ok());
  ExpectRefused(Code::kInvalidArgument, "the weights lack model.layers.1.mlp.up_proj.weight");
}

TEST_F(PrepareRunTest, RefusesAConfigThatClaimsOtherShapesThanTheWeightsHave) {
  model::ModelSpec wider = model::TinyConfig();
  wider.intermediate_size = 52;
  WriteConfig(wider);
  ExpectRefused(Code::kInvalidArgument, "has shape");
}

TEST_F(PrepareRunTest, RefusesAConfigThatClaimsMoreLayersThanThereAre) {
  model::ModelSpec deeper = model::TinyConfig();
  deeper.num_hidden_layers = 3;
  WriteConfig(deeper);
  ExpectRefused(Code::kInvalidArgument, "model.layers.2.");
}

TEST_F(PrepareRunTest, RefusesATokenizerWithMoreTokensThanTheModelHasEmbeddings) {
  ASSERT_TRUE(WriteFileAtomically(base() / "tokenizer.json", model::TinyTokenizerJson(400)).ok());
  ExpectRefused(Code::kInvalidArgument, "the tokenizer does not fit the model");
}

TEST_F(PrepareRunTest, RefusesSequencesLongerThanTheModelTakes) {
  auto recipe = Recipe::LoadText("name = \"tiny\"\n[model]\nbase = \"base\"\n[train]\nsequence_length = 65\n",
                                 folder_.path(), "tiny.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  auto material = PrepareRun(*recipe);
  EXPECT_EQ(material.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(material.status().message(), HasSubstr("at most 64 tokens"));
}

TEST_F(PrepareRunTest, RefusesModulesThatTheModelDoesNotHave) {
  ExpectRefused(Code::kInvalidArgument, "q_proj", "[lora]\ntarget_modules = [\"query\"]\n");
}

TEST_F(PrepareRunTest, RefusesDamagedFilesWithoutCrashing) {
  std::string weights = *ReadFile(base() / "model.safetensors");
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    std::string good = *ReadFile(base() / name);
    for (const std::string& bad : {std::string(), std::string("{"), good.substr(0, good.size() / 2),
                                   std::string(300, '\xff'), "[" + good + "]"}) {
      std::ofstream(base() / name, std::ios::binary | std::ios::trunc) << bad;
      EXPECT_FALSE(Prepare().ok()) << name << " with " << bad.size() << " bytes";
    }
    std::ofstream(base() / name, std::ios::binary | std::ios::trunc) << good;
  }
  EXPECT_TRUE(Prepare().ok());
}

TEST_F(PrepareRunTest, AModelOfImagesNeedsNoTokenizerAndBringsItsPreprocessing) {
  const std::string config =
      R"({"architectures": ["ViTForImageClassification"], "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "image_size": 8, "patch_size": 4})";
  fs::remove_all(base());
  fs::create_directory(base());
  ASSERT_TRUE(WriteFileAtomically(base() / "config.json", config).ok());
  ASSERT_TRUE(WriteFileAtomically(base() / "preprocessor_config.json", "{}").ok());
  ASSERT_TRUE(
      WriteSafetensors(base() / "model.safetensors", model::RandomWeights(*model::ParseModelConfig(config), 1)).ok());
  auto material = Prepare("[lora]\ntarget_modules = [\"query\"]\n");
  ASSERT_TRUE(material.ok()) << material.status();
  std::vector<std::string> names;
  for (const auto& [ref, path] : material->base_model) names.push_back(ref.name());
  EXPECT_THAT(names, ElementsAre("config.json", "preprocessor_config.json", "model.safetensors"));
}

TEST_F(PrepareRunTest, RefusesAModelWithoutAHead) {
  const std::string config = R"({"architectures": ["BertModel"], "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 400, "max_position_embeddings": 64})";
  ASSERT_TRUE(WriteFileAtomically(base() / "config.json", config).ok());
  ASSERT_TRUE(
      WriteSafetensors(base() / "model.safetensors", model::RandomWeights(*model::ParseModelConfig(config), 1)).ok());
  ExpectRefused(Code::kInvalidArgument, "BertModel has no head to train");
}

TEST_F(PrepareRunTest, RefusesLabellingByAModelWithoutClasses) {
  for (const char* strategy : {"FeS", "LP-FL"}) {
    ExpectRefused(Code::kInvalidArgument, "LlamaForCausalLM has no classes to label with; give [prompt] a pattern",
                  std::string("[strategy]\nname = \"") + strategy + "\"\n");
  }
}

TEST_F(PrepareRunTest, TakesWeightsInShardsAndNamesEachOfThem) {
  StateDict weights = model::RandomWeights(model::TinyConfig(), 1);
  StateDict first, second;
  std::string map;
  for (auto& [name, tensor] : weights) {
    bool in_first = first.size() < weights.size() / 2;
    map += (map.empty() ? "" : ", ") + ("\"" + name) + "\": \"model-0000" + (in_first ? "1" : "2") +
           "-of-00002.safetensors\"";
    (in_first ? first : second).emplace(name, tensor);
  }
  ASSERT_TRUE(WriteSafetensors(base() / "model-00001-of-00002.safetensors", first).ok());
  ASSERT_TRUE(WriteSafetensors(base() / "model-00002-of-00002.safetensors", second).ok());
  ASSERT_TRUE(WriteFileAtomically(base() / "model.safetensors.index.json", "{\"weight_map\": {" + map + "}}").ok());
  fs::remove(base() / "model.safetensors");
  auto material = Prepare();
  ASSERT_TRUE(material.ok()) << material.status();
  std::vector<std::string> names;
  for (const auto& [ref, path] : material->base_model) names.push_back(ref.name());
  EXPECT_THAT(names,
              ElementsAre("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json",
                          "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"));
}

}  // namespace
}  // namespace heddle::coordinator
