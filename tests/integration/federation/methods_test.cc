// Methods that are more than a mean, over TLS with real daemons: what the server remembers, what devices keep and what
// they are given is the same as in the simulator, also when both are killed on the way.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/file.h"
#include "tests/integration/federation/federation_world.h"

namespace heddle {
namespace {

namespace json = boost::json;

struct Method {
  std::string name;
  std::map<std::string, std::string> train, lora;
  std::map<std::string, std::string> strategy = {};
  std::string tables = {};  // more of the recipe
  bool few_labels = false;  // the first device's texts have labels, the others label their own
  std::string label = {};   // of the test, where the method has another
};

void PrintTo(const Method& method, std::ostream* out) { *out << method.name; }

// A few sentences; of the first device some have labels.
std::filesystem::path WriteFewLabels(const std::filesystem::path& folder, const std::string& name, size_t index) {
  std::string lines;
  for (int i = 0; i < 16; ++i) {
    lines += "{\"text\": \"" + name + " has " + std::to_string(i * 7 % 13) + " sheep\"" +
             (index == 0 && i < 6 ? ", \"label\": " + std::to_string(i % 2) : "") + "}\n";
  }
  const std::filesystem::path path = folder / (name + ".jsonl");
  EXPECT_TRUE(WriteFileAtomically(path, lines).ok());
  return path;
}

class Methods : public ::testing::TestWithParam<Method> {};

// What the API says of the run when it is in a round after the first: then there is something to remember.
Result<json::object> SubmitAndWaitUntilAtWorkAgain(FederationWorld& world) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string run, world.Submit());
  HEDDLE_ASSIGN_OR_RETURN(json::object now, world.WaitUntil(run, [](const json::object& state) {
    return NumberOf(state, "committed_rounds") >= 1 && NumberOf(state, "devices_at_work") > 0;
  }));
  if (TextOf(now, "state") != "running") return DeadlineExceeded("too late to disturb anything");
  return now;
}

TEST_P(Methods, CommitTheSimulatorsModelThoughCoordinatorAndDeviceAreKilled) {
  const Method& method = GetParam();
  FederationModel model{.base = {}, .data = {}, .lora = method.lora, .tables = method.tables};
  if (method.few_labels) model.data = WriteFewLabels;
  std::map<std::string, std::string> strategy = method.strategy;
  strategy.insert({{"name", "\"" + method.name + "\""}, {"num_server_rounds", "4"}});
  FederationWorld world({"anna", "bert"}, std::move(strategy), method.train, {}, model);
  const auto simulated = world.SimulatedHash();
  ASSERT_TRUE(simulated.ok()) << simulated.status();
  ASSERT_TRUE(world.Start().ok());
  const auto at_work = SubmitAndWaitUntilAtWorkAgain(world);
  ASSERT_TRUE(at_work.ok()) << at_work.status();
  ASSERT_TRUE(world.KillAndRestartCoordinator().ok());
  ASSERT_TRUE(world.KillAndRestartDevice(0).ok());
  const auto end = world.WaitForEnd(TextOf(*at_work, "run_id"));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(TextOf(*end, "model_sha256"), *simulated);
  EXPECT_EQ(NumberOf(*end, "committed_rounds"), 4);
  EXPECT_TRUE(world.fleet().Stop().ok());
}

// With noise too, where the devices' secrets are those that the simulator gives them (simulator/world/devices.h).
TEST(PrivateFederation, CommitsTheSimulatorsModelThoughADeviceIsKilled) {
  const std::vector<std::string> devices = {"anna", "bert"};
  FederationModel model;
  model.tables = "[privacy]\nupdate_clip = 0.5\nnoise_multiplier = 0.05\n[compression]\nupload = [\"int8\"]\n";
  FederationWorld world(devices, {{"num_server_rounds", "3"}}, {}, {}, model);
  const auto simulated = world.SimulatedHash();
  ASSERT_TRUE(simulated.ok()) << simulated.status();
  for (const std::string& device : devices) {
    const std::filesystem::path state = world.fleet().folder() / "devices" / device / "state";
    ASSERT_TRUE(MakeDirectories(state).ok());
    const std::string secret = Sha256("simulated noise secret\n7\n" + device).ToHex();
    ASSERT_TRUE(WriteFileAtomically(state / "noise.secret", secret, 0600).ok());
  }
  ASSERT_TRUE(world.Start().ok());
  const auto at_work = SubmitAndWaitUntilAtWorkAgain(world);
  ASSERT_TRUE(at_work.ok()) << at_work.status();
  EXPECT_FALSE(at_work->contains("train_loss")) << "the devices withhold it";
  ASSERT_TRUE(world.KillAndRestartDevice(0).ok());
  const auto end = world.WaitForEnd(TextOf(*at_work, "run_id"));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(TextOf(*end, "model_sha256"), *simulated);
  EXPECT_TRUE(world.fleet().Stop().ok());
}

