#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

TEST(Rounds, CloseWithTheReportThatFillsTheCohort) {
  World world(SmallSpec());
  FillTwo(world);
  EXPECT_TRUE(All<CommitEffect>(world.Report("a")).empty());
  Step step = world.Report("b");
  EXPECT_EQ(world.round().phase, RoundPhase::kCommitting);
  auto commit = Only<CommitEffect>(step);
  EXPECT_EQ(commit.accepted.size(), 2U);
  EXPECT_EQ(commit.parent, DigestOf("initial"));
}

TEST(Rounds, AskForTheSameCommitWhateverTheOrderOfTheReports) {
  World one(SmallSpec());
  World two(SmallSpec());
  FillTwo(one);
  FillTwo(two);
  one.Report("a");
  one.Report("b");
  two.Report("b");
  two.Report("a");
  auto ids = [](const World& world) {
    std::vector<std::pair<AssignmentId, Sha256Digest>> out;
    for (const AssignmentRecord& row : Only<CommitEffect>(world.last()).accepted) out.emplace_back(row.id, row.update);
    return out;
  };
  EXPECT_EQ(ids(one), ids(two));
}

TEST(Rounds, ExpireTheOpenAssignmentsWhenTheyClose) {
  RunSpec spec = SmallSpec();
  spec.over_selection = 1.5;
  spec.min_available_devices = 3;
  World world(spec);
  for (const char* name : {"a", "b", "c"}) world.Checkin(name);
  world.Report("a");
  world.Report("b");
  EXPECT_EQ(world.Newest("c").state, AssignmentState::kExpired);
  EXPECT_EQ(world.engine().open(), 0U);
}

// A second stage with more devices, of which all must be there and one may be missing at the end.
RunSpec TwoStages() {
  RunSpec spec = SmallSpec();
  spec.rounds = 3;
  spec.first_stage_rounds = 1;
  spec.later_cohort_size = 4;
  spec.later_min_available_devices = 4;
  spec.later_min_reports = 3;
  return spec;
}

void EndFirstStage(World& world) {
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  world.ModelReady();
  ASSERT_EQ(world.round().round, 2U);
}

TEST(Rounds, OfTheSecondStageHaveItsSizesAlsoAfterARestart) {
  World world(TwoStages());
  EndFirstStage(world);
  for (const char* name : {"a", "b", "c"}) {
    world.Checkin(name);
    EXPECT_EQ(world.round().phase, RoundPhase::kSelecting);
  }
  EXPECT_EQ(World::Assigned(world.Checkin("d")), (std::set<std::string>{"a", "b", "c", "d"}));
  for (const char* name : {"a", "b", "c"}) world.Report(name);
  EXPECT_EQ(world.round().phase, RoundPhase::kCollecting);
  world.Restart();
  EXPECT_EQ(world.round().phase, RoundPhase::kCollecting);
  EXPECT_EQ(Only<CommitEffect>(world.Report("d")).accepted.size(), 4U);
  world.Restart();
  EXPECT_EQ(world.round().phase, RoundPhase::kCommitting);
  world.ModelReady();
  EXPECT_EQ(world.round().round, 3U);
}

TEST(Rounds, OfTheSecondStageCommitAndAreAbandonedByItsMinReports) {
  World enough(TwoStages());
  EndFirstStage(enough);
  for (const char* name : {"a", "b", "c", "d"}) enough.Checkin(name);
  for (const char* name : {"a", "b", "c"}) enough.Report(name);
  EXPECT_EQ(Only<CommitEffect>(enough.TickAtDeadline()).accepted.size(), 3U);

  World few(TwoStages());
  EndFirstStage(few);
  for (const char* name : {"a", "b", "c", "d"}) few.Checkin(name);
  for (const char* name : {"a", "b"}) few.Report(name);
  few.TickAtDeadline();
  EXPECT_EQ(few.round().round, 2U);
  EXPECT_EQ(few.round().attempt, 2U);
  EXPECT_NE((few.rounds().at({2, 1}).reason.find("min_reports is 3")), std::string::npos);
}

TEST(Rounds, CommitAtTheirDeadlineWithMinReports) {
  RunSpec spec = SmallSpec();
  spec.min_reports = 1;
  World world(spec);
  FillTwo(world);
  world.Report("b");
  EXPECT_TRUE(world.TickAfter(spec.report_deadline - Duration(1)).effects.empty());
  Step step = world.TickAfter(Duration(1));
  EXPECT_EQ(Only<CommitEffect>(step).accepted.size(), 1U);
  EXPECT_EQ(world.Newest("a").state, AssignmentState::kExpired);
}

TEST(Rounds, AreAbandonedAtTheirDeadlineWithFewerReportsAndSayWhy) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("b");
  Step step = world.TickAfter(world.spec().report_deadline);
  RoundRecord ended = Only<RoundEndedEffect>(step).round;
  EXPECT_EQ(ended.phase, RoundPhase::kAbandoned);
  EXPECT_EQ(ended.ended_at, world.now());
  EXPECT_EQ(ended.reason, "1 updates were accepted before the deadline, but min_reports is 2");
  EXPECT_TRUE(ended.model.IsZero());
}

