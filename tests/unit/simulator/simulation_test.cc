// The simulation as a whole, with the small base model of the repository and tasks of one step: what it commits depends
// on the recipe and on nothing else.
#include "simulator/world/simulation.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "client/worker/local_task.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "simulator/partition/partition.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/data/idx_bytes.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

class SimulationTest : public ::testing::Test {
 protected:
  SimulationTest() {
    LogOptions quiet;
    quiet.level = "error";
    EXPECT_TRUE(InitLogging(quiet).ok());
    std::string data;
    for (int device = 0; device < 6; ++device) {
      const std::string name = "device-" + std::to_string(device);
      std::string text;
      for (int i = 0; i < 60; ++i) {
        text += name + " says that " + std::to_string(i * (device + 3)) + " sheep went up the hill and came down.\n\n";
      }
      folder_.Write(name + ".txt", text);
      data += (device == 0 ? "\"" : ", \"") + name + ".txt\"";
    }
    std::string devices = data;
    for (size_t at = devices.find(".txt"); at != std::string::npos; at = devices.find(".txt")) devices.erase(at, 4);
    recipe_ = folder_.Write("recipe.toml", std::string("name = \"test\"\nseed = 3\nmodel.base = \"") +
                                               HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny\"\n" + R"(
[lora]
r = 2
lora_alpha = 4
[strategy]
name = "FedAvg"
num_server_rounds = 2
cohort_size = 3
report_deadline_s = 100
selection_timeout_s = 100
max_abandoned_attempts = 20
[train]
local_steps = 1
batch_size = 2
sequence_length = 16
[simulation]
seconds_per_step = 1
speed_spread = 0.5
threads = 1
)" + "devices = [" + devices + "]\ndata = [" + data +
                                               "]\n");
  }

  Result<SimulationResult> Run(const std::string& out, const std::map<std::string, std::string>& overrides = {},
                               std::function<bool(const coordinator::RunProgress&)> progress = {}) {
    SimulationOptions options;
    options.recipe = recipe_;
    options.overrides = overrides;
    options.out = folder_ / out;
    options.progress = std::move(progress);
    return Simulate(options);
  }
  std::string Hash(const std::string& out, const std::map<std::string, std::string>& overrides = {}) {
    auto result = Run(out, overrides);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->run.model.ToHex() : "failed: " + out;
  }
  std::vector<json::object> History(const std::string& out) const {
    std::vector<json::object> rounds;
    std::istringstream lines(Slurp(folder_ / out / "history.jsonl"));
    for (std::string line; std::getline(lines, line);) rounds.push_back(json::parse(line).as_object());
    return rounds;
  }
  // Devices of all attempts by the state of their assignment.
  std::map<std::string, int> States(const std::string& out) const {
    std::map<std::string, int> states;
    for (const json::object& round : History(out)) {
      for (const json::value& device : round.at("devices").as_array()) {
        ++states[json::value_to<std::string>(device.at("state"))];
      }
    }
    return states;
  }

  TempDir folder_;
  fs::path recipe_;
};

TEST_F(SimulationTest, TheSameRecipeCommitsTheSameAdapterWithAnyNumberOfThreads) {
  const std::string one = Hash("one"), again = Hash("again"), two = Hash("two", {{"simulation.threads", "2"}}),
                    four = Hash("four", {{"simulation.threads", "4"}});
  EXPECT_EQ(one, again);
  EXPECT_EQ(one, two);
  EXPECT_EQ(one, four);
  // Not because nothing happens: every round makes another model, and another seed others again.
  const auto rounds = History("one");
  ASSERT_EQ(rounds.size(), 2U);
  EXPECT_NE(rounds[0].at("model_sha256"), rounds[0].at("parent_sha256"));
  EXPECT_EQ(rounds[1].at("parent_sha256"), rounds[0].at("model_sha256"));
  EXPECT_NE(rounds[1].at("model_sha256"), rounds[0].at("model_sha256"));
  EXPECT_EQ(json::value_to<std::string>(rounds[1].at("model_sha256")), one);
  EXPECT_NE(Hash("seed", {{"seed", "4"}}), one);
}

