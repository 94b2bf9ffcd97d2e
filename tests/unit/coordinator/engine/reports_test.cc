#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

constexpr int kReasonTooLarge = 2;
constexpr int kReasonBadNumExamples = 13;

TEST(Reports, AreAcceptedWrittenAndFoldedInOneStep) {
  World world(SmallSpec());
  FillTwo(world);
  world.Go(Seconds(4));
  ReportEvent report = world.GoodReport(world.Newest("a"));
  report.metrics.train_loss = 1.5;
  Step step = world.Do(report);
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kAccepted);
  EXPECT_EQ(Only<VerdictEffect>(step).token, report.token);
  EXPECT_EQ(Only<FoldEffect>(step).assignment.update, report.update);
  ASSERT_EQ(Rows<AssignmentRecord>(step).size(), 1U);
  AssignmentRecord row = Rows<AssignmentRecord>(step).front();
  EXPECT_EQ(row.state, AssignmentState::kAccepted);
  EXPECT_EQ(row.reported_at, world.now());
  EXPECT_EQ(row.update_bytes, report.update_bytes);
  EXPECT_EQ(row.metrics.train_loss, 1.5);
}

TEST(Reports, ThatAreRepeatedGetTheVerdictOfTheFirstAndChangeNothing) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  ReportEvent other = world.GoodReport(world.Newest("a"));
  other.update = DigestOf("another update");
  ReportEvent failed = world.GoodReport(world.Newest("a"));
  failed.completed = false;
  ReportEvent invalid = world.GoodReport(world.Newest("a"));
  invalid.validity = InvalidArgument("NaN");
  for (const ReportEvent& again : {world.GoodReport(world.Newest("a")), other, failed, invalid}) {
    Step step = world.Do(again);
    EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kAccepted);
    EXPECT_TRUE(step.writes.empty());
    EXPECT_TRUE(All<FoldEffect>(step).empty());
  }
  EXPECT_EQ(world.engine().accepted(), 1U);
}

TEST(Reports, ThatAreRepeatedAfterTheCommitGetTheVerdictOfTheFirst) {
  RunSpec spec = SmallSpec();
  spec.rounds = 2;
  World world(spec);
  FillTwo(world);
  world.Report("a");
  world.Report("b");
  world.ModelReady();
  AssignmentRecord old = world.Newest("a");
  FillTwo(world);  // round 2: the engine no longer holds the row
  ReportEvent again = world.GoodReport(old);
  ASSERT_TRUE(again.stored);
  Step step = world.Do(again);
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kAccepted);
  EXPECT_TRUE(step.writes.empty());
}

TEST(Reports, OfInvalidUpdatesGetTheReasonAndTheSentenceEachTime) {
  World world(SmallSpec());
  FillTwo(world);
  for (int time = 0; time < 2; ++time) {
    Step step = time == 0 ? world.ReportInvalid("a", 7, "element 3 of x is NaN") : world.Report("a");
    EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kInvalid);
    EXPECT_EQ(Only<VerdictEffect>(step).refusal_reason, 7);
    EXPECT_EQ(Only<VerdictEffect>(step).message, "element 3 of x is NaN");
  }
  EXPECT_EQ(world.engine().accepted(), 0U);
}

TEST(Reports, WithNoOrTooManyExamplesAreInvalid) {
  for (uint64_t examples : {uint64_t{0}, uint64_t{81}, ~uint64_t{0}}) {
    World world(SmallSpec());
    FillTwo(world);
    ReportEvent report = world.GoodReport(world.Newest("a"));
    report.metrics.num_examples = examples;
    Step step = world.Do(report);
    EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kInvalid);
    EXPECT_EQ(Only<VerdictEffect>(step).refusal_reason, kReasonBadNumExamples);
    EXPECT_EQ(Only<VerdictEffect>(step).message,
              "num_examples is " + std::to_string(examples) + " but must be between 1 and 80");
  }
}

TEST(Reports, OfTooLargeUpdatesAreInvalid) {
  World world(SmallSpec());
  FillTwo(world);
  ReportEvent report = world.GoodReport(world.Newest("a"));
  report.update_bytes = 1001;
  Step step = world.Do(report);
  EXPECT_EQ(Only<VerdictEffect>(step).refusal_reason, kReasonTooLarge);
}