TEST(Rounds, AreAbandonedWhenTheSelectionEndsWithTooFewDevicesAndSayWhy) {
  World world(SmallSpec());
  Step step = world.TickAfter(world.spec().selection_timeout);
  EXPECT_EQ(Only<RoundEndedEffect>(step).round.reason,
            "0 devices were waiting when the selection ended, but min_reports is 2");
}

TEST(Rounds, TryAgainFromTheSameParentWithAnEmptySumAfterAnAbandonedAttempt) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("b");
  Step step = world.TickAfter(world.spec().report_deadline);
  auto reset = Only<ResetSumEffect>(step);
  EXPECT_EQ(reset.round, 1U);
  EXPECT_EQ(reset.attempt, 2U);
  EXPECT_EQ(reset.parent, DigestOf("initial"));
  EXPECT_EQ(world.engine().accepted(), 0U);
  EXPECT_EQ(world.Newest("b").state, AssignmentState::kAccepted);  // it stays accepted, in an attempt that says why
  AssignmentId old = world.Newest("b").id;
  FillTwo(world);
  EXPECT_NE(world.Newest("b").id, old);
  world.Report("a");
  world.Report("b");
  EXPECT_EQ(Only<CommitEffect>(world.last()).accepted.size(), 2U);
  EXPECT_EQ(Only<CommitEffect>(world.last()).attempt, 2U);
}

TEST(Rounds, StartTheNextFromTheCommittedModel) {
  RunSpec spec = SmallSpec();
  spec.rounds = 2;
  World world(spec);
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  Step step = world.ModelReady("one");
  EXPECT_EQ(Only<RoundEndedEffect>(step).round.model, DigestOf("one"));
  EXPECT_EQ(world.engine().run().committed_rounds, 1U);
  EXPECT_EQ(world.engine().run().model, DigestOf("one"));
  EXPECT_EQ(world.round().round, 2U);
  EXPECT_EQ(world.round().attempt, 1U);
  EXPECT_EQ(world.round().parent, DigestOf("one"));
  FillTwo(world);
  EXPECT_EQ(All<AssignEffect>(world.last()).at(0).parent, DigestOf("one"));
}

TEST(Rounds, CompleteTheRunWithTheLastCommit) {
  RunSpec spec = SmallSpec();
  spec.rounds = 3;
  World world(spec);
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(world.engine().run().state, RunState::kRunning);
    FillTwo(world);
    world.Report("a");
    world.Report("b");
    world.ModelReady();
  }
  EXPECT_EQ(world.engine().run().state, RunState::kComplete);
  EXPECT_EQ(Only<RunEndedEffect>(world.last()).run.committed_rounds, 3U);
  EXPECT_FALSE(world.engine().NextDeadline());
}

TEST(Rounds, SendWaitingDevicesAwayWhenTheRunEnds) {
  World world(SmallSpec());
  FillTwo(world);
  world.Checkin("c");
  world.Report("a");
  world.Report("b");
  Step step = world.ModelReady();
  EXPECT_EQ(Only<RejectEffect>(step).reason, RejectReason::kNoRun);
  EXPECT_EQ(world.engine().waiting(), 0U);
}

TEST(Rounds, KeepDevicesWaitingForTheNextRoundWhileTheyCommit) {
  RunSpec spec = SmallSpec();
  spec.rounds = 2;
  World world(spec);
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  EXPECT_TRUE(World::Assigned(world.Checkin("a")).empty());
  EXPECT_TRUE(World::Assigned(world.Checkin("b")).empty());
  // The commit and the selection of the next round happen in one step.
  EXPECT_EQ(World::Assigned(world.ModelReady()), (std::set<std::string>{"a", "b"}));
}

TEST(Rounds, FailTheRunAfterMaxAbandonedAttemptsInARow) {
  RunSpec spec = SmallSpec();
  spec.max_abandoned_attempts = 3;
  World world(spec);
  world.TickAfter(spec.selection_timeout);
  world.TickAfter(spec.selection_timeout);
  EXPECT_EQ(world.engine().run().state, RunState::kRunning);
  Step step = world.TickAfter(spec.selection_timeout);
  EXPECT_EQ(world.engine().run().state, RunState::kFailed);
  EXPECT_EQ(Only<RunEndedEffect>(step).run.reason,
            "round 1 was abandoned 3 times in a row; the last time: 0 devices were waiting when the selection ended, "
            "but min_reports is 2");
  EXPECT_EQ(Rows<RunRecord>(step).size(), 1U);
}

TEST(Rounds, CountAbandonedAttemptsAnewInEveryRound) {
  RunSpec spec = SmallSpec();
  spec.rounds = 2;
  spec.max_abandoned_attempts = 2;
  World world(spec);
  world.TickAfter(spec.selection_timeout);
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  world.ModelReady();
  world.TickAfter(spec.selection_timeout);
  EXPECT_EQ(world.engine().run().state, RunState::kRunning);
  world.TickAfter(spec.selection_timeout);
  EXPECT_EQ(world.engine().run().state, RunState::kFailed);
}

