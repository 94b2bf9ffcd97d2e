#include <gmock/gmock.h>

#include "common/random.h"
#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

using ::testing::HasSubstr;

// ---- phase by phase ----

TEST(Restore, OfASelectionGivesItItsTimeAnewAndWaitsForTheDevicesToReturn) {
  World world(SmallSpec());
  world.Checkin("a");
  world.Go(Seconds(20));
  Step first = world.Restart(Seconds(500));
  EXPECT_EQ(world.engine().waiting(), 0U);
  EXPECT_EQ(world.round().phase, RoundPhase::kSelecting);
  EXPECT_EQ(world.round().attempt, 1U);
  EXPECT_EQ(world.round().deadline, world.now() + world.spec().selection_timeout);
  EXPECT_EQ(Rows<RoundRecord>(first).size(), 1U);
  FillTwo(world);
  EXPECT_EQ(world.AtWork().size(), 2U);
}

TEST(Restore, OfACollectionKeepsItsDeadlineAndItsAssignments) {
  World world(SmallSpec());
  FillTwo(world);
  Time deadline = world.round().deadline;
  AssignmentRecord of_a = world.Newest("a");
  Step first = world.Restart(Seconds(5));
  EXPECT_TRUE(first.writes.empty());
  EXPECT_EQ(world.round().deadline, deadline);
  EXPECT_EQ(Only<AssignEffect>(world.Checkin("a")).assignment.id, of_a.id);
  EXPECT_EQ(Only<VerdictEffect>(world.Report("a")).verdict, Verdict::kAccepted);
}

TEST(Restore, FoldsTheAcceptedUpdatesOfAnOpenAttemptAgain) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  Step first = world.Restart();
  EXPECT_EQ(Only<ResetSumEffect>(first).parent, DigestOf("initial"));
  EXPECT_EQ(Only<FoldEffect>(first).assignment.id, world.Newest("a").id);
  EXPECT_TRUE(All<CommitEffect>(first).empty());
  EXPECT_EQ(world.engine().accepted(), 1U);
  EXPECT_EQ(Only<CommitEffect>(world.Report("b")).accepted.size(), 2U);
}

TEST(Restore, AnswersARepeatedReportAsBefore) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  world.Restart();
  Step step = world.Report("a");
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kAccepted);
  EXPECT_TRUE(step.writes.empty());
}

TEST(Restore, AfterTheDeadlinePassedWhileItWasDownDecidesAtTheFirstTick) {
  RunSpec spec = SmallSpec();
  spec.min_reports = 1;
  World world(spec);
  FillTwo(world);
  world.Report("a");
  world.Restart(spec.report_deadline * 10);
  EXPECT_LE(*world.engine().NextDeadline(), world.now());
  Step step = world.Do(TickEvent{});
  EXPECT_EQ(Only<CommitEffect>(step).accepted.size(), 1U);
}

TEST(Restore, AsksForACommitThatWasUnderWayAgainWithTheSameUpdates) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  auto asked = Only<CommitEffect>(world.Report("b"));
  Step first = world.Restart(Seconds(1000));
  auto again = Only<CommitEffect>(first);
  ASSERT_EQ(again.accepted.size(), asked.accepted.size());
  for (size_t i = 0; i < again.accepted.size(); ++i) EXPECT_EQ(again.accepted[i].id, asked.accepted[i].id);
  EXPECT_EQ(All<FoldEffect>(first).size(), 2U);
  EXPECT_EQ(world.round().deadline, world.now() + world.spec().report_deadline);
  world.ModelReady();
  EXPECT_EQ(world.engine().run().state, RunState::kComplete);
}

TEST(Restore, OfARunThatHasEndedIsSilent) {
  World world(SmallSpec());
  FillTwo(world);
  world.Stop("");
  Step first = world.Restart(Seconds(5));
  EXPECT_TRUE(first.writes.empty());
  EXPECT_TRUE(first.effects.empty());
  EXPECT_FALSE(world.engine().NextDeadline());
  EXPECT_EQ(Only<RejectEffect>(world.Checkin("a")).reason, RejectReason::kNoRun);
  EXPECT_EQ(Only<VerdictEffect>(world.Report("a")).verdict, Verdict::kLate);
}

TEST(Restore, RemembersHowOftenADeviceHasTried) {
  World world(SmallSpec());
  FillTwo(world);
  for (uint32_t tries = 1; tries < kMaxTriesPerAttempt; ++tries) {
    world.ReportFailed("a");
    world.Restart();
    EXPECT_EQ(World::Assigned(world.Checkin("a")), std::set<std::string>{"a"});
  }
  world.ReportFailed("a");
  world.Restart();
  EXPECT_TRUE(World::Assigned(world.Checkin("a")).empty());
}

