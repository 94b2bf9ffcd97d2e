// kill -9 of the coordinator at the failpoints (common/test_hooks.h) around a commit, of a device that has just
// finished a task, and of another in the middle of one, for methods that differ in what is remembered from round to
// round: every round's checkpoint is that of heddle-simulate, where nothing is killed.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "common/test_hooks.h"
#include "tests/integration/processes/keeper.h"

namespace heddle {
namespace {

struct KilledMethod {
  std::string name;    // of the test
  std::string recipe;  // file in recipes/
  std::map<std::string, std::string> settings;
  bool paced = false;  // the model moves in every second round; in between the method gathers what it will move by
};

void PrintTo(const KilledMethod& method, std::ostream* out) { *out << method.name; }

using Points = std::vector<std::string>;

// HEDDLE_KILL_EVERY_POINT=1: all points that every round passes, in a longer run, in place of a few.
bool EveryPoint() { return std::getenv("HEDDLE_KILL_EVERY_POINT") != nullptr; }

// What becomes durable or is said, whatever it is of; each start passes these, so they are meant some passings later.
bool OfEverything(std::string_view point) {
  static const Points kPoints = {"file-unsynced", "file-synced", "unrenamed", "renamed",    "folder-unsynced",
                                 "folder-synced", "uncommitted", "committed", "unanswered", "answered"};
  return std::find(kPoints.begin(), kPoints.end(), point) != kPoints.end();
}

// One for each life of the coordinator. The few: the state of the second round and the model that names it are stored
// but not committed; committed, but nobody has heard of it; the next round's task is not sent; one update is in the
// sum.
Points CoordinatorPoints() {
  if (!EveryPoint()) return {"model-stored:2", "checkpoint-half", "assignment-unsent", "update-folded"};
  // First, since devices with a ledger fetch patches later on; the end of the run comes last.
  Points points = {"blob-answered"};
  for (const std::string_view name : test_hooks::FailpointNames()) {
    bool elsewhere = name == "blob-answered" || name == "run-end-unwritten";
    for (const char* other : {"client-", "enroll", "enrolment-", "audit-", "run-blobs-stored", "run-created"}) {
      elsewhere = elsewhere || name.starts_with(other);
    }
    if (!elsewhere) points.push_back(std::string(name) + (OfEverything(name) ? ":10" : ""));
  }
  points.emplace_back("run-end-unwritten");
  return points;
}

Points DevicePoints() {
  if (!EveryPoint()) return {"client-update-finished:3"};
  Points points;
  for (const std::string_view name : test_hooks::FailpointNames()) {
    if (name.starts_with("client-")) points.emplace_back(name);
  }
  return points;
}

// Whether the last task that the device received is the last thing of note in its log.
bool IsAtWork(std::string_view log) {
  const size_t received = log.rfind("task received"), accepted = log.rfind("update accepted");
  return received != std::string_view::npos && (accepted == std::string_view::npos || received > accepted);
}

// Kills a device in the middle of its task, in a round after the first: its worker computes, and there is no update.
// The worker is stopped while one looks, so that it stays so. False: it was not to be caught at it now.
bool KillAtWork(Keeper& keeper, size_t index) {
  auto& [name, daemon] = keeper.world().fleet().devices()[index];
  const std::vector<pid_t> workers = ChildrenNamed(daemon.pid(), "heddle-worker");
  if (workers.size() != 1) return false;
  const std::string stat = Slurp("/proc/" + std::to_string(workers[0]) + "/stat");  // pid (comm) state …
  const size_t close = stat.rfind(')');
  const bool computes = close != std::string::npos && stat.substr(close + 1).starts_with(" R");
  if (!computes || ::kill(workers[0], SIGSTOP) != 0) return false;
  const auto update = keeper.world().fleet().folder() / "devices" / name / "state" / "work" / "update.safetensors";
  const bool finished = std::filesystem::exists(update) || keeper.CommittedRounds() < 1;
  const std::string log = keeper.world().DeviceLog(name);
  if (finished || !IsAtWork(log)) {
    ::kill(workers[0], SIGCONT);
    return false;
  }
  keeper.KillDevice(index);  // the worker dies with it
  return true;
}

std::filesystem::path CheckpointOf(const std::filesystem::path& run, uint32_t round) {
  return run / "checkpoints" / ("round-" + std::to_string(round)) / "adapter_model.safetensors";
}

// What run.json says that the last checkpoint's digest is.
std::string AdapterIn(const std::filesystem::path& run) {
  boost::system::error_code error;
  const boost::json::value file = boost::json::parse(Slurp(run / "run.json"), error);
  return error ? "" : TextOf(file.as_object(), "adapter_sha256");
}

// Round by round the simulator's checkpoints; and those of rounds that move the model differ from the one before.
void ExpectTheSimulatorsCheckpoints(const std::filesystem::path& run, const std::filesystem::path& simulated,
                                    uint32_t rounds, bool paced) {
  std::string before;
  for (uint32_t round = 1; round <= rounds; ++round) {
    const std::string checkpoint = Slurp(CheckpointOf(run, round));
    EXPECT_FALSE(checkpoint.empty()) << "round " << round;
    EXPECT_TRUE(checkpoint == Slurp(CheckpointOf(simulated, round))) << "round " << round;
    if (round > 1) {
      const bool waits = paced && round % 2 == 1;
      EXPECT_EQ(checkpoint == before, waits) << "round " << round;
    }
    before = checkpoint;
  }
  EXPECT_EQ(AdapterIn(run), Sha256(before).ToHex());
  EXPECT_EQ(AdapterIn(run), AdapterIn(simulated));
}

testing::AssertionResult DiedOfAll(const Points& points, int deaths) {
  const auto lives = static_cast<size_t>(deaths);
  if (lives == points.size()) return testing::AssertionSuccess();
  if (lives > points.size())
    return testing::AssertionFailure() << deaths << " deaths of " << points.size() << " points";
  return testing::AssertionFailure() << points[lives] << " was never passed";
}

class MethodKills : public testing::TestWithParam<KilledMethod> {};

TEST_P(MethodKills, CommitTheSimulatorsModelsWhereverCoordinatorAndDevicesAreKilled) {
  const KilledMethod& method = GetParam();
  KeeperOptions options;
  options.recipe = HEDDLE_SOURCE_DIR "/recipes/" + method.recipe;
  options.settings = method.settings;
  options.rounds = EveryPoint() ? 50 : 6;  // enough of them to catch a device at work in one
  options.inline_updates = !EveryPoint();  // those of less than 64 KiB; else the points of uploads are passed, too
  options.coordinator_points = CoordinatorPoints();
  options.device_points = DevicePoints();
  const double limit_s = EveryPoint() ? 280 : 60;
  Keeper keeper(options);
  const Status started = keeper.Start();
  ASSERT_TRUE(started.ok()) << started;
  const Status submitted = keeper.Submit();
  ASSERT_TRUE(submitted.ok()) << submitted;
  bool killed_at_work = false;
  const Status caught = keeper.TendUntil(
      [&] {
        killed_at_work = KillAtWork(keeper, 1);
        const std::string state = TextOf(keeper.Progress(), "state");
        return killed_at_work || !(state.empty() || state == "running");
      },
      "a device is killed at work", limit_s);
  ASSERT_TRUE(caught.ok()) << caught;
  EXPECT_TRUE(killed_at_work) << "the run ended before";
  const Status finished = keeper.Finish(limit_s);
  ASSERT_TRUE(finished.ok()) << finished;
  ASSERT_TRUE(DiedOfAll(options.coordinator_points, keeper.coordinator_deaths()));
  ASSERT_TRUE(DiedOfAll(options.device_points, keeper.device_deaths()));
  const boost::json::object end = keeper.Progress();
  EXPECT_EQ(NumberOf(end, "committed_rounds"), options.rounds);
  ExpectTheSimulatorsCheckpoints(TextOf(end, "folder"), keeper.world().folder() / "simulated", options.rounds,
                                 method.paced);
  EXPECT_TRUE(keeper.world().fleet().Stop().ok());
}

// Small ones of what the recipe asks for; and, where it is for a classifier of the user's, what the base model has.
using Settings = std::map<std::string, std::string>;

Settings Small(Settings more) {
  more.insert({{"train.batch_size", "2"}, {"train.sequence_length", "32"}});
  return more;
}

Settings OfCausalModel(const std::string& targets, Settings more) {
  more.insert({{"model.num_labels", "0"}, {targets, R"(["q_proj", "v_proj"])"}});
  return Small(std::move(more));
}

Settings Merging(const std::string& strategy) {
  return OfCausalModel("lora.target_modules", {{"strategy.name", strategy},
                                               {"model.label_names", "[]"},
                                               {"simulation.columns", "[]"},
                                               {"train.optimizer", "SGD"},
                                               {"train.local_steps", "20"}});
}

// FwdLLM's two devices send 40 scalars a round, and move the model by 60 or more: in every second round.
const Settings kPacing = {
    {"zo.num_perturbations", "20"}, {"strategy.variance_threshold", "0"}, {"strategy.max_waiting", "60"}};
const Settings kSearch = {{"zo.intrinsic_dim", "50"}, {"zo.population", "6"}, {"train.local_steps", "6"}};
const Settings kSplitLayers = {{"tuning.modules_to_save", "[]"}, {"train.local_steps", "4"}};
const Settings kBySize = {
    {"strategy.name", "FedKSeed-Pro"}, {"strategy.pool_size", "1024"}, {"train.local_steps", "20"}};

INSTANTIATE_TEST_SUITE_P(ForwardPasses, MethodKills,
                         testing::Values(KilledMethod{"BAFFLE", "baffle.toml", Small({{"zo.num_perturbations", "40"}})},
                                         KilledMethod{"FwdLLM", "fwdllm.toml", Small(kPacing), /*paced=*/true},
                                         KilledMethod{"SPRY", "spry.toml",
                                                      OfCausalModel("tuning.target_modules", kSplitLayers)},
                                         KilledMethod{"FedBPT", "fedbpt.toml", Small(kSearch)},
                                         KilledMethod{"FedBBPT", "fed-bbpt.toml", Small({{"train.local_steps", "4"}})},
                                         KilledMethod{"FedKSeedPro", "fedkseed.toml", Small(kBySize)}),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(Merging, MethodKills,
                         testing::Values(KilledMethod{"SCAFFOLD", "text-classification.toml", Merging("SCAFFOLD")},
                                         KilledMethod{"FedDyn", "text-classification.toml", Merging("FedDyn")},
                                         KilledMethod{"FedAdam", "text-classification.toml", Merging("FedAdam")},
                                         KilledMethod{"FLoRA", "text-classification.toml", Merging("FLoRA")},
                                         KilledMethod{"FedExLoRA", "text-classification.toml", Merging("FedEx-LoRA")}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace heddle
