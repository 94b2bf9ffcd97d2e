// The session machine, an event at a time: no sockets, processes, files or clocks.
#include "client/daemon/session.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <set>

#include "protocol/validate.h"

namespace heddle::client {
namespace {

using testing::HasSubstr;

constexpr char kId[] = "0123456789abcdef0123456789abcdef";

v1::TaskAssignment Assignment(const std::string& local_task = "sum") {
  v1::TaskAssignment assignment;
  assignment.set_assignment_id(kId);
  assignment.set_run_id("run-1");
  assignment.set_round(1);
  assignment.mutable_plan()->set_local_task(local_task);
  assignment.mutable_plan()->set_max_update_bytes(1000);
  return assignment;
}

CheckinAnswered Assigned(const std::string& local_task = "sum") {
  CheckinAnswered event;
  *event.response.mutable_assignment() = Assignment(local_task);
  return event;
}

CheckinAnswered Rejected(v1::RejectionReason reason, uint32_t retry_after_ms) {
  CheckinAnswered event;
  event.response.mutable_rejection()->set_reason(reason);
  event.response.mutable_rejection()->set_retry_after_ms(retry_after_ms);
  return event;
}

Trained TrainedWell(uint64_t bytes = 100) {
  Trained event;
  event.outcome = Trained::Outcome::kCompleted;
  event.update = protocol::MakeBlobRef(Sha256("update"), bytes, "update.safetensors");
  event.metrics.set_num_examples(8);
  return event;
}

Trained TrainedBadly(Trained::Outcome outcome, const std::string& message) {
  Trained event;
  event.outcome = outcome;
  event.message = message;
  return event;
}

ReportAnswered Answered(v1::ReportVerdict verdict) {
  ReportAnswered event;
  event.response.set_verdict(verdict);
  if (verdict == v1::REPORT_VERDICT_INVALID) {
    event.response.mutable_refusal()->set_reason(v1::REFUSAL_REASON_NOT_FINITE);
    event.response.mutable_refusal()->set_message("NaN in lora_A");
  }
  return event;
}

CallFailed Broken(Status status = Unavailable("connection reset")) {
  CallFailed event;
  event.status = std::move(status);
  return event;
}

CallFailed Refused(v1::RefusalReason reason, Duration retry_after = Duration(0)) {
  CallFailed event;
  event.status = FailedPrecondition("the refusal's sentence");
  event.reason = reason;
  event.retry_after = retry_after;
  return event;
}

EligibilityChanged Eligibility(bool eligible) {
  EligibilityChanged event;
  event.eligible = eligible;
  event.reason = "on battery";
  return event;
}

class SessionTest : public testing::Test {
 protected:
  std::vector<Action> Tell(const Event& event) { return last_ = session_.Handle(event); }

  template <typename T>
  std::optional<T> Find() const {
    for (const Action& action : last_) {
      if (const T* found = std::get_if<T>(&action)) return *found;
    }
    return std::nullopt;
  }
  template <typename T>
  bool Did() const {
    return Find<T>().has_value();
  }
  std::string Notes() const {
    std::string all;
    for (const Action& action : last_) {
      if (const Note* note = std::get_if<Note>(&action)) all += note->text + "\n";
    }
    return all;
  }
  bool DidNothing() const { return last_.empty(); }

  void GoToCheckin() {
    Tell(Started{});
    Tell(Eligibility(true));
    Tell(Probed());
    ASSERT_TRUE(Did<CheckIn>());
  }
  void GoToFetch() {
    GoToCheckin();
    Tell(Assigned());
    ASSERT_TRUE(Did<Fetch>());
  }
  void GoToTrain() {
    GoToFetch();
    Tell(Fetched{});
    ASSERT_TRUE(Did<Train>());
  }
  void GoToUpload() {
    GoToTrain();
    Tell(TrainedWell());
    ASSERT_TRUE(Did<Upload>());
  }
  void GoToReport() {
    GoToUpload();
    Tell(Uploaded{});
    ASSERT_TRUE(Did<Report>());
  }
  static WorkerProbed Probed() {
    WorkerProbed event;
    event.local_tasks = {"other", "sum"};
    return event;
  }
  void Restart(SessionOptions options = {}) { session_ = Session(options); }

