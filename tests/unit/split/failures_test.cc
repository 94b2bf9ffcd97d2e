// Broken connections, restarts of either side and full disks change nothing in what a run makes.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "common/random.h"
#include "tests/unit/split/ways.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

class Failures : public testing::TestWithParam<size_t> {
 protected:
  // A few of the frames, others for each way; HEDDLE_SPLIT_EVERY_FRAME=1: all.
  static bool Every() { return std::getenv("HEDDLE_SPLIT_EVERY_FRAME") != nullptr; }
  static int Stride() { return Every() ? 1 : 13; }
  static int First() { return Every() ? 1 : 2 + 3 * static_cast<int>(GetParam()) % Stride(); }
  const Way& way_ = Ways()[GetParam()];
  StateDict Undisturbed(int* frames) {
    SplitWorld world(way_.settings);
    Drive(world, way_);
    *frames = world.frames;
    return world.Outcome();
  }
};

TEST_P(Failures, AConnectionThatBreaksAtAnyFrameChangesNothing) {
  int frames = 0;
  const StateDict expected = Undisturbed(&frames);
  ASSERT_GT(frames, 10);
  // Three of ten frames are lost: before they arrive in one run, after they were answered in the other.
  for (const bool answered : {false, true}) {
    SplitWorld world(way_.settings);
    int lost = 0;
    const auto loses = [&lost](int frame) {
      return PhiloxStream(3).UniformAt(static_cast<uint64_t>(frame)) < 0.3F && ++lost > 0;
    };
    (answered ? world.loses_answer : world.loses_request) = loses;
    Drive(world, way_);
    EXPECT_GT(lost, 5);
    ExpectUnchanged(way_, world.Outcome(), expected);
  }
}

TEST_P(Failures, AConnectionThatBreaksAtEveryFrameBeforeAndBehindItChangesNothing) {
  int frames = 0;
  const StateDict expected = Undisturbed(&frames);
  SplitWorld world(way_.settings);
  // Each frame is lost when it is first sent, and its answer when it is sent again; the third time both arrive.
  std::map<std::string, int> times;
  world.loses_request = [&](int) { return ++times[world.sent] == 1; };
  world.loses_answer = [&](int) { return times[world.sent] == 2; };
  Drive(world, way_);
  EXPECT_GE(times.size(), static_cast<size_t>(frames) / 2);
  ExpectUnchanged(way_, world.Outcome(), expected);
}

TEST_P(Failures, AServerThatIsKilledAfterAnyFrameChangesNothing) {
  int frames = 0;
  const StateDict expected = Undisturbed(&frames);
  for (int victim = First(); victim < frames; victim += Stride()) {
    SCOPED_TRACE("killed after frame " + std::to_string(victim));
    SplitWorld world(way_.settings);
    bool killed = false;
    const auto kill = [&](int frame) {
      if (frame != victim || killed) return false;
      killed = true;
      world.StartServer();
      return true;  // and the connection with it
    };
    // Computed, perhaps written, and never answered.
    world.loses_answer = kill;
    Drive(world, way_);
    ASSERT_TRUE(killed);
    ExpectUnchanged(way_, world.Outcome(), expected);
  }
}

TEST_P(Failures, ADeviceThatIsKilledAfterAnyFrameChangesNothing) {
  int frames = 0;
  const StateDict expected = Undisturbed(&frames);
  for (int victim = First(); victim < frames; victim += Stride()) {
    SCOPED_TRACE("killed after frame " + std::to_string(victim));
    SplitWorld world(way_.settings);
    world.keeps_state = true;
    for (const std::string& name : world.Names()) world.AddDevice(name);
    bool killed = false;
    world.loses_answer = [&](int frame) {
      if (frame != victim || killed) return false;
      killed = true;
      world.AddDevice(world.sent.substr(0, world.sent.find(' ')));
      return true;
    };
    Drive(world, way_);
    ASSERT_TRUE(killed);
    ExpectUnchanged(way_, world.Outcome(), expected);
  }
}