// Of each device the layers that it was given in a run's history.
std::map<std::string, std::set<double>> LayersIn(const std::filesystem::path& history) {
  std::map<std::string, std::set<double>> layers;
  std::istringstream lines(Slurp(history));
  for (std::string line; std::getline(lines, line);) {
    const json::object round = json::parse(line).as_object();
    for (const json::value& device : round.at("devices").as_array()) {
      layers[TextOf(device.as_object(), "device")].insert(NumberOf(device.as_object(), "layers"));
    }
  }
  return layers;
}

// Three machines: one holds two of the four layers beside its worker, one all of them, one none.
TEST(MemoryFederation, GivesEachDeviceTheLayersThatItsMemoryAllowsAndCommitsTheSimulatorsModel) {
  FederationModel model;
  model.tables =
      "[simulation.profiles.desk]\nmemory_limit_mb = 960\n[simulation.profiles.phone]\nmemory_limit_mb = 930\n"
      "[simulation.profiles.watch]\nmemory_limit_mb = 905\n[compression]\nupload = [\"int8\"]\n";
  FederationWorld world({"anna", "bert", "carl"},
                        {{"name", "\"HeteroLayers\""},
                         {"num_layers", "4"},
                         {"layers_by_memory", "true"},
                         {"worker_memory_mb", "900"},
                         {"num_server_rounds", "4"},
                         {"cohort_size", "2"}},
                        {{"batch_size", "16"}, {"sequence_length", "64"}}, {}, model);
  const auto simulated = world.SimulatedHash();
  ASSERT_TRUE(simulated.ok()) << simulated.status();
  const auto given = LayersIn(world.folder() / "simulated" / "history.jsonl");
  ASSERT_EQ(given.size(), 2U) << "the third has no memory for a task";
  std::map<std::string, std::map<std::string, std::string>> settings;
  for (const char* device : {"anna", "bert", "carl"}) settings[device] = {{"worker.memory_limit_mb", "905"}};
  std::set<double> all;
  for (const auto& [device, layers] : given) {
    ASSERT_EQ(layers.size(), 1U) << device;
    settings[device] = {{"worker.memory_limit_mb", *layers.begin() == 2 ? "930" : "960"}};
    all.insert(*layers.begin());
  }
  EXPECT_EQ(all, (std::set<double>{2, 4}));
  ASSERT_TRUE(world.Start({}, settings).ok());
  // What a task is of outlives the coordinator; a device that asks again says what it has.
  const auto at_work = SubmitAndWaitUntilAtWorkAgain(world);
  ASSERT_TRUE(at_work.ok()) << at_work.status();
  ASSERT_TRUE(world.KillAndRestartCoordinator().ok());
  const auto end = world.WaitForEnd(TextOf(*at_work, "run_id"));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(TextOf(*end, "model_sha256"), *simulated);
  EXPECT_EQ(LayersIn(std::filesystem::path(TextOf(*end, "folder")) / "history.jsonl"), given);
  EXPECT_TRUE(Eventually([&] {
    const auto metrics = world.fleet().admin().GetText("/metrics");
    return metrics.ok() &&
           metrics->find("heddle_client_checkins_total{result=\"too_little_memory\"}") != std::string::npos;
  }));
  EXPECT_TRUE(world.fleet().Stop().ok());
}

