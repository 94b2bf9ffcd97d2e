// [zo]: its keys, the presets by what is trained, and what it contradicts.
#include <gmock/gmock.h>

#include "coordinator/recipe/recipe.h"

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
}

TEST(ZerothOrderRecipe, OfATaskThatComputesGradientsIsRefused) {
  const auto recipe = Load("[train]\nlocal_task = \"lora_sft\"\n[zo]\nzo_eps = 0.1\n");
  ASSERT_EQ(recipe.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(recipe.status().message(), HasSubstr("zo.zo_eps"));
  EXPECT_EQ(Load("[zo]\nestimator = \"adam\"\n").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Load("[zo]\nnum_perturbations = 0\n").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Load("[zo]\nsparse_fraction = nan\n").status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::coordinator
