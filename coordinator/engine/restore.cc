#include "common/test_hooks.h"
#include "coordinator/engine/engine.h"

namespace heddle::coordinator {
namespace {

Status Contradiction(const RunSpec& spec, const std::string& what) {
  return DataLoss("the stored state of run " + spec.id.value() + " contradicts itself: " + what +
                  "; restore the database from a backup or stop the run");
}

Status CheckRun(const RunSpec& spec, const Snapshot& snapshot) {
  const RunRecord& run = snapshot.run;
  if (run.id != spec.id) return Contradiction(spec, "the row is of run " + run.id.value());
  if (run.committed_rounds > spec.rounds) return Contradiction(spec, "more rounds are committed than the run has");
  switch (run.state) {
    case RunState::kComplete:
      if (run.committed_rounds != spec.rounds) return Contradiction(spec, "it is complete with rounds missing");
      return OkStatus();
    case RunState::kStopped:
    case RunState::kFailed:
      return OkStatus();
    case RunState::kRunning:
      break;
    default:
      return Contradiction(spec, "its state has number " + std::to_string(static_cast<int>(run.state)));
  }
  if (run.committed_rounds == spec.rounds) return Contradiction(spec, "it is running with all rounds committed");
  if (run.model.IsZero()) return Contradiction(spec, "it has no model");
  if (!snapshot.round) return Contradiction(spec, "it is running without a round");
  return OkStatus();
}

Status CheckRound(const RunSpec& spec, const RunRecord& run, const RoundRecord& round) {
  std::string name = "attempt " + std::to_string(round.attempt) + " of round " + std::to_string(round.round);
  if (round.run != run.id) return Contradiction(spec, name + " is of another run");
  if (round.round != run.committed_rounds + 1 || round.attempt == 0) {
    return Contradiction(spec, name + " does not follow " + std::to_string(run.committed_rounds) + " committed rounds");
  }
  if (round.parent != run.model) return Contradiction(spec, name + " does not start from the committed model");
  if (round.phase != RoundPhase::kSelecting && round.phase != RoundPhase::kCollecting &&
      round.phase != RoundPhase::kCommitting) {
    return Contradiction(spec, name + " has ended and no other was begun");
  }
  return OkStatus();
}

Status CheckAssignment(const RunSpec& spec, const RoundRecord& round, const AssignmentRecord& assignment) {
  std::string name = "assignment " + assignment.id.value();
  if (assignment.run != round.run || assignment.round != round.round || assignment.attempt != round.attempt) {
    return Contradiction(spec, name + " is of another attempt");
  }
  auto state = static_cast<int>(assignment.state);
  if (state < 0 || state > static_cast<int>(AssignmentState::kExpired)) {
    return Contradiction(spec, name + " has a state with number " + std::to_string(state));
  }
  if (round.phase == RoundPhase::kSelecting) return Contradiction(spec, name + " was given before the selection");
  if (assignment.layers > spec.layer_memory.size() || (assignment.layers == 0) != spec.layer_memory.empty()) {
    return Contradiction(spec, name + " is of " + std::to_string(assignment.layers) + " layers");
  }
  if (assignment.state == AssignmentState::kOpen && round.phase != RoundPhase::kCollecting) {
    return Contradiction(spec, name + " is open in a closed round");
  }
  if (assignment.state == AssignmentState::kAccepted && assignment.update.IsZero()) {
    return Contradiction(spec, name + " is accepted without an update");
  }
  return OkStatus();
}

}  // namespace

Status Engine::RestoreFrom(Snapshot snapshot) {
  HEDDLE_RETURN_IF_ERROR(CheckRun(spec_, snapshot));
  run_ = std::move(snapshot.run);
  round_ = std::move(snapshot.round);
  if (running()) HEDDLE_RETURN_IF_ERROR(CheckRound(spec_, run_, *round_));
  for (AssignmentRecord& assignment : snapshot.assignments) {
    if (running()) HEDDLE_RETURN_IF_ERROR(CheckAssignment(spec_, *round_, assignment));
    // A run that could not be taken up ends without closing its round: nothing can be open in it any more.
    if (!running() && assignment.state == AssignmentState::kOpen) assignment.state = AssignmentState::kExpired;
    History& history = history_[assignment.device];
    if (!HEDDLE_PLANTED(kForgetTries)) ++history.tries;
    if (assignment.state == AssignmentState::kAccepted) ++accepted_;
    if (assignment.state == AssignmentState::kAccepted || assignment.state == AssignmentState::kInvalid) {
      if (history.done && running()) return Contradiction(spec_, assignment.device.value() + " is counted twice");
      history.done = true;
    }
    if (assignment.state == AssignmentState::kOpen && running() &&
        !open_.emplace(assignment.device, assignment.id).second) {
      return Contradiction(spec_, assignment.device.value() + " has two open assignments");
    }
    AssignmentId id = assignment.id;
    if (!assignments_.emplace(id, std::move(assignment)).second) {
      return Contradiction(spec_, "assignment " + id.value() + " is there twice");
    }
  }
  if (!running()) return OkStatus();
  const RoundSizes round_sizes = sizes();
  if (accepted_ > round_sizes.cohort_size ||
      (round_->phase == RoundPhase::kCollecting && accepted_ == round_sizes.cohort_size)) {
    return Contradiction(spec_, "a full round is still open");
  }
  if (round_->phase == RoundPhase::kCommitting && accepted_ < round_sizes.min_reports) {
    return Contradiction(spec_, "a round with too few reports is being committed");
  }
  return OkStatus();
}

Result<Engine> Engine::Restore(RunSpec spec, Snapshot snapshot, Time now, Step* first) {
  HEDDLE_RETURN_IF_ERROR(CheckRunSpec(spec));
  Engine engine(std::move(spec));
  HEDDLE_RETURN_IF_ERROR(engine.RestoreFrom(std::move(snapshot)));
  *first = {};
  if (!engine.running()) return engine;

  RoundRecord& round = *engine.round_;
  first->effects.push_back(ResetSumEffect{.round = round.round, .attempt = round.attempt, .parent = round.parent});
  std::vector<AssignmentRecord> accepted;
  for (const auto& [id, assignment] : engine.assignments_) {
    if (assignment.state != AssignmentState::kAccepted) continue;
    first->effects.push_back(FoldEffect{assignment});
    if (HEDDLE_PLANTED(kFoldTwiceOnRestore)) first->effects.push_back(FoldEffect{assignment});
    accepted.push_back(assignment);
  }
  if (HEDDLE_PLANTED(kDropTailOnRestore) && !accepted.empty()) first->effects.pop_back();
  if (HEDDLE_PLANTED(kForgetDeadline) && round.phase == RoundPhase::kCollecting) {
    round.deadline = now + engine.spec_.report_deadline;
  }
  if (round.phase == RoundPhase::kSelecting) {
    round.deadline = now + engine.spec_.selection_timeout;
    first->writes.emplace_back(round);
  } else if (round.phase == RoundPhase::kCommitting) {
    round.deadline = now + engine.spec_.report_deadline;
    first->writes.emplace_back(round);
    first->effects.push_back(CommitEffect{
        .round = round.round, .attempt = round.attempt, .parent = round.parent, .accepted = std::move(accepted)});
  }
  return engine;
}

}  // namespace heddle::coordinator
