#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

TEST(Polls, AreAnsweredPollAgainWithoutDelayWhenTheyWereHeldLongEnough) {
  World world(SmallSpec());
  world.Checkin("a");
  Time since = world.now();
  Step step = world.TickAtDeadline();
  EXPECT_EQ(Only<RejectEffect>(step).reason, RejectReason::kPollAgain);
  EXPECT_EQ(Only<RejectEffect>(step).retry_after, Duration::zero());
  EXPECT_LE(world.now(), since + world.spec().max_poll_hold);
  EXPECT_GE(world.now(), since + world.spec().max_poll_hold * 9 / 10);
  EXPECT_EQ(world.engine().waiting(), 0U);
}

TEST(Polls, ThatCameTogetherAreNotSentBackTogether) {
  RunSpec spec = SmallSpec();
  spec.min_available_devices = 100;
  World world(spec);
  for (int i = 0; i < 20; ++i) world.Checkin("phone-" + std::to_string(i));
  std::set<Time> answered;
  while (world.engine().waiting() > 0) {
    world.TickAtDeadline();
    answered.insert(world.now());
  }
  EXPECT_GT(answered.size(), 15U);
}

TEST(Polls, AreReplacedByANewCheckInOfTheSameDevice) {
  World world(SmallSpec());
  world.Checkin("a");
  Step step = world.Checkin("a");
  EXPECT_EQ(Only<RejectEffect>(step).reason, RejectReason::kReplaced);
  EXPECT_EQ(Only<RejectEffect>(step).token, 1U);
  EXPECT_EQ(world.engine().waiting(), 1U);
  EXPECT_EQ(world.round().phase, RoundPhase::kSelecting);  // one device is one device
}

TEST(Polls, ThatHaveGoneAreNotSelected) {
  World world(SmallSpec());
  world.Checkin("a");
  EXPECT_TRUE(world.PollGone("a").effects.empty());
  world.Checkin("b");
  EXPECT_EQ(world.round().phase, RoundPhase::kSelecting);
}

TEST(Polls, ThatGoAtTheVeryInstantOfTheSelectionGetNoTask) {
  RunSpec spec = SmallSpec();
  spec.min_reports = 1;
  spec.max_poll_hold = Seconds(1000);
  World world(spec);
  world.Checkin("a");
  world.Go(spec.selection_timeout);
  Step step = world.PollGone("a");
  EXPECT_TRUE(All<AssignEffect>(step).empty());
  EXPECT_EQ(world.round().attempt, 2U);
}

TEST(Polls, AreUnknownToTheEngineOnceTheyAreAnswered) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  Step step = world.PollGone("a");
  EXPECT_TRUE(step.writes.empty());
  EXPECT_TRUE(step.effects.empty());
  EXPECT_EQ(world.engine().open(), 2U);
}

TEST(Polls, AreRejectedWithJitterBetweenTheBoundsWhenTheDeviceLacksTheTask) {
  World world(SmallSpec());
  std::set<Duration> drawn;
  for (uint64_t i = 0; i < 200; ++i) {
    Step step = world.Do(CheckinEvent{.token = 1000 + i, .device = DeviceId("a"), .local_tasks = {"something_else"}});
    auto rejected = Only<RejectEffect>(step);
    EXPECT_EQ(rejected.reason, RejectReason::kUnsupportedTask);
    EXPECT_GE(rejected.retry_after, world.spec().min_retry_after);
    EXPECT_LE(rejected.retry_after, world.spec().max_retry_after);
    drawn.insert(rejected.retry_after);
  }
  EXPECT_GT(drawn.size(), 190U);
  EXPECT_LT(*drawn.begin(), Seconds(3));
  EXPECT_GT(*drawn.rbegin(), Seconds(8));
}

TEST(Polls, AreRejectedAtOnceAfterTheEndOfTheRun) {
  World world(SmallSpec());
  world.Stop("enough");
  Step step = world.Checkin("a");
  EXPECT_EQ(Only<RejectEffect>(step).reason, RejectReason::kNoRun);
  EXPECT_GE(Only<RejectEffect>(step).retry_after, world.spec().min_retry_after);
  EXPECT_FALSE(world.engine().NextDeadline());
}

TEST(Polls, GetWorkRatherThanPollAgainWhenBothAreDueAtOnce) {
  RunSpec spec = SmallSpec();
  spec.min_available_devices = 5;
  World world(spec);
  world.Go(spec.selection_timeout - Duration(1));
  world.Checkin("a");
  world.Checkin("b");
  // Long after the hold: a driver that was late. The selection comes first.
  Step step = world.TickAfter(spec.max_poll_hold * 2);
  EXPECT_EQ(All<AssignEffect>(step).size(), 2U);
  EXPECT_TRUE(All<RejectEffect>(step).empty());
}

}  // namespace
}  // namespace heddle::coordinator::testing