TEST(Restore, RemembersWhoseUpdateWasInvalid) {
  World world(SmallSpec());
  FillTwo(world);
  world.ReportInvalid("a");
  world.Restart();
  EXPECT_TRUE(World::Assigned(world.Checkin("a")).empty());
  EXPECT_EQ(World::Assigned(world.Checkin("c")), std::set<std::string>{"c"});
}

// ---- any step ----

// One step of a script that depends on nothing but its own numbers, so that two worlds can play the same.
struct Move {
  uint32_t kind;
  std::string device;
};

std::vector<Move> Script(uint64_t seed, size_t length) {
  PhiloxStream random(seed);  // a script that is mostly friendly: it must get through some rounds
  std::vector<Move> moves;
  for (size_t i = 0; i < length; ++i) {
    moves.push_back({random.NextBelow(14), "phone-" + std::to_string(random.NextBelow(6))});
  }
  return moves;
}

void Play(World& world, const Move& move) {
  if (world.engine().run().state != RunState::kRunning) return;
  bool at_work = world.AtWork().contains(move.device);
  world.Go(Duration(1000));
  switch (move.kind) {
    case 0:
      if (at_work) world.ReportFailed(move.device);
      return;
    case 1:
      if (at_work) world.ReportInvalid(move.device);
      return;
    case 2:
    case 3:
    case 4:
    case 8:
      if (at_work) world.Report(move.device);
      return;
    case 5:
      if (world.round().phase == RoundPhase::kCollecting && world.engine().accepted() == 2) {
        world.TickAfter(world.round().deadline - world.now());
      }
      return;
    case 6:
    case 7:
      if (world.round().phase == RoundPhase::kCommitting) world.ModelReady();
      return;
    default:
      if (!world.Waiting().contains(move.device)) world.Checkin(move.device);
  }
}

RunSpec ScriptSpec() {
  RunSpec spec = SmallSpec();
  spec.rounds = 4;
  spec.cohort_size = 3;
  spec.min_reports = 2;
  spec.over_selection = 1.3;
  spec.min_available_devices = 4;
  spec.max_poll_hold = std::chrono::hours(10);
  spec.selection_timeout = std::chrono::hours(10);
  return spec;
}

// Everything that may depend on the past, without the times that a restart gives anew.
std::string StateOf(const World& world) {
  std::string text = std::to_string(static_cast<int>(world.run_row().state)) + " version " +
                     std::to_string(world.run_row().committed_rounds) + " " + world.run_row().model.ToHex() + "\n";
  for (const auto& [key, round] : world.rounds()) {
    text += std::to_string(key.first) + "/" + std::to_string(key.second) + " phase " +
            std::to_string(static_cast<int>(round.phase)) + " " + round.reason + "\n";
  }
  for (const auto& [id, row] : world.rows()) {
    text += id.value() + " " + row.device.value() + " " + std::to_string(static_cast<int>(row.state)) + " " +
            row.update.ToHex() + " " + std::to_string(ToUnixMicros(row.issued_at)) + "\n";
  }
  return text;
}

TEST(Restore, AtAnyStepGivesTheSameContinuation) {
  constexpr size_t kLength = 180;
  size_t completed = 0;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    std::vector<Move> moves = Script(seed, kLength);
    World steady(ScriptSpec());
    std::vector<std::string> expected;
    for (const Move& move : moves) {
      Play(steady, move);
      expected.push_back(StateOf(steady));
    }
    if (steady.engine().run().committed_rounds > 0) ++completed;
    for (size_t crash = 0; crash < kLength; ++crash) {
      World restarted(ScriptSpec());
      for (size_t i = 0; i < kLength; ++i) {
        Play(restarted, moves[i]);
        if (i == crash) {
          std::set<std::string> waiting = restarted.Waiting();
          restarted.Restart();
          for (const std::string& device : waiting) restarted.Checkin(device);
        }
        ASSERT_EQ(StateOf(restarted), expected[i]) << "seed " << seed << ", crash after move " << crash << ", at " << i;
      }
    }
  }
  EXPECT_GE(completed, 5U) << "the scripts do not get far enough to mean anything";
}

// ---- snapshots that contradict themselves ----

class DamagedSnapshot : public ::testing::Test {
 protected:
  // A round with one accepted and one open assignment.
  static Snapshot Good() {
    World world(SmallSpec());
    FillTwo(world);
    world.Report("a");
    return world.SnapshotOfRows();
  }
  static void ExpectDataLoss(const Snapshot& snapshot, const std::string& sentence) {
    Step first;
    auto engine = Engine::Restore(SmallSpec(), snapshot, Time{}, &first);
    ASSERT_FALSE(engine.ok()) << sentence;
    EXPECT_EQ(engine.status().code(), Code::kDataLoss);
    EXPECT_THAT(engine.status().message(), HasSubstr(sentence));
  }
};