TEST_P(Failures, BothKilledAtOnceChangeNothing) {
  int frames = 0;
  const StateDict expected = Undisturbed(&frames);
  // Not at the very end, where the devices hear that the run is over.
  for (int victim = First(); victim < frames - 4; victim += Stride()) {
    SCOPED_TRACE("killed after frame " + std::to_string(victim));
    SplitWorld world(way_.settings);
    world.keeps_state = true;
    for (const std::string& name : world.Names()) world.AddDevice(name);
    bool killed = false;
    Drive(world, way_, [&](const std::string& name) {
      if (world.frames < victim || killed) return;
      killed = true;
      world.StartServer();
      world.AddDevice(name);
    });
    ASSERT_TRUE(killed);
    ExpectUnchanged(way_, world.Outcome(), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, Failures, testing::Range(size_t{0}, Ways().size()),
                         [](const auto& info) { return WayName(info.param); });

// What is held to a bound and not to the bits would show it if a step were lost or taken twice.
TEST(SplitFailures, AStepLessIsFarMoreThanRounding) {
  for (const Way& way : Ways()) {
    if (way.bound == 0) continue;
    SCOPED_TRACE(way.name);
    SplitWorld world(way.settings), less(With(way.settings, {{"train.local_steps", "2"}}));
    ASSERT_EQ(world.plan.local_steps, 3U);
    Drive(world, way);
    Drive(less, way);
    EXPECT_EQ(world.server->passes(), world.plan.rounds * world.plan.schedule().Requests()) << "both in each pass";
    EXPECT_GT(RelativeDistance(less.Outcome(), world.Outcome()), 10 * way.bound);
  }
}

TEST(SplitFailures, ADeviceThatLosesItsStateBeginsTheRoundAnew) {
  SplitWorld world(Settings{{"split.server", "per_device"}});
  int frames = 0;
  world.Interleaved([&](const std::string& name) {
    if (++frames == 5) world.AddDevice(name);  // it keeps no state
  });
  SplitWorld undisturbed(Settings{{"split.server", "per_device"}});
  undisturbed.Interleaved();
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

TEST(SplitFailures, ADamagedStateOfADeviceIsDropped) {
  SplitWorld world(Settings{{"split.server", "per_device"}});
  world.keeps_state = true;
  for (const std::string& name : world.Names()) world.AddDevice(name);
  int frames = 0;
  world.Interleaved([&](const std::string& name) {
    if (++frames != 7) return;
    std::ofstream(world.folder() / (name + ".state"), std::ios::binary | std::ios::trunc) << "not a state";
    world.AddDevice(name);
  });
  SplitWorld undisturbed(Settings{{"split.server", "per_device"}});
  undisturbed.Interleaved();
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

// On one connection that stays: each request that is on the way comes back refused, and one hello answers them all.
TEST(SplitFailures, AServerThatGoesBackIsGreetedOnceForAllThatIsOnTheWay) {
  const Settings settings = {
      {"split.server", "per_device"}, {"split.pipeline", "2"}, {"train.gradient_accumulation_steps", "3"}};
  SplitWorld world(settings);
  int hellos = 0, refused = 0;
  const auto drive = [&](const std::string& name, bool restarts) {
    client::SplitDevice& device = *world.devices.at(name);
    std::deque<std::string> frames = {device.Hello()};
    for (int i = 0; i < 200 && !frames.empty(); ++i) {
      if (restarts && i > 8 && frames.size() == 2) {
        world.StartServer();
        restarts = false;
        hellos = refused = 0;
      }
      const std::string answer = world.server->Handle(name, frames.front());
      frames.pop_front();
      refused += *protocol::KindOf(answer) == protocol::FrameKind::kRefusal ? 1 : 0;
      auto action = device.Take(answer);
      ASSERT_TRUE(action.ok()) << name << " " << i << ": " << action.status();
      using Kind = client::SplitDevice::Action::Kind;
      if (action->kind == Kind::kWait && device.stats().step == world.plan.local_steps) return;  // for the next round
      if (action->kind == Kind::kWait) {
        frames.push_back(device.Hello());
        ++hellos;
      }
      while (action->kind == Kind::kSend) {
        frames.push_back(action->frame);
        action = device.Next();
        ASSERT_TRUE(action.ok()) << action.status();
      }
    }
  };
  drive("device-0", true);
  EXPECT_EQ(refused, 2);
  EXPECT_EQ(hellos, 1);
  world.OneAfterTheOther();
  SplitWorld undisturbed(settings);
  undisturbed.OneAfterTheOther();
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

TEST(SplitFailures, AServerRefusesAStateThatIsDamagedOrOfAnotherPlan) {
  SplitWorld world;
  for (int i = 0; i < 4; ++i) world.Turn("device-0");
  world.server.reset();
  const fs::path state = world.folder() / "run" / "state.safetensors";
  const auto start = [&](const protocol::SplitPlan& plan) {
    return coordinator::SplitServer::Make(*coordinator::PrepareSplitServer(plan, world.folder() / "run")).status();
  };
  EXPECT_TRUE(start(world.plan).ok());
  protocol::SplitPlan other = world.plan;
  other.seed += 1;
  EXPECT_EQ(start(other).code(), Code::kFailedPrecondition);
  const std::string good = *ReadFile(state);
  for (size_t at = 0; at < good.size(); at += 97) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x55);
    std::ofstream(state, std::ios::binary | std::ios::trunc) << bad;
    (void)start(world.plan);  // a Status, whatever the byte; never a crash
  }
  std::ofstream(state, std::ios::binary | std::ios::trunc) << good.substr(0, good.size() / 2);
  EXPECT_FALSE(start(world.plan).ok());
}

TEST(SplitFailures, ADiskThatTakesNoStateIsAsIfTheServerHadBeenRestarted) {
  SplitWorld world(Settings{{"split.server", "per_device"}}), undisturbed(Settings{{"split.server", "per_device"}});
  undisturbed.Interleaved();
  const fs::path run = world.folder() / "run", aside = world.folder() / "aside";
  // For the time of a frame the folder is gone.
  int frames = 0, refused = 0;
  for (int guard = 0; guard < 2000 && !world.server->done(); ++guard) {
    for (const std::string& name : world.Names()) {
      if (++frames == 9 || frames == 14) {
        fs::rename(run, aside);
        const std::string answer = world.server->Handle(name, world.Next(name));
        fs::rename(aside, run);
        const auto refusal = protocol::ParseControlFrame(answer);
        if (refusal.ok() && refusal->kind == protocol::FrameKind::kRefusal) {
          ++refused;
          EXPECT_EQ(protocol::StatusOf(*refusal).code(), Code::kUnavailable);
        }
        world.Reconnect(name);
        continue;
      }
      world.Turn(name);
    }
  }
  EXPECT_GT(refused, 0);
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

}  // namespace
}  // namespace heddle