TEST_F(SimulationTest, AnOutputFolderIsUsedAnewAndWithTheSameResult) {
  const std::string first = Hash("out");
  EXPECT_EQ(Hash("out"), first);
  EXPECT_EQ(History("out").size(), 2U) << "the rounds of the first simulation are still there";
}

TEST_F(SimulationTest, TheRunFolderHoldsRunHistoryAndACheckpointARound) {
  const auto result = Run("out");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->run.state, coordinator::RunState::kComplete);
  EXPECT_EQ(result->run.committed_rounds, 2U);
  EXPECT_EQ(result->devices, 6U);
  EXPECT_GT(result->traffic.up, 0U);
  const json::object run = json::parse(Slurp(folder_ / "out" / "run.json")).as_object();
  EXPECT_EQ(run.at("state"), "complete");
  EXPECT_EQ(json::value_to<std::string>(run.at("model_sha256")), result->run.model.ToHex());
  for (const char* round : {"round-1", "round-2"}) {
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
      EXPECT_TRUE(fs::exists(folder_ / "out" / "checkpoints" / round / file)) << round << "/" << file;
    }
  }
  const auto digest = Sha256File(folder_ / "out" / "checkpoints" / "round-2" / "adapter_model.safetensors");
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, result->run.model);
  EXPECT_EQ(json::value_to<std::string>(run.at("adapter_sha256")), digest->ToHex());
}

// Devices are 1 to 1.5 times as slow as a second a step; only the virtual clock knows.
// Of whole models they would fill the disk.
TEST_F(SimulationTest, UpdatesOfRoundsThatAreOverDoNotStay) {
  const auto blobs_after = [&](const std::string& rounds) {
    const std::string out = "rounds-" + rounds;
    const auto result = Run(out, {{"strategy.num_server_rounds", rounds}});
    EXPECT_TRUE(result.ok()) << result.status();
    size_t updates = 0;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / out / "state" / "blobs")) {
      if (!entry.is_regular_file()) continue;
      const auto file = ReadSafetensors(entry.path());
      // The others are the adapters of each round, which begin with the same names, and the base model's files.
      updates += file.ok() && entry.file_size() > 0 ? 1 : 0;
    }
    return updates;
  };
  const size_t two = blobs_after("2"), five = blobs_after("5");
  EXPECT_EQ(five - two, 3U) << "an adapter a round, and no update more";
}