  Session session_{SessionOptions{}};
  std::vector<Action> last_;
};

// ---- the ordinary day ----

TEST_F(SessionTest, DoesNothingUntilTheDeviceMayTrain) {
  Tell(Started{});
  EXPECT_TRUE(DidNothing());
  EXPECT_EQ(session_.state(), SessionState::kNotEligible);
  Tell(Eligibility(true));
  EXPECT_TRUE(Did<ProbeWorker>());
}

TEST_F(SessionTest, ChecksInWithTheWorkersTasks) {
  GoToCheckin();
  EXPECT_EQ(Find<CheckIn>()->local_tasks, (std::vector<std::string>{"other", "sum"}));
}

TEST_F(SessionTest, OneTaskFromCheckinToTheNextCheckin) {
  GoToUpload();
  const auto saved = Find<SaveReport>();
  ASSERT_TRUE(saved) << "the journal is written before the upload";
  EXPECT_EQ(saved->report.outcome(), v1::TASK_OUTCOME_COMPLETED);
  EXPECT_EQ(saved->report.assignment_id(), kId);
  EXPECT_EQ(saved->report.metrics().num_examples(), 8u);
  Tell(Uploaded{});
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.SerializeAsString(), saved->report.SerializeAsString());
  Tell(Answered(v1::REPORT_VERDICT_ACCEPTED));
  EXPECT_TRUE(Did<EndTask>());
  EXPECT_TRUE(Did<CheckIn>());
  EXPECT_THAT(Notes(), HasSubstr("accepted"));
  EXPECT_EQ(session_.tasks_reported(), 1u);
}

TEST_F(SessionTest, SmallUpdateIsNotUploadedAndUploadedAfterAllWhenItsReportFindsNone) {
  SessionOptions options;
  options.max_inline_update_bytes = 1 << 16;
  Session session(options);
  std::vector<Action> actions;
  const auto tell = [&](const Event& event) { actions = session.Handle(event); };
  const auto did = [&]<typename A>(std::type_identity<A>) -> const A* {
    for (const Action& action : actions) {
      if (const auto* found = std::get_if<A>(&action)) return found;
    }
    return nullptr;
  };
  tell(Started{});
  tell(EligibilityChanged{.eligible = true, .reason = ""});
  tell(WorkerProbed{{"sum"}});
  CheckinAnswered task;
  v1::TaskAssignment& assignment = *task.response.mutable_assignment();
  assignment.set_assignment_id(std::string(32, '1'));
  assignment.mutable_plan()->set_local_task("sum");
  assignment.mutable_plan()->set_max_update_bytes(1 << 20);
  *assignment.mutable_plan()->add_adapter() = protocol::MakeBlobRef(Sha256("c"), 3, "adapter_config.json");
  *assignment.mutable_plan()->add_adapter() = protocol::MakeBlobRef(Sha256("a"), 3, "adapter_model.safetensors");
  tell(task);
  tell(Fetched{});
  Trained trained;
  trained.outcome = Trained::Outcome::kCompleted;
  trained.update = protocol::MakeBlobRef(Sha256("u"), 1 << 16, "update.safetensors");
  trained.metrics.set_num_examples(1);
  tell(trained);
  ASSERT_EQ(did(std::type_identity<Upload>{}), nullptr);
  const Report* report = did(std::type_identity<Report>{});
  ASSERT_NE(report, nullptr);
  EXPECT_TRUE(report->with_update);
  EXPECT_EQ(report->report.parent_sha256(), Sha256("a").raw());
  CallFailed unknown;
  unknown.status = NotFound("no update");
  unknown.reason = v1::REFUSAL_REASON_NOT_FOUND;
  tell(unknown);
  ASSERT_NE(did(std::type_identity<Upload>{}), nullptr);
  tell(Uploaded{});
  report = did(std::type_identity<Report>{});
  ASSERT_NE(report, nullptr);
  EXPECT_FALSE(report->with_update);
}

TEST_F(SessionTest, EveryVerdictEndsTheTask) {
  for (const auto verdict :
       {v1::REPORT_VERDICT_ACCEPTED, v1::REPORT_VERDICT_LATE, v1::REPORT_VERDICT_SUPERSEDED, v1::REPORT_VERDICT_NOTED,
        v1::REPORT_VERDICT_INVALID, static_cast<v1::ReportVerdict>(77)}) {
    Restart();
    GoToReport();
    Tell(Answered(verdict));
    ASSERT_TRUE(Did<EndTask>()) << verdict;
    EXPECT_EQ(Find<EndTask>()->accepted, verdict == v1::REPORT_VERDICT_ACCEPTED) << verdict;
    EXPECT_EQ(session_.state(), SessionState::kCheckingIn) << verdict;
    EXPECT_EQ(session_.tasks_reported(), 1u) << verdict;
  }
}

TEST_F(SessionTest, InvalidUpdateIsToldWithTheReasonAndDelaysTheNextCheckin) {
  GoToReport();
  Tell(Answered(v1::REPORT_VERDICT_INVALID));
  EXPECT_THAT(Notes(), HasSubstr("NOT_FINITE: NaN in lora_A"));
  EXPECT_FALSE(Did<CheckIn>());
  ASSERT_TRUE(Did<Wait>());
  Tell(TimerFired{});
  EXPECT_TRUE(Did<CheckIn>());
}

TEST_F(SessionTest, StopsAfterAsManyTasksAsItWasTold) {
  SessionOptions options;
  options.max_tasks = 2;
  Restart(options);
  GoToReport();
  Tell(Answered(v1::REPORT_VERDICT_ACCEPTED));
  ASSERT_TRUE(Did<CheckIn>());
  Tell(Assigned());
  Tell(Fetched{});
  Tell(TrainedWell());
  Tell(Uploaded{});
  Tell(Answered(v1::REPORT_VERDICT_LATE));
  ASSERT_TRUE(Did<Finish>());
  EXPECT_TRUE(Find<Finish>()->status.ok());
  EXPECT_FALSE(Did<CheckIn>());
}

// ---- rejections ----

TEST_F(SessionTest, WaitsAsLongAsARejectionSays) {
  GoToCheckin();
  Tell(Rejected(v1::REJECTION_REASON_NO_RUN, 12'345));
  ASSERT_TRUE(Did<Wait>());
  EXPECT_EQ(Find<Wait>()->time, std::chrono::milliseconds(12'345));
  EXPECT_FALSE(Did<CheckIn>());
  Tell(TimerFired{});
  EXPECT_TRUE(Did<CheckIn>());
}

TEST_F(SessionTest, RejectionWithoutATimeDoesNotMakeItSpin) {
  GoToCheckin();
  Tell(Rejected(v1::REJECTION_REASON_POLL_AGAIN, 0));
  ASSERT_TRUE(Did<Wait>());
  EXPECT_GT(Find<Wait>()->time, Duration(0));
}

TEST_F(SessionTest, UnsupportedTaskTooLittleMemoryAndReplacedIdentityAreTold) {
  GoToCheckin();
  Tell(Rejected(v1::REJECTION_REASON_UNSUPPORTED_TASK, 1));
  EXPECT_THAT(Notes(), HasSubstr("local task"));
  Tell(TimerFired{});
  Tell(Rejected(v1::REJECTION_REASON_TOO_LITTLE_MEMORY, 1));
  EXPECT_THAT(Notes(), HasSubstr("worker.memory_limit_mb"));
  Tell(TimerFired{});
  Tell(Rejected(v1::REJECTION_REASON_REPLACED, 1));
  EXPECT_THAT(Notes(), HasSubstr("identity"));
}

TEST_F(SessionTest, AssignmentOfAnUnknownLocalTaskIsReportedAsFailed) {
  GoToCheckin();
  Tell(Assigned("dp_zo"));
  ASSERT_TRUE(Did<Report>());
  EXPECT_FALSE(Did<Fetch>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_FAILED);
  EXPECT_THAT(Find<Report>()->report.message(), HasSubstr("dp_zo"));
}

// ---- backoff ----

TEST_F(SessionTest, BackoffGrowsIsJitteredAndBounded) {
  SessionOptions options;
  options.backoff_base = Seconds(1);
  options.backoff_max = Seconds(60);
  double sum_early = 0, sum_late = 0;
  std::set<int64_t> different;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    options.seed = seed;
    Restart(options);
    GoToCheckin();
    for (int i = 1; i <= 60; ++i) {
      Tell(Broken());
      ASSERT_TRUE(Did<Wait>());
      const double wait = ToSeconds(Find<Wait>()->time);
      EXPECT_GE(wait, ToSeconds(options.min_pause));
      EXPECT_LE(wait, std::min(60.0, std::exp2(i)) + 1e-6) << "attempt " << i;
      if (i == 1) sum_early += wait;
      if (i == 60) {
        sum_late += wait;
        different.insert(Find<Wait>()->time.count());
      }
      Tell(TimerFired{});
      ASSERT_TRUE(Did<CheckIn>());
    }
  }
  // Full jitter: uniform from 0 to the ceiling, here 2 s and 60 s.
  EXPECT_NEAR(sum_early / 200, 1, 0.2);
  EXPECT_NEAR(sum_late / 200, 30, 5);
  EXPECT_GT(different.size(), 190u);
}

TEST_F(SessionTest, SameSeedGivesTheSamePauses) {
  std::vector<int64_t> pauses[2];
  for (auto& list : pauses) {
    Restart(SessionOptions{.seed = 7});
    GoToCheckin();
    for (int i = 0; i < 10; ++i) {
      Tell(Broken());
      list.push_back(Find<Wait>()->time.count());
      Tell(TimerFired{});
    }
  }
  EXPECT_EQ(pauses[0], pauses[1]);
}

TEST_F(SessionTest, ServersRetryAfterIsHonouredToTheMicrosecond) {
  GoToCheckin();
  Tell(Refused(v1::REFUSAL_REASON_OVERLOADED, std::chrono::milliseconds(7'250)));
  EXPECT_EQ(Find<Wait>()->time, std::chrono::milliseconds(7'250));
}

TEST_F(SessionTest, SuccessForgetsEarlierFailures) {
  SessionOptions options;
  options.backoff_base = Seconds(1);
  Restart(options);
  GoToCheckin();
  for (int i = 0; i < 8; ++i) {
    Tell(Broken());
    Tell(TimerFired{});
  }
  Tell(Rejected(v1::REJECTION_REASON_NO_RUN, 1));
  Tell(TimerFired{});
  Tell(Broken());
  EXPECT_LE(Find<Wait>()->time, Seconds(2));
}

TEST_F(SessionTest, TemporaryFailuresAreRepeatedInEveryNetworkStep) {
  for (const Event& failure :
       {Event(Broken()), Event(Broken(DeadlineExceeded("slow"))), Event(Refused(v1::REFUSAL_REASON_UNAVAILABLE)),
        Event(Refused(v1::REFUSAL_REASON_OVERLOADED)), Event(Refused(v1::REFUSAL_REASON_RATE_LIMITED)),
        Event(Refused(v1::REFUSAL_REASON_INTERNAL))}) {
    Restart();
    GoToFetch();
    Tell(failure);
    ASSERT_TRUE(Did<Wait>());
    Tell(TimerFired{});
    ASSERT_TRUE(Did<Fetch>());
    Tell(Fetched{});
    Tell(TrainedWell());
    Tell(failure);
    ASSERT_TRUE(Did<Wait>());
    Tell(TimerFired{});
    ASSERT_TRUE(Did<Upload>());
    EXPECT_FALSE(Find<Upload>()->anew) << "it goes on where it broke";
    Tell(Uploaded{});
    Tell(failure);
    ASSERT_TRUE(Did<Wait>());
    Tell(TimerFired{});
    ASSERT_TRUE(Did<Report>());
    EXPECT_FALSE(Did<EndTask>());
  }
}

TEST_F(SessionTest, StrangeAnswersToACheckinAreTriedAgainLater) {
  GoToCheckin();
  Tell(Refused(v1::REFUSAL_REASON_NOT_FOUND));
  EXPECT_TRUE(Did<Wait>());
  Tell(TimerFired{});
  Tell(Broken(InvalidArgument("not a message")));
  EXPECT_TRUE(Did<Wait>());
}

// ---- revoked, unknown ----

TEST_F(SessionTest, RevocationStopsWithASentenceInEveryNetworkStep) {
  const std::function<void()> steps[] = {[&] { GoToCheckin(); }, [&] { GoToFetch(); }, [&] { GoToUpload(); },
                                         [&] { GoToReport(); }};
  for (const auto& step : steps) {
    Restart();
    step();
    Tell(Refused(v1::REFUSAL_REASON_REVOKED, Seconds(5)));
    ASSERT_TRUE(Did<Finish>());
    EXPECT_EQ(Find<Finish>()->status.code(), Code::kPermissionDenied);
    EXPECT_THAT(Find<Finish>()->status.message(), HasSubstr("revoked"));
    EXPECT_FALSE(Did<EndTask>()) << "the journal is not thrown away";
    Tell(TimerFired{});
    EXPECT_TRUE(DidNothing());
  }
}

TEST_F(SessionTest, UnauthenticatedAndWrongVersionStopWithASentence) {
  GoToCheckin();
  Tell(Refused(v1::REFUSAL_REASON_UNAUTHENTICATED));
  EXPECT_EQ(Find<Finish>()->status.code(), Code::kUnauthenticated);
  Restart();
  GoToCheckin();
  Tell(Broken(Unauthenticated("certificate verify failed")));
  EXPECT_EQ(Find<Finish>()->status.code(), Code::kUnauthenticated);
  EXPECT_THAT(Find<Finish>()->status.message(), HasSubstr("server_name"));
  Restart();
  GoToCheckin();
  Tell(Refused(v1::REFUSAL_REASON_UNSUPPORTED_VERSION));
  EXPECT_EQ(Find<Finish>()->status.code(), Code::kFailedPrecondition);
}

// ---- what goes wrong for good ----

TEST_F(SessionTest, BlobThatIsGoneOrWrongFailsTheTask) {
  for (const Event& failure : {Event(Refused(v1::REFUSAL_REASON_NOT_FOUND)), Event(Broken(DataLoss("wrong digest"))),
                               Event(Broken(ResourceExhausted("disk full")))}) {
    Restart();
    GoToFetch();
    Tell(failure);
    ASSERT_TRUE(Did<Report>());
    EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_FAILED);
    EXPECT_TRUE(Did<SaveReport>());
    EXPECT_FALSE(Find<Report>()->report.has_update());
  }
}

TEST_F(SessionTest, DeviceThatFailsEveryTaskPausesLongerAndLonger) {
  SessionOptions options;
  options.backoff_base = Seconds(1);
  options.backoff_max = Seconds(1000);
  double first = 0, eighth = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    options.seed = seed;
    Restart(options);
    GoToCheckin();
    for (int i = 1; i <= 8; ++i) {
      Tell(Assigned());
      Tell(Fetched{});
      Tell(TrainedBadly(Trained::Outcome::kFailed, "loss is NaN"));
      Tell(Answered(v1::REPORT_VERDICT_NOTED));
      ASSERT_TRUE(Did<Wait>()) << i;
      if (i == 1) first += ToSeconds(Find<Wait>()->time);
      if (i == 8) eighth += ToSeconds(Find<Wait>()->time);
      Tell(TimerFired{});
      ASSERT_TRUE(Did<CheckIn>());
    }
  }
  EXPECT_GT(eighth, 20 * first);
  Tell(Assigned());
  Tell(Fetched{});
  Tell(TrainedWell());
  Tell(Uploaded{});
  Tell(Answered(v1::REPORT_VERDICT_ACCEPTED));
  EXPECT_TRUE(Did<CheckIn>()) << "a good task ends the pauses";
}

TEST_F(SessionTest, TaskThatTakesMoreThanItsEstimateMakesTheDeviceTellLess) {
  const auto fail = [this](uint64_t needed, bool out_of_memory) {
    CheckinAnswered assigned = Assigned();
    assigned.response.mutable_assignment()->mutable_plan()->set_memory_bytes(needed);
    Tell(assigned);
    Tell(Fetched{});
    Trained trained = TrainedBadly(Trained::Outcome::kInterrupted, "it broke");
    trained.out_of_memory = out_of_memory;
    Tell(trained);
    const std::string notes = Notes();
    Tell(Answered(v1::REPORT_VERDICT_NOTED));
    Tell(TimerFired{});
    return notes;
  };
  for (const uint64_t limit : {uint64_t{0}, uint64_t{1000} << 20}) {
    SessionOptions options;
    options.memory_limit_bytes = limit;
    Restart(options);
    GoToCheckin();
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, limit);
    fail(uint64_t{800} << 20, false);
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, limit) << "it was not for the memory";
    fail(0, true);
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, limit) << "memory does not decide what this run's tasks are of";
    EXPECT_THAT(fail(uint64_t{800} << 20, true), HasSubstr("800 MiB"));
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, (uint64_t{800} << 20) - 1);
    fail(uint64_t{900} << 20, true);
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, (uint64_t{800} << 20) - 1) << "an older task's";
    fail(uint64_t{700} << 20, true);
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, (uint64_t{700} << 20) - 1);
    fail(1, true);
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, (uint64_t{700} << 20) - 1) << "0 would mean that there is no limit";
    Tell(Rejected(v1::REJECTION_REASON_TOO_LITTLE_MEMORY, 1));
    EXPECT_THAT(Notes(), HasSubstr("tries them again"));
    Tell(TimerFired{});
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, limit) << "nothing was left that fits";
    // In time, and in another run.
    fail(uint64_t{800} << 20, true);
    for (uint32_t task = 1; task <= kTasksWithLessMemory; ++task) {
      EXPECT_EQ(Find<CheckIn>()->memory_bytes, (uint64_t{800} << 20) - 1) << task;
      Tell(Assigned());
      Tell(Fetched{});
      Tell(TrainedWell());
      Tell(Uploaded{});
      Tell(Answered(v1::REPORT_VERDICT_ACCEPTED));
    }
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, limit);
    fail(uint64_t{800} << 20, true);
    CheckinAnswered other = Assigned();
    other.response.mutable_assignment()->set_run_id("run-2");
    Tell(other);
    Tell(Fetched{});
    Tell(TrainedWell());
    Tell(Uploaded{});
    Tell(Answered(v1::REPORT_VERDICT_ACCEPTED));
    EXPECT_EQ(Find<CheckIn>()->memory_bytes, limit) << "what was too large was another run's";
  }
}