TEST_F(DamagedSnapshot, IsTakenWhenItIsNotDamaged) {
  Step first;
  EXPECT_TRUE(Engine::Restore(SmallSpec(), Good(), Time{}, &first).ok());
}

TEST_F(DamagedSnapshot, OfTheRunIsRefused) {
  auto with = [](auto change) {
    Snapshot snapshot = Good();
    change(snapshot.run);
    return snapshot;
  };
  ExpectDataLoss(with([](RunRecord& r) { r.id = RunId("other"); }), "the row is of run other");
  ExpectDataLoss(with([](RunRecord& r) { r.committed_rounds = 2; }), "more rounds are committed");
  ExpectDataLoss(with([](RunRecord& r) { r.committed_rounds = 1; }), "running with all rounds committed");
  ExpectDataLoss(with([](RunRecord& r) { r.state = RunState::kComplete; }), "complete with rounds missing");
  ExpectDataLoss(with([](RunRecord& r) { r.state = static_cast<RunState>(9); }), "its state has number 9");
  ExpectDataLoss(with([](RunRecord& r) { r.model = {}; }), "it has no model");
  ExpectDataLoss(with([](RunRecord& r) { r.model = DigestOf("x"); }), "does not start from the committed model");
}

TEST_F(DamagedSnapshot, OfTheRoundIsRefused) {
  auto with = [](auto change) {
    Snapshot snapshot = Good();
    change(*snapshot.round);
    return snapshot;
  };
  Snapshot none = Good();
  none.round.reset();
  ExpectDataLoss(none, "running without a round");
  ExpectDataLoss(with([](RoundRecord& r) { r.run = RunId("other"); }), "is of another run");
  ExpectDataLoss(with([](RoundRecord& r) { r.round = 2; }), "does not follow 0 committed rounds");
  ExpectDataLoss(with([](RoundRecord& r) { r.attempt = 0; }), "does not follow");
  ExpectDataLoss(with([](RoundRecord& r) { r.phase = RoundPhase::kAbandoned; }), "has ended and no other was begun");
  ExpectDataLoss(with([](RoundRecord& r) { r.phase = static_cast<RoundPhase>(17); }), "has ended");
  ExpectDataLoss(with([](RoundRecord& r) { r.phase = RoundPhase::kSelecting; }), "was given before the selection");
  ExpectDataLoss(with([](RoundRecord& r) { r.phase = RoundPhase::kCommitting; }), "is open in a closed round");
}

TEST_F(DamagedSnapshot, OfAnAssignmentIsRefused) {
  auto with = [](AssignmentState which, auto change) {
    Snapshot snapshot = Good();
    for (AssignmentRecord& row : snapshot.assignments) {
      if (row.state == which) {
        change(row);
        break;
      }
    }
    return snapshot;
  };
  constexpr auto kOpen = AssignmentState::kOpen;
  constexpr auto kAccepted = AssignmentState::kAccepted;
  ExpectDataLoss(with(kOpen, [](AssignmentRecord& r) { r.attempt = 2; }), "is of another attempt");
  ExpectDataLoss(with(kOpen, [](AssignmentRecord& r) { r.state = static_cast<AssignmentState>(-1); }), "number -1");
  ExpectDataLoss(with(kAccepted, [](AssignmentRecord& r) { r.update = {}; }), "accepted without an update");
  ExpectDataLoss(with(kOpen,
                      [](AssignmentRecord& r) {
                        r.state = AssignmentState::kAccepted;
                        r.update = DigestOf("x");
                      }),
                 "a full round is still open");
  Snapshot twice = Good();
  twice.assignments.push_back(twice.assignments[0]);
  ExpectDataLoss(twice, "");
  Snapshot two_open = Good();
  for (AssignmentRecord row : Good().assignments) {
    if (row.state != kOpen) continue;
    row.id = AssignmentId(std::string(32, '0'));
    two_open.assignments.push_back(row);
  }
  ExpectDataLoss(two_open, "two open assignments");
}

TEST_F(DamagedSnapshot, OfACommitWithTooFewReportsIsRefused) {
  Snapshot snapshot = Good();
  snapshot.round->phase = RoundPhase::kCommitting;
  for (AssignmentRecord& row : snapshot.assignments) {
    if (row.state == AssignmentState::kOpen) row.state = AssignmentState::kExpired;
  }
  ExpectDataLoss(snapshot, "too few reports");
}

}  // namespace
}  // namespace heddle::coordinator::testing