TEST_F(SimulationTest, TimeIsThatOfTheSlowestDeviceOfEachRound) {
  const auto result = Run("out", {{"strategy.cohort_size", "6"}, {"train.local_steps", "2"}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(result->virtual_seconds, 2 * 2 * 1.0);
  EXPECT_LE(result->virtual_seconds, 2 * 2 * 1.5);
  const auto equal = Run("equal", {{"strategy.cohort_size", "6"}, {"simulation.speed_spread", "0.0"}});
  ASSERT_TRUE(equal.ok()) << equal.status();
  EXPECT_NEAR(equal->virtual_seconds, 2.0, 1e-6);
}

TEST_F(SimulationTest, InterruptedDevicesAreReportedAndTheRunCompletesWithOthers) {
  const std::map<std::string, std::string> settings = {{"simulation.failure_probability", "0.4"},
                                                       {"strategy.num_server_rounds", "4"},
                                                       {"strategy.over_selection", "2.0"},
                                                       {"strategy.min_reports", "1"}};
  const auto result = Run("out", settings);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->run.state, coordinator::RunState::kComplete);
  EXPECT_EQ(result->run.committed_rounds, 4U);
  auto states = States("out");
  EXPECT_GT(states["failed"], 0) << "nothing was interrupted";
  EXPECT_GE(states["accepted"], 4);
  bool said = false;
  for (const json::object& round : History("out")) {
    for (const json::value& device : round.at("devices").as_array()) {
      if (device.at("state") != "failed") continue;
      said = json::value_to<std::string>(device.at("message")).find("interrupted") != std::string::npos;
    }
  }
  EXPECT_TRUE(said);
  // Failures are drawn from the seed as well.
  EXPECT_EQ(Hash("again", settings), result->run.model.ToHex());
  EXPECT_EQ(States("again"), States("out"));
}

TEST_F(SimulationTest, ARoundThatNeedsMoreDevicesThanThereAreIsRefusedAtTheStart) {
  const auto refused = Run("refused", {{"strategy.cohort_size", "1000"}});
  EXPECT_EQ(refused.status().code(), Code::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("a round needs 1000 devices"), std::string::npos) << refused.status();
  EXPECT_FALSE(fs::exists(folder_ / "refused")) << "before data are dealt";
}

// Gradients do not fit, forward passes do; where only some devices lack the memory the others make the rounds.
TEST_F(SimulationTest, AMemoryLimitRefusesGradientsAndTakesForwardPasses) {
  const std::map<std::string, std::string> limit = {
      {"simulation.memory_limit_mb", "160"}, {"train.batch_size", "32"}, {"train.sequence_length", "128"}};
  const auto refused = Run("refused", limit);
  EXPECT_EQ(refused.status().code(), Code::kResourceExhausted);
  EXPECT_NE(refused.status().message().find("this device allows 160 MiB"), std::string::npos) << refused.status();
  auto forward = limit;
  forward.merge(std::map<std::string, std::string>{
      {"strategy.name", "FedKSeed"}, {"zo.clip_projected_grad", "1000"}, {"zo.zo_eps", "1e-2"}});
  const auto taken = Run("forward", forward);
  EXPECT_TRUE(taken.ok()) << taken.status();
  auto some = limit;
  some["simulation.memory_limit_mb"] = "0";
  some["strategy.cohort_size"] = "6";
  some["strategy.min_reports"] = "1";
  some["simulation.profiles.small.memory_limit_mb"] = "160";
  some["simulation.profiles.large.share"] = "1";
  const auto mixed = Run("mixed", some);
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  EXPECT_LT(History("mixed")[0].at("num_accepted").to_number<int>(), 6);
}

TEST_F(SimulationTest, ARunWhoseDevicesAllFailFailsAndSaysSo) {
  const auto result = Run("out", {{"simulation.failure_probability", "1.0"}, {"strategy.max_abandoned_attempts", "2"}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), Code::kFailedPrecondition) << result.status();
  const json::object run = json::parse(Slurp(folder_ / "out" / "run.json")).as_object();
  EXPECT_EQ(run.at("state"), "failed");
  EXPECT_EQ(run.at("committed_rounds").to_number<int>(), 0);
}

// The engine alone would try a round a million times.
TEST_F(SimulationTest, ARunEndsOnceEveryUpdateIsRefusedTimeAndAgain) {
  const auto result = Run("out", {{"strategy.max_norm", "1e-9"}, {"strategy.max_abandoned_attempts", "0"}});
  EXPECT_EQ(result.status().code(), Code::kFailedPrecondition) << result.status();
  const std::string said = result.status().message();
  EXPECT_NE(said.find("every update of round 1 was refused in 10 attempts in a row"), std::string::npos) << said;
  EXPECT_NE(said.find("norm"), std::string::npos) << said;
  EXPECT_EQ(History("out").size(), 10U);
  // A limit of the recipe's own comes first.
  const auto limited = Run("limited", {{"strategy.max_norm", "1e-9"}, {"strategy.max_abandoned_attempts", "2"}});
  EXPECT_NE(limited.status().message().find("was abandoned 2 times in a row"), std::string::npos) << limited.status();
}

TEST_F(SimulationTest, ExamplesOfOneFileAreSplitOverNumberedDevices) {
  std::string rows = "speaker\ttext\n";
  for (int i = 0; i < 60; ++i) {
    rows += "speaker " + std::to_string(i % 12) + "\tnumber " + std::to_string(i) + " went up the hill and came down\n";
  }
  folder_.Write("all.tsv", rows);
  std::map<std::string, std::string> settings = {
      {"simulation.source", "split"},      {"simulation.devices", "[]"},
      {"simulation.num_devices", "12"},    {"simulation.data", "[\"" + (folder_ / "all.tsv").string() + "\"]"},
      {"simulation.partition", "natural"}, {"simulation.group_field", "speaker"}};
  const auto result = Run("out", settings);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->devices, 12U);
  EXPECT_TRUE(fs::exists(folder_ / "out" / "data" / "device-012.jsonl"));
  settings["simulation.partition"] = "uniform";
  EXPECT_NE(Hash("uniform", settings), result->run.model.ToHex()) << "the split changes nothing";
  settings["simulation.min_examples"] = "6";
  const auto few = Run("few", settings);
  ASSERT_FALSE(few.ok());
  EXPECT_NE(few.status().message().find("too few"), std::string::npos) << few.status();
}

