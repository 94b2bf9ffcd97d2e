// Recipes whose devices have parts of the model: keys, what a device's plan says, trees among the material, mistakes.
#include <gmock/gmock.h>

#include "common/file.h"
#include "common/safetensors.h"
#include "coordinator/recipe/recipe.h"
#include "model/parts/tensor_tree.h"
#include "protocol/validate.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PartsRecipe : public ::testing::Test {
 protected:
  PartsRecipe() {
    spec_.num_hidden_layers = 4;
    model::WriteModelFolder(folder_.path() / "base", spec_);
  }
  Result<Recipe> Load(const std::string& strategy, const std::string& lines = "") const {
    return Recipe::LoadText("name = \"parts\"\nseed = 3\n[model]\nbase = \"base\"\n[train]\nsequence_length = 32\n" +
                                lines + "[strategy]\nnum_server_rounds = 8\n" + strategy,
                            folder_.path(), "parts.toml");
  }
  v1::TaskPlan PlanOf(const Recipe& recipe, const RunMaterial& material, uint32_t round, const char* device,
                      uint32_t layers = 0) const {
    AdapterBlobs blobs;
    blobs.config = protocol::MakeBlobRef(Sha256("c"), 1, "adapter_config.json");
    blobs.model = protocol::MakeBlobRef(Sha256("m"), 1, "adapter_model.safetensors");
    v1::TaskPlan plan = MakeTaskPlan(recipe, material, round, blobs, DeviceId(device), layers);
    const Status valid = protocol::Validate(plan);
    EXPECT_TRUE(valid.ok()) << valid;
    return plan;
  }
  void Refused(const std::string& sentence, const std::string& strategy, const std::string& lines = "") const {
    const auto recipe = Load(strategy, lines);
    ASSERT_FALSE(recipe.ok()) << sentence;
    EXPECT_EQ(recipe.status().code(), Code::kInvalidArgument);
    EXPECT_THAT(recipe.status().message(), HasSubstr(sentence));
  }

  model::ModelSpec spec_ = model::TinyConfig();
  testing::TempFolder folder_;
};

