// Recipes whose devices clip and noise their updates: keys, what a device's plan says, what is said of the guarantee,
// and every method that it does not go with.
#include <gmock/gmock.h>

#include <cmath>

#include "coordinator/recipe/recipe.h"
#include "protocol/validate.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kNoised = "[privacy]\nupdate_clip = 0.1\nnoise_multiplier = 2.0\n";

class PrivacyRecipe : public ::testing::Test {
 protected:
  PrivacyRecipe() { model::WriteModelFolder(folder_.path() / "base", model::TinyConfig()); }
  Result<Recipe> Load(const std::string& lines) const {
    return Recipe::LoadText("name = \"private\"\nseed = 3\n[model]\nbase = \"base\"\n" + lines, folder_.path(),
                            "private.toml", {{"train.sequence_length", "32"}});
  }
  std::string Refusal(const std::string& lines) const {
    const auto recipe = Load(lines);
    EXPECT_FALSE(recipe.ok()) << lines;
    EXPECT_EQ(recipe.status().code(), Code::kInvalidArgument);
    return recipe.status().message();
  }
  static std::vector<std::string> UploadOf(const v1::TrainPlan& plan) {
    return {plan.rules().upload().begin(), plan.rules().upload().end()};
  }

  testing::TempFolder folder_;
};

