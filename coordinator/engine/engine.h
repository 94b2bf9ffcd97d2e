// The engine: what happens in a run, as one pure state machine, (state, now, event) -> (state, step).
//
// It holds no socket, clock, thread, file or random device. The service, the simulator and the fault tests drive this
// same code. A driver must, for each Step: write `writes` in one transaction; only then carry out `effects` in order.
// When the transaction fails the driver throws the engine away, rebuilds it with Restore() from what is stored, and
// refuses the affected requests as unavailable: a failing disk is treated like a crash.
//
// Life of a round attempt, with the sizes of its round (SizesOf):
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
// that order, at once or when one checks in. A device that failed itself may be given the task again, after all others
// and at most kMaxTriesPerAttempt times; one whose update was invalid may not. A device with an open assignment that
// checks in again gets the same assignment again. Where the spec says what layers take (layer_memory), a task is of as
// many as the memory allows that the device told with its check-in; a device without the memory for one is rejected.
//
// Reports: the first report on an assignment decides its verdict; every later one, whatever it says, gets that verdict
// again and changes nothing. A report at or after the deadline finds its assignment expired and is late, or superseded
// when the device has been given a task of the present attempt meanwhile. Accepted updates belong to their attempt:
// when it is abandoned they are counted in no model, and the round's row says why.
//
// Polls: a waiting check-in is answered by an assignment, by POLL_AGAIN (with no delay) when it was held long enough,
// or by a rejection: its device checked in anew or was revoked, or the run has ended. Reports are answered in the step
// that takes them. A driver drops effects for polls that have gone meanwhile.
//
// Thread-safety: none; one driver strand owns it.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
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
  uint64_t memory_bytes = 0;  // that the device has for a task; 0: not known, or no limit
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
  bool for_good = false;  // no other attempt could do better: the run fails
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
  kPollAgain = 6,
  kTooLittleMemory = 7
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

// The sizes that hold in a round, from 1: a run may have a second stage with others.
struct RoundSizes {
  uint32_t cohort_size = 1, min_available_devices = 1, min_reports = 1;
  friend bool operator==(const RoundSizes&, const RoundSizes&) = default;
};
RoundSizes SizesOf(const RunSpec& spec, uint32_t round);

// Devices that get the task of a round: ceil(cohort_size * over_selection).
uint32_t SelectionTarget(const RunSpec& spec, uint32_t round);

// Errors: kInvalidArgument when the spec contradicts itself or a number is out of its range, every mistake in one
// message.
Status CheckRunSpec(const RunSpec& spec);

// How many layers a device with so much memory trains: the most that need no more than that, all without a limit; 0:
// not even one. Of a run that does not ask for memory: nothing.
std::optional<uint32_t> LayersFor(const RunSpec& spec, uint64_t memory_bytes);

// How often one device may be given the task of one attempt.
inline constexpr uint32_t kMaxTriesPerAttempt = 3;

class Engine {
 public:
  // A new run; `first` receives the step that makes it durable. `initial_model` is the adapter that round 1 starts
  // from. Errors: those of CheckRunSpec.
  static Result<Engine> Create(RunSpec spec, const Sha256Digest& initial_model, Time now, Step* first);

  // The same run after a restart. Accepted updates of an open attempt are folded again (FoldEffects in `first`), and a
  // commit that was under way is asked for again. The devices that waited have lost their polls and the commit its
  // work, so those two phases get their time anew; the deadline of reports stands. Errors: kDataLoss when the snapshot
  // contradicts itself.
  static Result<Engine> Restore(RunSpec spec, Snapshot snapshot, Time now, Step* first);

  // `now` comes from the driver's clock. What is due at `now` happens before the event.
  Step Handle(Time now, const Event& event);

  // The answer to a report when no run is active and so no engine exists: `event.stored` decides.
  static Step HandleReportWithoutRun(Time now, const ReportEvent& event);

  // When a TickEvent is due at the latest; nothing when no time limit runs (the run has ended and nobody waits).
  std::optional<Time> NextDeadline() const;

  const RunSpec& spec() const { return spec_; }
  const RunRecord& run() const { return run_; }
  // The present attempt; after the run has ended the last one.
  const std::optional<RoundRecord>& round() const { return round_; }
  // Assignments of that attempt, by id.
  const std::map<AssignmentId, AssignmentRecord>& assignments() const { return assignments_; }
  size_t waiting() const { return waiting_.size(); }
  // Of the present attempt.
  size_t accepted() const { return accepted_; }
  size_t open() const { return open_.size(); }

 private:
  struct Waiting {
    PollToken token;
    Time answer_by;
    uint32_t layers;  // that its memory allows; 0: it is not asked for
  };
  // What one device has done in the present attempt.
  struct History {
    uint32_t tries = 0;
    bool done = false;  // its update was accepted or invalid: no other try
  };

  explicit Engine(RunSpec spec) : spec_(std::move(spec)) {}

  bool running() const { return run_.state == RunState::kRunning; }
  RoundSizes sizes() const { return SizesOf(spec_, round_->round); }

  void HandleReport(Time now, const ReportEvent& event, Step* step);

  void On(Time now, const CheckinEvent& event, Step* step);
  void On(Time now, const PollGoneEvent& event, Step* step);
  void On(Time now, const ReportEvent& event, Step* step);
  void On(Time now, const RoundModelReady& event, Step* step);
  void On(Time now, const RoundModelFailed& event, Step* step);
  void On(Time now, const DeviceRevokedEvent& event, Step* step);
  void On(Time now, const StopRunEvent& event, Step* step);
  void On(Time now, const TickEvent& event, Step* step);

  // What is due by time, and what became possible by an event.
  void Advance(Time now, Step* step);
  void Settle(Time now, Step* step);

  // Phases.
  void BeginAttempt(Time now, uint32_t round, uint32_t attempt, Step* step);
  void Select(Time now, Step* step);
  void FillSlots(Time now, Step* step);
  void Close(Time now, Step* step);
  // Without a model; what follows is the caller's.
  void EndAttempt(Time now, const std::string& reason, Step* step);
  void Abandon(Time now, const std::string& reason, Step* step);
  void EndRun(Time now, RunState state, const std::string& reason, Step* step);
  void ExpireOpen(Step* step);
  void RecordEnd(Time now, RoundPhase phase, Step* step);

  // Assignments.
  std::vector<DeviceId> Candidates() const;
  void Assign(Time now, const DeviceId& device, Step* step);
  void DecideOpen(Time now, const ReportEvent& event, AssignmentRecord* assignment, Step* step);

  // Polls.
  void Wait(Time now, const CheckinEvent& event, uint32_t layers);
  void StopWaiting(const DeviceId& device);
  void RejectWaiting(const DeviceId& device, RejectReason reason, Duration retry_after, Step* step);
  double NextJitter();
  Duration RetryAfter();

  Status RestoreFrom(Snapshot snapshot);

  RunSpec spec_;
  RunRecord run_;
  std::optional<RoundRecord> round_;
  std::map<AssignmentId, AssignmentRecord> assignments_;
  std::map<DeviceId, AssignmentId> open_;  // devices at work
  std::map<DeviceId, History> history_;
  std::set<DeviceId> without_memory_;  // turned away in this attempt, for people
  size_t accepted_ = 0;
  std::map<DeviceId, Waiting> waiting_;
  std::map<PollToken, DeviceId> waiting_by_token_;
  std::set<std::pair<Time, DeviceId>> waiting_by_time_;
  uint64_t jitter_counter_ = 0;
};

}  // namespace heddle::coordinator