TEST_F(SessionTest, WorkerKilledByItselfIsInterruptedAndPausesToo) {
  GoToTrain();
  Tell(TrainedBadly(Trained::Outcome::kInterrupted, "killed by signal 9"));
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_INTERRUPTED);
  EXPECT_EQ(Find<Report>()->report.message(), "killed by signal 9");
  Tell(Answered(v1::REPORT_VERDICT_NOTED));
  EXPECT_TRUE(Did<Wait>());
}

TEST_F(SessionTest, UpdateBeyondThePlansBoundIsNotUploaded) {
  GoToTrain();
  Tell(TrainedWell(1001));
  EXPECT_FALSE(Did<Upload>());
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_FAILED);
  Restart();
  GoToTrain();
  Tell(TrainedWell(1000));
  EXPECT_TRUE(Did<Upload>());
}

TEST_F(SessionTest, UploadWithAWrongDigestStartsAnewTwiceAndThenFails) {
  GoToUpload();
  for (int i = 0; i < 2; ++i) {
    Tell(Refused(v1::REFUSAL_REASON_DIGEST_MISMATCH));
    ASSERT_TRUE(Did<Upload>());
    EXPECT_TRUE(Find<Upload>()->anew);
  }
  Tell(Refused(v1::REFUSAL_REASON_DIGEST_MISMATCH));
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_FAILED);
  EXPECT_EQ(Find<Report>()->report.assignment_id(), kId);
}