TEST(Rounds, NeverFailTheRunWithoutALimit) {
  World world(SmallSpec());
  for (int i = 0; i < 500; ++i) world.TickAfter(world.spec().selection_timeout);
  EXPECT_EQ(world.engine().run().state, RunState::kRunning);
  EXPECT_EQ(world.round().attempt, 501U);
}

TEST(Rounds, AreAbandonedWhenTheirModelCannotBeMade) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  Step step = world.ModelFailed("the disk is full");
  EXPECT_EQ(Only<RoundEndedEffect>(step).round.reason, "the disk is full");
  EXPECT_EQ(world.round().attempt, 2U);
  EXPECT_EQ(world.engine().run().committed_rounds, 0U);
}

TEST(Rounds, AreAbandonedWhenAnAcceptedUpdateCannotBeFolded) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  Step step = world.ModelFailed("the blob is gone");
  EXPECT_EQ(Only<RoundEndedEffect>(step).round.reason, "the blob is gone");
  EXPECT_EQ(world.Newest("b").state, AssignmentState::kExpired);
}

TEST(Rounds, AreAbandonedWhenTheirModelIsNotMadeInTime) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  Step step = world.TickAfter(world.spec().report_deadline);
  EXPECT_EQ(Only<RoundEndedEffect>(step).round.reason, "the new model was not made in time");
}

TEST(Rounds, IgnoreAModelOfAnAttemptThatHasEnded) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  world.TickAfter(world.spec().report_deadline);
  for (const Event& late : std::vector<Event>{RoundModelReady{.round = 1, .attempt = 1, .model = DigestOf("late")},
                                              RoundModelFailed{.round = 1, .attempt = 1, .reason = "late"}}) {
    Step step = world.Do(late);
    EXPECT_TRUE(step.writes.empty());
    EXPECT_TRUE(step.effects.empty());
  }
  EXPECT_EQ(world.engine().run().committed_rounds, 0U);
  EXPECT_EQ(world.round().attempt, 2U);
}

TEST(Rounds, IgnoreAModelThatNobodyAskedFor) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  EXPECT_TRUE(world.Do(RoundModelReady{.round = 1, .attempt = 1, .model = DigestOf("x")}).writes.empty());
  EXPECT_EQ(world.round().phase, RoundPhase::kCollecting);
}

TEST(Rounds, EndWithTheRunWhenItIsStopped) {
  World world(SmallSpec());
  FillTwo(world);
  world.Checkin("c");
  world.Report("a");
  Step step = world.Stop("the operator said so");
  EXPECT_EQ(world.engine().run().state, RunState::kStopped);
  EXPECT_EQ(world.engine().run().reason, "the operator said so");
  EXPECT_EQ(Only<RoundEndedEffect>(step).round.reason, "the run was stopped");
  EXPECT_EQ(world.Newest("b").state, AssignmentState::kExpired);
  EXPECT_EQ(Only<RejectEffect>(step).reason, RejectReason::kNoRun);
  EXPECT_FALSE(world.engine().NextDeadline());
  EXPECT_TRUE(world.Stop("again").writes.empty());
}

TEST(Rounds, AreStoppedInEveryPhase) {
  for (int phase = 0; phase < 3; ++phase) {
    World world(SmallSpec());
    if (phase > 0) FillTwo(world);
    if (phase > 1) {
      world.Report("a");
      world.Report("b");
    }
    ASSERT_EQ(static_cast<int>(world.round().phase), phase);
    world.Stop("");
    EXPECT_EQ(world.engine().run().state, RunState::kStopped);
    EXPECT_EQ(world.round().phase, RoundPhase::kAbandoned);
    EXPECT_TRUE(world.TickAfter(Seconds(1e6)).writes.empty());
  }
}

TEST(Rounds, AskForNoModelWhenTheStepThatClosesThemAlsoEndsThem) {
  for (bool stop : {true, false}) {
    RunSpec spec = SmallSpec();
    spec.min_reports = 1;
    World world(spec);
    FillTwo(world);
    world.Report("a");
    world.Go(spec.report_deadline);
    Step step = stop ? world.Stop("") : world.ModelFailed("a blob is gone");
    EXPECT_EQ(Only<RoundEndedEffect>(step).round.phase, RoundPhase::kAbandoned);
    EXPECT_TRUE(All<CommitEffect>(step).empty());
  }
}

TEST(Rounds, AlwaysHaveADeadlineAheadWhileTheRunIsRunning) {
  RunSpec spec = SmallSpec();
  spec.max_abandoned_attempts = 50;
  World world(spec);
  for (int ticks = 0; world.engine().run().state == RunState::kRunning; ++ticks) {
    ASSERT_LT(ticks, 200);
    ASSERT_TRUE(world.engine().NextDeadline());
    EXPECT_GT(*world.engine().NextDeadline(), world.now());
    if (ticks % 3 == 0) FillTwo(world);
    world.TickAtDeadline();
  }
}

}  // namespace
}  // namespace heddle::coordinator::testing
