// Runs that give devices as many layers of the model as their memory allows.
#include <gmock/gmock.h>

#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

using ::testing::HasSubstr;

RunSpec ByMemory() {
  RunSpec spec = SmallSpec();
  spec.layer_memory = {100, 200, 300};
  return spec;
}

TEST(Memory, ADeviceGetsTheDeepestPartThatFits) {
  const RunSpec spec = ByMemory();
  for (const auto& [memory, layers] : std::map<uint64_t, uint32_t>{
           {1, 0}, {99, 0}, {100, 1}, {199, 1}, {200, 2}, {299, 2}, {300, 3}, {~uint64_t{0}, 3}, {0, 3}}) {
    EXPECT_EQ(LayersFor(spec, memory), layers) << memory;
  }
  EXPECT_EQ(LayersFor(SmallSpec(), 1), std::nullopt) << "nobody asked";
  RunSpec odd = ByMemory();  // layers that are spread need not take more than fewer ones do
  odd.layer_memory = {~uint64_t{0}, 150, 120};
  EXPECT_EQ(LayersFor(odd, 130), 3U);
  EXPECT_EQ(LayersFor(odd, 119), 0U);
}

TEST(Memory, AnAssignmentKeepsItsLayersWhateverTheDeviceSaysLater) {
  World world(ByMemory());
  world.Checkin("a", 250);
  world.Checkin("b");
  EXPECT_EQ(world.Newest("a").layers, 2U);
  EXPECT_EQ(world.Newest("b").layers, 3U) << "who tells no limit has none";
  EXPECT_EQ(Only<AssignEffect>(world.Checkin("a", 1)).assignment.layers, 2U) << "it is at work";
  world.Restart();
  EXPECT_EQ(Only<AssignEffect>(world.Checkin("a", 300)).assignment.layers, 2U);
  world.Report("a");
  EXPECT_EQ(world.rows().at(world.Newest("a").id).layers, 2U);
  world.ReportFailed("b");
  world.Checkin("b", 100);
  EXPECT_EQ(world.Newest("b").layers, 1U) << "a new task is by what it says now";
}

TEST(Memory, TheLastCheckInCounts) {
  World world(ByMemory());
  world.Checkin("a", 100);
  world.Checkin("a", 300);
  world.Checkin("b", 100);
  EXPECT_EQ(world.Newest("a").layers, 3U);
}

TEST(Memory, ADeviceWithoutRoomForOneLayerIsRejectedAndTakesNobodysPlace) {
  World world(ByMemory());
  world.Checkin("a", 100);
  const auto rejected = Only<RejectEffect>(world.Checkin("small", 99));
  EXPECT_EQ(rejected.reason, RejectReason::kTooLittleMemory);
  EXPECT_GE(rejected.retry_after, world.spec().min_retry_after);
  EXPECT_LE(rejected.retry_after, world.spec().max_retry_after);
  EXPECT_EQ(world.round().phase, RoundPhase::kSelecting);
  EXPECT_EQ(world.engine().waiting(), 1U);
  world.Checkin("b", 100);
  EXPECT_EQ(world.AtWork(), (std::set<std::string>{"a", "b"}));
}

TEST(Memory, AnAttemptThatLackedDevicesWithMemorySaysSo) {
  World world(ByMemory());
  for (const char* device : {"small", "smaller", "small"}) world.Checkin(device, 50);
  world.TickAtDeadline();
  EXPECT_THAT(world.rounds().at({1, 1}).reason, HasSubstr("; 2 more have too little memory for a task"));
  world.TickAtDeadline();
  EXPECT_EQ(world.rounds().at({1, 2}).reason.find("memory"), std::string::npos) << "an attempt tells its own";
}

TEST(Memory, OfARunThatDoesNotAskIsNoMatter) {
  World world(SmallSpec());
  world.Checkin("a", 1);
  world.Checkin("b", 2);
  EXPECT_EQ(world.Newest("a").layers, 0U);
}

TEST(Memory, StoredLayersThatTheRunDoesNotHaveAreRefused) {
  for (const auto& [needs, layers] :
       std::vector<std::pair<std::vector<uint64_t>, uint32_t>>{{{100, 200}, 3}, {{100, 200}, 0}, {{}, 1}}) {
    RunSpec spec = SmallSpec();
    World world(spec);
    world.Checkin("a");
    world.Checkin("b");
    spec.layer_memory = needs;
    Snapshot snapshot = world.SnapshotOfRows();
    for (AssignmentRecord& row : snapshot.assignments) row.layers = layers;
    Step first;
    const auto restored = Engine::Restore(spec, snapshot, world.now(), &first);
    EXPECT_EQ(restored.status().code(), Code::kDataLoss);
    EXPECT_THAT(restored.status().message(), HasSubstr("layers"));
  }
}

}  // namespace
}  // namespace heddle::coordinator::testing
