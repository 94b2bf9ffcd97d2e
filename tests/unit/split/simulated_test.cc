// A simulated run of devices that have a round together, with fewer places than the round has devices: the rest take
// their turns, as at a server.
#include <gmock/gmock.h>

#include "simulator/split/split_run.h"
#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

simulator::SplitRunOptions RunOfWorld(const SplitWorld& world, const protocol::SplitPlan& plan,
                                      const std::string& folder) {
  simulator::SplitRunOptions options;
  options.plan = plan;
  for (const std::string& name : world.Names()) options.devices[name] = world.folder() / (name + ".txt");
  options.folder = world.folder() / folder;
  return options;
}

// Both parts after the last round; each device has taken all its steps in every round.
StateDict Simulated(const SplitWorld& world, const protocol::SplitPlan& plan, const std::string& folder) {
  const simulator::SplitRunOptions options = RunOfWorld(world, plan, folder);
  const auto rounds = simulator::RunSplit(options);
  EXPECT_TRUE(rounds.ok()) << rounds.status();
  if (!rounds.ok()) return {};
  EXPECT_EQ(rounds->size(), plan.rounds + 1);
  for (const simulator::SplitRound& round : *rounds) {
    EXPECT_EQ(round.steps, uint64_t{round.round} * plan.devices_per_round * plan.local_steps) << round.round;
  }
  StateDict out;
  for (const char* part : {"device", "server"}) {
    const auto made = ReadSafetensors(options.folder / ("round-" + std::to_string(plan.rounds)) /
                                      (std::string(part) + ".safetensors"));
    EXPECT_TRUE(made.ok()) << made.status();
    if (made.ok()) out.insert(made->tensors.begin(), made->tensors.end());
  }
  return out;
}

TEST(SplitSimulated, DevicesBeyondThePlacesOfAParallelRunTakeTheirTurns) {
  // In the world devices ask again all the time; without deadlines its time may jump as it likes.
  SplitWorld world(Settings{{"devices_per_round", "3"},
                            {"split.server", "parallel"},
                            {"split.max_sessions", "2"},
                            {"split.session_timeout_s", "0"},
                            {"split.round_timeout_s", "0"}});
  world.AllAtOnce();
  const StateDict expected = world.Outcome();
  protocol::SplitPlan plan = world.plan;
  ExpectSameBits(Simulated(world, plan, "without-deadlines"), expected);
  plan.session_timeout_s = 600;
  plan.round_timeout_s = 3600;
  ExpectSameBits(Simulated(world, plan, "with-deadlines"), expected);
}

TEST(SplitSimulated, AlsoWhereThereIsRoomForOneAtATime) {
  for (const char* limit : {"memory", "sessions", "sequential"}) {
    SCOPED_TRACE(limit);
    const bool memory = std::string(limit) == "memory", sequential = std::string(limit) == "sequential";
    // Where the order of devices counts, one round: in the world the last device of a round begins the next one.
    SplitWorld world(Settings{{"devices_per_round", "3"},
                              {"rounds", memory ? "2" : "1"},
                              {"split.server", memory       ? "per_device"
                                               : sequential ? "sequential"
                                                            : "shared"}});
    world.OneAfterTheOther();
    protocol::SplitPlan plan = world.plan;
    plan.server_batch = 2;  // so that devices are there at once; passes are of one
    if (memory) plan.memory_limit_mb = static_cast<double>(world.server->memory().With(1, 2)) / (1 << 20);
    if (!memory && !sequential) plan.max_sessions = 1;
    ExpectSameBits(Simulated(world, plan, "simulated"), world.Outcome());
  }
}

TEST(SplitSimulated, ARoundOfMoreDevicesThanThereAreIsRefusedAtTheStart) {
  for (const char* mode : {"parallel", "shared"}) {
    SCOPED_TRACE(mode);
    const SplitWorld world(Settings{{"split.server", mode}});
    protocol::SplitPlan plan = world.plan;
    plan.devices_per_round = 3;
    const simulator::SplitRunOptions options = RunOfWorld(world, plan, "refused");
    const Status status = simulator::RunSplit(options).status();
    EXPECT_EQ(status.code(), Code::kFailedPrecondition);
    EXPECT_THAT(status.message(), testing::HasSubstr("devices_per_round"));
    EXPECT_FALSE(std::filesystem::exists(options.folder));
  }
}

}  // namespace
}  // namespace heddle
