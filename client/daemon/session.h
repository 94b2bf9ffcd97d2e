// The device's session as a pure state machine: what to do next, given what happened. It owns no socket, process, file,
// clock or random device; the daemon carries out its actions and tells it how they ended.
//
//   not eligible -> starting -> checking in -> fetching -> training -> uploading -> reporting -> checking in …
//
// Rules:
// - At most one operation (ProbeWorker, CheckIn, Fetch, Train, Upload, Report, Wait) is under way. Each ends with
//   exactly one event of its own kind, or CallFailed. CancelOperation asks the one under way to end soon; it still ends
//   with an event, and its success counts if it won the race.
// - When the device may no longer train, or the daemon stops, a task that is fetched or trained is interrupted and
//   reported so. A finished update is not thrown away: it is uploaded and reported without regard to eligibility, and
//   when the daemon stops it is kept (SaveReport) for the next start.
// - Temporary failures are repeated after exponential backoff with full jitter, or after what the server said.
// - When a task whose size was chosen by the device's memory runs out of it, the device tells from then on that it has
//   less than the task was estimated to need. It tells all that it may use again after kTasksWithLessMemory completed
//   tasks, in another run, when nothing is left that fits, and when its daemon starts again.
// - A device that is revoked or not known stops, with a sentence.
//
// Life cycle: construct, Handle(Started), then an event at a time until an action Finish. Not thread-safe. Events that
// come late or twice (a timer's) are ignored, whatever the order.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/random.h"
#include "common/status.h"
#include "protocol/v1/device.pb.h"

namespace heddle::client {

enum class SessionState {
  kNotEligible,
  kStarting,  // asks the worker what it can do
  kCheckingIn,
  kFetching,
  kTraining,
  kUploading,
  kReporting,
  kStopped
};
std::string_view SessionStateName(SessionState state);

struct SessionOptions {
  uint64_t seed = 0;  // of the jitter
  Duration backoff_base = Seconds(0.5);
  Duration backoff_max = Seconds(300);
  Duration min_pause = Seconds(0.01);    // between check-ins, whatever the server says
  uint64_t max_tasks = 0;                // stop after so many reported tasks; 0: never
  uint64_t max_inline_update_bytes = 0;  // smaller updates travel inside their report; 0: all are uploaded
  uint64_t memory_limit_bytes = 0;       // that the worker may use, itself included; 0: no limit
};

// ---- events ----

struct Started {
  std::optional<v1::ReportRequest> unreported;  // from the journal
};
struct EligibilityChanged {
  bool eligible = false;
  std::string reason;  // why not
};
struct ShutdownRequested {};
// The time for a clean shutdown is used up.
struct GraceExpired {};
struct TimerFired {};
struct WorkerProbed {
  std::vector<std::string> local_tasks;
};
struct CheckinAnswered {
  v1::CheckinResponse response;
};
struct Fetched {};
struct Trained {
  enum class Outcome { kCompleted, kInterrupted, kFailed };
  Outcome outcome = Outcome::kFailed;
  std::string message;  // why not completed
  v1::TaskMetrics metrics;
  v1::BlobRef update;          // of a completed task
  bool out_of_memory = false;  // why not completed
};
struct Uploaded {};
struct ReportAnswered {
  v1::ReportResponse response;
};
// The operation did not succeed: a refusal of the server's (with `reason`), a broken connection, or a local mishap.
struct CallFailed {
  Status status;
  std::optional<v1::RefusalReason> reason;
  Duration retry_after{0};
};

using Event = std::variant<Started, EligibilityChanged, ShutdownRequested, GraceExpired, TimerFired, WorkerProbed,
                           CheckinAnswered, Fetched, Trained, Uploaded, ReportAnswered, CallFailed>;

// ---- actions ----

struct ProbeWorker {};
struct CheckIn {
  std::vector<std::string> local_tasks;
  uint64_t memory_bytes = 0;  // to tell; 0: no limit
};
struct Fetch {
  v1::TaskAssignment assignment;
};
struct Train {
  v1::TaskAssignment assignment;
};
struct Upload {
  v1::ReportRequest report;
  bool anew = false;  // forget what is known of an upload under way
};
struct Report {
  v1::ReportRequest report;
  bool with_update = false;  // the update goes along; it was not uploaded
};
struct Wait {
  Duration time{0};
};
struct CancelOperation {};
// Writes the journal: durable when it returns.
struct SaveReport {
  v1::ReportRequest report;
};
// What the device keeps of an accepted task takes the place of what it kept before; of any other it is thrown away.
// Then the journal is emptied and the task's update deleted: not before, so that a restart tries again.
struct EndTask {
  bool accepted = false;
};
struct Note {
  bool warning = false;
  std::string text;
  std::string assignment_id;  // may be empty
};
// Nothing follows. ok: a clean stop.
struct Finish {
  Status status;
};

using Action = std::variant<ProbeWorker, CheckIn, Fetch, Train, Upload, Report, Wait, CancelOperation, SaveReport,
                            EndTask, Note, Finish>;

inline constexpr uint32_t kTasksWithLessMemory = 20;

class Session {
 public:
  explicit Session(SessionOptions options);

