// The engine: what happens in a run, as one pure state machine, (state, now, event) -> (state, step).
//
// It holds no socket, clock, thread, file or random device. The service, the simulator and the fault tests drive this
// same code. A driver must, for each Step: write `writes` in one transaction; only then carry out `effects` in order.
// When the transaction fails the driver throws the engine away, rebuilds it with Restore() from what is stored, and
// refuses the affected requests as unavailable: a failing disk is treated like a crash.
//
// Life of a round attempt:
//   selecting  -> collecting   min_available_devices wait, or the selection timeout passed with min_reports waiting
//   selecting  -> abandoned    the selection timeout passed with fewer
//   collecting -> committing   cohort_size reports accepted, or the deadline passed with at least min_reports
//   collecting -> abandoned    the deadline passed with fewer
//   committing -> committed    the driver says that the new model is durable (RoundModelReady)
// After a commit the next round starts, after an abandoned attempt the next attempt of the same round; the run is
// complete after `rounds` commits and fails after max_abandoned_attempts in a row. No phase lasts for ever: see
// NextDeadline().
//
// Selection takes the waiting devices with the smallest DeriveSeed(seed, "select", "<round>/<device>"), so it depends
// on the set of waiting devices, not on their order. An assignment that fails is given to the next waiting device of
// that order. A device with an open assignment that checks in again gets the same assignment again.
//
// Thread-safety: none; one driver strand owns it.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "common/status.h"
#include "coordinator/engine/types.h"

namespace heddle::coordinator {

// Names one waiting check-in; chosen by the driver, unique while it waits.
using PollToken = uint64_t;

// ---- events ----

struct CheckinEvent {
  PollToken token = 0;
  DeviceId device;
  std::vector<std::string> local_tasks;
};
// The connection of a waiting check-in has gone.
struct PollGoneEvent {
  PollToken token = 0;
};
// A report. The driver has looked at the update: `validity` is ok, or says what is wrong with it (refusal_reason with
// it). `stored` is the assignment's row when the engine does not hold it (an earlier round), nothing when no such row
// exists.
struct ReportEvent {
  PollToken token = 0;  // names the waiting report request
  AssignmentId assignment;
  DeviceId device;
  bool completed = false;  // else interrupted or failed, with `message`
  Sha256Digest update;
  uint64_t update_bytes = 0;
  ReportMetrics metrics;
  std::string message;
  Status validity;
  int refusal_reason = 0;
  std::optional<AssignmentRecord> stored;
};
// The model of a CommitEffect is durable under this digest.
struct RoundModelReady {
  uint32_t round = 0;
  uint32_t attempt = 0;
  Sha256Digest model;
};
// It could not be made: the attempt is abandoned with this reason.
struct RoundModelFailed {
  uint32_t round = 0;
  uint32_t attempt = 0;
  std::string reason;
};
struct DeviceRevokedEvent {
  DeviceId device;
};
struct StopRunEvent {
  std::string reason;
};
// Time has passed; sent at NextDeadline() or any time.
struct TickEvent {};

using Event = std::variant<CheckinEvent, PollGoneEvent, ReportEvent, RoundModelReady, RoundModelFailed,
                           DeviceRevokedEvent, StopRunEvent, TickEvent>;

// ---- steps ----

using Record = std::variant<RunRecord, RoundRecord, AssignmentRecord>;  // upserts, in order

enum class RejectReason {
  kNotNeeded = 1,
  kNoRun = 2,
  kUnsupportedTask = 3,
  kShuttingDown = 4,
  kReplaced = 5,
  kPollAgain = 6
};
enum class Verdict { kAccepted = 1, kLate = 2, kInvalid = 3, kSuperseded = 4, kNoted = 5 };

struct AssignEffect {
  PollToken token = 0;
  AssignmentRecord assignment;
  Time deadline;
  Sha256Digest parent;
};
struct RejectEffect {
  PollToken token = 0;
  RejectReason reason = RejectReason::kNotNeeded;
  Duration retry_after{};
};
// Fold this accepted update into the open round's sum.
struct FoldEffect {
  AssignmentRecord assignment;
};
// Answer a report. `refusal_reason` and `message` with kInvalid.
struct VerdictEffect {
  PollToken token = 0;
  Verdict verdict = Verdict::kNoted;
  int refusal_reason = 0;
  std::string message;
};
// The report names an assignment that does not exist or belongs to another device.
struct UnknownAssignmentEffect {
  PollToken token = 0;
  bool other_device = false;
};
// Make the new model from the updates folded in this attempt; answer with RoundModelReady or RoundModelFailed.
struct CommitEffect {
  uint32_t round = 0;
  uint32_t attempt = 0;
  Sha256Digest parent;
  std::vector<AssignmentRecord> accepted;
};
// Throw away what was folded: a new attempt begins.
struct ResetSumEffect {
  uint32_t round = 0;
  uint32_t attempt = 0;
  Sha256Digest parent;
};
// For history, metrics and progress.
struct RoundEndedEffect {
  RoundRecord round;
  std::vector<AssignmentRecord> assignments;
};
struct RunEndedEffect {
  RunRecord run;
};

using Effect = std::variant<AssignEffect, RejectEffect, FoldEffect, VerdictEffect, UnknownAssignmentEffect,
                            CommitEffect, ResetSumEffect, RoundEndedEffect, RunEndedEffect>;

struct Step {
  std::vector<Record> writes;
  std::vector<Effect> effects;
};

// What Restore needs: the newest rows of the run. `assignments` are those of the present round attempt.
struct Snapshot {
  RunRecord run;
  std::optional<RoundRecord> round;
  std::vector<AssignmentRecord> assignments;
};

class Engine {
 public:
  // A new run; `first` receives the step that makes it durable. `initial_model` is the adapter that round 1 starts
  // from. Errors: kInvalidArgument when the spec contradicts itself (min_reports > cohort_size, …), every mistake in
  // one message.
  static Result<Engine> Create(RunSpec spec, const Sha256Digest& initial_model, Time now, Step* first);

