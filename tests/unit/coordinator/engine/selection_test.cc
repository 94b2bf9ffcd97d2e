#include <algorithm>

#include "common/random.h"
#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

std::vector<std::string> Names(size_t count) {
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.push_back("phone-" + std::to_string(i));
  return names;
}

// The rule of the header, computed a second time.
std::set<std::string> SmallestByDrawnOrder(const RunSpec& spec, uint32_t round, std::vector<std::string> names,
                                           size_t count) {
  std::sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return DeriveSeed(spec.seed, "select", std::to_string(round) + "/" + a) <
           DeriveSeed(spec.seed, "select", std::to_string(round) + "/" + b);
  });
  return {names.begin(), names.begin() + static_cast<std::ptrdiff_t>(count)};
}

RunSpec TenOfTwentyFive() {
  RunSpec spec = SmallSpec();
  spec.cohort_size = 10;
  spec.min_reports = 8;
  spec.over_selection = 1.2;
  spec.min_available_devices = 25;
  return spec;
}

TEST(Selection, WaitsUntilMinAvailableDevicesAreThere) {
  World world(SmallSpec());
  EXPECT_TRUE(world.Checkin("a").effects.empty());
  EXPECT_EQ(world.round().phase, RoundPhase::kSelecting);
  Step step = world.Checkin("b");
  EXPECT_EQ(world.round().phase, RoundPhase::kCollecting);
  EXPECT_EQ(World::Assigned(step), (std::set<std::string>{"a", "b"}));
}

TEST(Selection, TakesTheDevicesWithTheSmallestDrawnNumbersWhateverTheOrderOfArrival) {
  std::vector<std::string> names = Names(25);
  std::set<std::string> expected = SmallestByDrawnOrder(TenOfTwentyFive(), 1, names, 12);
  PhiloxStream shuffle(11);
  for (int order = 0; order < 20; ++order) {
    World world(TenOfTwentyFive());
    for (size_t i = names.size(); i > 1; --i)
      std::swap(names[i - 1], names[shuffle.NextBelow(static_cast<uint32_t>(i))]);
    for (const std::string& name : names) world.Checkin(name);
    EXPECT_EQ(World::Assigned(world.last()), expected);
  }
}

TEST(Selection, DrawsAnotherSetInTheNextRound) {
  RunSpec spec = TenOfTwentyFive();
  spec.rounds = 2;
  World world(spec);
  for (const std::string& name : Names(25)) world.Checkin(name);
  std::set<std::string> first = world.AtWork();
  for (const std::string& name : first) {
    if (world.round().phase == RoundPhase::kCollecting) world.Report(name);
  }
  world.ModelReady();
  for (const std::string& name : first) world.Checkin(name);
  EXPECT_EQ(world.round().round, 2U);
  EXPECT_EQ(world.AtWork(), SmallestByDrawnOrder(spec, 2, Names(25), 12));
  EXPECT_NE(world.AtWork(), first);
}

TEST(Selection, GivesTheTaskToOverSelectionTimesTheCohort) {
  World world(TenOfTwentyFive());
  for (const std::string& name : Names(25)) world.Checkin(name);
  EXPECT_EQ(world.engine().open(), 12U);
  EXPECT_EQ(world.engine().waiting(), 13U);
}

TEST(Selection, AtItsTimeoutTakesWhatWaitsWhenThatIsEnoughForACommit) {
  RunSpec spec = SmallSpec();
  spec.min_available_devices = 5;
  spec.max_poll_hold = Seconds(1000);
  World world(spec);
  world.Checkin("a");
  world.Checkin("b");
  world.Checkin("c");
  EXPECT_TRUE(world.TickAfter(spec.selection_timeout - Duration(1)).effects.empty());
  Step step = world.TickAfter(Duration(1));
  EXPECT_EQ(All<AssignEffect>(step).size(), 2U);
  EXPECT_EQ(world.round().deadline, world.now() + spec.report_deadline);
  EXPECT_EQ(world.round().selected_at, world.now());
}

