#include "coordinator/engine/reports.h"

#include "common/test_hooks.h"

namespace heddle::coordinator {
namespace {

// Numbers of heddle.v1.RefusalReason; the engine knows no Protobuf.
constexpr int kReasonTooLarge = 2;
constexpr int kReasonBadNumExamples = 13;
constexpr int kReasonMalformed = 1;

struct Refused {
  int reason = 0;
  std::string message;
};

// What is wrong with a completed report: the driver's finding about the update first, then the plan's own limits.
std::optional<Refused> FindFault(const RunSpec& spec, const ReportEvent& event) {
  if (!event.validity.ok()) {
    return Refused{event.refusal_reason == 0 ? kReasonMalformed : event.refusal_reason, event.validity.message()};
  }
  if (HEDDLE_PLANTED(kIgnoreWeight)) return std::nullopt;
  uint64_t examples = event.metrics.num_examples;
  if (examples == 0 || examples > spec.max_num_examples) {
    return Refused{kReasonBadNumExamples, "num_examples is " + std::to_string(examples) +
                                              " but must be between 1 and " + std::to_string(spec.max_num_examples)};
  }
  if (spec.max_update_bytes > 0 && event.update_bytes > spec.max_update_bytes) {
    return Refused{kReasonTooLarge, "the update has " + std::to_string(event.update_bytes) +
                                        " bytes but may have at most " + std::to_string(spec.max_update_bytes)};
  }
  return std::nullopt;
}

void MarkInvalid(const Refused& refused, AssignmentRecord* assignment) {
  assignment->state = AssignmentState::kInvalid;
  assignment->refusal_reason = refused.reason;
  assignment->message = refused.message;
}

}  // namespace

VerdictEffect VerdictOf(PollToken token, const AssignmentRecord& decided) {
  VerdictEffect effect{.token = token, .verdict = Verdict::kNoted, .refusal_reason = 0, .message = {}};
  switch (decided.state) {
    case AssignmentState::kAccepted:
      effect.verdict = Verdict::kAccepted;
      break;
    case AssignmentState::kLate:
      effect.verdict = Verdict::kLate;
      break;
    case AssignmentState::kInvalid:
      effect.verdict = Verdict::kInvalid;
      effect.refusal_reason = decided.refusal_reason;
      effect.message = decided.message;
      break;
    case AssignmentState::kSuperseded:
      effect.verdict = Verdict::kSuperseded;
      break;
    case AssignmentState::kFailed:
      break;
    case AssignmentState::kOpen:
    case AssignmentState::kExpired:
      HEDDLE_ASSERT(false, "an undecided assignment has no verdict");
  }
  return effect;
}

void NoteReport(Time now, const ReportEvent& event, AssignmentRecord* assignment) {
  assignment->reported_at = now;
  assignment->metrics = event.metrics;
  if (!event.completed) {
    assignment->message = event.message;
    return;
  }
  assignment->update = event.update;
  assignment->update_bytes = event.update_bytes;
}

void DecideClosed(Time now, const ReportEvent& event, bool has_newer, AssignmentRecord* assignment) {
  NoteReport(now, event, assignment);
  if (!event.completed) {
    assignment->state = AssignmentState::kFailed;
  } else if (!event.validity.ok()) {
    MarkInvalid({event.refusal_reason == 0 ? kReasonMalformed : event.refusal_reason, event.validity.message()},
                assignment);
  } else {
    assignment->state = has_newer ? AssignmentState::kSuperseded : AssignmentState::kLate;
    if (HEDDLE_PLANTED(kAcceptStaleRound)) assignment->state = AssignmentState::kAccepted;
  }
}

bool CheckOwner(const ReportEvent& event, const AssignmentRecord* assignment, Step* step) {
  bool exists = assignment != nullptr && assignment->id == event.assignment;
  if (HEDDLE_PLANTED(kIgnoreOwner) && exists) return true;
  if (exists && assignment->device == event.device) return true;
  step->effects.push_back(UnknownAssignmentEffect{.token = event.token, .other_device = exists});
  return false;
}

void Engine::On(Time now, const ReportEvent& event, Step* step) {
  auto held = assignments_.find(event.assignment);
  bool present = held != assignments_.end();
  if (!CheckOwner(event, present ? &held->second : event.stored ? &*event.stored : nullptr, step)) return;

  AssignmentRecord assignment = present ? held->second : *event.stored;
  bool decided = assignment.state != AssignmentState::kOpen && assignment.state != AssignmentState::kExpired;
  if (HEDDLE_PLANTED(kCountDuplicate) && present && assignment.state == AssignmentState::kAccepted &&
      round_->phase == RoundPhase::kCollecting) {
    step->effects.push_back(FoldEffect{assignment});
  }
  if (HEDDLE_PLANTED(kDecideTwice) && assignment.state == AssignmentState::kLate) decided = false;
  if (decided) {
    step->effects.push_back(VerdictOf(event.token, assignment));
    return;
  }
  if (present && assignment.state == AssignmentState::kOpen) {
    DecideOpen(now, event, &held->second, step);
    return;
  }
  DecideClosed(now, event, !present && history_.contains(event.device), &assignment);
  if (present) held->second = assignment;
  step->writes.emplace_back(assignment);
  step->effects.push_back(VerdictOf(event.token, assignment));
}

void Engine::DecideOpen(Time now, const ReportEvent& event, AssignmentRecord* assignment, Step* step) {
  NoteReport(now, event, assignment);
  if (!event.completed) {
    assignment->state = AssignmentState::kFailed;
  } else if (auto fault = FindFault(spec_, event)) {
    MarkInvalid(*fault, assignment);
    history_[event.device].done = true;
  } else if (HEDDLE_PLANTED(kCallLate) && accepted_ == 1) {
    assignment->state = AssignmentState::kLate;
    history_[event.device].done = true;
  } else {
    assignment->state = AssignmentState::kAccepted;
    history_[event.device].done = true;
    ++accepted_;
    step->effects.push_back(FoldEffect{*assignment});
  }
  open_.erase(event.device);
  step->writes.emplace_back(*assignment);
  step->effects.push_back(VerdictOf(event.token, *assignment));
  if (accepted_ == sizes().cohort_size) Close(now, step);
}

Step Engine::HandleReportWithoutRun(Time now, const ReportEvent& event) {
  Step step;
  if (!CheckOwner(event, event.stored ? &*event.stored : nullptr, &step)) return step;
  AssignmentRecord assignment = *event.stored;
  if (assignment.state == AssignmentState::kOpen || assignment.state == AssignmentState::kExpired) {
    DecideClosed(now, event, false, &assignment);
    step.writes.emplace_back(assignment);
  }
  step.effects.push_back(VerdictOf(event.token, assignment));
  return step;
}

}  // namespace heddle::coordinator