TEST_F(SessionTest, ReportWhoseUploadIsUnknownUploadsAgainAndIsDroppedInTheEnd) {
  GoToReport();
  for (int i = 0; i < 2; ++i) {
    Tell(Refused(v1::REFUSAL_REASON_NOT_FOUND));
    ASSERT_TRUE(Did<Upload>());
    EXPECT_TRUE(Find<Upload>()->anew);
    Tell(Uploaded{});
    ASSERT_TRUE(Did<Report>());
  }
  Tell(Refused(v1::REFUSAL_REASON_NOT_FOUND));
  EXPECT_FALSE(Did<Upload>());
  EXPECT_TRUE(Did<EndTask>());
  EXPECT_EQ(session_.tasks_reported(), 1u);
}

TEST_F(SessionTest, RefusedReportIsDroppedAndNotRepeated) {
  GoToReport();
  Tell(Refused(v1::REFUSAL_REASON_NOT_YOURS));
  EXPECT_TRUE(Did<EndTask>());
  EXPECT_FALSE(Did<Report>());
}

TEST_F(SessionTest, LongReasonsAreCutToTheProtocolsLimit) {
  GoToTrain();
  Tell(TrainedBadly(Trained::Outcome::kFailed, std::string(5000, 'x') + "\xff"));
  ASSERT_TRUE(Did<Report>());
  EXPECT_TRUE(protocol::Validate(Find<Report>()->report).ok()) << protocol::Validate(Find<Report>()->report);
}

