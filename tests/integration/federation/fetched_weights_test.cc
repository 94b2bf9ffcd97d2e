// Over TLS with real daemons: a device that fetches the weights of each round's ledger and one that replays it make the
// simulator's model together.
#include <gtest/gtest.h>

#include <boost/json.hpp>

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

}  // namespace
}  // namespace heddle
