// [zo]: its keys, the presets by what is trained, and what it contradicts.
#include <gmock/gmock.h>

#include <set>

#include "aggregation/layer_groups.h"
#include "coordinator/recipe/checkpoint.h"
#include "coordinator/recipe/recipe.h"
#include "peft/adapter/prompt_generator.h"
#include "peft/adapter/prompt_projection.h"

namespace heddle::coordinator {
namespace {

using ::testing::HasSubstr;

Result<Recipe> Load(const std::string& lines) {
  return Recipe::LoadText("name = \"forward\"\n[model]\nbase = \"base\"\n" + lines, "/recipes", "forward.toml");
}

TEST(ZerothOrderRecipe, WithoutItsKeysIsARecipeOfBefore) {
  const auto recipe = Load("");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_FALSE(recipe->train.has_zo());
  EXPECT_EQ(recipe->resolved_json.find("\"zo\""), std::string::npos);
  EXPECT_EQ(recipe->train.learning_rate(), 1e-3);
}

TEST(ZerothOrderRecipe, TakesStepSizesThatSuitWhatIsTrained) {
  struct Case {
    const char* lines;
    double zo_eps, learning_rate;
  };
  for (const Case& one :
       {Case{"[train]\nlocal_task = \"zo_sft\"\n", 1e-2, 5e-5}, Case{"[zo]\noptimizer = \"zo_adam\"\n", 1e-2, 5e-4},
        Case{"[zo]\nestimator = \"spsa\"\n[tuning]\nmethod = \"full\"\n", 1e-3, 1e-6},
        Case{"[zo]\nnum_perturbations = 2\n[tuning]\nmethod = \"prefix-tuning\"\n", 1e-1, 1e-2},
        Case{"[zo]\nzo_eps = 0.5\n[train]\nlearning_rate = 1e-3\n", 0.5, 1e-3}}) {
    const auto recipe = Load(one.lines);
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_EQ(recipe->local_task, "zo_sft");
    EXPECT_EQ(recipe->TrainPlanOf(1).zo().zo_eps(), one.zo_eps) << one.lines;
    EXPECT_EQ(recipe->TrainPlanOf(1).learning_rate(), one.learning_rate) << one.lines;
    // run.json says what is trained with, also where the recipe does not.
    EXPECT_THAT(recipe->resolved_json, HasSubstr("\"zo_eps\":"));
    EXPECT_THAT(recipe->resolved_json, HasSubstr("\"local_task\":\"zo_sft\""));
  }
}

TEST(ZerothOrderRecipe, ReachesThePlan) {
  const auto recipe = Load(R"(
[zo]
estimator = "forward_gradient"
distribution = "rademacher"
optimizer = "zo_sign_sgd"
num_perturbations = 4
clip_projected_grad = 100.0
max_loss_difference = 10.0
sparse_fraction = 0.25
anchor_interval = 5
kept_front_mb = 24
)");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const v1::ZerothOrder& zo = recipe->train.zo();
  EXPECT_EQ(zo.estimator(), "forward_gradient");
  EXPECT_EQ(zo.distribution(), "rademacher");
  EXPECT_EQ(zo.optimizer(), "zo_sign_sgd");
  EXPECT_EQ(zo.num_perturbations(), 4U);
  EXPECT_EQ(zo.clip_projected_grad(), 100);
  EXPECT_EQ(zo.max_loss_difference(), 10);
  EXPECT_EQ(zo.sparse_fraction(), 0.25);
  EXPECT_EQ(zo.anchor_interval(), 5U);
  EXPECT_EQ(zo.anchor_perturbations(), 16U);
  EXPECT_EQ(zo.intrinsic_dim(), 0U);
  EXPECT_EQ(zo.kept_front_mb(), 24U);
}

TEST(ZerothOrderRecipe, OfATaskThatComputesGradientsIsRefused) {
  const auto recipe = Load("[train]\nlocal_task = \"lora_sft\"\n[zo]\nzo_eps = 0.1\n");
  ASSERT_EQ(recipe.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(recipe.status().message(), HasSubstr("zo.zo_eps"));
  EXPECT_EQ(Load("[zo]\nestimator = \"adam\"\n").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Load("[zo]\nnum_perturbations = 0\n").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Load("[zo]\nsparse_fraction = nan\n").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Load("[zo]\nkept_front_mb = 2000000\n").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Load("[train]\nlocal_task = \"sft\"\n[zo]\nkept_front_mb = 1\n").status().code(), Code::kInvalidArgument);
}

TEST(KeptFrontRecipe, OfATaskThatComputesGradientsHasAKeyOfItsOwn) {
  const std::string kept = "[train]\nkept_front_mb = 24\n";
  for (const auto& [lines, task] :
       {std::pair("", "lora_sft"),
        std::pair("[strategy]\nname = \"FedAdapter\"\n[tuning]\nmethod = \"bottleneck\"\n", "sft")}) {
    const auto recipe = Load(kept + lines);
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_EQ(recipe->local_task, task);
    EXPECT_EQ(recipe->TrainPlanOf(1).zo().kept_front_mb(), 24U);
    EXPECT_EQ(recipe->TrainPlanOf(1).zo().zo_eps(), 0) << "nothing else of a task without gradients";
    EXPECT_EQ(recipe->train.learning_rate(), 1e-3);
    EXPECT_THAT(recipe->resolved_json, HasSubstr("\"kept_front_mb\":24"));
  }
  const auto refused = [&](const std::string& lines) {
    const Status status = Load(kept + lines).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << lines;
    return status.message();
  };
  EXPECT_THAT(refused("local_task = \"zo_sft\"\n"), HasSubstr("zo.kept_front_mb in its place"));
  EXPECT_THAT(refused("[zo]\nzo_eps = 0.1\n"), HasSubstr("zo.kept_front_mb in its place"));
  EXPECT_THAT(refused("[tuning]\nmethod = \"prompt-tuning\"\n"), HasSubstr("virtual tokens are before all layers"));
  EXPECT_THAT(refused("[prompt]\npattern = \"{text} {mask}\"\nwords = [\"no\", \"yes\"]\n"),
              HasSubstr("'few_shot' keeps nothing"));
  EXPECT_EQ(Load("[train]\nkept_front_mb = 2000000\n").status().code(), Code::kInvalidArgument);
}

TEST(ZerothOrderRecipe, OfSpryGivesEachDeviceAGroupOfLayersAndForwardGradients) {
  const auto recipe = Load("[strategy]\nname = \"SPRY\"\ncohort_size = 4\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->local_task, "zo_sft");
  EXPECT_EQ(recipe->train.zo().estimator(), "forward_gradient");
  const RunMaterial material;
  std::set<uint32_t> groups;
  for (int i = 0; i < 60; ++i) {
    const DeviceId device("phone-" + std::to_string(i));
    const v1::TaskPlan plan = MakeTaskPlan(*recipe, material, 1, {}, device);
    EXPECT_EQ(plan.train().zo().layer_groups(), 4U);
    EXPECT_EQ(plan.train().zo().layer_group(), aggregation::LayerGroupOf(recipe->seed, 1, device.value(), 4));
    groups.insert(plan.train().zo().layer_group());
  }
  EXPECT_EQ(groups.size(), 4U);
  EXPECT_THAT(Load("[strategy]\nname = \"SPRY\"\n[train]\nlocal_task = \"sft\"\n").status().message(),
              HasSubstr("zo_sft"));
  EXPECT_THAT(Load("[strategy]\nname = \"SPRY\"\n[compression]\nupload = [\"int8\"]\n").status().message(),
              HasSubstr("compression.upload"));
}

TEST(ZerothOrderRecipe, OfAStrategyThatAddsToGradientsIsRefused) {
  for (const char* strategy : {"FedProx", "SCAFFOLD", "FedDyn", "HetLoRA"}) {
    const auto recipe = Load("[strategy]\nname = \"" + std::string(strategy) +
                             "\"\n[train]\nlocal_task = \"zo_sft\"\noptimizer = \"SGD\"\n");
    EXPECT_EQ(recipe.status().code(), Code::kInvalidArgument) << strategy;
    EXPECT_THAT(recipe.status().message(), HasSubstr("zo_sft")) << strategy;
  }
}

TEST(ZerothOrderRecipe, OfFedBptSearchesAPromptAndNothingElse) {
  const auto recipe = Load("[strategy]\nname = \"FedBPT\"\n[tuning]\nmethod = \"prompt-tuning\"\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->local_task, "bbpt");
  EXPECT_EQ(recipe->train.zo().intrinsic_dim(), 500U);
  EXPECT_THAT(Load("[strategy]\nname = \"FedBPT\"\n").status().message(), HasSubstr("prompt-tuning"));
  EXPECT_THAT(Load("[strategy]\nname = \"FedBPT\"\n[tuning]\nmethod = \"prompt-tuning\"\n[zo]\nkept_front_mb = 1\n")
                  .status()
                  .message(),
              HasSubstr("kept_front_mb"));
  EXPECT_THAT(Load("[tuning]\nmethod = \"prompt-tuning\"\n[strategy]\nname = \"FedProx\"\n[train]\nlocal_task = "
                   "\"bbpt\"\n")
                  .status()
                  .message(),
              HasSubstr("FedProx"));
  EXPECT_EQ(Load("[strategy]\nname = \"FedBPT\"\n[tuning]\nmethod = \"prompt-tuning\"\n[zo]\nintrinsic_dim = 9000\n")
                .status()
                .code(),
            Code::kInvalidArgument);
}

TEST(ZerothOrderRecipe, OfAPromptsGeneratorSaysWhatGoesWithIt) {
  const std::string prompt = "[tuning]\nmethod = \"prompt-tuning\"\n", dim = "generator_dim = 8\n";
  const auto recipe = Load(prompt + dim + "generator_scale = 0.5\n[zo]\nzo_eps = 0.1\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->local_task, "zo_sft");
  EXPECT_EQ(recipe->generator.dim, 8U);
  EXPECT_EQ(recipe->generator.scale, 0.5);
  EXPECT_EQ(Load(prompt + "[zo]\nzo_eps = 0.1\n")->generator.dim, 0U);
  const auto refused = [](const std::string& lines, const char* why) {
    const auto loaded = Load(lines);
    ASSERT_EQ(loaded.status().code(), Code::kInvalidArgument) << lines;
    EXPECT_THAT(loaded.status().message(), HasSubstr(why)) << lines;
  };
  const std::string zo = "[train]\nlocal_task = \"zo_sft\"\n";
  refused("[tuning]\n" + dim + zo, "prompt-tuning");
  refused("[tuning]\nmethod = \"p-tuning\"\n" + dim + zo, "prompt-tuning");
  refused(prompt + dim + "modules_to_save = [\"classifier\"]\n" + zo, "modules_to_save");
  refused(prompt + dim + "prompt_tuning_init = \"SAMPLE_VOCAB\"\n" + zo, "tuning.prompt_tuning_init");
  refused(prompt + dim, "zo_sft");
  refused(prompt + dim + "[strategy]\nname = \"FedKSeed\"\n", "zo_sft");
  refused(prompt + dim + "[strategy]\nname = \"FedBPT\"\n", "zo_sft");
  refused(prompt + dim + zo + "[compression]\ndownload = \"bf16\"\n", "compression.download");
  refused(prompt + "generator_scale = 2\n" + zo, "tuning.generator_scale");
  refused(prompt + "generator_dim = 1025\n" + zo, "tuning.generator_dim");
  refused(prompt + "[strategy]\nname = \"FedBPT\"\n[compression]\ndownload = \"bf16\"\n", "compression.download");
}

// What a checkpoint holds of a generator is the prompt that it makes, which PEFT reads.
TEST(ZerothOrderRecipe, AGeneratorBecomesItsPromptInItsCheckpoint) {
  StateDict model = peft::PromptGenerator{4, 8, 6, 5, 0.5}.InitialModel(1);
  const std::vector<float> output(40, 0.25F);
  model.insert_or_assign(std::string(peft::kGeneratorOutput), Tensor::FromFloats({8, 5}, output));
  peft::AdapterConfig config;
  config.peft_type = "PROMPT_TUNING";
  config.num_virtual_tokens = 4;
  const auto checkpoint = MakeCheckpoint(model, config.ToJson());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->adapter_config_json, config.ToJson());
  ASSERT_EQ(SpecOf(checkpoint->tensors), (StateDictSpec{{"prompt_embeddings", {DType::kF32, {4, 8}}}}));
  const auto prompt = checkpoint->tensors.at("prompt_embeddings").values<float>();
  EXPECT_EQ(std::vector<float>(prompt.begin(), prompt.end()),
            (peft::PromptGenerator{4, 8, 6, 5, 0.5}.Prompt(peft::PromptGenerator::WeightsOf(model))));
}

// What a checkpoint holds of a search is the prompt it stands for, which PEFT reads.
TEST(ZerothOrderRecipe, ASearchBecomesAPromptInItsCheckpoint) {
  const StateDict model = peft::PromptProjection{4, 8, 6, 0.1}.InitialModel(1);
  peft::AdapterConfig config;
  config.peft_type = "PROMPT_TUNING";
  config.num_virtual_tokens = 4;
  const auto checkpoint = MakeCheckpoint(model, config.ToJson());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(SpecOf(checkpoint->tensors), (StateDictSpec{{"prompt_embeddings", {DType::kF32, {4, 8}}}}));
}

}  // namespace
}  // namespace heddle::coordinator