TEST_F(SimulationTest, PicturesOfOneFileAreSplitOverNumberedDevices) {
  const std::string config = R"({"architectures": ["ViTForImageClassification"], "hidden_size": 16,
      "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8, "patch_size": 4,
      "num_channels": 1, "num_labels": 3})";
  const fs::path base = folder_ / "vit";
  fs::create_directory(base);
  folder_.Write("vit/config.json", config);
  ASSERT_TRUE(
      WriteSafetensors(base / "model.safetensors", model::RandomWeights(*model::ParseModelConfig(config), 3)).ok());
  // A stripe in another place for each class.
  std::string pixels, labels;
  for (int i = 0; i < 90; ++i) {
    labels += static_cast<char>(i % 3);
    for (int pixel = 0; pixel < 64; ++pixel)
      pixels += static_cast<char>(pixel / 8 / 2 == i % 3 ? 200 + i % 50 : i % 20);
  }
  folder_.Write("all-labels-idx1-ubyte", model::Idx({90}, labels));
  const fs::path all = folder_.Write("all-images-idx3-ubyte", model::Idx({90, 8, 8}, pixels));
  const auto result = Run("out", {{"model.base", base.string()},
                                  {"lora.target_modules", R"(["query", "value"])"},
                                  {"simulation.source", "split"},
                                  {"simulation.devices", "[]"},
                                  {"simulation.num_devices", "4"},
                                  {"simulation.data", "[\"" + all.string() + "\"]"},
                                  {"simulation.partition", "dirichlet"},
                                  {"simulation.test_fraction", "0.2"},
                                  {"simulation.device_test_fraction", "0.2"},
                                  {"strategy.num_server_rounds", "6"},
                                  {"train.local_steps", "20"},
                                  {"train.learning_rate", "0.02"},
                                  {"train.batch_size", "8"}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(FigureOf(result->figures.test, "accuracy"), 0.6) << "a third by chance";
  EXPECT_GT(FigureOf(result->figures.device, "accuracy"), 0.6);
  EXPECT_TRUE(fs::exists(folder_ / "out/data/device-004-labels-idx1-ubyte"));
}

// 60 examples of 6 speakers, split over 6 devices, a part of each held out.
std::map<std::string, std::string> SplitSettings(const TempDir& folder) {
  std::string rows = "speaker\ttext\n";
  for (int i = 0; i < 60; ++i) {
    rows += "speaker " + std::to_string(i % 6) + "\tnumber " + std::to_string(i) + " went up the hill and came down\n";
  }
  return {
      {"simulation.source", "split"},      {"simulation.devices", "[]"},
      {"simulation.num_devices", "6"},     {"simulation.data", "[\"" + folder.Write("all.tsv", rows).string() + "\"]"},
      {"simulation.test_fraction", "0.2"}, {"simulation.device_test_fraction", "0.25"}};
}

TEST_F(SimulationTest, ModelsOfTestedRoundsHaveTheirFiguresInTheHistory) {
  auto settings = SplitSettings(folder_);
  settings["strategy.num_server_rounds"] = "4";
  settings["simulation.eval_every"] = "3";
  const auto result = Run("out", settings);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto rounds = History("out");
  ASSERT_EQ(rounds.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rounds[i].contains("test_loss"), i >= 2) << "round " << i + 1;
    EXPECT_EQ(rounds[i].contains("device_perplexity"), i >= 2) << "round " << i + 1;
    EXPECT_GT(rounds[i].at("tokens").to_number<int>(), 0);
  }
  EXPECT_NEAR(rounds[3].at("test_loss").to_number<double>(), FigureOf(result->figures.test, "loss"), 1e-6);
  // The same as testing the checkpoint by hand.
  const auto again =
      client::EvaluateModel(HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny", folder_ / "out/checkpoints/round-4",
                            folder_ / "out/data/test.jsonl", 16, *client::MakeTaskResources());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_NEAR(again->loss, FigureOf(result->figures.test, "loss"), 1e-5);
  EXPECT_NE(rounds[2].at("test_loss"), rounds[3].at("test_loss"));
}

