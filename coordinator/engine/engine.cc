#include "coordinator/engine/engine.h"

#include <algorithm>

#include "common/random.h"
#include "common/test_hooks.h"

namespace heddle::coordinator {
namespace {

// A round is not tried for ever, even without max_abandoned_attempts: the number travels in messages that bound it.
constexpr uint32_t kMostAttempts = 1'000'000;
// Polls are answered up to this part of their hold early, so that devices that came together do not return together.
constexpr double kPollJitter = 0.1;

AssignmentId MakeAssignmentId(const RunSpec& spec, const RoundRecord& round, const DeviceId& device, uint32_t attempt) {
  std::string detail = spec.id.value() + "/" + std::to_string(round.round) + "/" + std::to_string(round.attempt) + "/" +
                       std::to_string(attempt) + "/" + device.value();
  std::string id;
  for (const char* half : {"assignment high", "assignment low"}) {
    uint64_t bits = DeriveSeed(spec.seed, half, detail);
    for (int shift = 60; shift >= 0; shift -= 4) id += "0123456789abcdef"[(bits >> shift) & 15];
  }
  return AssignmentId(id);
}

}  // namespace

Result<Engine> Engine::Create(RunSpec spec, const Sha256Digest& initial_model, Time now, Step* first) {
  HEDDLE_RETURN_IF_ERROR(CheckRunSpec(spec));
  if (initial_model.IsZero()) return InvalidArgument("the run has no initial model");
  Engine engine(std::move(spec));
  engine.run_.id = engine.spec_.id;
  engine.run_.model = initial_model;
  engine.run_.started_at = now;
  *first = {};
  first->writes.emplace_back(engine.run_);
  engine.BeginAttempt(now, 1, 1, first);
  return engine;
}

Step Engine::Handle(Time now, const Event& event) {
  Step step;
  // A poll that has gone must not be given the task that became due at this instant.
  if (const auto* gone = std::get_if<PollGoneEvent>(&event)) On(now, *gone, &step);
  if (const auto* report = std::get_if<ReportEvent>(&event)) {
    HandleReport(now, *report, &step);
  } else {
    Advance(now, &step);
    if (!std::holds_alternative<PollGoneEvent>(event)) {
      std::visit([&](const auto& e) { On(now, e, &step); }, event);
    }
  }
  Settle(now, &step);
  return step;
}

// What is due at `now` may end the attempt that the report is about; its row is then as it was left, not unknown.
void Engine::HandleReport(Time now, const ReportEvent& event, Step* step) {
  auto held = assignments_.find(event.assignment);
  if (held == assignments_.end()) {
    Advance(now, step);
    On(now, event, step);
    return;
  }
  ReportEvent with_row = event;
  with_row.stored = held->second;
  Advance(now, step);
  if (with_row.stored->state == AssignmentState::kOpen) with_row.stored->state = AssignmentState::kExpired;
  On(now, with_row, step);  // looks at `stored` only when the engine has let go of the row
}

std::optional<Time> Engine::NextDeadline() const {
  std::optional<Time> next;
  if (running()) next = round_->deadline;
  if (!waiting_by_time_.empty()) {
    Time poll = waiting_by_time_.begin()->first;
    next = next ? std::min(*next, poll) : poll;
  }
  return next;
}

// ---- time ----

void Engine::Advance(Time now, Step* step) {
  if (running() && now >= round_->deadline) {
    if (HEDDLE_PLANTED(kWaitForStragglers) && round_->phase == RoundPhase::kCollecting && !open_.empty()) return;
    const uint32_t min_reports = sizes().min_reports;
    switch (round_->phase) {
      case RoundPhase::kSelecting:
        if (waiting_.size() >= min_reports) {
          Select(now, step);
        } else {
          std::string reason = std::to_string(waiting_.size()) +
                               " devices were waiting when the selection ended, but min_reports is " +
                               std::to_string(min_reports);
          if (!without_memory_.empty()) {
            reason += "; " + std::to_string(without_memory_.size()) + " more have too little memory for a task";
          }
          Abandon(now, reason, step);
        }
        break;
      case RoundPhase::kCollecting:
        if (accepted_ >= min_reports && !(HEDDLE_PLANTED(kAbandonEnough) && round_->attempt == 1)) {
          Close(now, step);
        } else {
          Abandon(now,
                  std::to_string(accepted_) + " updates were accepted before the deadline, but min_reports is " +
                      std::to_string(min_reports),
                  step);
        }
        break;
      case RoundPhase::kCommitting:
        Abandon(now, "the new model was not made in time", step);
        break;
      case RoundPhase::kCommitted:
      case RoundPhase::kAbandoned:
        HEDDLE_ASSERT(false, "a running run has an open round");
    }
    Settle(now, step);  // before the polls: work is a better answer than POLL_AGAIN
  }
  while (!waiting_by_time_.empty() && waiting_by_time_.begin()->first <= now) {
    DeviceId device = waiting_by_time_.begin()->second;
    RejectWaiting(device, RejectReason::kPollAgain, Duration::zero(), step);
  }
}

void Engine::Settle(Time now, Step* step) {
  if (!running()) return;
  if (round_->phase == RoundPhase::kSelecting && waiting_.size() >= sizes().min_available_devices) Select(now, step);
  if (round_->phase == RoundPhase::kCollecting) FillSlots(now, step);
}

// ---- events ----

void Engine::On(Time now, const CheckinEvent& event, Step* step) {
  HEDDLE_ASSERT(!waiting_by_token_.contains(event.token), "the token of a poll is unique while it waits");
  if (waiting_.contains(event.device)) RejectWaiting(event.device, RejectReason::kReplaced, RetryAfter(), step);
  if (!running()) {
    step->effects.push_back(
        RejectEffect{.token = event.token, .reason = RejectReason::kNoRun, .retry_after = RetryAfter()});
    return;
  }
  if (std::find(event.local_tasks.begin(), event.local_tasks.end(), spec_.local_task) == event.local_tasks.end()) {
    step->effects.push_back(
        RejectEffect{.token = event.token, .reason = RejectReason::kUnsupportedTask, .retry_after = RetryAfter()});
    return;
  }
  if (auto open = open_.find(event.device); open != open_.end()) {
    step->effects.push_back(AssignEffect{.token = event.token,
                                         .assignment = assignments_.at(open->second),
                                         .deadline = round_->deadline,
                                         .parent = round_->parent});
    return;
  }
  const std::optional<uint32_t> layers = LayersFor(spec_, event.memory_bytes);
  if (layers == 0U) {
    without_memory_.insert(event.device);
    step->effects.push_back(
        RejectEffect{.token = event.token, .reason = RejectReason::kTooLittleMemory, .retry_after = RetryAfter()});
    return;
  }
  Wait(now, event, layers.value_or(0));
}

void Engine::On(Time, const PollGoneEvent& event, Step*) {
  auto waiting = waiting_by_token_.find(event.token);
  if (waiting != waiting_by_token_.end()) StopWaiting(DeviceId(waiting->second));
}

void Engine::On(Time now, const RoundModelReady& event, Step* step) {
  if (!running() || round_->phase != RoundPhase::kCommitting || event.round != round_->round ||
      event.attempt != round_->attempt) {
    return;  // an answer to a question of an attempt that has ended
  }
  HEDDLE_ASSERT(!event.model.IsZero(), "a committed model has a digest");
  round_->model = event.model;
  run_.committed_rounds = round_->round;
  run_.model = event.model;
  RecordEnd(now, RoundPhase::kCommitted, step);
  if (run_.committed_rounds == spec_.rounds) {
    EndRun(now, RunState::kComplete, "", step);
    return;
  }
  step->writes.emplace_back(run_);
  BeginAttempt(now, round_->round + 1, 1, step);
}

void Engine::On(Time now, const RoundModelFailed& event, Step* step) {
  if (!running() || event.round != round_->round || event.attempt != round_->attempt) return;
  if (event.for_good) {
    EndAttempt(now, event.reason, step);
    EndRun(now, RunState::kFailed, "round " + std::to_string(round_->round) + ": " + event.reason, step);
    return;
  }
  // Also while collecting: an update that cannot be folded spoils the attempt as much as a failed commit.
  if (round_->phase != RoundPhase::kSelecting) Abandon(now, event.reason, step);
}

void Engine::On(Time now, const DeviceRevokedEvent& event, Step* step) {
  if (waiting_.contains(event.device)) {
    RejectWaiting(event.device, RejectReason::kNotNeeded, spec_.max_retry_after, step);
  }
  auto open = open_.find(event.device);
  if (open == open_.end()) return;
  AssignmentRecord& assignment = assignments_.at(open->second);
  assignment.state = AssignmentState::kFailed;
  assignment.reported_at = now;
  assignment.message = "the device was revoked";
  history_[event.device].done = true;
  open_.erase(open);
  step->writes.emplace_back(assignment);
}

void Engine::On(Time now, const StopRunEvent& event, Step* step) {
  if (!running()) return;
  EndAttempt(now, "the run was stopped", step);
  EndRun(now, RunState::kStopped, event.reason, step);
}

void Engine::On(Time, const TickEvent&, Step*) {}

// ---- phases ----

void Engine::BeginAttempt(Time now, uint32_t round, uint32_t attempt, Step* step) {
  assignments_.clear();
  open_.clear();
  history_.clear();
  without_memory_.clear();
  accepted_ = 0;
  RoundRecord next;
  next.run = run_.id;
  next.round = round;
  next.attempt = attempt;
  next.started_at = now;
  next.deadline = now + spec_.selection_timeout;
  next.parent = run_.model;
  round_ = next;
  step->writes.emplace_back(next);
  step->effects.push_back(ResetSumEffect{.round = round, .attempt = attempt, .parent = run_.model});
}

void Engine::Select(Time now, Step* step) {
  round_->phase = RoundPhase::kCollecting;
  round_->selected_at = now;
  round_->deadline = now + spec_.report_deadline;
  step->writes.emplace_back(*round_);
  FillSlots(now, step);
}

void Engine::FillSlots(Time now, Step* step) {
  size_t target = SelectionTarget(spec_, round_->round);
  size_t taken = open_.size() + accepted_;
  if (taken >= target || waiting_.empty()) return;
  std::vector<DeviceId> candidates = Candidates();
  candidates.resize(std::min(candidates.size(), target - taken));
  for (const DeviceId& device : candidates) Assign(now, device, step);
}

// Enough reports, or the deadline with enough for a commit.
void Engine::Close(Time now, Step* step) {
  ExpireOpen(step);
  round_->phase = RoundPhase::kCommitting;
  round_->deadline = now + spec_.report_deadline;
  step->writes.emplace_back(*round_);
  CommitEffect commit{.round = round_->round, .attempt = round_->attempt, .parent = round_->parent, .accepted = {}};
  for (const auto& [id, assignment] : assignments_) {
    if (assignment.state == AssignmentState::kAccepted) commit.accepted.push_back(assignment);
  }
  step->effects.emplace_back(std::move(commit));
}

void Engine::EndAttempt(Time now, const std::string& reason, Step* step) {
  ExpireOpen(step);
  round_->reason = reason;
  RecordEnd(now, RoundPhase::kAbandoned, step);
}

void Engine::Abandon(Time now, const std::string& reason, Step* step) {
  EndAttempt(now, reason, step);
  uint32_t limit = spec_.max_abandoned_attempts == 0 ? kMostAttempts : spec_.max_abandoned_attempts;
  if (round_->attempt >= limit) {
    EndRun(now, RunState::kFailed,
           "round " + std::to_string(round_->round) + " was abandoned " + std::to_string(round_->attempt) +
               " times in a row; the last time: " + reason,
           step);
    return;
  }
  BeginAttempt(now, round_->round, round_->attempt + 1, step);
}

void Engine::EndRun(Time now, RunState state, const std::string& reason, Step* step) {
  run_.state = state;
  run_.reason = reason;
  run_.ended_at = now;
  step->writes.emplace_back(run_);
  while (!waiting_.empty()) {
    DeviceId device = waiting_.begin()->first;
    RejectWaiting(device, RejectReason::kNoRun, RetryAfter(), step);
  }
  step->effects.push_back(RunEndedEffect{run_});
}

void Engine::ExpireOpen(Step* step) {
  for (const auto& [device, id] : open_) {
    AssignmentRecord& assignment = assignments_.at(id);
    assignment.state = AssignmentState::kExpired;
    step->writes.emplace_back(assignment);
  }
  open_.clear();
}

void Engine::RecordEnd(Time now, RoundPhase phase, Step* step) {
  // A deadline and a stop (or a failed fold) may meet in one step: nobody shall make a model for an attempt that is
  // over.
  std::erase_if(step->effects, [](const Effect& effect) { return std::holds_alternative<CommitEffect>(effect); });
  round_->phase = phase;
  round_->ended_at = now;
  step->writes.emplace_back(*round_);
  RoundEndedEffect ended{.round = *round_, .assignments = {}};
  for (const auto& [id, assignment] : assignments_) ended.assignments.push_back(assignment);
  step->effects.emplace_back(std::move(ended));
}

// ---- assignments ----

// Waiting devices that may get the task, in the order of selection.
std::vector<DeviceId> Engine::Candidates() const {
  struct Candidate {
    uint32_t tries;
    uint64_t order;
    DeviceId device;
    auto operator<=>(const Candidate&) const = default;
  };
  std::vector<Candidate> candidates;
  std::string prefix = std::to_string(round_->round) + "/";
  for (const auto& [device, waiting] : waiting_) {
    auto found = history_.find(device);
    History history = found == history_.end() ? History{} : found->second;
    if (history.done || history.tries >= kMaxTriesPerAttempt) continue;
    candidates.push_back({history.tries, DeriveSeed(spec_.seed, "select", prefix + device.value()), device});
  }
  std::sort(candidates.begin(), candidates.end());
  std::vector<DeviceId> devices;
  devices.reserve(candidates.size());
  for (Candidate& candidate : candidates) devices.push_back(std::move(candidate.device));
  return devices;
}

void Engine::Assign(Time now, const DeviceId& device, Step* step) {
  AssignmentRecord assignment;
  assignment.id = MakeAssignmentId(spec_, *round_, device, ++history_[device].tries);
  assignment.run = run_.id;
  assignment.round = round_->round;
  assignment.attempt = round_->attempt;
  assignment.device = device;
  assignment.layers = waiting_.at(device).layers;
  assignment.issued_at = now;
  open_[device] = assignment.id;
  step->writes.emplace_back(assignment);
  step->effects.push_back(AssignEffect{.token = waiting_.at(device).token,
                                       .assignment = assignment,
                                       .deadline = round_->deadline,
                                       .parent = round_->parent});
  StopWaiting(DeviceId(device));
  assignments_.emplace(assignment.id, std::move(assignment));
}

// ---- polls ----

void Engine::Wait(Time now, const CheckinEvent& event, uint32_t layers) {
  Duration hold = std::chrono::duration_cast<Duration>(spec_.max_poll_hold * (1 - kPollJitter * NextJitter()));
  Waiting waiting{.token = event.token, .answer_by = now + std::max(hold, Duration(1)), .layers = layers};
  waiting_by_token_[event.token] = event.device;
  waiting_by_time_.emplace(waiting.answer_by, event.device);
  waiting_.emplace(event.device, waiting);
}

void Engine::StopWaiting(const DeviceId& device) {
  auto waiting = waiting_.find(device);
  waiting_by_time_.erase({waiting->second.answer_by, device});
  waiting_by_token_.erase(waiting->second.token);
  waiting_.erase(waiting);
}

void Engine::RejectWaiting(const DeviceId& device, RejectReason reason, Duration retry_after, Step* step) {
  step->effects.push_back(
      RejectEffect{.token = waiting_.at(device).token, .reason = reason, .retry_after = retry_after});
  StopWaiting(device);
}

double Engine::NextJitter() {
  return PhiloxStream(DeriveSeed(spec_.seed, "jitter", spec_.id.value())).UniformAt(jitter_counter_++);
}

Duration Engine::RetryAfter() {
  Duration span = spec_.max_retry_after - spec_.min_retry_after;
  return spec_.min_retry_after + std::chrono::duration_cast<Duration>(span * NextJitter());
}

}  // namespace heddle::coordinator