TEST_F(SessionTest, WorkerThatDoesNotStartStopsTheDaemonAfterSomeTries) {
  Tell(Started{});
  Tell(Eligibility(true));
  Tell(Broken(NotFound("cannot run heddle-worker")));
  ASSERT_TRUE(Did<Finish>());
  EXPECT_THAT(Find<Finish>()->status.message(), HasSubstr("heddle-worker"));

  Restart();
  Tell(Started{});
  Tell(Eligibility(true));
  int tries = 1;
  for (; !Did<Finish>() && tries < 100; ++tries) {
    Tell(Broken(Unavailable("the worker ended")));
    if (Did<Wait>()) Tell(TimerFired{});
  }
  EXPECT_GT(tries, 2);
  EXPECT_LT(tries, 20);
}

// ---- no longer eligible ----

TEST_F(SessionTest, ADeviceThatMayNotTrainFromTheStartSaysSoOnce) {
  Tell(Started{});
  Tell(Eligibility(false));
  EXPECT_THAT(Notes(), HasSubstr("may not train: on battery"));
  Tell(Eligibility(false));
  EXPECT_TRUE(DidNothing());
}

TEST_F(SessionTest, CheckinIsCancelledWhenTheDeviceMayNoLongerTrain) {
  GoToCheckin();
  Tell(Eligibility(false));
  EXPECT_TRUE(Did<CancelOperation>());
  EXPECT_FALSE(Did<CheckIn>());
  Tell(Broken(Cancelled("the call was cancelled")));
  EXPECT_TRUE(DidNothing());
  EXPECT_EQ(session_.state(), SessionState::kNotEligible);
  Tell(Eligibility(true));
  EXPECT_TRUE(Did<CheckIn>());
}

