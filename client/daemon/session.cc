#include "client/daemon/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "protocol/limits.h"
#include "protocol/refusal.h"
#include "protocol/validate.h"

namespace heddle::client {
namespace {

constexpr std::string_view kAdapterFile = "adapter_model.safetensors";  // PEFT's name
constexpr std::string_view kLedgerFile = "ledger.bin";                  // zo::kLedgerFile
constexpr uint32_t kMaxUploadRestarts = 2;
constexpr uint32_t kMaxProbes = 5;

// A sentence when it makes no sense to go on at all.
std::optional<Status> FatalSentence(const CallFailed& failed) {
  const std::string detail = " (" + failed.status.message() + ")";
  if (failed.reason == v1::REFUSAL_REASON_REVOKED)
    return PermissionDenied(
        "the coordinator has revoked this device's certificate; to take part again, enroll it with "
        "a new token" +
        detail);
  if (failed.reason == v1::REFUSAL_REASON_UNAUTHENTICATED)
    return Unauthenticated("the coordinator does not know this device; enroll it with a new token" + detail);
  if (failed.reason == v1::REFUSAL_REASON_UNSUPPORTED_VERSION)
    return FailedPrecondition("the coordinator speaks another protocol version; install the matching client" + detail);
  if (!failed.reason && failed.status.code() == Code::kUnauthenticated)
    return Unauthenticated(
        "the TLS connection to the coordinator was refused; check [coordinator] server_name and the "
        "device's certificate, or enroll the device again" +
        detail);
  return std::nullopt;
}

bool IsTemporary(const CallFailed& failed) {
  if (failed.retry_after > Duration(0)) return true;
  if (failed.reason) {
    switch (*failed.reason) {
      case v1::REFUSAL_REASON_UNSPECIFIED:
      case v1::REFUSAL_REASON_OVERLOADED:
      case v1::REFUSAL_REASON_RATE_LIMITED:
      case v1::REFUSAL_REASON_UNAVAILABLE:
      case v1::REFUSAL_REASON_INTERNAL:
      case v1::REFUSAL_REASON_WRONG_OFFSET:
        return true;
      default:
        return false;
    }
  }
  switch (failed.status.code()) {
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kAborted:
    case Code::kCancelled:
    case Code::kUnknown:
      return true;
    default:
      return false;
  }
}

std::string_view VerdictText(v1::ReportVerdict verdict) {
  switch (verdict) {
    case v1::REPORT_VERDICT_ACCEPTED:
      return "update accepted";
    case v1::REPORT_VERDICT_LATE:
      return "update came too late for its round";
    case v1::REPORT_VERDICT_SUPERSEDED:
      return "task was replaced by a newer one";
    case v1::REPORT_VERDICT_NOTED:
      return "report noted";
    default:
      return "report answered with a verdict this version does not know";
  }
}

}  // namespace

std::string_view SessionStateName(SessionState state) {
  switch (state) {
    case SessionState::kNotEligible:
      return "not eligible";
    case SessionState::kStarting:
      return "starting";
    case SessionState::kCheckingIn:
      return "checking in";
    case SessionState::kFetching:
      return "fetching";
    case SessionState::kTraining:
      return "training";
    case SessionState::kUploading:
      return "uploading";
    case SessionState::kReporting:
      return "reporting";
    case SessionState::kStopped:
      return "stopped";
  }
  return "unknown";
}

Session::Session(SessionOptions options)
    : options_(options),
      jitter_(DeriveSeed(options.seed, "client backoff", "")),
      memory_bytes_(options.memory_limit_bytes) {}

std::vector<Action> Session::Handle(const Event& event) {
  out_.clear();
  if (state_ != SessionState::kStopped) std::visit([this](const auto& e) { On(e); }, event);
  return std::exchange(out_, {});
}

// ---- steps ----

void Session::Enter(SessionState state) {
  state_ = state;
  failures_ = 0;
  Begin();
}

void Session::Begin() {
  busy_ = true;
  waiting_ = cancelling_ = false;
  switch (state_) {
    case SessionState::kStarting:
      return Emit(ProbeWorker{});
    case SessionState::kCheckingIn:
      return Emit(CheckIn{*local_tasks_, memory_bytes_});
    case SessionState::kFetching:
      return Emit(Fetch{task_});
    case SessionState::kTraining:
      return Emit(Train{task_});
    case SessionState::kUploading:
      return Emit(Upload{report_, std::exchange(anew_, false)});
    case SessionState::kReporting:
      return Emit(Report{report_, TravelsInline()});
    case SessionState::kNotEligible:
    case SessionState::kStopped:
      busy_ = false;
  }
}

void Session::Delay(Duration time) {
  busy_ = waiting_ = true;
  cancelling_ = false;
  Emit(Wait{time});
}

Duration Session::Backoff(uint32_t failures) {
  const double base = ToSeconds(options_.backoff_base);
  const double ceiling = std::min(ToSeconds(options_.backoff_max), base * std::exp2(std::min(failures, 40u)));
  return std::max(options_.min_pause, Seconds(ceiling * static_cast<double>(jitter_.NextUniform())));
}

void Session::Retry(Duration retry_after) {
  ++failures_;
  Delay(retry_after > Duration(0) ? retry_after : Backoff(failures_));
}

void Session::Cancel(const std::string& reason) {
  if (!busy_ || cancelling_) return;
  cancelling_ = true;
  interruption_ = reason;
  Emit(CancelOperation{});
}

bool Session::Ends(SessionState expected, bool* cancelled) {
  if (state_ != expected || !busy_ || waiting_) return false;
  busy_ = false;
  *cancelled = std::exchange(cancelling_, false);
  return true;
}

void Session::Interrupted() {
  switch (state_) {
    case SessionState::kFetching:
    case SessionState::kTraining:
      return ReportOutcome(v1::TASK_OUTCOME_INTERRUPTED, interruption_);
    case SessionState::kUploading:
    case SessionState::kReporting:
      return Stop(OkStatus());  // the journal keeps it
    default:
      return Idle();
  }
}

void Session::Idle() {
  busy_ = waiting_ = cancelling_ = false;
  if (shutdown_ || (options_.max_tasks > 0 && tasks_reported_ >= options_.max_tasks)) return Stop(OkStatus());
  if (!eligible_) {
    state_ = SessionState::kNotEligible;
    return;
  }
  if (!local_tasks_) return Enter(SessionState::kStarting);
  if (failed_tasks_ == 0) return Enter(SessionState::kCheckingIn);
  // A device that fails every task must not take the next one at once.
  state_ = SessionState::kCheckingIn;
  failures_ = 0;
  Delay(Backoff(failed_tasks_));
}

void Session::ReportOutcome(v1::TaskOutcome outcome, const std::string& message) {
  const std::string id = state_ == SessionState::kUploading ? report_.assignment_id() : task_.assignment_id();
  report_.Clear();
  report_.set_assignment_id(id);
  report_.set_outcome(outcome);
  if (outcome == v1::TASK_OUTCOME_FAILED) unwell_ = true;
  report_.set_message(protocol::CleanText(message, protocol::kMaxReportMessageBytes));
  Say(outcome == v1::TASK_OUTCOME_FAILED,
      (outcome == v1::TASK_OUTCOME_FAILED ? "task failed: " : "task interrupted: ") + message);
  Emit(SaveReport{report_});
  Enter(SessionState::kReporting);
}

bool Session::TravelsInline() const {
  return report_.outcome() == v1::TASK_OUTCOME_COMPLETED && upload_restarts_ == 0 &&
         report_.update().size_bytes() <= options_.max_inline_update_bytes;
}

void Session::Deliver() {
  const bool upload = report_.outcome() == v1::TASK_OUTCOME_COMPLETED && !TravelsInline();
  Enter(upload ? SessionState::kUploading : SessionState::kReporting);
}

void Session::TaskEnded(bool accepted) {
  if (std::exchange(unwell_, false)) {
    ++failed_tasks_;
  } else if (report_.outcome() == v1::TASK_OUTCOME_COMPLETED) {
    failed_tasks_ = 0;
    if (tells_less_memory() && ++tasks_with_less_memory_ == kTasksWithLessMemory) TellAllMemory();
  }
  report_.Clear();
  task_.Clear();
  upload_restarts_ = 0;
  Emit(EndTask{accepted});
  Idle();
}

void Session::Stop(Status status) {
  state_ = SessionState::kStopped;
  busy_ = false;
  Emit(Finish{std::move(status)});
}

void Session::Say(bool warning, std::string text) {
  Emit(Note{warning, std::move(text),
            report_.assignment_id().empty() ? task_.assignment_id() : report_.assignment_id()});
}

// ---- events from outside ----

void Session::On(const Started& event) {
  if (started_) return;
  started_ = true;
  if (!event.unreported) return Idle();
  report_ = *event.unreported;
  Say(false, "going on with the task of before the restart");
  Deliver();
}

void Session::On(const EligibilityChanged& event) {
  const bool changed = std::exchange(eligible_, event.eligible) != event.eligible;
  if (!started_) return;
  const bool first = !std::exchange(eligibility_told_, true);  // a device that may not train says so from the start
  if (!changed && !first) return;
  Say(false, eligible_ ? "the device may train" : "the device may not train: " + event.reason);
  if (eligible_) {
    if (state_ == SessionState::kNotEligible) Idle();
  } else if (state_ != SessionState::kUploading && state_ != SessionState::kReporting) {
    Cancel("the device may no longer train: " + event.reason);
  }
}

void Session::On(const ShutdownRequested&) {
  if (shutdown_) return;
  shutdown_ = true;
  if (state_ == SessionState::kNotEligible) return Stop(OkStatus());
  // A report on its way gets its chance within the grace time.
  if (state_ != SessionState::kReporting || waiting_) Cancel("the client daemon was stopped");
}

void Session::On(const GraceExpired&) {
  if (busy_ && !cancelling_) Emit(CancelOperation{});
  Stop(OkStatus());
}

// ---- ends of operations ----

void Session::On(const TimerFired&) {
  if (!busy_ || !waiting_) return;
  busy_ = waiting_ = false;
  if (std::exchange(cancelling_, false)) return Interrupted();
  Begin();
}

void Session::On(const WorkerProbed& event) {
  bool cancelled = false;
  if (!Ends(SessionState::kStarting, &cancelled)) return;
  local_tasks_ = event.local_tasks;
  if (event.local_tasks.empty()) return Stop(FailedPrecondition("the worker knows no local task; install a newer one"));
  Idle();
}

void Session::On(const CheckinAnswered& event) {
  bool cancelled = false;
  if (!Ends(SessionState::kCheckingIn, &cancelled)) return;
  failures_ = 0;
  if (event.response.has_assignment()) return OnAssignment(event.response.assignment(), cancelled);
  OnRejection(event.response.rejection(), cancelled);
}

void Session::OnAssignment(const v1::TaskAssignment& assignment, bool cancelled) {
  task_ = assignment;
  upload_restarts_ = 0;
  if (tells_less_memory() && assignment.run_id() != memory_run_) TellAllMemory();
  Say(false, "task received");
  if (cancelled) return ReportOutcome(v1::TASK_OUTCOME_INTERRUPTED, interruption_);
  const std::string& name = assignment.plan().local_task();
  if (std::find(local_tasks_->begin(), local_tasks_->end(), name) == local_tasks_->end())
    return ReportOutcome(v1::TASK_OUTCOME_FAILED, "this device's worker has no local task '" + name + "'");
  Enter(SessionState::kFetching);
}

void Session::OnRejection(const v1::Rejection& rejection, bool cancelled) {
  if (cancelled) return Idle();
  if (rejection.reason() == v1::REJECTION_REASON_UNSUPPORTED_TASK)
    Say(true, "the run needs a local task that this device's worker does not have");
  if (rejection.reason() == v1::REJECTION_REASON_TOO_LITTLE_MEMORY && tells_less_memory()) {
    Say(true, "memory ran out in tasks of every size that the run has; this device tries them again");
    TellAllMemory();
  } else if (rejection.reason() == v1::REJECTION_REASON_TOO_LITTLE_MEMORY) {
    Say(true,
        "the run's smallest task needs more memory than worker.memory_limit_mb allows; raise it if there is more");
  }
  if (rejection.reason() == v1::REJECTION_REASON_REPLACED)
    Say(true, "another check-in of this device took this one's place; is its identity used twice?");
  const Duration pause = std::chrono::milliseconds(rejection.retry_after_ms());
  Delay(std::max(pause, options_.min_pause));
}

void Session::On(const Fetched&) {
  bool cancelled = false;
  if (!Ends(SessionState::kFetching, &cancelled)) return;
  if (cancelled) return Interrupted();
  Enter(SessionState::kTraining);
}

void Session::On(const Trained& event) {
  bool cancelled = false;
  if (!Ends(SessionState::kTraining, &cancelled)) return;
  if (event.out_of_memory) TellLessMemory();
  switch (event.outcome) {
    case Trained::Outcome::kInterrupted:
      if (!cancelled) unwell_ = true;  // killed for its memory, say
      return ReportOutcome(v1::TASK_OUTCOME_INTERRUPTED, cancelled ? interruption_ : event.message);
    case Trained::Outcome::kFailed:
      return ReportOutcome(v1::TASK_OUTCOME_FAILED, event.message);
    case Trained::Outcome::kCompleted:
      break;
  }
  if (event.update.size_bytes() > task_.plan().max_update_bytes())
    return ReportOutcome(v1::TASK_OUTCOME_FAILED, "the update has " + std::to_string(event.update.size_bytes()) +
                                                      " bytes, the plan allows " +
                                                      std::to_string(task_.plan().max_update_bytes()));
  report_.Clear();
  report_.set_assignment_id(task_.assignment_id());
  report_.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report_.mutable_update() = event.update;
  *report_.mutable_metrics() = event.metrics;
  // A ledger stands for the model of its round; the adapter beside it is what the run began with.
  for (const std::string_view name : {kAdapterFile, kLedgerFile}) {
    for (const v1::BlobRef& file : task_.plan().adapter()) {
      if (file.name() == name) report_.set_parent_sha256(file.sha256());
    }
  }
  Emit(SaveReport{report_});
  if (shutdown_) return Stop(OkStatus());
  Deliver();
}

void Session::TellLessMemory() {
  const uint64_t needed = task_.plan().memory_bytes();
  if (needed <= 1 || (memory_bytes_ != 0 && memory_bytes_ < needed)) return;
  memory_bytes_ = needed - 1;
  memory_run_ = task_.run_id();
  tasks_with_less_memory_ = 0;
  Say(true, "memory ran out in a task that its run estimates at " + std::to_string(needed >> 20) +
                " MiB; for a while this device asks for smaller ones");
}

void Session::On(const Uploaded&) {
  bool cancelled = false;
  if (!Ends(SessionState::kUploading, &cancelled)) return;
  Enter(SessionState::kReporting);
}

void Session::On(const ReportAnswered& event) {
  bool cancelled = false;
  if (!Ends(SessionState::kReporting, &cancelled)) return;
  const v1::ReportVerdict verdict = event.response.verdict();
  if (verdict == v1::REPORT_VERDICT_INVALID) {
    Say(true, "update refused: " + protocol::StatusOf(event.response.refusal()).message());
  } else {
    Say(false, std::string(VerdictText(verdict)));
  }
  ++tasks_reported_;
  if (verdict == v1::REPORT_VERDICT_INVALID) unwell_ = true;
  TaskEnded(verdict == v1::REPORT_VERDICT_ACCEPTED);
}

void Session::On(const CallFailed& event) {
  if (!busy_ || waiting_) return;
  busy_ = false;
  const bool cancelled = std::exchange(cancelling_, false);
  if (auto fatal = FatalSentence(event)) return Stop(*fatal);
  if (cancelled) return Interrupted();
  if (state_ == SessionState::kTraining) return ReportOutcome(v1::TASK_OUTCOME_FAILED, event.status.message());
  if (state_ == SessionState::kStarting && (!IsTemporary(event) || failures_ + 1 >= kMaxProbes))
    return Stop(event.status.Annotate("the worker does not start"));
  // A check-in has nothing to lose: whatever the answer was, the coordinator may be well again later.
  if (state_ != SessionState::kCheckingIn && !IsTemporary(event)) return FailedForGood(event);
  if (shutdown_) return Interrupted();
  if (failures_ == 0 || state_ != SessionState::kCheckingIn)
    Say(true, std::string(SessionStateName(state_)) + " failed, will try again: " + event.status.message());
  Retry(event.retry_after);
}

void Session::FailedForGood(const CallFailed& event) {
  const bool completed = report_.outcome() == v1::TASK_OUTCOME_COMPLETED;
  const bool upload_lost = (state_ == SessionState::kUploading && event.reason == v1::REFUSAL_REASON_DIGEST_MISMATCH) ||
                           (state_ == SessionState::kReporting && event.reason == v1::REFUSAL_REASON_NOT_FOUND);
  if (completed && upload_lost && upload_restarts_ < kMaxUploadRestarts && !shutdown_) {
    ++upload_restarts_;
    anew_ = true;
    Say(true, "uploading anew: " + event.status.message());
    return Enter(SessionState::kUploading);
  }
  if (state_ == SessionState::kReporting) {
    Say(true, "the report was refused and is dropped: " + event.status.message());
    ++tasks_reported_;
    unwell_ = true;
    return TaskEnded(false);
  }
  ReportOutcome(v1::TASK_OUTCOME_FAILED, std::string(SessionStateName(state_)) + ": " + event.status.message());
}

}  // namespace heddle::client
