#include "coordinator/engine/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/assert.h"
#include "common/random.h"

namespace heddle::coordinator {
namespace {

// heddle.v1.RefusalReason; the engine knows no protobuf.
constexpr int kRefusalBadUpdate = 10;
constexpr int kRefusalBadNumExamples = 13;

// After a restart an open phase gets at least this long, since devices could not reach the coordinator while it was
// down.
constexpr Duration kRestartGrace = std::chrono::seconds(60);

std::string Count(size_t n, const char* noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

Status CheckSpec(const RunSpec& spec) {
  std::string mistakes;
  auto check = [&](bool fine, const char* sentence) {
    if (!fine) mistakes += std::string(mistakes.empty() ? "" : "; ") + sentence;
  };
  check(!spec.id.empty(), "the run has no id");
  check(spec.rounds >= 1, "rounds must be at least 1");
  check(spec.cohort_size >= 1, "cohort_size must be at least 1");
  check(std::isfinite(spec.over_selection) && spec.over_selection >= 1 && spec.over_selection <= 100,
        "over_selection must be from 1 to 100");
  check(spec.min_reports >= 1 && spec.min_reports <= spec.cohort_size, "min_reports must be from 1 to cohort_size");
  check(spec.selection_timeout > Duration::zero(), "selection_timeout must be positive");
  check(spec.report_deadline > Duration::zero(), "report_deadline must be positive");
  check(spec.max_poll_hold > Duration::zero(), "max_poll_hold must be positive");
  check(spec.min_retry_after >= Duration::zero() && spec.min_retry_after <= spec.max_retry_after,
        "min_retry_after must be from 0 to max_retry_after");
  check(spec.max_num_examples >= 1, "max_num_examples must be at least 1");
  return mistakes.empty() ? OkStatus() : InvalidArgument(mistakes);
}

Status CheckSnapshot(const RunSpec& spec, const Snapshot& snapshot) {
  if (snapshot.run.id != spec.id) return DataLoss("the stored run is another one than the spec's");
  if (snapshot.run.state == RunState::kRunning && !snapshot.round) return DataLoss("the running run has no round");
  if (!snapshot.round) return OkStatus();
  const RoundRecord& round = *snapshot.round;
  if (snapshot.run.state == RunState::kRunning && round.phase <= RoundPhase::kCommitting &&
      round.round != snapshot.run.committed_rounds + 1) {
    return DataLoss("the open round is not the next one after the last commit");
  }
  std::set<DeviceId> devices;
  for (const AssignmentRecord& record : snapshot.assignments) {
    if (record.round != round.round || record.attempt != round.attempt || !devices.insert(record.device).second) {
      return DataLoss("the stored assignment " + record.id.value() + " does not belong to the newest round attempt");
    }
  }
  return OkStatus();
}

}  // namespace

Result<Engine> Engine::Create(RunSpec spec, const Sha256Digest& initial_model, Time now, Step* first) {
  HEDDLE_RETURN_IF_ERROR(CheckSpec(spec));
  Engine engine(std::move(spec));
  engine.run_.id = engine.spec_.id;
  engine.run_.model = initial_model;
  engine.run_.started_at = now;
  Turn turn{now, first};
  first->writes.emplace_back(engine.run_);
  engine.StartRound(turn, 1, 1);
  return engine;
}

Result<Engine> Engine::Restore(RunSpec spec, Snapshot snapshot, Time now, Step* first) {
  HEDDLE_RETURN_IF_ERROR(CheckSpec(spec));
  HEDDLE_RETURN_IF_ERROR(CheckSnapshot(spec, snapshot));
  Engine engine(std::move(spec));
  engine.run_ = std::move(snapshot.run);
  engine.round_ = std::move(snapshot.round);
  for (AssignmentRecord& record : snapshot.assignments) {
    engine.by_device_[record.device] = record.id;
    engine.assignments_[record.id] = std::move(record);
  }
  if (engine.run_.state != RunState::kRunning) return engine;

  Turn turn{now, first};
  RoundRecord& round = *engine.round_;
  if (round.phase == RoundPhase::kCommitted || round.phase == RoundPhase::kAbandoned) {
    bool committed = round.phase == RoundPhase::kCommitted;
    engine.StartRound(turn, engine.run_.committed_rounds + 1, committed ? 1 : round.attempt + 1);
    return engine;
  }
  first->effects.emplace_back(ResetSumEffect{round.round, round.attempt, round.parent});
  for (const auto& [id, record] : engine.assignments_) {
    if (record.state == AssignmentState::kAccepted) first->effects.emplace_back(FoldEffect{record});
  }
  if (round.phase == RoundPhase::kCommitting) {
    engine.StartCommit(turn);
    return engine;
  }
  Duration full = round.phase == RoundPhase::kSelecting ? engine.spec_.selection_timeout : engine.spec_.report_deadline;
  Time at_least = now + std::min(full, kRestartGrace);
  if (round.deadline < at_least) {
    round.deadline = at_least;
    first->writes.emplace_back(round);
  }
  engine.Advance(turn);
  return engine;
}

Step Engine::Handle(Time now, const Event& event) {
  Step step;
  Turn turn{now, &step};
  std::visit([&](const auto& e) { On(turn, e); }, event);
  Advance(turn);
  return step;
}

std::optional<Time> Engine::NextDeadline() const {
  std::optional<Time> next;
  auto consider = [&](Time t) { next = next ? std::min(*next, t) : t; };
  if (run_.state == RunState::kRunning && round_ && round_->phase < RoundPhase::kCommitting) consider(round_->deadline);
  for (const auto& [device, waiting] : waiting_) consider(waiting.answer_by);
  return next;
}

// ---- events ----

void Engine::On(Turn& turn, const CheckinEvent& event) {
  if (auto old = waiting_.find(event.device); old != waiting_.end()) {
    PollToken token = old->second.token;
    DropWaiting(event.device);
    Reject(turn, token, RejectReason::kReplaced);
  }
  if (run_.state != RunState::kRunning) return Reject(turn, event.token, RejectReason::kNoRun);
  if (std::find(event.local_tasks.begin(), event.local_tasks.end(), spec_.local_task) == event.local_tasks.end()) {
    return Reject(turn, event.token, RejectReason::kUnsupportedTask);
  }
  if (auto held = by_device_.find(event.device); held != by_device_.end() && round_->phase == RoundPhase::kCollecting) {
    const AssignmentRecord& record = assignments_.at(held->second);
    if (record.state == AssignmentState::kOpen) {
      turn.step->effects.emplace_back(AssignEffect{event.token, record, round_->deadline, round_->parent});
      return;
    }
  }
  Duration hold = spec_.max_poll_hold - Jitter(turn, Duration::zero(), spec_.max_poll_hold / 10);
  waiting_[event.device] = {event.token, turn.now + hold};
  waiting_by_token_[event.token] = event.device;
}

void Engine::On(Turn&, const PollGoneEvent& event) {
  auto it = waiting_by_token_.find(event.token);
  if (it != waiting_by_token_.end()) DropWaiting(DeviceId(it->second));
}

void Engine::On(Turn& turn, const ReportEvent& event) {
  auto it = assignments_.find(event.assignment);
  bool current = it != assignments_.end();
  if (!current && (!event.stored || event.stored->run != run_.id)) {
    turn.step->effects.emplace_back(UnknownAssignmentEffect{event.token, false});
    return;
  }
  AssignmentRecord record = current ? it->second : *event.stored;
  if (record.device != event.device) {
    turn.step->effects.emplace_back(UnknownAssignmentEffect{event.token, true});
    return;
  }
  bool first_report = record.state == AssignmentState::kOpen || record.state == AssignmentState::kExpired;
  if (!first_report) return AnswerKnown(turn, record, event.token);
  AnswerFirstReport(turn, record, event);
  if (current) it->second = std::move(record);
}

void Engine::AnswerFirstReport(Turn& turn, AssignmentRecord& record, const ReportEvent& event) {
  bool present_attempt = round_ && record.round == round_->round && record.attempt == round_->attempt;
  bool open = present_attempt && run_.state == RunState::kRunning && record.state == AssignmentState::kOpen;
  record.reported_at = turn.now;
  record.metrics = event.metrics;
  if (!event.completed) {
    record.state = AssignmentState::kFailed;
    record.message = event.message;
  } else if (!event.validity.ok()) {
    record.state = AssignmentState::kInvalid;
    record.refusal_reason = event.refusal_reason != 0 ? event.refusal_reason : kRefusalBadUpdate;
    record.message = event.validity.message();
  } else if (event.metrics.num_examples == 0 || event.metrics.num_examples > spec_.max_num_examples) {
    record.state = AssignmentState::kInvalid;
    record.refusal_reason = kRefusalBadNumExamples;
    record.message = "num_examples is " + std::to_string(event.metrics.num_examples) + "; it must be from 1 to " +
                     std::to_string(spec_.max_num_examples);
  } else if (open && round_->phase == RoundPhase::kCollecting) {
    record.state = AssignmentState::kAccepted;
    record.update = event.update;
    record.update_bytes = event.update_bytes;
  } else {
    bool round_goes_on = record.round > run_.committed_rounds && !open && run_.state == RunState::kRunning;
    record.state = round_goes_on ? AssignmentState::kSuperseded : AssignmentState::kLate;
  }
  turn.step->writes.emplace_back(record);
  if (record.state == AssignmentState::kAccepted) turn.step->effects.emplace_back(FoldEffect{record});
  AnswerKnown(turn, record, event.token);
}

void Engine::AnswerKnown(Turn& turn, const AssignmentRecord& record, PollToken token) {
  VerdictEffect answer{token, Verdict::kNoted, 0, ""};
  switch (record.state) {
    case AssignmentState::kAccepted:
      answer.verdict = Verdict::kAccepted;
      break;
    case AssignmentState::kInvalid:
      answer = {token, Verdict::kInvalid, record.refusal_reason, record.message};
      break;
    case AssignmentState::kSuperseded:
      answer.verdict = Verdict::kSuperseded;
      break;
    case AssignmentState::kLate:
      answer.verdict = Verdict::kLate;
      break;
    case AssignmentState::kFailed:
      answer.verdict = Verdict::kNoted;
      break;
    case AssignmentState::kOpen:
    case AssignmentState::kExpired:
      HEDDLE_ASSERT(false, "an assignment without a report has no answer");
  }
  turn.step->effects.emplace_back(std::move(answer));
}

void Engine::On(Turn& turn, const RoundModelReady& event) {
  bool expected = run_.state == RunState::kRunning && round_->phase == RoundPhase::kCommitting &&
                  round_->round == event.round && round_->attempt == event.attempt;
  if (!expected) return;
  round_->model = event.model;
  run_.committed_rounds = event.round;
  run_.model = event.model;
  EndRound(turn, RoundPhase::kCommitted, "");
  if (run_.committed_rounds >= spec_.rounds) return EndRun(turn, RunState::kComplete, "");
  turn.step->writes.emplace_back(run_);
  StartRound(turn, event.round + 1, 1);
}

void Engine::On(Turn& turn, const RoundModelFailed& event) {
  bool expected = run_.state == RunState::kRunning && round_->phase == RoundPhase::kCommitting &&
                  round_->round == event.round && round_->attempt == event.attempt;
  if (expected) Abandon(turn, event.reason);
}

void Engine::On(Turn& turn, const DeviceRevokedEvent& event) {
  if (auto it = waiting_.find(event.device); it != waiting_.end()) {
    PollToken token = it->second.token;
    DropWaiting(event.device);
    Reject(turn, token, RejectReason::kNotNeeded);
  }
  auto held = by_device_.find(event.device);
  if (held == by_device_.end()) return;
  AssignmentRecord& record = assignments_.at(held->second);
  if (record.state != AssignmentState::kOpen) return;
  record.state = AssignmentState::kFailed;
  record.reported_at = turn.now;
  record.message = "the device was revoked";
  turn.step->writes.emplace_back(record);
}

void Engine::On(Turn& turn, const StopRunEvent& event) {
  if (run_.state != RunState::kRunning) return;
  EndRound(turn, RoundPhase::kAbandoned, event.reason);
  EndRun(turn, RunState::kStopped, event.reason);
}

void Engine::On(Turn&, const TickEvent&) {}

// ---- phases ----

void Engine::Advance(Turn& turn) {
  ExpirePolls(turn);
  if (run_.state != RunState::kRunning) return;
  if (round_->phase == RoundPhase::kSelecting) AdvanceSelecting(turn);
  // A selection that follows at once may already have all it needs only after reports, so one pass is enough.
  if (run_.state == RunState::kRunning && round_->phase == RoundPhase::kCollecting) AdvanceCollecting(turn);
}

void Engine::ExpirePolls(Turn& turn) {
  std::vector<DeviceId> due;
  for (const auto& [device, waiting] : waiting_) {
    if (waiting.answer_by <= turn.now) due.push_back(device);
  }
  for (const DeviceId& device : due) {
    PollToken token = waiting_.at(device).token;
    DropWaiting(device);
    Reject(turn, token, RejectReason::kPollAgain);
  }
}

void Engine::AdvanceSelecting(Turn& turn) {
  size_t need = std::max<size_t>(spec_.min_available_devices, SelectionSize());
  bool timed_out = turn.now >= round_->deadline;
  if (waiting_.size() >= need || (timed_out && waiting_.size() >= spec_.min_reports)) {
    round_->phase = RoundPhase::kCollecting;
    round_->selected_at = turn.now;
    round_->deadline = turn.now + spec_.report_deadline;
    turn.step->writes.emplace_back(*round_);
    AssignUpTo(turn, SelectionSize());
  } else if (timed_out) {
    Abandon(turn, "only " + Count(waiting_.size(), "device") + " checked in within " +
                      std::to_string(static_cast<int64_t>(ToSeconds(spec_.selection_timeout))) + " s; " +
                      std::to_string(spec_.min_reports) + " needed");
  }
}

void Engine::AdvanceCollecting(Turn& turn) {
  size_t accepted = CountIn(AssignmentState::kAccepted);
  if (accepted >= spec_.cohort_size) return StartCommit(turn);
  if (turn.now >= round_->deadline) {
    if (accepted >= spec_.min_reports) return StartCommit(turn);
    return Abandon(turn, "only " + Count(accepted, "report") + " came by the deadline; " +
                             std::to_string(spec_.min_reports) + " needed");
  }
  size_t active = accepted + CountIn(AssignmentState::kOpen);
  if (active < SelectionSize()) AssignUpTo(turn, SelectionSize() - active);
}

void Engine::StartRound(Turn& turn, uint32_t round, uint32_t attempt) {
  assignments_.clear();
  by_device_.clear();
  round_ = RoundRecord{};
  round_->run = run_.id;
  round_->round = round;
  round_->attempt = attempt;
  round_->started_at = turn.now;
  round_->deadline = turn.now + spec_.selection_timeout;
  round_->parent = run_.model;
  turn.step->writes.emplace_back(*round_);
  turn.step->effects.emplace_back(ResetSumEffect{round, attempt, round_->parent});
}

void Engine::AssignUpTo(Turn& turn, size_t count) {
  std::vector<std::pair<uint64_t, DeviceId>> order;
  for (const auto& [device, waiting] : waiting_) {
    if (by_device_.contains(device)) continue;  // one task an attempt: a device that failed waits for the next
    order.emplace_back(DeriveSeed(spec_.seed, "select", std::to_string(round_->round) + "/" + device.value()), device);
  }
  std::sort(order.begin(), order.end());
  if (order.size() > count) order.resize(count);
  for (const auto& [unused, device] : order) {
    AssignmentRecord record = MakeAssignment(turn, device);
    turn.step->writes.emplace_back(record);
    turn.step->effects.emplace_back(AssignEffect{waiting_.at(device).token, record, round_->deadline, round_->parent});
    DropWaiting(device);
    by_device_[device] = record.id;
    assignments_[record.id] = std::move(record);
  }
}

void Engine::StartCommit(Turn& turn) {
  if (round_->phase != RoundPhase::kCommitting) {
    round_->phase = RoundPhase::kCommitting;
    turn.step->writes.emplace_back(*round_);
  }
  CommitEffect effect{round_->round, round_->attempt, round_->parent, {}};
  for (const auto& [id, record] : assignments_) {
    if (record.state == AssignmentState::kAccepted) effect.accepted.push_back(record);
  }
  turn.step->effects.emplace_back(std::move(effect));
}

void Engine::EndRound(Turn& turn, RoundPhase phase, std::string reason) {
  round_->phase = phase;
  round_->ended_at = turn.now;
  round_->reason = std::move(reason);
  RoundEndedEffect ended{*round_, {}};
  turn.step->writes.emplace_back(*round_);
  for (auto& [id, record] : assignments_) {
    if (record.state == AssignmentState::kOpen) {
      record.state = AssignmentState::kExpired;
      turn.step->writes.emplace_back(record);
    }
    ended.assignments.push_back(record);
  }
  turn.step->effects.emplace_back(std::move(ended));
}

void Engine::Abandon(Turn& turn, std::string reason) {
  uint32_t round = round_->round;
  uint32_t attempt = round_->attempt;
  EndRound(turn, RoundPhase::kAbandoned, std::move(reason));
  // Attempts of one round follow each other without a commit between, so the number of this one counts them.
  if (spec_.max_abandoned_attempts > 0 && attempt >= spec_.max_abandoned_attempts) {
    return EndRun(turn, RunState::kFailed,
                  "round " + std::to_string(round) + " was abandoned " + Count(attempt, "time") +
                      "; the last time because " + round_->reason);
  }
  StartRound(turn, round, attempt + 1);
}

void Engine::EndRun(Turn& turn, RunState state, std::string reason) {
  run_.state = state;
  run_.reason = std::move(reason);
  run_.ended_at = turn.now;
  turn.step->writes.emplace_back(run_);
  turn.step->effects.emplace_back(RunEndedEffect{run_});
  for (auto& [device, waiting] : std::exchange(waiting_, {})) Reject(turn, waiting.token, RejectReason::kNoRun);
  waiting_by_token_.clear();
}

// ---- small parts ----

void Engine::Reject(Turn& turn, PollToken token, RejectReason reason) {
  bool soon = reason == RejectReason::kPollAgain;
  Duration retry = soon ? Jitter(turn, Duration::zero(), spec_.min_retry_after)
                        : Jitter(turn, spec_.min_retry_after, spec_.max_retry_after);
  turn.step->effects.emplace_back(RejectEffect{token, reason, retry});
}

void Engine::DropWaiting(const DeviceId& device) {
  auto it = waiting_.find(device);
  if (it == waiting_.end()) return;
  waiting_by_token_.erase(it->second.token);
  waiting_.erase(it);
}

size_t Engine::SelectionSize() const {
  return static_cast<size_t>(std::ceil(static_cast<double>(spec_.cohort_size) * spec_.over_selection));
}

size_t Engine::CountIn(AssignmentState state) const {
  return static_cast<size_t>(
      std::count_if(assignments_.begin(), assignments_.end(), [&](const auto& a) { return a.second.state == state; }));
}

Duration Engine::Jitter(Turn& turn, Duration low, Duration high) {
  // The time is in the key, so that a restart does not repeat the sequence.
  PhiloxStream stream(spec_.seed ^ static_cast<uint64_t>(ToUnixMicros(turn.now)), jitter_counter_++);
  double fraction = stream.UniformAt(0);
  return low + Duration(static_cast<int64_t>(fraction * static_cast<double>((high - low).count())));
}

AssignmentRecord Engine::MakeAssignment(Turn& turn, const DeviceId& device) const {
  std::string detail = run_.id.value() + "/" + std::to_string(round_->round) + "/" + std::to_string(round_->attempt) +
                       "/" + device.value();
  auto hex = [](uint64_t v) {
    std::string text(16, '0');
    for (size_t i = 0; i < 16; ++i) text[15 - i] = "0123456789abcdef"[v >> (4 * i) & 15];
    return text;
  };
  AssignmentRecord record;
  record.id = AssignmentId(hex(DeriveSeed(spec_.seed, "assignment-a", detail)) +
                           hex(DeriveSeed(spec_.seed, "assignment-b", detail)));
  record.run = run_.id;
  record.round = round_->round;
  record.attempt = round_->attempt;
  record.device = device;
  record.issued_at = turn.now;
  return record;
}

}  // namespace heddle::coordinator