TEST(Selection, GivesTheTaskToTheLastDeviceThatArrivesAtTheTimeout) {
  // What is due at `now` happens before the event: one waits, the attempt is abandoned, and the newcomer counts in the
  // next one.
  World world(SmallSpec());
  world.Go(Seconds(80));
  world.Checkin("a");
  world.Go(Seconds(20));
  Step step = world.Checkin("b");
  EXPECT_EQ(Only<RoundEndedEffect>(step).round.phase, RoundPhase::kAbandoned);
  EXPECT_EQ(world.round().attempt, 2U);
  EXPECT_EQ(world.AtWork(), (std::set<std::string>{"a", "b"}));
}

TEST(Selection, FillsItsFreePlacesWithDevicesThatCheckInWhileItCollects) {
  RunSpec spec = SmallSpec();
  spec.over_selection = 2;
  World world(spec);
  world.Checkin("a");
  world.Checkin("b");
  EXPECT_EQ(world.engine().open(), 2U);
  EXPECT_EQ(World::Assigned(world.Checkin("c")), std::set<std::string>{"c"});
  EXPECT_EQ(World::Assigned(world.Checkin("d")), std::set<std::string>{"d"});
  EXPECT_TRUE(World::Assigned(world.Checkin("e")).empty());
}

TEST(Selection, GivesAnAssignmentItsDeadlineAndParent) {
  World world(SmallSpec());
  world.Checkin("a");
  Step step = world.Checkin("b");
  for (const AssignEffect& effect : All<AssignEffect>(step)) {
    EXPECT_EQ(effect.deadline, world.now() + world.spec().report_deadline);
    EXPECT_EQ(effect.parent, DigestOf("initial"));
    EXPECT_EQ(effect.assignment.id.value().size(), 32U);
    EXPECT_EQ(effect.assignment.id.value().find_first_not_of("0123456789abcdef"), std::string::npos);
  }
}

TEST(Selection, GivesADeviceThatChecksInAgainTheSameAssignmentAgain) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  AssignmentRecord first = world.Newest("a");
  world.Go(Seconds(3));
  Step again = world.Checkin("a");
  EXPECT_TRUE(again.writes.empty());
  EXPECT_EQ(Only<AssignEffect>(again).assignment.id, first.id);
  EXPECT_EQ(Only<AssignEffect>(again).assignment.issued_at, first.issued_at);
  EXPECT_EQ(Only<AssignEffect>(again).deadline, first.issued_at + world.spec().report_deadline);
}

TEST(Selection, HandsAFailedTaskToTheNextWaitingDeviceOfTheDrawnOrder) {
  RunSpec spec = SmallSpec();
  spec.min_available_devices = 5;
  World world(spec);
  std::vector<std::string> names = Names(5);
  for (const std::string& name : names) world.Checkin(name);
  std::set<std::string> two = SmallestByDrawnOrder(spec, 1, names, 2);
  std::set<std::string> three = SmallestByDrawnOrder(spec, 1, names, 3);
  for (const std::string& name : two) three.erase(name);
  Step step = world.ReportFailed(*two.begin());
  EXPECT_EQ(World::Assigned(step), three);
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kNoted);
}

TEST(Selection, HandsAFailedTaskToADeviceThatChecksInLater) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  EXPECT_TRUE(World::Assigned(world.ReportFailed("a")).empty());
  EXPECT_EQ(World::Assigned(world.Checkin("c")), std::set<std::string>{"c"});
}

TEST(Selection, GivesADeviceThatFailedTheTaskAgainOnlyAfterAllOthers) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  world.ReportFailed("a");
  world.Checkin("c");  // takes the place of a
  world.Checkin("a");
  world.Checkin("d");
  EXPECT_EQ(World::Assigned(world.ReportFailed("b")), std::set<std::string>{"d"});
  EXPECT_EQ(World::Assigned(world.ReportFailed("c")), std::set<std::string>{"a"});
  EXPECT_EQ(world.Newest("a").state, AssignmentState::kOpen);
}

