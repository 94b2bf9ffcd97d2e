// Runs with real daemons over TLS: the same hash as the simulator's, whatever is killed on the way.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <set>
#include <sstream>

#include "tests/integration/federation/federation_world.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const Status ok_status = (expression);                                     \
    ASSERT_TRUE(ok_status.ok()) << #expression << ": " << ok_status.message(); \
  } while (false)

// Every committed round stands in history.jsonl once and has its checkpoint.
void ExpectWholeHistory(const fs::path& folder, uint32_t rounds) {
  std::istringstream lines(Slurp(folder / "history.jsonl"));
  std::multiset<int> committed;
  for (std::string line; std::getline(lines, line);) {
    boost::system::error_code error;
    const json::value value = json::parse(line, error);
    ASSERT_FALSE(error) << line;
    const json::object& round = value.as_object();
    if (TextOf(round, "phase") != "abandoned" && TextOf(round, "outcome") != "abandoned") {
      committed.insert(static_cast<int>(NumberOf(round, "round")));
    }
  }
  for (uint32_t round = 1; round <= rounds; ++round) {
    EXPECT_EQ(committed.count(static_cast<int>(round)), 1U) << "round " << round;
    const fs::path checkpoint = folder / "checkpoints" / ("round-" + std::to_string(round));
    EXPECT_TRUE(fs::is_regular_file(checkpoint / "adapter_model.safetensors")) << checkpoint;
    EXPECT_TRUE(fs::is_regular_file(checkpoint / "adapter_config.json")) << checkpoint;
  }
  EXPECT_EQ(committed.size(), rounds);
}

TEST(Federation, CommitsTheSameAdapterOverTlsAsTheSimulator) {
  FederationWorld world({"anna", "bert", "cora"});
  auto simulated = world.SimulatedHash();
  ASSERT_OK(simulated.status());
  ASSERT_EQ(simulated->size(), 64U);
  ASSERT_OK(world.Start());
  auto run = world.Submit();
  ASSERT_OK(run.status());
  auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "model_sha256"), *simulated);
  EXPECT_EQ(NumberOf(*end, "committed_rounds"), 2);
  EXPECT_GT(NumberOf(*end, "bytes_up"), 0);
  ExpectWholeHistory(TextOf(*end, "folder"), 2);
  ASSERT_OK(world.fleet().Stop());
}

TEST(Federation, CommitsTheSameAdapterOverTlsAsTheSimulatorWhenUpdatesAreMadeSmaller) {
  FederationWorld world({"anna", "bert", "cora"}, {{"num_server_rounds", "3"}}, {}, {},
                        {.tables = "[compression]\nupload = [\"top_k:0.1\", \"int4\", \"error_feedback\"]\n"});
  auto simulated = world.SimulatedHash();
  ASSERT_OK(simulated.status());
  ASSERT_OK(world.Start());
  auto run = world.Submit();
  ASSERT_OK(run.status());
  auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "model_sha256"), *simulated);
  // Each device keeps what its updates left out: the third round's adapter depends on it.
  for (const char* device : {"anna", "bert", "cora"}) {
    bool kept = false;
    for (const auto& entry : fs::recursive_directory_iterator(world.folder() / "fleet")) {
      kept = kept || (entry.path().string().find(device) != std::string::npos &&
                      entry.path().string().find("/personal/") != std::string::npos);
    }
    EXPECT_TRUE(kept) << device;
  }
  ASSERT_OK(world.fleet().Stop());
}

// Each moment of a round at which the coordinator may be gone from one instant to the next.
TEST(Federation, AKilledCoordinatorResumesAndCommitsTheSameAdapter) {
  FederationWorld world({"anna", "bert"}, {{"num_server_rounds", "6"}});
  auto undisturbed = world.SimulatedHash();
  ASSERT_OK(undisturbed.status());
  ASSERT_OK(world.Start());
  auto run = world.Submit();
  ASSERT_OK(run.status());
  const std::pair<const char*, FederationWorld::Condition> moments[] = {
      {"submitted", [](const json::object&) { return true; }},
      {"devices at work", [](const json::object& now) { return NumberOf(now, "devices_at_work") > 0; }},
      {"a report is in", [](const json::object& now) { return NumberOf(now, "reports_accepted") >= 1; }},
      {"a round is committed", [](const json::object& now) { return NumberOf(now, "committed_rounds") >= 1; }},
      {"the next is at work",
       [](const json::object& now) {
         return NumberOf(now, "committed_rounds") >= 2 && NumberOf(now, "devices_at_work") > 0;
       }},
      {"later", [](const json::object& now) { return NumberOf(now, "committed_rounds") >= 3; }},
  };
  for (const auto& [name, condition] : moments) {
    SCOPED_TRACE(name);
    auto there = world.WaitUntil(*run, condition);
    ASSERT_OK(there.status());
    ASSERT_EQ(TextOf(*there, "state"), "running") << "too late to disturb anything";
    ASSERT_OK(world.KillAndRestartCoordinator());
  }
  auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "model_sha256"), *undisturbed);
  EXPECT_EQ(NumberOf(*end, "committed_rounds"), 6);
  ExpectWholeHistory(TextOf(*end, "folder"), 6);
  // A run that has ended stays so.
  ASSERT_OK(world.KillAndRestartCoordinator());
  end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "model_sha256"), *undisturbed);
  ASSERT_OK(world.fleet().Stop());
}