TEST(Reports, AtTheLimitsAreAccepted) {
  World world(SmallSpec());
  FillTwo(world);
  ReportEvent report = world.GoodReport(world.Newest("a"));
  report.update_bytes = 1000;
  report.metrics.num_examples = 1;
  EXPECT_EQ(Only<VerdictEffect>(world.Do(report)).verdict, Verdict::kAccepted);
}

TEST(Reports, OfFailedTasksAreNotedWithTheirMessage) {
  World world(SmallSpec());
  FillTwo(world);
  Step step = world.ReportFailed("a", "killed for memory");
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kNoted);
  EXPECT_EQ(world.Newest("a").state, AssignmentState::kFailed);
  EXPECT_EQ(world.Newest("a").message, "killed for memory");
  EXPECT_TRUE(world.Newest("a").update.IsZero());
  EXPECT_EQ(Only<VerdictEffect>(world.Report("a")).verdict, Verdict::kNoted);  // too late to have succeeded after all
}

TEST(Reports, JustBeforeTheDeadlineAreAccepted) {
  World world(SmallSpec());
  FillTwo(world);
  world.Go(world.spec().report_deadline - Duration(1));
  EXPECT_EQ(Only<VerdictEffect>(world.Report("a")).verdict, Verdict::kAccepted);
}

TEST(Reports, AtTheDeadlineAreLate) {
  RunSpec spec = SmallSpec();
  spec.min_reports = 1;
  World world(spec);
  FillTwo(world);
  world.Report("a");
  world.Go(spec.report_deadline);
  Step step = world.Report("b");
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kLate);
  EXPECT_EQ(Only<CommitEffect>(step).accepted.size(), 1U);  // the round closed first
  EXPECT_EQ(world.Newest("b").state, AssignmentState::kLate);
  EXPECT_EQ(Only<VerdictEffect>(world.Report("b")).verdict, Verdict::kLate);
}

TEST(Reports, AtTheDeadlineThatAbandonsTheirAttemptAreLateNotUnknown) {
  for (bool last_attempt : {false, true}) {
    RunSpec spec = SmallSpec();
    spec.max_abandoned_attempts = last_attempt ? 1 : 0;
    World world(spec);
    FillTwo(world);
    world.Report("b");
    world.Go(spec.report_deadline);
    Step step = world.Report("a");  // nobody has ticked: this report is what ends the attempt
    EXPECT_EQ(Only<RoundEndedEffect>(step).round.phase, RoundPhase::kAbandoned);
    EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kLate);
    EXPECT_EQ(world.Newest("a").state, AssignmentState::kLate);
    EXPECT_EQ(Only<VerdictEffect>(world.Report("b")).verdict, Verdict::kAccepted);
  }
}

TEST(Reports, RepeatedAtTheDeadlineThatAbandonsTheirAttemptGetTheirVerdictAgain) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("b");
  world.Go(world.spec().report_deadline);
  EXPECT_EQ(Only<VerdictEffect>(world.Report("b")).verdict, Verdict::kAccepted);
}

TEST(Reports, OfAnAttemptThatIsGoneAreLateWhileTheDeviceHasNoNewerTask) {
  World world(SmallSpec());
  FillTwo(world);
  world.TickAfter(world.spec().report_deadline);
  ASSERT_EQ(world.round().attempt, 2U);
  EXPECT_EQ(Only<VerdictEffect>(world.Report("a")).verdict, Verdict::kLate);
}

TEST(Reports, OfAnAttemptThatIsGoneAreSupersededOnceTheDeviceHasANewerTask) {
  World world(SmallSpec());
  FillTwo(world);
  AssignmentRecord old = world.Newest("a");
  world.TickAfter(world.spec().report_deadline);
  FillTwo(world);
  ASSERT_NE(world.Newest("a").id, old.id);
  for (int time = 0; time < 2; ++time) {
    EXPECT_EQ(Only<VerdictEffect>(world.Do(world.GoodReport(old))).verdict, Verdict::kSuperseded);
  }
  EXPECT_EQ(world.Newest("a").state, AssignmentState::kOpen);
  EXPECT_EQ(world.engine().accepted(), 0U);
}