  // The same run after a restart. Accepted updates of an open attempt are folded again (FoldEffects in `first`), and a
  // commit that was under way is asked for again. Errors: kDataLoss when the snapshot contradicts itself.
  static Result<Engine> Restore(RunSpec spec, Snapshot snapshot, Time now, Step* first);

  Step Handle(Time now, const Event& event);

  // When a TickEvent is due at the latest; nothing when no time limit runs (the run has ended and nobody waits).
  std::optional<Time> NextDeadline() const;

  const RunSpec& spec() const { return spec_; }
  const RunRecord& run() const { return run_; }
  const std::optional<RoundRecord>& round() const { return round_; }
  // Assignments of the present attempt, by id.
  const std::map<AssignmentId, AssignmentRecord>& assignments() const { return assignments_; }
  size_t waiting() const { return waiting_.size(); }

 private:
  struct Waiting {
    PollToken token = 0;
    Time answer_by;
  };
  // What one Handle() works on.
  struct Turn {
    Time now;
    Step* step;
  };

  explicit Engine(RunSpec spec) : spec_(std::move(spec)) {}

  void On(Turn& turn, const CheckinEvent& event);
  void On(Turn& turn, const PollGoneEvent& event);
  void On(Turn& turn, const ReportEvent& event);
  void On(Turn& turn, const RoundModelReady& event);
  void On(Turn& turn, const RoundModelFailed& event);
  void On(Turn& turn, const DeviceRevokedEvent& event);
  void On(Turn& turn, const StopRunEvent& event);
  void On(Turn& turn, const TickEvent& event);

  void Advance(Turn& turn);
  void ExpirePolls(Turn& turn);
  void AdvanceSelecting(Turn& turn);
  void AdvanceCollecting(Turn& turn);
  void StartRound(Turn& turn, uint32_t round, uint32_t attempt);
  void AssignUpTo(Turn& turn, size_t count);
  void StartCommit(Turn& turn);
  void EndRound(Turn& turn, RoundPhase phase, std::string reason);
  void Abandon(Turn& turn, std::string reason);
  void EndRun(Turn& turn, RunState state, std::string reason);
  void AnswerFirstReport(Turn& turn, AssignmentRecord& record, const ReportEvent& event);
  void AnswerKnown(Turn& turn, const AssignmentRecord& record, PollToken token);
  void Reject(Turn& turn, PollToken token, RejectReason reason);
  void DropWaiting(const DeviceId& device);

  size_t SelectionSize() const;
  size_t CountIn(AssignmentState state) const;
  Duration Jitter(Turn& turn, Duration low, Duration high);
  AssignmentRecord MakeAssignment(Turn& turn, const DeviceId& device) const;

  RunSpec spec_;
  RunRecord run_;
  std::optional<RoundRecord> round_;
  std::map<AssignmentId, AssignmentRecord> assignments_;
  std::map<DeviceId, AssignmentId> by_device_;  // every device that has had a task in this attempt
  std::map<DeviceId, Waiting> waiting_;
  std::map<PollToken, DeviceId> waiting_by_token_;
  uint64_t jitter_counter_ = 0;
};

}  // namespace heddle::coordinator