TEST_F(SimulationTest, DevicesAreTestedWithWhatTheyKeepToThemselves) {
  auto settings = SplitSettings(folder_);
  settings["strategy.name"] = "FedSA-LoRA";
  settings["strategy.cohort_size"] = "6";
  settings["train.learning_rate"] = "0.05";
  settings["train.local_steps"] = "4";
  const auto result = Run("out", settings);
  ASSERT_TRUE(result.ok()) << result.status();
  // B stays on the devices, and is zero in the committed model: its figure is the base model's.
  const auto resources = client::MakeTaskResources();
  double committed = 0;
  for (int d = 1; d <= 6; ++d) {
    const fs::path test = folder_ / ("out/data/device-00" + std::to_string(d) + ".test.jsonl");
    const auto base =
        client::EvaluateModel(HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny", {}, test, 16, *resources);
    ASSERT_TRUE(base.ok()) << base.status();
    committed += base->loss / 6;
  }
  const double own = FigureOf(result->figures.device, "loss");
  EXPECT_LT(own, committed - 0.01) << "the devices' own factors were left out";
  // The next simulation into the folder does not find what these devices kept.
  const auto again = Run("out", settings);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(FigureOf(again->figures.device, "loss"), own);
}

TEST_F(SimulationTest, ALossThatDoesNotFallIsToldInTheLog) {
  const auto log_of = [&](const std::string& name, const std::string& learning_rate) {
    LogOptions log;
    log.level = "warning";
    log.file = folder_ / (name + ".log");
    EXPECT_TRUE(InitLogging(log).ok());
    const auto result = Run(name, {{"strategy.num_server_rounds", "16"}, {"train.learning_rate", learning_rate}});
    EXPECT_TRUE(result.ok()) << result.status();
    return Slurp(log.file);
  };
  const std::string still = log_of("still", "1e-9"), moving = log_of("moving", "1e-2");
  EXPECT_NE(still.find("the training loss does not fall: "), std::string::npos) << still;
  EXPECT_NE(still.find("another train.learning_rate may help"), std::string::npos) << still;
  EXPECT_EQ(moving.find("does not fall"), std::string::npos) << moving;
}

TEST_F(SimulationTest, TransfersTakeTimeAndWattsBecomeEnergy) {
  const std::map<std::string, std::string> settings = {{"strategy.cohort_size", "6"},
                                                       {"simulation.speed_spread", "0.0"},
                                                       {"simulation.upload_bytes_per_s", "1000"},
                                                       {"simulation.watts", "3"}};
  const auto fast = Run("fast", {{"strategy.cohort_size", "6"}, {"simulation.speed_spread", "0.0"}});
  const auto slow = Run("slow", settings);
  ASSERT_TRUE(fast.ok() && slow.ok()) << fast.status() << slow.status();
  EXPECT_EQ(slow->run.model, fast->run.model) << "how long a transfer takes changed the model";
  const DeviceCost& cost = slow->costs.at("device");
  EXPECT_EQ(cost.tasks, 12U);
  EXPECT_DOUBLE_EQ(cost.compute_seconds, 12);
  EXPECT_NEAR(cost.transfer_seconds, static_cast<double>(slow->traffic.up) / 1000, 1e-9);
  EXPECT_NEAR(cost.compute_joules, 36, 1e-9);
  EXPECT_NEAR(slow->virtual_seconds - fast->virtual_seconds, cost.transfer_seconds / 6, 1e-3);
  const json::object round = History("slow").at(1);
  EXPECT_NEAR(round.at("granularity").to_number<double>(), cost.Granularity(), 1e-3);
  EXPECT_NEAR(round.at("tokens_per_joule").to_number<double>(), cost.TokensPerJoule(), 1e-6);
  EXPECT_FALSE(History("fast").at(1).contains("granularity"));
}

TEST_F(SimulationTest, AttackersSendTheOppositeOfWhatTheyLearnt) {
  const std::map<std::string, std::string> one = {{"strategy.num_server_rounds", "1"}};
  const auto factors = [&](const std::string& out, std::map<std::string, std::string> overrides) {
    overrides.insert(one.begin(), one.end());
    EXPECT_TRUE(Run(out, overrides).ok());
    std::vector<float> b;
    const auto model = ReadSafetensors(folder_ / out / "checkpoints/round-1/adapter_model.safetensors");
    EXPECT_TRUE(model.ok()) << model.status();
    for (const auto& [name, tensor] : model->tensors) {
      if (name.ends_with("lora_B.weight"))
        b.insert(b.end(), tensor.values<float>().begin(), tensor.values<float>().end());
    }
    return b;
  };
  const std::vector<float> honest = factors("honest", {});
  const std::vector<float> flipped =
      factors("flipped", {{"simulation.attackers", "1"}, {"simulation.attack_scale", "2"}});
  ASSERT_FALSE(honest.empty());
  ASSERT_EQ(flipped.size(), honest.size());  // B begins at zero
  for (size_t i = 0; i < honest.size(); ++i) EXPECT_FLOAT_EQ(flipped[i], -2 * honest[i]);
  // A share that rounds to no device.
  EXPECT_EQ(factors("few", {{"simulation.attackers", "0.05"}}), honest);
  EXPECT_NE(factors("noise", {{"simulation.attackers", "1"}, {"simulation.attack", "noise"}}), honest);
}

TEST_F(SimulationTest, TheRecipeOffersThePartitionsThatThereAre) {
  for (const std::string& name : PartitionNames()) {
    const std::map<std::string, std::string> settings = {{"simulation.partition", name},
                                                         {"simulation.group_field", "x"}};
    EXPECT_TRUE(coordinator::Recipe::Load(recipe_, settings).ok()) << name;
  }
}

TEST_F(SimulationTest, ARecipeWithoutDevicesIsRefused) {
  const auto result = Run("out", {{"simulation.devices", "[]"}, {"simulation.data", "[]"}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), Code::kInvalidArgument);
  EXPECT_NE(result.status().message().find("[simulation]"), std::string::npos) << result.status();
}

TEST_F(SimulationTest, DevicesWithoutDataAreRefused) {
  const auto none = Run("out", {{"simulation.data", "[]"}});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.status().code(), Code::kInvalidArgument) << none.status();
  fs::remove(folder_ / "device-2.txt");
  const auto missing = Run("out", {{"strategy.cohort_size", "6"}});
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.status().message().find("device-2"), std::string::npos) << missing.status();
}

TEST_F(SimulationTest, AFolderWithSomethingElseIsLeftAlone) {
  fs::create_directories(folder_ / "mine" / "checkpoints");
  folder_.Write("mine/letter.txt", "dear");
  const auto result = Run("mine");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), Code::kInvalidArgument) << result.status();
  EXPECT_EQ(Slurp(folder_ / "mine" / "letter.txt"), "dear");
  EXPECT_TRUE(fs::exists(folder_ / "mine" / "checkpoints"));
  EXPECT_EQ(Run("").status().code(), Code::kInvalidArgument) << "the folder of recipe and data was taken";
}

TEST_F(SimulationTest, ProgressIsToldAfterEachAttemptAndMayEndIt) {
  std::vector<uint32_t> committed;
  const auto result = Run("out", {{"strategy.num_server_rounds", "5"}}, [&](const coordinator::RunProgress& p) {
    committed.push_back(p.run.committed_rounds);
    return committed.size() < 2;
  });
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), Code::kCancelled) << result.status();
  EXPECT_EQ(committed.size(), 2U);
}

}  // namespace
}  // namespace heddle::simulator