// Forward passes only; the local task follows from the method.
const std::map<std::string, std::string> kForward = {{"learning_rate", "1e-2"}, {"local_steps", "4"}};
// Devices fetch the tensors of their parts of a model of four layers.
const std::map<std::string, std::string> kLayers = {{"num_layers", "4"}, {"sampled_layers", "1"}};
const std::map<std::string, std::string> kDepths = {{"num_layers", "4"}, {"device_layers", "[\"bert:2\"]"}};
const std::map<std::string, std::string> kDescent = {{"optimizer", "\"SGD\""}, {"learning_rate", "0.1"}};

// Trials that end and begin within four rounds.
const std::map<std::string, std::string> kTrials = {{"trial_rounds", "2"}};
const std::string kBottlenecks = "[tuning]\nmethod = \"bottleneck\"\nplacement = \"pfeiffer\"\nbottleneck_size = 24\n";
const std::string kPrefixes = "[tuning]\nmethod = \"prefix-tuning\"\nnum_virtual_tokens = 2\n";
const std::map<std::string, std::string> kPaced = {
    {"warmup_rounds", "1"}, {"infer_devices", "1"}, {"infer_samples", "3"}, {"min_logit", "-1000"}};
const std::string kPrompt = "[prompt]\npattern = \"{text} it is {mask}\"\nwords = [\"all\", \"no\"]\n";

// Fed-BBPT: what is averaged is the network that makes the prompt.
const std::map<std::string, std::string> kQueries = {
    {"local_task", "\"zo_sft\""}, {"learning_rate", "1e-2"}, {"local_steps", "4"}};
const std::string kGenerator = "[tuning]\nmethod = \"prompt-tuning\"\nnum_virtual_tokens = 2\ngenerator_dim = 4\n";

// FedOBD: blocks in adaptive levels, both ways; then all of the model after fewer steps.
const std::map<std::string, std::string> kStages = {{"first_stage_rounds", "2"}}, kFewer = {{"later_local_steps", "1"}};
const std::string kLevels =
    "[compression]\nupload = [\"blocks:0.5\", \"nnadq:0.01\"]\nupload_rounds = 2\nlater_upload = [\"nnadq:0.01\"]\n"
    "download = \"nnadq:0.01\"\n";
const std::string kRounded = "[compression]\ndownload = \"bf16\"\n";
// Devices that give up rank, and send what is left of it in few bytes.
const std::map<std::string, std::string> kPruned = {{"prune_gamma", "0.5"}, {"prune_lambda", "1000.0"}};
const std::string kSmaller = "[compression]\nupload = [\"top_k:0.5\", \"int8\", \"error_feedback\"]\n";

INSTANTIATE_TEST_SUITE_P(BeyondAMean, Methods,
                         testing::Values(Method{"FedAdam", {}, {}, {}, kRounded},
                                         Method{"FedAvg", kQueries, {}, {}, kGenerator},
                                         Method{"FedAvg", kFewer, {}, kStages, kLevels, false, "FedOBD"},
                                         Method{"HetLoRA", {}, {}, kPruned, kSmaller}, Method{"SCAFFOLD", kDescent, {}},
                                         Method{"FedSA-LoRA", {}, {{"device_ranks", "[\"anna:1\"]"}}},
                                         Method{"FedBFPT", {}, {}, kLayers}, Method{"HeteroLayers", {}, {}, kDepths},
                                         Method{"FLoRA", {}, {}}, Method{"FedKSeed", kForward, {}},
                                         Method{"FedKSeed-Pro", kForward, {}}, Method{"DeComFL", kForward, {}},
                                         Method{"FlexLoRA", {}, {{"device_ranks", "[\"bert:1\"]"}}},
                                         Method{"SLoRA", {}, {{"device_ranks", "[\"bert:1\"]"}}},
                                         Method{"FedAdapter", {}, {}, kTrials, kBottlenecks},
                                         Method{"FedPepTAO", {}, {}, {{"communicated_layers", "1"}}, kPrefixes},
                                         Method{"FeS", {}, {}, kPaced, kPrompt, true},
                                         Method{"LP-FL", {}, {}, {{"warmup_rounds", "1"}}, kPrompt, true}),
                         [](const auto& info) {
                           std::string name = info.param.label.empty() ? info.param.name : info.param.label;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace heddle