TEST_F(SessionTest, AssignmentThatWonTheRaceAgainstTheCancellationIsGivenBack) {
  GoToCheckin();
  Tell(Eligibility(false));
  Tell(Assigned());
  ASSERT_TRUE(Did<Report>());
  EXPECT_FALSE(Did<Fetch>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_INTERRUPTED);
  EXPECT_THAT(Find<Report>()->report.message(), HasSubstr("on battery"));
  Tell(Answered(v1::REPORT_VERDICT_NOTED));
  EXPECT_EQ(session_.state(), SessionState::kNotEligible);
}

TEST_F(SessionTest, FetchingAndTrainingAreInterruptedAndReported) {
  const std::function<void()> steps[] = {[&] { GoToFetch(); }, [&] { GoToTrain(); }};
  for (const auto& step : steps) {
    Restart();
    step();
    Tell(Eligibility(false));
    ASSERT_TRUE(Did<CancelOperation>());
    EXPECT_FALSE(Did<Report>()) << "the operation has not ended yet";
    if (session_.state() == SessionState::kTraining) {
      Tell(TrainedBadly(Trained::Outcome::kInterrupted, "cancelled"));
    } else {
      Tell(Broken(Cancelled("the call was cancelled")));
    }
    ASSERT_TRUE(Did<Report>());
    EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_INTERRUPTED);
    EXPECT_THAT(Find<Report>()->report.message(), HasSubstr("on battery"));
    Tell(Answered(v1::REPORT_VERDICT_NOTED));
    EXPECT_TRUE(Did<EndTask>());
    EXPECT_EQ(session_.state(), SessionState::kNotEligible);
    Tell(Eligibility(true));
    EXPECT_TRUE(Did<CheckIn>()) << "an interruption by the owner is no failure: no pause";
  }
}

