// The session in a hostile world made from a seed: operations fail, succeed or end cancelled, the device becomes and
// stops being eligible, the daemon is stopped and started again. What must hold in every such world is checked here.
#include <gtest/gtest.h>

#include <set>

#include "client/daemon/session.h"
#include "common/random.h"
#include "protocol/validate.h"

namespace heddle::client {
namespace {

enum class Operation { kNone, kProbe, kCheckIn, kFetch, kTrain, kUpload, kReport, kWait };

struct World {
  // Every other world sends its updates inside the reports.
  explicit World(uint64_t seed)
      : random(seed), session(SessionOptions{.seed = seed, .max_inline_update_bytes = seed % 2 == 0 ? 0U : 10U}) {}

  void Tell(const Event& event) {
    for (const Action& action : session.Handle(event)) std::visit([this](const auto& a) { Do(a); }, action);
  }
  void Begin(Operation next) {
    ASSERT_EQ(operation, Operation::kNone) << "two operations at once";
    ASSERT_FALSE(finished);
    operation = next;
    cancelled = false;
  }
  void Do(const ProbeWorker&) { Begin(Operation::kProbe); }
  void Do(const CheckIn& a) {
    EXPECT_FALSE(a.local_tasks.empty());
    EXPECT_TRUE(eligible);
    EXPECT_FALSE(journal) << "a new task while one is unreported";
    Begin(Operation::kCheckIn);
  }
  void Do(const Fetch& a) {
    EXPECT_EQ(a.assignment.assignment_id(), open);
    Begin(Operation::kFetch);
  }
  void Do(const Train& a) {
    EXPECT_EQ(a.assignment.assignment_id(), open);
    EXPECT_TRUE(eligible);
    Begin(Operation::kTrain);
  }
  void Do(const Upload& a) {
    EXPECT_EQ(a.report.outcome(), v1::TASK_OUTCOME_COMPLETED);
    EXPECT_TRUE(journal) << "an upload that a restart would forget";
    Begin(Operation::kUpload);
  }
  void Do(const Report& a) {
    EXPECT_TRUE(protocol::Validate(a.report).ok()) << protocol::Validate(a.report);
    EXPECT_TRUE(journal);
    EXPECT_EQ(a.report.SerializeAsString(), journal->SerializeAsString());
    EXPECT_TRUE(!a.with_update || a.report.outcome() == v1::TASK_OUTCOME_COMPLETED);
    Begin(Operation::kReport);
  }
  void Do(const Wait& a) {
    EXPECT_GT(a.time, Duration(0));
    Begin(Operation::kWait);
  }
  void Do(const CancelOperation&) {
    EXPECT_NE(operation, Operation::kNone);
    cancelled = true;
  }
  void Do(const SaveReport& a) {
    EXPECT_EQ(a.report.assignment_id(), open);
    journal = a.report;
  }
  void Do(const EndTask&) {
    journal.reset();
    open.clear();
  }
  void Do(const Note&) {}
  void Do(const Finish& a) {
    finished = true;
    status = a.status;
  }

  Event Failure() {
    CallFailed failed;
    failed.status = cancelled ? Cancelled("cancelled") : Unavailable("broken");
    switch (cancelled ? 0 : random.NextBelow(12)) {
      case 1:
        failed.reason = v1::REFUSAL_REASON_NOT_FOUND;
        break;
      case 2:
        failed.reason = v1::REFUSAL_REASON_DIGEST_MISMATCH;
        break;
      case 3:
        failed.reason = v1::REFUSAL_REASON_OVERLOADED;
        failed.retry_after = Seconds(3);
        break;
      case 4:
        failed.status = DataLoss("wrong digest");
        break;
      default:
        break;
    }
    return failed;
  }

