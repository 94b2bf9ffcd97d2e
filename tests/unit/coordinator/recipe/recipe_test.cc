#include "coordinator/recipe/recipe.h"

#include <gmock/gmock.h>

#include <fstream>
#include <numbers>

#include "coordinator/engine/engine.h"
#include "tests/unit/coordinator/store/temp_folder.h"

namespace heddle::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kSmallest = R"(
name = "small"
[model]
base = "base"
)";

// kSmallest and these lines; tables may be opened in them.
Result<Recipe> Load(const std::string& lines, const std::map<std::string, std::string>& overrides = {}) {
  return Recipe::LoadText(kSmallest + lines, "/recipes", "small.toml", overrides);
}

std::string Refusal(const std::string& lines) {
  auto recipe = Load(lines);
  EXPECT_FALSE(recipe.ok()) << lines;
  EXPECT_EQ(recipe.status().code(), Code::kInvalidArgument) << recipe.status();
  return recipe.status().message();
}

TEST(RecipeText, NeedsANameAndABaseAndHasADefaultForTheRest) {
  auto recipe = Load("");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->name, "small");
  EXPECT_EQ(recipe->base_model, "/recipes/base");
  EXPECT_EQ(recipe->strategy, "FedAvg");
  EXPECT_EQ(recipe->aggregator.clip_norm, 100) << "updates are clipped unless a recipe says otherwise";
  EXPECT_EQ(recipe->local_task, "lora_sft");
  EXPECT_EQ(recipe->lora.r, 8);
  EXPECT_EQ(recipe->lora.target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(recipe->spec.rounds, 1U);
  EXPECT_EQ(recipe->spec.cohort_size, 1U);
  EXPECT_EQ(recipe->spec.report_deadline, Seconds(600));
  EXPECT_EQ(recipe->aggregator.max_norm, 1000);
  EXPECT_EQ(recipe->train.local_steps(), 10U);
  EXPECT_EQ(recipe->train.learning_rate(), 1e-3);
  EXPECT_EQ(recipe->learning_rate_schedule, "constant");

  auto nothing = Recipe::LoadText("", "/recipes", "nothing.toml");
  ASSERT_FALSE(nothing.ok());
  EXPECT_THAT(nothing.status().message(), HasSubstr("name"));
  EXPECT_THAT(nothing.status().message(), HasSubstr("model.base"));
}

TEST(RecipeText, MakesASpecThatTheEngineTakesWhateverTheSizes) {
  for (const char* lines :
       {"", "[strategy]\ncohort_size = 10\nover_selection = 1.3\n", "[strategy]\ncohort_size = 10\nmin_reports = 3\n",
        "[strategy]\ncohort_size = 4\nmin_available_devices = 9\nmin_reports = 2\n"}) {
    auto recipe = Load(lines);
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    RunSpec spec = recipe->spec;
    spec.id = RunId("small-0");
    spec.local_task = recipe->local_task;
    EXPECT_TRUE(CheckRunSpec(spec).ok()) << lines << CheckRunSpec(spec);
  }
}