TEST_F(SessionTest, EligibleAgainBeforeTheCancelledTaskEndedStillInterruptsIt) {
  GoToTrain();
  Tell(Eligibility(false));
  Tell(Eligibility(true));
  Tell(TrainedBadly(Trained::Outcome::kInterrupted, "cancelled"));
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_INTERRUPTED);
  Tell(Answered(v1::REPORT_VERDICT_NOTED));
  EXPECT_TRUE(Did<CheckIn>());
}

TEST_F(SessionTest, WaitBeforeAnotherFetchIsInterruptedToo) {
  GoToFetch();
  Tell(Broken());
  ASSERT_TRUE(Did<Wait>());
  Tell(Eligibility(false));
  ASSERT_TRUE(Did<CancelOperation>());
  Tell(TimerFired{});
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_INTERRUPTED);
}

TEST_F(SessionTest, FinishedUpdateIsDeliveredWhetherTheDeviceMayTrainOrNot) {
  GoToUpload();
  Tell(Eligibility(false));
  EXPECT_FALSE(Did<CancelOperation>());
  Tell(Broken());
  ASSERT_TRUE(Did<Wait>());
  Tell(TimerFired{});
  ASSERT_TRUE(Did<Upload>());
  Tell(Uploaded{});
  ASSERT_TRUE(Did<Report>());
  Tell(Answered(v1::REPORT_VERDICT_ACCEPTED));
  EXPECT_EQ(session_.state(), SessionState::kNotEligible);
}

TEST_F(SessionTest, TaskThatCompletedInSpiteOfItsCancellationIsDelivered) {
  GoToTrain();
  Tell(Eligibility(false));
  Tell(TrainedWell());
  EXPECT_TRUE(Did<SaveReport>());
  EXPECT_TRUE(Did<Upload>());
}

// ---- stopping ----

TEST_F(SessionTest, StopsAtOnceWhenIdle) {
  Tell(Started{});
  Tell(ShutdownRequested{});
  ASSERT_TRUE(Did<Finish>());
  EXPECT_TRUE(Find<Finish>()->status.ok());
}

TEST_F(SessionTest, StopDuringACheckinCancelsItAndFinishes) {
  GoToCheckin();
  Tell(ShutdownRequested{});
  EXPECT_TRUE(Did<CancelOperation>());
  EXPECT_FALSE(Did<Finish>());
  Tell(Broken(Cancelled("the call was cancelled")));
  EXPECT_TRUE(Did<Finish>());
}

TEST_F(SessionTest, StopDuringTrainingReportsTheInterruptionAndFinishes) {
  GoToTrain();
  Tell(ShutdownRequested{});
  EXPECT_TRUE(Did<CancelOperation>());
  Tell(TrainedBadly(Trained::Outcome::kInterrupted, "cancelled"));
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.outcome(), v1::TASK_OUTCOME_INTERRUPTED);
  EXPECT_FALSE(Did<Finish>());
  Tell(Answered(v1::REPORT_VERDICT_NOTED));
  EXPECT_TRUE(Did<EndTask>());
  EXPECT_TRUE(Did<Finish>());
}