TEST_F(PartsRecipe, APlanOfFedBfptHasItsLayersItsFrozenOnesAndTheTrees) {
  const auto recipe = Load("name = \"FedBFPT\"\nnum_layers = 4\nrounds_per_layer = 2\nsampled_layers = 1\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->local_task, "part_sft");
  const auto material = PrepareRun(*recipe);
  ASSERT_TRUE(material.ok()) << material.status();
  ASSERT_EQ(material->tensor_trees.size(), 1U);
  const auto& [ref, bytes] = material->tensor_trees[0];
  EXPECT_EQ(ref.name(), "model.safetensors.tree");
  EXPECT_EQ(ref.sha256(), Sha256(bytes).raw());
  const auto tree = model::DecodeTensorTree(bytes);
  ASSERT_TRUE(tree.ok()) << tree.status();
  EXPECT_EQ(tree->file, Sha256File(folder_.path() / "base/model.safetensors").value());
  EXPECT_EQ(tree->tensors.size(), spec_.WeightSpec().size());

  const v1::TaskPlan plan = PlanOf(*recipe, *material, 5, "anna");
  ASSERT_EQ(plan.train().layers_size(), 4) << "three that have had their turn, and the deeper one";
  EXPECT_THAT(plan.train().rules().frozen(), ElementsAre("0", "1"));
  ASSERT_EQ(plan.tensor_trees_size(), 1);
  EXPECT_EQ(plan.tensor_trees(0).sha256(), ref.sha256());
  EXPECT_THAT(recipe->ViewFor(DeviceId("anna"), 5).layers, ElementsAre(0, 1, 2));
  EXPECT_EQ(recipe->ViewFor(DeviceId("anna"), 5), recipe->ViewFor(DeviceId("bert"), 6)) << "one view serves them all";
}

TEST_F(PartsRecipe, TheAdapterNamesItsLayersOneByOne) {
  const auto recipe = Load("name = \"FedBFPT\"\nnum_layers = 4\n");
  const auto material = PrepareRun(*recipe);
  ASSERT_TRUE(material.ok()) << material.status();
  const auto config = peft::AdapterConfig::FromJson(material->adapter_config_json);
  EXPECT_THAT(config->layers_to_transform, ElementsAre(0, 1, 2, 3));
}

TEST_F(PartsRecipe, DevicesHaveAsManyLayersAsTheRecipeSays) {
  const auto recipe = Load(
      "name = \"HeteroLayers\"\nnum_layers = 4\ndevice_layers = [\"phone-*:1\", \"tablet:2\"]\nlayer_tiers = [3]\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_THAT(recipe->PartFor(DeviceId("phone-7"), 1).layers, ElementsAre(0));
  EXPECT_THAT(recipe->PartFor(DeviceId("tablet"), 1).layers, ElementsAre(0, 1));
  EXPECT_THAT(recipe->PartFor(DeviceId("laptop"), 1).layers, ElementsAre(0, 1, 2));
  const auto all = Load("name = \"HeteroLayers\"\nnum_layers = 4\n");
  EXPECT_EQ(all->ViewFor(DeviceId("laptop"), 1), DeviceView{});
}

// The estimate by the words of its headers, in double, for factors of rank 8 on q_proj and v_proj.
double BytesFor(const model::ModelSpec& spec, double layers) {
  const double hidden = 32, mlp = 48, query = 32, key = 16, heads = 4, rank = 8, batch = 4, length = 32, vocab = 320;
  EXPECT_EQ(spec.hidden_size, hidden);
  EXPECT_EQ(spec.intermediate_size, mlp);
  EXPECT_EQ(spec.num_attention_heads * spec.head_dim, query);
  EXPECT_EQ(spec.num_key_value_heads * spec.head_dim, key);
  EXPECT_EQ(spec.num_attention_heads, heads);
  EXPECT_EQ(spec.vocab_size, vocab);
  const double matrices = hidden * (query + 2 * key) + query * hidden + 3 * hidden * mlp;
  EXPECT_TRUE(spec.tie_word_embeddings);
  const double weights = layers * (matrices + 2 * hidden) + vocab * hidden + hidden;
  const double adapter = layers * rank * ((hidden + query) + (hidden + key));
  const double kept = 2 * hidden + query + 2 * key + heads * length + 2 * mlp + hidden;
  const double backward = std::max(2 * heads * length + 2 * query + 2 * key, 3 * mlp) + 2 * hidden;
  const double tokens = batch * length;
  const double once = std::max(tokens * backward, std::min(tokens, 1638.0) * vocab);
  return 4 * (weights + 4 * adapter + tokens * (layers * kept + 3 * hidden) + once);
}

TEST_F(PartsRecipe, ByMemoryARunSaysWhatEachNumberOfLayersTakes) {
  const std::string strategy = "name = \"HeteroLayers\"\nnum_layers = 4\nlayers_by_memory = true\n";
  const auto recipe = Load(strategy + "worker_memory_mb = 3\n", "batch_size = 4\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto material = PrepareRun(*recipe);
  ASSERT_TRUE(material.ok()) << material.status();
  const std::vector<uint64_t>& needs = material->spec.layer_memory;
  ASSERT_EQ(needs.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(static_cast<double>(needs[i]) - (3 << 20), BytesFor(spec_, static_cast<double>(i + 1)), 1) << i;
  }
  for (uint32_t layers = 1; layers <= 4; ++layers) {
    EXPECT_EQ(PlanOf(*recipe, *material, 1, "anna", layers).memory_bytes(), needs[layers - 1]);
  }
  EXPECT_THAT(PlanOf(*recipe, *material, 1, "anna").train().layers(), IsEmpty());
  EXPECT_EQ(PlanOf(*recipe, *material, 1, "anna").memory_bytes(), 0U);
  EXPECT_THAT(recipe->ViewFor(DeviceId("anna"), 1, 2).layers, ElementsAre(0, 1));
  EXPECT_EQ(recipe->ViewFor(DeviceId("anna"), 1, 4), DeviceView{});

  const auto deep = Load(strategy, "[tuning]\nlayers_to_transform = [2, 3]\n");
  ASSERT_TRUE(deep.ok()) << deep.status();
  const auto tuned = PrepareRun(*deep);
  ASSERT_TRUE(tuned.ok()) << tuned.status();
  EXPECT_EQ(tuned->spec.layer_memory[1], ~uint64_t{0}) << "there would be nothing to train";
  EXPECT_LT(tuned->spec.layer_memory[2], uint64_t{1} << 30);
  EXPECT_GT(tuned->spec.layer_memory[2], uint64_t{192} << 20) << "the worker itself, unless the recipe says else";
}

TEST_F(PartsRecipe, FrozenLayersNeedNoPartOfTheModel) {
  const auto recipe = Load("name = \"FreezeLayers\"\nnum_layers = 4\nrounds_per_layer = 1\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->local_task, "sft");
  const auto material = PrepareRun(*recipe);
  ASSERT_TRUE(material.ok()) << material.status();
  EXPECT_THAT(material->tensor_trees, IsEmpty());
  const v1::TaskPlan plan = PlanOf(*recipe, *material, 3, "anna");
  EXPECT_THAT(plan.train().rules().frozen(), ElementsAre("0", "1"));
  EXPECT_EQ(plan.train().layers_size(), 0);
  EXPECT_EQ(recipe->ViewFor(DeviceId("anna"), 3), DeviceView{});
}

TEST_F(PartsRecipe, MistakesAreToldWithTheirKeys) {
  Refused("strategy.device_layers", "name = \"HeteroLayers\"\nnum_layers = 4\ndevice_layers = [\"a:5\"]\n");
  Refused("strategy.layer_tiers", "name = \"HeteroLayers\"\nnum_layers = 4\nlayer_tiers = [0]\n");
  Refused("choose HeteroLayers", "name = \"FedAvg\"\nlayer_tiers = [1]\n");
  Refused("strategy.layers_by_memory", "name = \"FedBFPT\"\nnum_layers = 4\nlayers_by_memory = true\n");
  Refused("strategy.layers_by_memory",
          "name = \"HeteroLayers\"\nnum_layers = 4\nlayer_tiers = [1]\nlayers_by_memory = true\n");
  Refused("strategy.worker_memory_mb", "name = \"HeteroLayers\"\nnum_layers = 4\nworker_memory_mb = 100\n");
  Refused("train.local_task", "name = \"FedBFPT\"\nnum_layers = 4\n", "local_task = \"sft\"\n");
  Refused("tuning.peft_type", "name = \"FedBFPT\"\nnum_layers = 4\n", "[tuning]\nmethod = \"ia3\"\n");
  Refused("rounds_per_layer", "name = \"FedBFPT\"\nrounds_per_layer = 0\n");
  const auto recipe = Load("name = \"FedBFPT\"\nnum_layers = 12\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto material = PrepareRun(*recipe);
  EXPECT_EQ(material.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(material.status().message(), HasSubstr("has 4 layers"));
}

TEST_F(PartsRecipe, RunsOfOtherStrategiesAreAsBefore) {
  const auto recipe = Load("name = \"FedAvg\"\n");
  const auto material = PrepareRun(*recipe);
  ASSERT_TRUE(material.ok()) << material.status();
  EXPECT_THAT(material->tensor_trees, IsEmpty());
  EXPECT_THAT(recipe->resolved_json, ::testing::Not(HasSubstr("layer_tiers")));
  EXPECT_THAT(recipe->resolved_json, ::testing::Not(HasSubstr("memory_mb")));
  EXPECT_THAT(material->spec.layer_memory, IsEmpty());
  EXPECT_THAT(peft::AdapterConfig::FromJson(material->adapter_config_json)->layers_to_transform, IsEmpty());
}

}  // namespace
}  // namespace heddle::coordinator