TEST(Reports, ThatAreInvalidOrFailedAfterTheDeadlineAreCalledSo) {
  World world(SmallSpec());
  FillTwo(world);
  world.TickAfter(world.spec().report_deadline);
  EXPECT_EQ(Only<VerdictEffect>(world.ReportInvalid("a")).verdict, Verdict::kInvalid);
  EXPECT_EQ(Only<VerdictEffect>(world.ReportFailed("b")).verdict, Verdict::kNoted);
}

TEST(Reports, OnUnknownAssignmentsAreAnsweredAsUnknown) {
  World world(SmallSpec());
  FillTwo(world);
  AssignmentRecord made_up = world.Newest("a");
  made_up.id = AssignmentId(std::string(32, '0'));
  Step step = world.Do(world.GoodReport(made_up));
  EXPECT_FALSE(Only<UnknownAssignmentEffect>(step).other_device);
  EXPECT_TRUE(step.writes.empty());
}

TEST(Reports, OnAnotherDevicesAssignmentAreAnsweredAsSuchAndChangeNothing) {
  World world(SmallSpec());
  FillTwo(world);
  ReportEvent report = world.GoodReport(world.Newest("a"));
  report.device = DeviceId("b");
  Step step = world.Do(report);
  EXPECT_TRUE(Only<UnknownAssignmentEffect>(step).other_device);
  EXPECT_TRUE(step.writes.empty());
  EXPECT_EQ(world.Newest("a").state, AssignmentState::kOpen);
}

TEST(Reports, OnAnotherDevicesOldAssignmentAreAnsweredAsSuch) {
  World world(SmallSpec());
  FillTwo(world);
  AssignmentRecord old = world.Newest("a");
  world.TickAfter(world.spec().report_deadline);
  ReportEvent report = world.GoodReport(old);
  report.device = DeviceId("b");
  EXPECT_TRUE(Only<UnknownAssignmentEffect>(world.Do(report)).other_device);
  EXPECT_EQ(world.rows().at(old.id).state, AssignmentState::kExpired);
}

TEST(Reports, WithARowOfAnotherAssignmentBesideThemAreUnknown) {
  World world(SmallSpec());
  FillTwo(world);
  ReportEvent report = world.GoodReport(world.Newest("a"));
  report.stored = world.Newest("a");
  report.assignment = AssignmentId(std::string(32, '0'));
  EXPECT_FALSE(Only<UnknownAssignmentEffect>(world.Do(report)).other_device);
}

TEST(Reports, OfARevokedDeviceAreNotedAndNotCounted) {
  World world(SmallSpec());
  FillTwo(world);
  world.Revoke("a");
  Step step = world.Report("a");
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kNoted);
  EXPECT_EQ(world.engine().accepted(), 0U);
}

TEST(Reports, AfterTheEndOfTheRunAreLate) {
  World world(SmallSpec());
  FillTwo(world);
  world.Stop("");
  EXPECT_EQ(Only<VerdictEffect>(world.Report("a")).verdict, Verdict::kLate);
}

TEST(Reports, WithoutAnyRunAreDecidedByTheStoredRow) {
  World world(SmallSpec());
  FillTwo(world);
  world.Report("a");
  world.Stop("");
  ReportEvent of_a = world.GoodReport(world.Newest("a"));
  of_a.stored = world.Newest("a");
  Step step = Engine::HandleReportWithoutRun(world.now(), of_a);
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kAccepted);
  EXPECT_TRUE(step.writes.empty());

  ReportEvent of_b = world.GoodReport(world.Newest("b"));
  of_b.stored = world.Newest("b");
  step = Engine::HandleReportWithoutRun(world.now(), of_b);
  EXPECT_EQ(Only<VerdictEffect>(step).verdict, Verdict::kLate);
  ASSERT_EQ(Rows<AssignmentRecord>(step).size(), 1U);
  EXPECT_EQ(Rows<AssignmentRecord>(step).front().state, AssignmentState::kLate);

  of_b.device = DeviceId("a");
  EXPECT_TRUE(Only<UnknownAssignmentEffect>(Engine::HandleReportWithoutRun(world.now(), of_b)).other_device);
  of_b.stored.reset();
  EXPECT_FALSE(Only<UnknownAssignmentEffect>(Engine::HandleReportWithoutRun(world.now(), of_b)).other_device);
}

}  // namespace
}  // namespace heddle::coordinator::testing