  std::vector<Action> Handle(const Event& event);

  SessionState state() const { return state_; }
  uint64_t tasks_reported() const { return tasks_reported_; }

 private:
  void On(const Started& event);
  void On(const EligibilityChanged& event);
  void On(const ShutdownRequested& event);
  void On(const GraceExpired& event);
  void On(const TimerFired& event);
  void On(const WorkerProbed& event);
  void On(const CheckinAnswered& event);
  void On(const Fetched& event);
  void On(const Trained& event);
  void On(const Uploaded& event);
  void On(const ReportAnswered& event);
  void On(const CallFailed& event);

  void OnAssignment(const v1::TaskAssignment& assignment, bool cancelled);
  void OnRejection(const v1::Rejection& rejection, bool cancelled);
  void FailedForGood(const CallFailed& event);
  // The task under way was too large.
  void TellLessMemory();
  void TellAllMemory() { memory_bytes_ = options_.memory_limit_bytes; }
  bool tells_less_memory() const { return memory_bytes_ != options_.memory_limit_bytes; }

  // Whether the event belongs to the operation under way; it has ended then.
  bool Ends(SessionState expected, bool* cancelled);
  void Enter(SessionState state);
  void Begin();
  void Delay(Duration time);
  void Retry(Duration retry_after);
  void Cancel(const std::string& reason);
  // The operation ended without a result after CancelOperation.
  void Interrupted();
  void Idle();
  void ReportOutcome(v1::TaskOutcome outcome, const std::string& message);
  // A completed report on its way: first the upload, unless the update is small.
  void Deliver();
  bool TravelsInline() const;
  void TaskEnded(bool accepted);
  void Stop(Status status);
  Duration Backoff(uint32_t failures);
  void Say(bool warning, std::string text);
  void Emit(Action action) { out_.push_back(std::move(action)); }

  SessionOptions options_;
  PhiloxStream jitter_;
  SessionState state_ = SessionState::kNotEligible;
  std::vector<Action> out_;

  bool started_ = false, eligible_ = false, eligibility_told_ = false, shutdown_ = false;
  bool busy_ = false;        // an operation is under way
  bool waiting_ = false;     // it is a Wait, before the operation of state_
  bool cancelling_ = false;  // it was asked to end
  bool anew_ = false;        // of the next Upload
  bool unwell_ = false;      // this task went wrong by itself: pause before the next
  std::string interruption_;
  std::optional<std::vector<std::string>> local_tasks_;
  uint64_t memory_bytes_;                // that the next check-in tells
  std::string memory_run_;               // in which a task was too large
  uint32_t tasks_with_less_memory_ = 0;  // completed since
  v1::TaskAssignment task_;
  v1::ReportRequest report_;
  uint32_t failures_ = 0;         // of the operation of state_, in a row
  uint32_t failed_tasks_ = 0;     // in a row
  uint32_t upload_restarts_ = 0;  // of this task
  uint64_t tasks_reported_ = 0;
};

}  // namespace heddle::client