TEST(Federation, AKilledClientTakesUpItsTaskAgainAndTheRunCompletes) {
  FederationWorld world({"anna", "bert"}, {{"num_server_rounds", "3"}});
  auto undisturbed = world.SimulatedHash();
  ASSERT_OK(undisturbed.status());
  ASSERT_OK(world.Start());
  auto run = world.Submit();
  ASSERT_OK(run.status());
  for (const int round : {0, 1}) {
    auto at_work = world.WaitUntil(*run, [&](const json::object& now) {
      return NumberOf(now, "committed_rounds") >= round && NumberOf(now, "devices_at_work") > 0;
    });
    ASSERT_OK(at_work.status());
    const size_t device = static_cast<size_t>(round);
    const std::vector<pid_t> workers = ChildrenNamed(world.fleet().devices()[device].second.pid(), "heddle-worker");
    ASSERT_OK(world.KillAndRestartDevice(device));
    for (const pid_t worker : workers) EXPECT_TRUE(Eventually([&] { return !Runs(worker); })) << "an orphan";
  }
  auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "model_sha256"), *undisturbed);
  ExpectWholeHistory(TextOf(*end, "folder"), 3);
  ASSERT_OK(world.fleet().Stop());
}

TEST(Federation, AKilledWorkerInterruptsItsTaskOnlyAndTheRunCompletes) {
  // Enough steps that the worker dies in the middle of its task.
  FederationWorld world({"anna", "bert"}, {{"num_server_rounds", "2"}}, {{"local_steps", "40"}});
  auto undisturbed = world.SimulatedHash();
  ASSERT_OK(undisturbed.status());
  ASSERT_OK(world.Start());
  auto run = world.Submit();
  ASSERT_OK(run.status());
  const pid_t device = world.fleet().devices()[0].second.pid();
  ASSERT_TRUE(Eventually([&] { return world.DeviceLog("anna").find("training") != std::string::npos; }));
  const std::vector<pid_t> workers = ChildrenNamed(device, "heddle-worker");
  ASSERT_EQ(workers.size(), 1U);
  ASSERT_EQ(::kill(workers[0], SIGKILL), 0);
  auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "model_sha256"), *undisturbed);
  EXPECT_EQ(NumberOf(*end, "committed_rounds"), 2);
  EXPECT_EQ(world.fleet().devices()[0].second.pid(), device);
  EXPECT_NE(world.DeviceLog("anna").find("interrupted"), std::string::npos) << world.DeviceLog("anna");
  ASSERT_OK(world.fleet().Stop());
}

TEST(Federation, SigtermEndsCoordinatorAndDevicesThatWaitInALongPoll) {
  FederationWorld world({"anna", "bert"});
  ASSERT_OK(world.Start());
  ASSERT_TRUE(Eventually([&] { return world.Waiting() == 2; }));
  // A device that waits for work, and leaves no poll behind.
  Subprocess& device = world.fleet().devices()[0].second;
  device.Signal(SIGTERM);
  EXPECT_EQ(device.WaitFor(Seconds(8)), 0);
  EXPECT_TRUE(Eventually([&] { return world.Waiting() == 1; }));
  // The coordinator, while the other one waits; that one does not end for it.
  Subprocess& coordinator = world.fleet().coordinator_process();
  coordinator.Signal(SIGTERM);
  EXPECT_EQ(coordinator.WaitFor(Seconds(8)), 0);
  Subprocess& other = world.fleet().devices()[1].second;
  EXPECT_EQ(other.Poll(), std::nullopt);
  // And it ends also with nobody to speak to.
  other.Signal(SIGTERM);
  EXPECT_EQ(other.WaitFor(Seconds(8)), 0);
}

TEST(Federation, ARevokedDeviceIsCutOffAtOnceAndTheRunGoesOnWithTheOthers) {
  FederationWorld world({"anna", "bert", "cora"}, {{"cohort_size", "2"}, {"min_available_devices", "2"}});
  ASSERT_OK(world.Start());
  ASSERT_TRUE(Eventually([&] { return world.Waiting() == 3; }));
  ASSERT_OK(world.Heddle({"device", "revoke", "cora"}).status());
  // Its long poll is over without another word from it, and the daemon ends because it is told why.
  EXPECT_TRUE(Eventually([&] { return world.Waiting() == 2; }, 5));
  const auto status = world.fleet().devices()[2].second.WaitFor(Seconds(20));
  EXPECT_EQ(status, 1) << world.DeviceLog("cora");
  EXPECT_NE(world.DeviceLog("cora").find("REVOKED"), std::string::npos) << world.DeviceLog("cora");
  world.fleet().devices().pop_back();
  auto run = world.Submit();
  ASSERT_OK(run.status());
  auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(NumberOf(*end, "committed_rounds"), 2);
  EXPECT_EQ(Slurp(fs::path(TextOf(*end, "folder")) / "history.jsonl").find("cora"), std::string::npos);
  // Nor is it let in after a restart.
  ASSERT_OK(world.KillAndRestartCoordinator());
  auto list = world.Heddle({"--format", "json", "device", "list"});
  ASSERT_OK(list.status());
  EXPECT_NE(list->find("revoked_at"), std::string::npos);
  ASSERT_OK(world.fleet().Stop());
}

}  // namespace
}  // namespace heddle