TEST(Selection, GivesOneDeviceTheTaskAtMostThreeTimesAnAttempt) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  std::set<AssignmentId> ids = {world.Newest("a").id};
  for (uint32_t tries = 1; tries < kMaxTriesPerAttempt; ++tries) {
    world.ReportFailed("a");
    EXPECT_EQ(World::Assigned(world.Checkin("a")), std::set<std::string>{"a"});
    ids.insert(world.Newest("a").id);
  }
  EXPECT_EQ(ids.size(), kMaxTriesPerAttempt);
  world.ReportFailed("a");
  EXPECT_TRUE(World::Assigned(world.Checkin("a")).empty());
  EXPECT_EQ(world.engine().waiting(), 1U);
}

TEST(Selection, GivesADeviceAFreshStartInTheNextAttempt) {
  RunSpec spec = SmallSpec();
  World world(spec);
  world.Checkin("a");
  world.Checkin("b");
  for (uint32_t tries = 1; tries < kMaxTriesPerAttempt; ++tries) {
    world.ReportFailed("a");
    world.Checkin("a");
  }
  world.ReportFailed("a");
  world.TickAfter(spec.report_deadline);
  EXPECT_EQ(world.round().attempt, 2U);
  world.Checkin("a");
  world.Checkin("b");
  EXPECT_EQ(world.AtWork(), (std::set<std::string>{"a", "b"}));
}

TEST(Selection, DoesNotGiveTheTaskAgainToADeviceWhoseUpdateWasInvalid) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  world.ReportInvalid("a");
  EXPECT_TRUE(World::Assigned(world.Checkin("a")).empty());
  EXPECT_EQ(World::Assigned(world.Checkin("c")), std::set<std::string>{"c"});
}

TEST(Selection, DoesNotGiveTheTaskAgainToADeviceWhoseUpdateWasAccepted) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  world.Report("a");
  world.ReportFailed("b");
  EXPECT_TRUE(World::Assigned(world.Checkin("a")).empty());
}

TEST(Selection, TakesARevokedDevicesTaskFromItAndHandsItOn) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  world.Checkin("c");
  std::string revoked = *world.AtWork().begin();
  Step step = world.Revoke(revoked);
  EXPECT_EQ(world.Newest(revoked).state, AssignmentState::kFailed);
  EXPECT_EQ(world.Newest(revoked).message, "the device was revoked");
  EXPECT_EQ(World::Assigned(step).size(), 1U);
  EXPECT_FALSE(world.AtWork().contains(revoked));
}

TEST(Selection, SendsAwayARevokedDeviceThatWaits) {
  World world(SmallSpec());
  world.Checkin("a");
  Step step = world.Revoke("a");
  EXPECT_EQ(Only<RejectEffect>(step).reason, RejectReason::kNotNeeded);
  EXPECT_EQ(Only<RejectEffect>(step).retry_after, world.spec().max_retry_after);
  world.Checkin("b");
  EXPECT_EQ(world.round().phase, RoundPhase::kSelecting);
}

TEST(Selection, KeepsTheUpdateThatWasAcceptedBeforeItsDeviceWasRevoked) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Checkin("b");
  world.Report("a");
  EXPECT_TRUE(world.Revoke("a").writes.empty());
  EXPECT_EQ(world.engine().accepted(), 1U);
}

TEST(Selection, NamesAssignmentsByTheSeedSoThatTheSameRunHasTheSameNames) {
  World one(SmallSpec());
  World two(SmallSpec());
  one.Checkin("a");
  one.Checkin("b");
  two.Go(Seconds(5));
  two.Checkin("b");
  two.Checkin("a");
  EXPECT_EQ(one.Newest("a").id, two.Newest("a").id);
  EXPECT_NE(one.Newest("a").id, one.Newest("b").id);
}

}  // namespace
}  // namespace heddle::coordinator::testing