TEST(RecipeText, TakesZeroAsTheSizeThatFollowsFromTheOthers) {
  auto recipe = Load("[strategy]\ncohort_size = 10\nover_selection = 1.3\n[train]\nlocal_steps = 7\nbatch_size = 3\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->spec.min_reports, 10U);
  EXPECT_EQ(recipe->spec.min_available_devices, 13U);
  EXPECT_EQ(recipe->spec.max_num_examples, 21U);
  EXPECT_EQ(recipe->aggregator.max_num_examples, 21U);
}

TEST(RecipeText, ASecondStageHasACohortAndStepsOfItsOwn) {
  auto recipe = Load(
      "[strategy]\nnum_server_rounds = 5\nfirst_stage_rounds = 3\ncohort_size = 2\nlater_cohort_size = 6\n"
      "over_selection = 1.5\n[train]\nlocal_steps = 4\nlater_local_steps = 1\nbatch_size = 8\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(SizesOf(recipe->spec, 3), (RoundSizes{2, 3, 2}));
  EXPECT_EQ(SizesOf(recipe->spec, 4), (RoundSizes{6, 9, 6}));
  EXPECT_EQ(recipe->TrainPlanOf(3).local_steps(), 4U);
  EXPECT_EQ(recipe->TrainPlanOf(4).local_steps(), 1U);
  EXPECT_EQ(recipe->AggregatorOf(3).max_updates, 2U);
  EXPECT_EQ(recipe->AggregatorOf(4).max_updates, 6U);
  EXPECT_EQ(recipe->AggregatorOf(4).cohort, 6U);
  EXPECT_EQ(recipe->StepsOfADevice(), 3U * 4 + 2U * 1);
  EXPECT_EQ(recipe->StepsOfAllCohorts(), 2U * 3 * 4 + 6U * 2 * 1);
  EXPECT_EQ(recipe->spec.max_num_examples, 32U);

  auto longer = Load(
      "[strategy]\nnum_server_rounds = 2\nfirst_stage_rounds = 3\nmin_reports = 1\nmin_available_devices = 7\n"
      "[train]\nlater_local_steps = 40\nbatch_size = 8\n");
  ASSERT_TRUE(longer.ok()) << longer.status();
  EXPECT_EQ(SizesOf(longer->spec, 4), (RoundSizes{1, 7, 1}));
  EXPECT_EQ(longer->StepsOfADevice(), 20U) << "the run ends within its first stage";
  EXPECT_EQ(longer->spec.max_num_examples, 320U);
  EXPECT_EQ(Load("")->resolved_json.find("stage"), std::string::npos) << "the names of runs of one stage stay";
}

TEST(RecipeText, RefusesStagesThatDoNotFit) {
  const std::string alone = "strategy.first_stage_rounds: it goes with";
  EXPECT_THAT(Refusal("[strategy]\nfirst_stage_rounds = 3\n"), HasSubstr(alone));
  EXPECT_THAT(Refusal("[strategy]\nlater_cohort_size = 3\n"), HasSubstr(alone));
  EXPECT_THAT(Refusal("[train]\nlater_local_steps = 3\n"), HasSubstr(alone));
  const std::string stages = "[strategy]\nfirst_stage_rounds = 3\ncohort_size = 4\nlater_cohort_size = 2\n";
  EXPECT_THAT(Refusal(stages + "min_reports = 3\n"),
              HasSubstr("strategy.min_reports: it must be at most strategy.later_cohort_size (2)"));
  EXPECT_THAT(Refusal(stages + "max_num_examples = 5\n[train]\nlater_local_steps = 20\nbatch_size = 8\n"),
              HasSubstr("devices will report 160"));
  // The sums of so many updates would have no precision left.
  const std::string sums = "[strategy]\nfirst_stage_rounds = 1\ncohort_size = 4\nmax_abs = 3.4e10\n";
  EXPECT_TRUE(Load(sums + "later_cohort_size = 8\n[train]\nlocal_steps = 32\n").ok());
  EXPECT_THAT(Refusal(sums + "later_cohort_size = 64\n[train]\nlocal_steps = 32\n"), HasSubstr("strategy"));
  EXPECT_THAT(Refusal("[strategy]\nname = \"FedKSeed\"\nfirst_stage_rounds = 3\n[train]\nlater_local_steps = 2\n"
                      "lr_scheduler_type = \"constant\"\n"),
              HasSubstr("train.later_local_steps: a ledger's tasks are of one size"));
}

TEST(RecipeText, RefusesSizesThatTheEngineWouldRefuse) {
  EXPECT_THAT(Refusal("[strategy]\ncohort_size = 4\nmin_available_devices = 2\n"),
              HasSubstr("min_available_devices is 2 but must be at least min_reports (4)"));
  EXPECT_THAT(Refusal("[strategy]\ncohort_size = 100000\nover_selection = 100.0\n"),
              HasSubstr("min_available_devices is 10000000"));
  EXPECT_THAT(Refusal("[strategy]\nmin_retry_after_s = 0.0\n"), HasSubstr("min_retry_after is 0 s"));
}

TEST(RecipeText, NamesTheNearestKeyOfAnUnknownOne) {
  EXPECT_THAT(Refusal("[strategy]\ncohort_sise = 3\n"), HasSubstr("strategy.cohort_size"));
  EXPECT_THAT(Refusal("[lora]\nlora_alfa = 3\n"), HasSubstr("lora.lora_alpha"));
  EXPECT_THAT(Refusal("[trian]\nlocal_steps = 3\n"), HasSubstr("trian"));
}

TEST(RecipeText, TellsEveryMistakeAtOnceWithItsKey) {
  std::string message = Refusal(R"(
[strategy]
cohort_size = 0
over_selection = 0.5
name = "FedNothing"
[lora]
r = "eight"
[train]
optimizer = "Adagrad"
learning_rte = 1
)");
  for (const char* part : {"strategy.cohort_size", "strategy.over_selection", "strategy.name", "FedAvg", "lora.r",
                           "train.optimizer", "train.learning_rte", "small.toml:"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(RecipeText, TellsEveryContradictionAtOnce) {
  std::string message = Refusal(R"(
[strategy]
cohort_size = 2
min_reports = 3
max_num_examples = 5
[train]
local_steps = 10
batch_size = 8
[simulation]
devices = ["a", "a", "No"]
data = ["x.txt"]
)");
  for (const char* part : {"strategy.min_reports", "devices will report 80", "simulation.data", "a name stands twice",
                           "'No' is not a device's name"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(RecipeText, RefusesNamesThatCouldBeNoRunsName) {
  for (const char* name : {"", "Upper", "dot.dot", "../up", "a b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    auto recipe = Recipe::LoadText("name = \"" + std::string(name) + "\"\n[model]\nbase = \"b\"\n", "/r", "r.toml");
    EXPECT_EQ(recipe.status().code(), Code::kInvalidArgument) << name;
  }
}

TEST(RecipeText, RefusesNumbersThatAreNone) {
  for (const char* line :
       {"[train]\nlearning_rate = nan\n", "[train]\nlearning_rate = inf\n", "[strategy]\nover_selection = nan\n",
        "[strategy]\nreport_deadline_s = nan\n", "[strategy]\nreport_deadline_s = -1\n",
        "[strategy]\ncohort_size = -1\n", "[lora]\nlora_alpha = nan\n", "[simulation]\nfailure_probability = nan\n"}) {
    EXPECT_FALSE(Load(line).ok()) << line;
  }
}

TEST(RecipeText, ThatIsNoTomlIsRefusedWithItsLine) {
  EXPECT_THAT(Refusal("this is = = no toml\n"), HasSubstr("small.toml:5"));
}

TEST(RecipeText, TakesOverridesBeforeTheFile) {
  auto recipe = Load("[lora]\nr = 4\n", {{"lora.r", "16"}, {"strategy.num_server_rounds", "5"}});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->lora.r, 16);
  EXPECT_EQ(recipe->spec.rounds, 5U);
  EXPECT_THAT(recipe->resolved_json, HasSubstr("\"r\":16"));
  EXPECT_FALSE(Load("", {{"lora.rr", "16"}}).ok());
}

TEST(RecipeText, ResolvesToTheSameJsonForTheSameSettingsHoweverWritten) {
  auto one = Load("[lora]\nr = 8\n[train]\nlocal_steps = 10\n");
  auto two = Load("[train]\nlocal_steps = 10\n# a comment\n[lora]\n");
  auto other = Load("[train]\nlocal_steps = 11\n");
  ASSERT_TRUE(one.ok() && two.ok() && other.ok());
  EXPECT_EQ(one->resolved_json, two->resolved_json);
  EXPECT_NE(one->resolved_json, other->resolved_json);
}

// The name of a run is made of this text: keys that came later must not change those of before.
TEST(RecipeText, KeysThatCameLaterAreSilentAtTheirDefaults) {
  const auto plain = Load("");
  const auto spelled = Load(
      "[train]\nlr_scheduler_type = \"constant_with_warmup\"\nbase_dtype = \"float32\"\nmomentum = 0.0\n"
      "gradient_accumulation_steps = 1\ngradient_checkpointing = false\nbf16 = false\n");
  ASSERT_TRUE(plain.ok() && spelled.ok());
  EXPECT_EQ(plain->resolved_json, spelled->resolved_json);
  EXPECT_THAT(plain->resolved_json, Not(HasSubstr("base_dtype")));
  EXPECT_EQ(plain->train.SerializeAsString(), spelled->train.SerializeAsString());
  EXPECT_TRUE(plain->train.optimizer().empty());
  EXPECT_EQ(plain->train.gradient_accumulation_steps(), 0U);
}

TEST(RecipeText, TrainingSettingsReachThePlanAndTheBounds) {
  const auto recipe = Load(
      "[train]\noptimizer = \"SGD\"\nmomentum = 0.5\nlr_scheduler_type = \"cosine\"\nbase_dtype = \"nf4\"\n"
      "gradient_accumulation_steps = 4\nlocal_steps = 3\nbatch_size = 2\ngradient_checkpointing = true\n"
      "bf16 = true\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->train.optimizer(), "SGD");
  EXPECT_EQ(recipe->train.momentum(), 0.5);
  EXPECT_EQ(recipe->train.lr_scheduler_type(), "cosine");
  EXPECT_EQ(recipe->train.base_dtype(), "nf4");
  EXPECT_EQ(recipe->train.gradient_accumulation_steps(), 4U);
  EXPECT_TRUE(recipe->train.gradient_checkpointing());
  EXPECT_TRUE(recipe->train.bf16());
  EXPECT_EQ(recipe->spec.max_num_examples, 24U);
  EXPECT_THAT(recipe->resolved_json, HasSubstr("\"base_dtype\":\"nf4\""));
  EXPECT_THAT(Refusal("[train]\nbase_dtype = \"int4\"\n"), HasSubstr("nf4"));
  EXPECT_THAT(Refusal("[train]\nbatch_size = 1000\ngradient_accumulation_steps = 1000\n"),
              HasSubstr("gradient_accumulation_steps"));
  EXPECT_THAT(Refusal("[train]\ngradient_accumulation_steps = 4\n[strategy]\nmax_num_examples = 100\n"),
              HasSubstr("320"));
}

TEST(RecipeFile, IsReadRelativeToItsFolder) {
  testing::TempFolder folder;
  std::ofstream(folder.path() / "r.toml") << kSmallest << "[simulation]\ndevices = [\"a\"]\ndata = [\"d/a.txt\"]\n";
  auto recipe = Recipe::Load(folder.path() / "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->base_model, folder.path() / "base");
  EXPECT_EQ(recipe->simulation.data.at(0), folder.path() / "d/a.txt");
  EXPECT_EQ(Recipe::Load(folder.path() / "none.toml").status().code(), Code::kNotFound);
}

TEST(RecipeText, SplitExamplesGoToNumberedDevices) {
  auto recipe = Load(
      "[train]\nbatch_size = 4\n[simulation]\nsource = \"split\"\nnum_devices = 1200\ndata = [\"d.tsv\"]\n"
      "partition = \"dirichlet\"\nalpha = 0.1\ntest_data = [\"t.tsv\"]\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const SimulatedDevices& sim = recipe->simulation;
  ASSERT_EQ(sim.names.size(), 1200U);
  EXPECT_EQ(sim.names.front(), "device-0001");
  EXPECT_EQ(sim.names.back(), "device-1200");
  EXPECT_EQ(sim.min_examples, 4U);
  EXPECT_EQ(sim.data.at(0), "/recipes/d.tsv");
  EXPECT_EQ(sim.test_data.at(0), "/recipes/t.tsv");
  EXPECT_THAT(recipe->resolved_json, HasSubstr("\"num_devices\":1200"));
  // What older recipes do not say leaves the names of their runs alone.
  EXPECT_THAT(Load("")->resolved_json, Not(HasSubstr("partition")));
}

TEST(RecipeText, ProfilesTakeWhatTheyDoNotSayFromTheSimulation) {
  auto recipe = Load(
      "[simulation]\nseconds_per_step = 0.5\nwatts = 3\n[simulation.profiles.phone]\nshare = 3\nwatts = 4.5\n"
      "[simulation.profiles.hub]\nupload_bytes_per_s = 1e6\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto& profiles = recipe->simulation.profiles;
  ASSERT_EQ(profiles.size(), 2U);
  const DeviceProfile& hub = profiles[0].name == "hub" ? profiles[0] : profiles[1];
  const DeviceProfile& phone = profiles[0].name == "hub" ? profiles[1] : profiles[0];
  EXPECT_EQ(phone.share, 3);
  EXPECT_EQ(phone.watts, 4.5);
  EXPECT_EQ(phone.seconds_per_step, 0.5);
  EXPECT_EQ(hub.share, 1);
  EXPECT_EQ(hub.watts, 3);
  EXPECT_EQ(hub.upload_bytes_per_s, 1e6);
  ASSERT_EQ(Load("")->simulation.profiles.size(), 1U);
  EXPECT_EQ(Load("")->simulation.profiles[0].name, "device");
}

TEST(RecipeText, ProfilesThatMakeNoSenseAreRefusedAllAtOnce) {
  const std::string wrong = Refusal("[simulation.profiles.a]\nwatt = 3\nshare = -1\n[simulation.profiles]\nb = 4\n");
  EXPECT_THAT(wrong, HasSubstr("simulation.profiles.a.watt"));
  EXPECT_THAT(wrong, HasSubstr("did you mean watts"));
  EXPECT_THAT(wrong, HasSubstr("simulation.profiles.a.share"));
  EXPECT_THAT(wrong, HasSubstr("simulation.profiles.b"));
  EXPECT_THAT(Refusal("[simulation.profiles.a]\nshare = 0\n"), HasSubstr("no profile has a share"));
  EXPECT_THAT(Refusal("[simulation.profiles.a]\nwatts = \"many\"\n"), HasSubstr("must be a number"));
}

TEST(RecipeText, SplitsThatContradictThemselvesAreRefusedWithTheirKey) {
  const std::string split = "[simulation]\nsource = \"split\"\ndata = [\"d.tsv\"]\nnum_devices = 3\n";
  EXPECT_THAT(Refusal("[simulation]\nnum_devices = 3\n"), HasSubstr("simulation.num_devices"));
  EXPECT_THAT(Refusal("[simulation]\nsource = \"split\"\nnum_devices = 3\n"), HasSubstr("simulation.data"));
  EXPECT_THAT(Refusal(split + "devices = [\"a\"]\n"), HasSubstr("give one of the two"));
  EXPECT_THAT(Refusal(split + "partition = \"natural\"\n"), HasSubstr("simulation.group_field"));
  EXPECT_THAT(Refusal(split + "test_fraction = 0.1\ntest_data = [\"t\"]\n"), HasSubstr("not both"));
  EXPECT_THAT(Refusal(split + "partition = \"dirichle\"\n"), HasSubstr("simulation.partition"));
  EXPECT_THAT(Refusal(split + "alpha = 0\n"), HasSubstr("simulation.alpha"));
  EXPECT_THAT(Refusal("[simulation]\ntest_fraction = 0.1\n"), HasSubstr("source = \"split\""));
  EXPECT_THAT(Refusal("[simulation]\ntest_data = [\"a\", \"b\"]\n"), HasSubstr("simulation.test_data"));
}

TEST(Schedule, IsConstantUnlessAskedFor) {
  auto recipe = Load("[strategy]\nnum_server_rounds = 4\n[train]\nlearning_rate = 0.5\n");
  ASSERT_TRUE(recipe.ok());
  for (uint32_t round = 1; round <= 4; ++round) EXPECT_EQ(recipe->TrainPlanOf(round).learning_rate(), 0.5);
}

TEST(Schedule, FollowsHalfACosineFromTheFullRateTowardsZero) {
  auto recipe =
      Load("[strategy]\nnum_server_rounds = 4\n[train]\nlearning_rate = 0.5\nlearning_rate_schedule = \"cosine\"\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_DOUBLE_EQ(recipe->TrainPlanOf(1).learning_rate(), 0.5);
  EXPECT_DOUBLE_EQ(recipe->TrainPlanOf(2).learning_rate(), 0.25 * (1 + std::numbers::sqrt2 / 2));
  EXPECT_DOUBLE_EQ(recipe->TrainPlanOf(3).learning_rate(), 0.25);
  EXPECT_DOUBLE_EQ(recipe->TrainPlanOf(4).learning_rate(), 0.25 * (1 - std::numbers::sqrt2 / 2));
  EXPECT_EQ(recipe->TrainPlanOf(3).local_steps(), recipe->train.local_steps());
}

TEST(Schedule, OfAnotherNameIsRefusedWithTheKnownOnes) {
  EXPECT_THAT(Refusal("[train]\nlearning_rate_schedule = \"linear\"\n"), HasSubstr("cosine"));
}

TEST(RecipeText, CompressionIsPartOfThePlanAndAsksForTheTaskThatKnowsIt) {
  auto recipe = Load("[compression]\nupload = [\"top_k:0.010\", \"error_feedback\", \"int4\"]\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->local_task, "sft");
  const v1::TrainPlan plan = recipe->TrainPlanOf(1);
  EXPECT_EQ(std::vector<std::string>(plan.rules().upload().begin(), plan.rules().upload().end()),
            (std::vector<std::string>{"top_k:0.01", "int4", "error_feedback"}));
  EXPECT_FALSE(Load("")->TrainPlanOf(1).has_rules());
}

TEST(RecipeText, TellsEveryMistakeOfACompressionAtOnce) {
  const std::string said = Refusal("[compression]\nupload = [\"int4\", \"top_k:0.1\", \"bf61\", \"top_k\"]\n");
  EXPECT_THAT(said, HasSubstr("compression.upload: 'top_k:0.1' must stand before 'int4'"));
  EXPECT_THAT(said, HasSubstr("compression.upload: 'bf61' is no way to make updates smaller; did you mean 'bf16'?"));
  EXPECT_THAT(said, HasSubstr("compression.upload: 'top_k' needs the share"));
  EXPECT_THAT(Refusal("[train]\nlocal_task = \"lora_sft\"\n[compression]\nupload = [\"int8\"]\n"),
              HasSubstr("the local task 'lora_sft' does not know it"));
}

TEST(RecipeText, ADownloadIsRoundedForEveryDeviceWhereTheRecipeSaysSo) {
  EXPECT_FALSE(Load("")->ViewFor(DeviceId("anna"), 1).bfloat16);
  const auto recipe = Load("[compression]\ndownload = \"bf16\"\n");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_TRUE(recipe->ViewFor(DeviceId("anna"), 1).bfloat16);
  EXPECT_EQ(recipe->local_task, "lora_sft") << "what devices start from is in the file, not in the plan";
  EXPECT_EQ(recipe->ViewFor(DeviceId("anna"), 1).nnadq, 0U);
  const auto levels = Load("[compression]\ndownload = \"nnadq:0.001\"\n");
  ASSERT_TRUE(levels.ok()) << levels.status();
  EXPECT_EQ(levels->ViewFor(DeviceId("anna"), 1).nnadq, 1000U);
  EXPECT_FALSE(levels->ViewFor(DeviceId("anna"), 1).bfloat16);
  for (const char* word : {"int8", "top_k:0.1", "error_feedback", "nnadq", "bf61", ""}) {
    EXPECT_THAT(Refusal("[compression]\ndownload = \"" + std::string(word) + "\"\n"), HasSubstr("compression.download"))
        << word;
  }
  EXPECT_THAT(Refusal("[train]\nlr_scheduler_type = \"constant\"\n[strategy]\nname = \"FedKSeed\"\n"
                      "[compression]\ndownload = \"bf16\"\n"),
              HasSubstr("compression.download: devices replay the ledger from the same start to the bit"));
}

TEST(PopulationRecipes, StrategiesThatWeighARoundByItsShareAreToldOfAllDevices) {
  const std::string sgd = "[train]\noptimizer = \"SGD\"\nmax_grad_norm = 0.0\n";
  const std::string thirty = sgd + "[simulation]\nsource = \"split\"\ndata = [\"d.tsv\"]\nnum_devices = 30\n";
  for (const std::string name : {"SCAFFOLD", "FedDyn"}) {
    const std::string strategy = "[strategy]\nname = \"" + name + "\"\n", four = "cohort_size = 4\n";
    const auto loads = [&](const std::string& lines) { return Load(strategy + lines).status(); };
    EXPECT_TRUE(loads(four + "num_devices = 500\n" + thirty).ok());
    EXPECT_TRUE(loads(four + "num_devices = 4\n" + sgd).ok());
    EXPECT_TRUE(loads("cohort_size = 30\n" + thirty).ok()) << "all take part";
    EXPECT_THAT(Refusal(strategy + four + sgd), HasSubstr("strategy.num_devices: " + name)) << "with real devices";
    EXPECT_THAT(Refusal(strategy + four + thirty), HasSubstr("([simulation] has 30)"));
    EXPECT_THAT(Refusal(strategy + four + "num_devices = 3\n" + sgd), HasSubstr("at least the 4 of a round"));
    EXPECT_THAT(Refusal(strategy +
                        "first_stage_rounds = 1\nnum_server_rounds = 2\nlater_cohort_size = 9\n"
                        "num_devices = 8\n" +
                        sgd),
                HasSubstr("at least the 9 of a round"));
    const auto begun =
        Recipe::LoadText(kSmallest + strategy + four + thirty, "/recipes", "stored", {}, Recipe::Origin::kStored);
    EXPECT_TRUE(begun.ok()) << begun.status() << "a run that has begun goes on";
  }
}

TEST(RecipeText, SaysAtOnceWhatEveryDeviceWouldRefuse) {
  const std::string scaffold = "[strategy]\nname = \"SCAFFOLD\"\nnum_devices = 9\n[train]\n";
  for (const char* train : {"", "optimizer = \"SGD\"\nmomentum = 0.9\n", "optimizer = \"SGD\"\nweight_decay = 0.1\n"}) {
    EXPECT_THAT(Refusal(scaffold + train), HasSubstr("train.optimizer: SCAFFOLD needs")) << train;
  }
  const std::string labels = "[model]\nbase = \"base\"\nnum_labels = 2\nlabel_names = [\"a\", \"a\"]\n";
  const auto twice = Recipe::LoadText("name = \"labels\"\n" + labels, "/recipes", "labels.toml");
  EXPECT_THAT(twice.status().message(), HasSubstr("model.label_names: 'a' stands twice"));
  EXPECT_THAT(Refusal("[simulation]\nlabel_names = [\"a\", \"b\", \"a\"]\n"),
              HasSubstr("simulation.label_names: 'a' stands twice"));
  const std::string prompt = "[prompt]\npattern = \"{text} is {mask}\"\n", words = "words = [\"good\", \"bad\"]\n";
  EXPECT_TRUE(Load(prompt + words + "label_names = [\"a\", \"b\"]\n").ok());
  EXPECT_THAT(Refusal(prompt + words + "label_names = [\"a\", \"a\"]\n"),
              HasSubstr("prompt.label_names: 'a' stands twice"));
  EXPECT_THAT(Refusal(prompt + words + "label_names = [\"a\"]\n"), HasSubstr("prompt.label_names has 1 entries"));
  EXPECT_THAT(Refusal(prompt + "words = [\"good\", \"good\"]\n"), HasSubstr("prompt.words: 'good' stands twice"));
  EXPECT_THAT(Refusal("[prompt]\nlabel_names = [\"a\"]\n"), HasSubstr("prompt.label_names: they go with"));
  EXPECT_THAT(Refusal("[tuning]\nmethod = \"ia3\"\nfeedforward_modules = [\"q_proj\"]\n"),
              HasSubstr("tuning.feedforward_modules: without targets"));
}

TEST(RecipeText, WarnsOfARobustRuleThatIsThePlainMean) {
  const auto warning = [](const std::string& strategy) {
    const auto recipe = Load("[strategy]\ncohort_size = 7\n" + strategy);
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    return recipe.ok() ? recipe->Warning().value_or("") : "";
  };
  for (const std::string name : {"name = \"MultiKrum\"\n", "name = \"Bulyan\"\n"}) {
    EXPECT_THAT(warning(name), HasSubstr("with strategy.num_attackers = 0 takes the mean of all updates"));
    EXPECT_EQ(warning(name + "num_attackers = 1\n"), "");
  }
  EXPECT_EQ(warning("name = \"MultiKrum\"\nnum_selected = 3\n"), "") << "the three that lie closest together";
  EXPECT_EQ(warning("name = \"Krum\"\n"), "") << "one update, the one nearest to the others";
  EXPECT_EQ(warning("name = \"FedAvg\"\n"), "");
}

TEST(FedNovaRecipes, TheDevicesMomentumIsTheOneThatIsCounted) {
  const std::string nova = "[strategy]\nname = \"FedNova\"\n", sgd = "[train]\noptimizer = \"SGD\"\n";
  const auto counted = [&](const std::string& lines) {
    const auto recipe = Load(nova + lines);
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    return recipe.ok() ? recipe->AggregatorOf(1).method.at("local_momentum") : -1;
  };
  EXPECT_EQ(counted(sgd), 0);
  EXPECT_EQ(counted(sgd + "momentum = 0.9\n"), 0.9);
  EXPECT_EQ(counted("local_momentum = 0.9\n" + sgd + "momentum = 0.9\n"), 0.9);
  EXPECT_EQ(counted("[train]\nlocal_task = \"zo_sft\"\nmomentum = 0.5\n"), 0.5);
  EXPECT_THAT(Refusal(nova), HasSubstr("train.optimizer: FedNova counts"));
  EXPECT_THAT(Refusal(nova + "[train]\noptimizer = \"AdamW8bit\"\n"), HasSubstr("train.optimizer: FedNova counts"));
  EXPECT_THAT(Refusal(nova + "local_momentum = 0.5\n" + sgd + "momentum = 0.9\n"),
              HasSubstr("strategy.local_momentum"));
  EXPECT_THAT(Refusal(nova + "local_momentum = 0.9\n" + sgd), HasSubstr("strategy.local_momentum"));
  EXPECT_THAT(Refusal(nova + sgd + "warmup_steps = 3\n"), HasSubstr("steps of one size"));
  EXPECT_THAT(Refusal(nova + sgd + "lr_scheduler_type = \"cosine\"\n"), HasSubstr("steps of one size"));
  EXPECT_THAT(Refusal(nova + "[zo]\noptimizer = \"zo_adam\"\n"), HasSubstr("zo.optimizer: FedNova counts"));
}

}  // namespace
}  // namespace heddle::coordinator
