// Over TLS with real daemons: a device that fetches the weights of each round's ledger, one that replays it, and one
// whose worker ends after each task and leaves the weights to the next make the simulator's model together.
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <string>

#include "tests/integration/federation/federation_world.h"

namespace heddle {
namespace {

TEST(FetchedWeights, InPlaceOfAReplayGiveTheSimulatorsModel) {
  FederationWorld world({"anna", "bert"}, {{"name", "\"DeComFL\""}, {"num_server_rounds", "4"}},
                        {{"learning_rate", "1e-2"}, {"local_steps", "4"}});
  const auto simulated = world.SimulatedHash();
  ASSERT_TRUE(simulated.ok()) << simulated.status();
  ASSERT_TRUE(world.Start({}, {{"anna", {{"worker.max_replayed_directions", "0"}}}}).ok());
  const auto run = world.Submit();
  ASSERT_TRUE(run.ok()) << run.status();
  const auto end = world.WaitForEnd(*run);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(TextOf(*end, "model_sha256"), *simulated);
  EXPECT_NE(world.DeviceLog("anna").find("ledger_weights.safetensors"), std::string::npos);
  EXPECT_EQ(world.DeviceLog("anna").find("of no use"), std::string::npos);
  EXPECT_EQ(world.DeviceLog("bert").find("ledger_weights.safetensors"), std::string::npos);
  EXPECT_TRUE(world.fleet().Stop().ok());
}

// 160 directions a round at most, more than are replayed sooner than weights are written. (A direction whose step is
// too small for a whole number is in no ledger.)
TEST(FetchedWeights, AWorkerThatEndsAfterEachTaskReplaysWhatIsNewToTheSimulatorsModel) {
  FederationModel model;
  model.tables = "\n[zo]\nestimator = \"spsa_one_sided\"\nnum_perturbations = 40\n";
  FederationWorld world(
      {"anna", "bert"}, {{"name", "\"DeComFL\""}, {"num_server_rounds", "4"}},
      {{"learning_rate", "1e-2"}, {"local_steps", "4"}, {"batch_size", "1"}, {"sequence_length", "16"}}, {}, model);
  const auto simulated = world.SimulatedHash();
  ASSERT_TRUE(simulated.ok()) << simulated.status();
  ASSERT_TRUE(world.Start({}, {{"anna", {{"worker.keep_alive_s", "0"}}}}).ok());
  const auto run = world.Submit();
  ASSERT_TRUE(run.ok()) << run.status();
  const auto end = world.WaitForEnd(*run, 240);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(TextOf(*end, "model_sha256"), *simulated);
  for (const char* name : {"anna", "bert"}) {
    const std::string log = world.DeviceLog(name), line = "replayed a ledger directions=";
    unsigned long long lines = 0, most = 0, longest = 0;
    for (size_t at = log.find(line); at != std::string::npos; at = log.find(line, at + 1), ++lines) {
      const size_t of = log.find(" of=", at);
      ASSERT_NE(of, std::string::npos);
      most = std::max(most, std::stoull(log.substr(at + line.size(), 20)));
      longest = std::max(longest, std::stoull(log.substr(of + 4, 20)));
    }
    EXPECT_GE(lines, 3U) << name << "\n" << log;
    EXPECT_GT(longest, 320U) << name;
    EXPECT_LE(most, 160U) << name << " replayed what it had";
    EXPECT_NE(log.find("kept what a replay led to"), std::string::npos) << name;
    EXPECT_EQ(log.find("of no use"), std::string::npos) << name;
  }
  EXPECT_TRUE(world.fleet().Stop().ok());
}

}  // namespace
}  // namespace heddle