TEST_F(PrivacyRecipe, IsTheBeginningOfWhatDevicesDoToTheirUpdates) {
  const auto recipe = Load(kNoised + "[compression]\nupload = [\"top_k:0.1\", \"int8\"]\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->local_task, "sft") << "the task that does what its plan says of uploads";
  const v1::TrainPlan plan = recipe->TrainPlanOf(1);
  EXPECT_THAT(UploadOf(plan), ElementsAre("clip:0.1", "noise:2", "top_k:0.1", "int8"));
  EXPECT_TRUE(protocol::Validate(plan).ok());
  EXPECT_THAT(UploadOf(Load("[privacy]\nupdate_clip = 0.5\n")->TrainPlanOf(1)), ElementsAre("clip:0.5"));
  EXPECT_FALSE(Load("")->TrainPlanOf(1).has_rules());
  EXPECT_EQ(Load("")->local_task, "lora_sft");
}

TEST_F(PrivacyRecipe, KeysAreSilentAtTheirDefaults) {
  EXPECT_THAT(Load("")->resolved_json, Not(HasSubstr("privacy")));
  EXPECT_THAT(Load(kNoised)->resolved_json, HasSubstr(R"("noise_multiplier":2)"));
}

TEST_F(PrivacyRecipe, SaysWhatItGuaranteesADeviceThatTakesPartInEveryRound) {
  EXPECT_EQ(Load("")->Guarantee(), std::nullopt);
  EXPECT_EQ(Load("[privacy]\nupdate_clip = 0.5\n")->Guarantee(), std::nullopt) << "clipping alone guarantees nothing";
  const auto guarantee = Load("[strategy]\nnum_server_rounds = 12\n" + kNoised + "delta = 1e-6\n")->Guarantee();
  ASSERT_TRUE(guarantee.has_value());
  EXPECT_EQ(guarantee->reports, 12U);
  EXPECT_EQ(guarantee->delta, 1e-6);
  EXPECT_DOUBLE_EQ(guarantee->any_data.rho_run, 6);
}

TEST_F(PrivacyRecipe, RefusesNumbersThatMeanNothing) {
  EXPECT_THAT(Refusal("[privacy]\nnoise_multiplier = 1.0\n"), HasSubstr("privacy.update_clip, which must be set too"));
  EXPECT_THAT(
      Refusal("[privacy]\nupdate_clip = 1e-9\nnoise_multiplier = 1e-9\n"),
      AllOf(HasSubstr("privacy.update_clip: it must be 0"), HasSubstr("privacy.noise_multiplier: it must be 0")));
  EXPECT_THAT(Refusal("[privacy]\nupdate_clip = -1.0\n"), HasSubstr("privacy.update_clip"));
  EXPECT_THAT(Refusal("[privacy]\nupdate_clip = nan\n"), HasSubstr("privacy.update_clip"));
  EXPECT_THAT(Refusal("[privacy]\nupdate_clip = 1.0\ndelta = 1.0\n"), HasSubstr("privacy.delta"));
}

TEST_F(PrivacyRecipe, RefusesMethodsForWhichItCouldNotBeSaid) {
  const std::string prompt = "[prompt]\npattern = \"{text} {mask}\"\nwords = [\"a\", \"b\"]\n";
  const std::string clip = "[privacy]\nupdate_clip = 1.0\n";
  const std::map<std::string, std::string> refused = {
      {"[strategy]\nname = \"FedKSeed\"\n[train]\nlr_scheduler_type = \"constant\"\n", "scalars of shared directions"},
      {"[strategy]\nname = \"FedBPT\"\n[tuning]\nmethod = \"prompt-tuning\"\n",
       "the mean and the variance of a search"},
      {"[strategy]\nname = \"FedPepTAO\"\n[tuning]\nmethod = \"prefix-tuning\"\n", "scores of layers"},
      {"[strategy]\nname = \"LP-FL\"\n" + prompt, "remember labels"},
      {"[strategy]\nkept = [\"lora_B\"]\n", "strategy.kept"},
      {"[strategy]\nname = \"FedSA-LoRA\"\n", "what devices keep"},
      {"[strategy]\nname = \"SCAFFOLD\"\nnum_devices = 9\n[train]\noptimizer = \"SGD\"\nmax_grad_norm = 0.0\n",
       "corrections"},
      {"[strategy]\nname = \"FedDyn\"\nnum_devices = 9\n[train]\noptimizer = \"SGD\"\n", "corrections"},
      {"[strategy]\nname = \"HetLoRA\"\n", "strategy.prune_gamma = 0"},
      {"[train]\nlocal_task = \"lora_sft\"\n", "'lora_sft' does not know it"},
      {"[compression]\nupload = [\"top_k:0.9\", \"top_k:0.9\", \"top_k:0.9\", \"top_k:0.9\", \"top_k:0.9\", "
       "\"top_k:0.9\", \"int8\", \"error_feedback\"]\n",
       "may have 7 words"}};
  for (const auto& [lines, sentence] : refused) {
    EXPECT_TRUE(Load(lines).ok()) << lines << Load(lines).status();
    EXPECT_THAT(Refusal(lines + clip), HasSubstr(sentence)) << lines;
  }
  const std::string trials =
      "[strategy]\nname = \"FedAdapter\"\n[tuning]\nmethod = \"bottleneck\"\n"
      "placement = \"pfeiffer\"\nbottleneck_size = 64\n";
  EXPECT_TRUE(Load(trials + clip).ok()) << Load(trials + clip).status();
  EXPECT_THAT(Refusal(trials + kNoised), HasSubstr("losses, which are withheld"));
}

TEST_F(PrivacyRecipe, GoesWithEveryOtherStrategy) {
  for (const char* lines : {"name = \"FedAdam\"\n", "name = \"FedProx\"\n", "name = \"FFA-LoRA\"\n",
                            "name = \"RoLoRA\"\n", "name = \"FLoRA\"\n", "name = \"FlexLoRA\"\n",
                            "name = \"Krum\"\ncohort_size = 3\n", "name = \"HetLoRA\"\nprune_gamma = 0.0\n"}) {
    const auto recipe = Load("[strategy]\n" + std::string(lines) + kNoised);
    EXPECT_TRUE(recipe.ok()) << lines << recipe.status();
    if (recipe.ok()) {
      EXPECT_TRUE(PrepareRun(*recipe).ok()) << lines << PrepareRun(*recipe).status();
    }
  }
}

TEST_F(PrivacyRecipe, RefusesBoundsThatWouldCutTheNoiseOff) {
  EXPECT_THAT(Refusal("[strategy]\nmax_abs = 1.0\n" + kNoised),
              HasSubstr("strategy.max_abs: an element with its noise"));
  const auto prepared = [&](const std::string& bounds, const std::string& noise) {
    const auto recipe = Load("[strategy]\n" + bounds + noise);
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    return recipe.ok() ? PrepareRun(*recipe).status() : recipe.status();
  };
  const auto material = PrepareRun(*Load(kNoised));
  ASSERT_TRUE(material.ok()) << material.status();
  double values = 0;
  for (const auto& [name, tensor] : material->initial_adapter) values += static_cast<double>(tensor.numel());
  // 0.1 and noise of a deviation of 0.2 on all values, six standard deviations of its norm beyond the usual.
  const double longest = 0.1 + 0.2 * (std::sqrt(values) + 6);
  const auto below = std::to_string(0.999 * longest), above = std::to_string(1.001 * longest);
  EXPECT_THAT(prepared("clip_norm = " + below + "\n", kNoised).message(),
              HasSubstr("strategy.clip_norm: an update of"));
  EXPECT_THAT(prepared("max_norm = " + below + "\n", kNoised).message(),
              HasSubstr("longer ones than this are refused"));
  EXPECT_TRUE(prepared("clip_norm = " + above + "\nmax_norm = " + above + "\n", kNoised).ok());
  EXPECT_TRUE(prepared("clip_norm = 0.0\nmax_norm = 0.0\n", kNoised).ok());
  EXPECT_TRUE(prepared("clip_norm = 0.01\nmax_norm = 0.02\n", "[privacy]\nupdate_clip = 0.1\n").ok())
      << "without noise a shorter bound is only a shorter bound";
}

}  // namespace
}  // namespace heddle::coordinator