  // The operation under way ends, one way or another.
  void End(bool well) {
    const Operation ending = std::exchange(operation, Operation::kNone);
    if (ending == Operation::kWait) return Tell(TimerFired{});
    if (ending == Operation::kTrain) return Tell(EndOfTraining(well));
    if (!well) return ending == Operation::kProbe ? Tell(BrokenProbe()) : Tell(Failure());
    switch (ending) {
      case Operation::kProbe: {
        WorkerProbed probed;
        probed.local_tasks = {"sum"};
        return Tell(probed);
      }
      case Operation::kCheckIn:
        return Tell(Answer());
      case Operation::kFetch:
        return Tell(Fetched{});
      case Operation::kUpload:
        return Tell(Uploaded{});
      case Operation::kReport: {
        ReportAnswered answered;
        answered.response.set_verdict(static_cast<v1::ReportVerdict>(1 + random.NextBelow(5)));
        return Tell(answered);
      }
      default:
        return;
    }
  }
  Event BrokenProbe() {
    CallFailed failed;
    failed.status = Unavailable("the worker ended");
    return failed;
  }
  Event EndOfTraining(bool well) {
    Trained trained;
    trained.message = "a reason";
    trained.outcome = cancelled ? Trained::Outcome::kInterrupted : Trained::Outcome::kFailed;
    if (well) {
      trained.outcome = Trained::Outcome::kCompleted;
      trained.update = protocol::MakeBlobRef(Sha256("u"), 10, "update.safetensors");
      trained.metrics.set_num_examples(1);
    }
    return trained;
  }
  Event Answer() {
    CheckinAnswered answered;
    if (random.NextBelow(3) == 0) {
      answered.response.mutable_rejection()->set_reason(v1::REJECTION_REASON_NO_RUN);
      answered.response.mutable_rejection()->set_retry_after_ms(random.NextBelow(100));
      return answered;
    }
    open = std::string(24, '0') + std::to_string(10'000'000 + tasks++);
    v1::TaskAssignment& assignment = *answered.response.mutable_assignment();
    assignment.set_assignment_id(open);
    assignment.mutable_plan()->set_local_task(random.NextBelow(10) == 0 ? "unknown" : "sum");
    assignment.mutable_plan()->set_max_update_bytes(random.NextBelow(10) == 0 ? 9 : 10);
    return answered;
  }

  void SetEligible(bool value) {
    eligible = value;
    EligibilityChanged changed;
    changed.eligible = value;
    changed.reason = "owner";
    Tell(changed);
  }

  PhiloxStream random;
  Session session;
  Operation operation = Operation::kNone;
  bool cancelled = false, eligible = false, finished = false;
  Status status;
  std::optional<v1::ReportRequest> journal;
  std::string open;
  uint64_t tasks = 0;
};

void Hostile(World& world, int steps) {
  for (int i = 0; i < steps && !world.finished; ++i) {
    switch (world.random.NextBelow(8)) {
      case 0:
        world.SetEligible(!world.eligible);
        break;
      case 1:
        if (world.operation != Operation::kWait) world.Tell(TimerFired{});  // a stray one
        break;
      default:
        if (world.operation != Operation::kNone) world.End(world.random.NextBelow(3) != 0);
    }
    if (testing::Test::HasFailure()) return;
  }
}

TEST(SessionWorld, InEveryHostileWorldRulesHoldAndPeaceBringsWork) {
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed);
    world.Tell(Started{});
    Hostile(world, 200);
    if (HasFailure()) return;
    if (world.finished) {
      EXPECT_EQ(world.session.tasks_reported(), 0u) << "only a worker that never starts stops it: " << world.status;
      continue;
    }
    // Peace: everything succeeds, and within a few steps a task is reported.
    const uint64_t before = world.session.tasks_reported();
    if (!world.eligible) world.SetEligible(true);
    for (int i = 0; i < 200 && world.session.tasks_reported() < before + 2; ++i) {
      ASSERT_NE(world.operation, Operation::kNone) << "it waits for nothing";
      world.End(true);
      if (HasFailure()) return;
    }
    EXPECT_GE(world.session.tasks_reported(), before + 2);
  }
}

TEST(SessionWorld, AStopAtAnyMomentEndsAndARestartDeliversWhatWasFinished) {
  int restarted_with_work = 0;
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed);
    world.Tell(Started{});
    world.SetEligible(true);
    Hostile(world, static_cast<int>(seed % 60));
    if (HasFailure()) return;
    if (world.finished) continue;
    world.Tell(ShutdownRequested{});
    for (int i = 0; i < 20 && !world.finished; ++i) {
      ASSERT_NE(world.operation, Operation::kNone);
      world.End(world.random.NextBelow(2) == 0);
    }
    ASSERT_TRUE(world.finished);
    EXPECT_TRUE(world.status.ok()) << world.status;
    if (HasFailure()) return;
    if (!world.journal) continue;
    ++restarted_with_work;
    World next(seed + 1'000'000);
    next.journal = world.journal;
    next.open = world.journal->assignment_id();
    Started started;
    started.unreported = world.journal;
    next.Tell(started);
    for (int i = 0; i < 5 && next.session.tasks_reported() == 0; ++i) next.End(true);
    EXPECT_EQ(next.session.tasks_reported(), 1u);
    EXPECT_FALSE(next.journal);
    if (HasFailure()) return;
  }
  EXPECT_GT(restarted_with_work, 100);
}

}  // namespace
}  // namespace heddle::client
