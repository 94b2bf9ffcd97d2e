// Short sessions of each way, in which every frame meets every disaster, one after the other: the connection cut before
// and behind it, either side dead, both; and a server that dies at every checkpoint. The weights are those of a run
// that nothing disturbed, bit for bit, or up to the rounding of passes over several devices. Longer sessions with one
// disaster at a time are in failures_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "tests/unit/split/ways.h"

namespace heddle {
namespace {

class EveryFrame : public testing::TestWithParam<size_t> {
 protected:
  Settings Short() const { return With(way_.settings, {{"train.local_steps", "2"}}); }
  void SetUp() override {
    SplitWorld world(Short());
    Drive(world, way_);
    frames_ = static_cast<size_t>(world.frames);
    expected_ = world.Outcome();
  }
  static std::string SenderOf(const SplitWorld& world) { return world.sent.substr(0, world.sent.find(' ')); }
  // What a device asks, whatever its session is called.
  static std::string Question(const SplitWorld& world) {
    const std::string device = SenderOf(world), frame = world.sent.substr(device.size() + 1);
    std::string out = std::to_string(world.server->round()) + "/" + device + "/" +
                      std::string(protocol::FrameKindName(*protocol::KindOf(frame)));
    const auto tensor = protocol::ParseTensorFrame(frame);
    return tensor.ok() ? out + "/" + std::to_string(tensor->sequence) : out;
  }

  const Way& way_ = Ways()[GetParam()];
  size_t frames_ = 0;
  StateDict expected_;
};

TEST_P(EveryFrame, CutsAndDeathsOfEitherSideAndOfBothChangeNothing) {
  SplitWorld world(Short());
  world.keeps_state = true;
  for (const std::string& name : world.Names()) world.AddDevice(name);
  enum Disaster { kCutBefore, kDeviceDiesBefore, kCutBehind, kServerDies, kDeviceDies, kBothDie, kNone };
  std::map<std::string, int> met;                // by question
  std::map<std::string, std::string> questions;  // by what was sent
  int updates = 0;                               // whose answers were struck
  const auto strike = [&](bool answered) {
    if (!answered) questions[world.sent] = Question(world);
    const std::string& question = questions.at(world.sent);
    int& next = met[question];
    if (next == kNone || answered != (next >= kCutBehind)) return false;
    int disaster = next++;
    // A device that asks again hears at once that its update is counted: so each meets one disaster behind it.
    if (answered && question.ends_with("/update")) {
      disaster = kCutBehind + updates++ % 4;
      next = kNone;
    }
    if (disaster == kServerDies || disaster == kBothDie) world.StartServer();
    if (disaster == kDeviceDiesBefore || disaster == kDeviceDies || disaster == kBothDie) {
      world.AddDevice(SenderOf(world));
    }
    return true;
  };
  world.loses_request = [&strike](int) { return strike(false); };
  world.loses_answer = [&strike](int) { return strike(true); };
  Drive(world, way_);
  ExpectUnchanged(way_, world.Outcome(), expected_);
  // Not in it: that a device asks again whether there is another round.
  EXPECT_GE(met.size(), frames_ - 2 * world.plan.devices_per_round);
  EXPECT_EQ(updates, 4);
  for (const auto& [question, disasters] : met) {
    EXPECT_EQ(disasters, question.ends_with("/hello") ? disasters : kNone) << question;
  }
}

// The first time that a checkpoint is due the server dies before the file is there; the second time behind it, and
// before it says so.
TEST_P(EveryFrame, AServerThatDiesAtEveryCheckpointChangesNothing) {
  SplitWorld world(Short());
  const std::filesystem::path state = world.folder() / "run" / "state.safetensors";
  std::string before = *ReadFile(state);
  std::map<std::string, int> deaths;
  world.loses_answer = [&](int) {
    const std::string now = *ReadFile(state);
    if (now == before) return false;
    int& times = deaths[Question(world)];
    if (times == 2) {
      before = now;
      return false;
    }
    if (++times == 1) std::ofstream(state, std::ios::binary | std::ios::trunc) << before;
    world.StartServer();
    before = *ReadFile(state);
    return true;
  };
  Drive(world, way_);
  ExpectUnchanged(way_, world.Outcome(), expected_);
  // Each device's update is one in every round, and its steps are unless they are seldom written.
  EXPECT_GE(deaths.size(), 4U);
  for (const auto& [question, times] : deaths) {
    // Where not every step is written, another may be the one that is when it is done again.
    const bool always = world.plan.checkpoint_every == 1 || question.ends_with("/update");
    EXPECT_GE(times, always ? 2 : 1) << question;
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, EveryFrame, testing::Range(size_t{0}, Ways().size()),
                         [](const auto& info) { return WayName(info.param); });

}  // namespace
}  // namespace heddle