TEST_F(SessionTest, StopWithAnUnreachableCoordinatorKeepsTheReportForLater) {
  GoToTrain();
  Tell(ShutdownRequested{});
  Tell(TrainedBadly(Trained::Outcome::kInterrupted, "cancelled"));
  ASSERT_TRUE(Did<SaveReport>());
  Tell(Broken());
  EXPECT_FALSE(Did<Wait>()) << "no time for another try";
  EXPECT_FALSE(Did<EndTask>());
  EXPECT_TRUE(Did<Finish>());
}

TEST_F(SessionTest, StopDuringAnUploadKeepsTheWork) {
  GoToUpload();
  Tell(ShutdownRequested{});
  EXPECT_TRUE(Did<CancelOperation>());
  Tell(Broken(Cancelled("the call was cancelled")));
  EXPECT_TRUE(Did<Finish>());
  EXPECT_FALSE(Did<EndTask>());
}

TEST_F(SessionTest, StopWhileTheTaskCompletesKeepsTheWork) {
  GoToTrain();
  Tell(ShutdownRequested{});
  Tell(TrainedWell());
  EXPECT_TRUE(Did<SaveReport>());
  EXPECT_TRUE(Did<Finish>());
  EXPECT_FALSE(Did<EndTask>());
}

TEST_F(SessionTest, StopLetsAReportOnItsWayArrive) {
  GoToReport();
  Tell(ShutdownRequested{});
  EXPECT_TRUE(DidNothing());
  Tell(Answered(v1::REPORT_VERDICT_ACCEPTED));
  EXPECT_TRUE(Did<EndTask>());
  EXPECT_TRUE(Did<Finish>());
}

TEST_F(SessionTest, EndOfTheGraceTimeFinishesInEveryState) {
  const std::function<void()> steps[] = {[&] { Tell(Started{}); }, [&] { GoToCheckin(); }, [&] { GoToFetch(); },
                                         [&] { GoToTrain(); },     [&] { GoToUpload(); },  [&] { GoToReport(); }};
  for (const auto& step : steps) {
    Restart();
    step();
    const bool was_idle = session_.state() == SessionState::kNotEligible;
    Tell(ShutdownRequested{});
    if (was_idle) continue;
    Tell(GraceExpired{});
    ASSERT_TRUE(Did<Finish>());
    EXPECT_TRUE(Find<Finish>()->status.ok());
    EXPECT_FALSE(Did<EndTask>());
    Tell(Uploaded{});
    EXPECT_TRUE(DidNothing());
  }
}

// ---- restart ----

TEST_F(SessionTest, RestartGoesOnWithTheUploadBeforeAnythingElse) {
  GoToUpload();
  Started started;
  started.unreported = Find<SaveReport>()->report;
  Restart();
  Tell(started);
  ASSERT_TRUE(Did<Upload>());
  EXPECT_EQ(Find<Upload>()->report.assignment_id(), kId);
  EXPECT_FALSE(Find<Upload>()->anew);
  Tell(Uploaded{});
  ASSERT_TRUE(Did<Report>());
  EXPECT_EQ(Find<Report>()->report.SerializeAsString(), started.unreported->SerializeAsString());
  Tell(Answered(v1::REPORT_VERDICT_LATE));
  EXPECT_TRUE(Did<EndTask>());
  Tell(Eligibility(true));
  EXPECT_TRUE(Did<ProbeWorker>());
}

TEST_F(SessionTest, RestartDeliversAnInterruption) {
  Started started;
  started.unreported.emplace();
  started.unreported->set_assignment_id(kId);
  started.unreported->set_outcome(v1::TASK_OUTCOME_INTERRUPTED);
  Tell(started);
  ASSERT_TRUE(Did<Report>());
  EXPECT_FALSE(Did<Upload>());
}

// ---- events out of order ----

TEST_F(SessionTest, EventsOfOtherOperationsAreIgnored) {
  GoToTrain();
  for (const Event& stray :
       {Event(TimerFired{}), Event(Fetched{}), Event(Uploaded{}), Event(Assigned()),
        Event(Answered(v1::REPORT_VERDICT_ACCEPTED)), Event(Probed()), Event(Started{}), Event(Eligibility(true))}) {
    Tell(stray);
    EXPECT_TRUE(DidNothing()) << stray.index();
  }
  Tell(TrainedWell());
  EXPECT_TRUE(Did<Upload>());
}

}  // namespace
}  // namespace heddle::client
