#include "tests/simulation/coordinator/contract_checker.h"

#include <algorithm>
#include <array>

namespace heddle::coordinator::testing {
namespace {

bool IsOpenPhase(RoundPhase phase) { return phase <= RoundPhase::kCommitting; }

bool LegalPhase(RoundPhase from, RoundPhase to) {
  switch (from) {
    case RoundPhase::kSelecting:
      return to == RoundPhase::kSelecting || to == RoundPhase::kCollecting || to == RoundPhase::kAbandoned;
    case RoundPhase::kCollecting:
      return to == RoundPhase::kCommitting || to == RoundPhase::kAbandoned;
    case RoundPhase::kCommitting:
      return to == RoundPhase::kCommitting || to == RoundPhase::kCommitted || to == RoundPhase::kAbandoned;
    default:
      return false;
  }
}

bool LegalState(AssignmentState from, AssignmentState to) {
  switch (from) {
    case AssignmentState::kOpen:
      return to == AssignmentState::kAccepted || to == AssignmentState::kInvalid || to == AssignmentState::kFailed ||
             to == AssignmentState::kExpired;
    case AssignmentState::kExpired:
      return to == AssignmentState::kLate || to == AssignmentState::kSuperseded || to == AssignmentState::kInvalid ||
             to == AssignmentState::kFailed;
    default:
      return false;  // decided once and for all
  }
}

std::optional<Verdict> ExpectedVerdict(AssignmentState state) {
  switch (state) {
    case AssignmentState::kAccepted:
      return Verdict::kAccepted;
    case AssignmentState::kLate:
      return Verdict::kLate;
    case AssignmentState::kInvalid:
      return Verdict::kInvalid;
    case AssignmentState::kSuperseded:
      return Verdict::kSuperseded;
    case AssignmentState::kFailed:
      return Verdict::kNoted;
    default:
      return std::nullopt;
  }
}

}  // namespace

void ContractChecker::Expect(bool condition, const std::string& sentence) {
  if (!condition && !breach_) breach_ = sentence;
}

// ---- driving ----

void ContractChecker::Created(const Engine& engine, Time now, const Step& first) {
  now_ = now;
  AfterStep(engine, first);
}

void ContractChecker::Restarted(const Engine& engine, Time now, const Step& first) {
  now_ = now;
  polls_.clear();
  report_.reset();
  folded_.clear();
  sum_of_ = {0, 0};
  restoring_ = true;
  AfterStep(engine, first);
  restoring_ = false;
  if (engine.run().state == RunState::kRunning) {
    AttemptKey key{engine.round()->round, engine.round()->attempt};
    Expect(sum_of_ == key, "a restart does not begin the sum of the open attempt anew");
    Expect(folded_ == AcceptedOf(key), "a restart does not fold every accepted update of the open attempt again");
  }
}

void ContractChecker::BeforeEvent(Time now, const Event& event) {
  now_ = now;
  report_.reset();
  report_answered_ = false;
  if (const auto* checkin = std::get_if<CheckinEvent>(&event)) {
    polls_[checkin->token] = {checkin->device, now, checkin->memory_bytes};
  } else if (const auto* gone = std::get_if<PollGoneEvent>(&event)) {
    polls_.erase(gone->token);
  } else if (const auto* report = std::get_if<ReportEvent>(&event)) {
    report_ = *report;
  }
}

void ContractChecker::Written(const Step& step) {
  for (const Record& record : step.writes) OnWrite(record);
}

void ContractChecker::AfterStep(const Engine& engine, const Step& step) {
  Written(step);
  for (const Effect& effect : step.effects) OnEffect(effect);
  Expect(!report_ || report_answered_, "a report was not answered in its own step");
  CheckState(engine);
}

// ---- writes ----

void ContractChecker::OnWrite(const Record& record) {
  std::visit([&](const auto& row) { OnWrite(row); }, record);
}

void ContractChecker::OnWrite(const RunRecord& run) {
  Expect(run.id == spec_.id, "a row of another run was written");
  if (run_) {
    Expect(run_->state == RunState::kRunning, "the run changed after its end");
    Expect(run.committed_rounds == run_->committed_rounds || run.committed_rounds == run_->committed_rounds + 1,
           "the version of the model jumped");
    if (run.committed_rounds == run_->committed_rounds) {
      Expect(run.model == run_->model, "the model changed without a commit");
    } else {
      bool committed = std::any_of(rounds_.begin(), rounds_.end(), [&](const auto& row) {
        return row.second.phase == RoundPhase::kCommitted && row.second.round == run.committed_rounds &&
               row.second.parent == run_->model && row.second.model == run.model;
      });
      Expect(committed, "a version was made that no committed round explains");
    }
    Expect((run.state == RunState::kComplete) == (run.committed_rounds == spec_.rounds),
           "a run is complete with its last commit and not otherwise");
  }
  if (run.state == RunState::kFailed || run.state == RunState::kStopped) {
    Expect(run.state == RunState::kStopped || !run.reason.empty(), "a failed run does not say why");
  }
  run_ = run;
}

void ContractChecker::OnWrite(const RoundRecord& round) {
  AttemptKey key{round.round, round.attempt};
  auto old = rounds_.find(key);
  if (old == rounds_.end()) {
    Expect(round.phase == RoundPhase::kSelecting, "an attempt begins in another phase than selecting");
    Expect(run_ && run_->state == RunState::kRunning, "an attempt begins without a running run");
    if (!run_) return;
    Expect(round.round == run_->committed_rounds + 1, "an attempt begins that does not follow the committed version");
    Expect(round.parent == run_->model, "an attempt starts from another model than the committed one");
    if (!rounds_.empty()) {
      const RoundRecord& last = rounds_.rbegin()->second;
      Expect(!IsOpenPhase(last.phase), "two attempts are open");
      bool next = last.phase == RoundPhase::kCommitted ? round.round == last.round + 1 && round.attempt == 1
                                                       : round.round == last.round && round.attempt == last.attempt + 1;
      Expect(next, "an attempt was left out");
    }
  } else {
    Expect(LegalPhase(old->second.phase, round.phase), "a round went from phase " +
                                                           std::to_string(static_cast<int>(old->second.phase)) +
                                                           " to " + std::to_string(static_cast<int>(round.phase)));
    Expect(round.parent == old->second.parent, "the parent of a round changed");
    if (old->second.phase == round.phase) Expect(restoring_, "only a restart may give a phase its time anew");
  }
  if (round.phase == RoundPhase::kCommitting) {
    size_t accepted = AcceptedOf(key).size();
    const bool later = IsLater(round.round);
    Expect(accepted >= (later ? spec_.later_min_reports : spec_.min_reports),
           "a round with too few reports is being committed");
    Expect(accepted <= (later ? spec_.later_cohort_size : spec_.cohort_size),
           "a round has more reports than its cohort");
  }
  Expect((round.phase == RoundPhase::kCommitted) == !round.model.IsZero(),
         "a round has a model when it is committed and not otherwise");
  if (round.phase == RoundPhase::kAbandoned) Expect(!round.reason.empty(), "an abandoned attempt does not say why");
  rounds_[key] = round;
}

void ContractChecker::OnWrite(const AssignmentRecord& row) {
  auto old = assignments_.find(row.id);
  AttemptKey key{row.round, row.attempt};
  auto round = rounds_.find(key);
  Expect(round != rounds_.end(), "an assignment of an attempt that does not exist");
  if (round == rounds_.end()) return;
  if (old == assignments_.end()) {
    Expect(row.state == AssignmentState::kOpen, "an assignment was decided before it was given");
    Expect(round->second.phase == RoundPhase::kCollecting, "an assignment was given outside the collecting phase");
    uint32_t tries = 1;
    for (const auto& [id, other] : assignments_) {
      if (other.device != row.device || AttemptKey{other.round, other.attempt} != key) continue;
      ++tries;
      Expect(other.state == AssignmentState::kFailed, "a device got a second task that had not failed the first");
    }
    Expect(tries <= kMaxTriesPerAttempt, "a device got the task of one attempt too often");
  } else {
    Expect(LegalState(old->second.state, row.state), "an assignment went from state " +
                                                         std::to_string(static_cast<int>(old->second.state)) + " to " +
                                                         std::to_string(static_cast<int>(row.state)));
    Expect(row.device == old->second.device && AttemptKey{old->second.round, old->second.attempt} == key &&
               row.issued_at == old->second.issued_at && row.layers == old->second.layers,
           "an assignment changed its device, attempt or layers");
    if (row.state == AssignmentState::kAccepted) {
      Expect(round->second.phase == RoundPhase::kCollecting,
             "an update was accepted by a round that was not collecting");
      Expect(now_ < round->second.deadline, "an update was accepted after the deadline");
      Expect(report_ && report_->assignment == row.id && report_->device == row.device && report_->completed &&
                 report_->validity.ok(),
             "an update was accepted that nobody reported, or an invalid one");
      Expect(!row.update.IsZero(), "an update without a digest was accepted");
    }
  }
  assignments_[row.id] = row;
}

// ---- effects ----

void ContractChecker::OnEffect(const Effect& effect) {
  std::visit([&](const auto& e) { OnEffect(e); }, effect);
}

// The deepest of all parts that fit; without a limit, or a question, what that means.
uint32_t ContractChecker::AllowedLayers(uint64_t memory_bytes) const {
  uint32_t most = 0, layers = 0;
  for (const uint64_t need : spec_.layer_memory) {
    ++layers;
    if (memory_bytes == 0 || need <= memory_bytes) most = layers;
  }
  return most;
}

void ContractChecker::OnEffect(const AssignEffect& effect) {
  auto poll = polls_.find(effect.token);
  Expect(poll != polls_.end(), "a task was given to a poll that does not wait");
  if (poll == polls_.end()) return;
  Expect(poll->second.device == effect.assignment.device, "a task was given to another device's poll");
  // Else it is told again, whatever the device says now.
  if (effect.assignment.issued_at == now_ && given_.insert(effect.assignment.id).second) {
    Expect(effect.assignment.layers == AllowedLayers(poll->second.memory_bytes),
           "a task is of more layers than the device's memory allows, or of fewer");
  }
  polls_.erase(poll);
  auto row = assignments_.find(effect.assignment.id);
  Expect(row != assignments_.end() && row->second.state == AssignmentState::kOpen, "a task was given without a row");
  auto round = rounds_.find({effect.assignment.round, effect.assignment.attempt});
  Expect(round != rounds_.end() && round->second.deadline == effect.deadline && round->second.parent == effect.parent,
         "a task was given with another deadline or parent than its round's");
}

void ContractChecker::OnEffect(const RejectEffect& effect) {
  if (effect.reason == RejectReason::kTooLittleMemory) {
    const auto poll = polls_.find(effect.token);
    Expect(!spec_.layer_memory.empty() && poll != polls_.end() && AllowedLayers(poll->second.memory_bytes) == 0,
           "a device was rejected for its memory, which allows a task");
  }
  Expect(polls_.erase(effect.token) == 1, "a poll was rejected that does not wait");
  bool again = effect.reason == RejectReason::kPollAgain;
  Expect(again ? effect.retry_after == Duration::zero()
               : effect.retry_after >= spec_.min_retry_after && effect.retry_after <= spec_.max_retry_after,
         "a rejection asks for a return outside the bounds");
}

void ContractChecker::OnEffect(const FoldEffect& effect) {
  const AssignmentRecord& row = effect.assignment;
  Expect(AttemptKey{row.round, row.attempt} == sum_of_, "an update was folded into the sum of another attempt");
  Expect(folded_.insert(row.id).second, "an update was folded twice into one sum");
  auto stored = assignments_.find(row.id);
  Expect(stored != assignments_.end() && stored->second.state == AssignmentState::kAccepted &&
             stored->second.update == row.update,
         "an update was folded that is not accepted and durable");
}

void ContractChecker::OnEffect(const VerdictEffect& effect) {
  Expect(report_ && report_->token == effect.token && !report_answered_, "a verdict for nobody");
  report_answered_ = true;
  if (!report_) return;
  auto row = assignments_.find(report_->assignment);
  if (row == assignments_.end() && report_->stored) {
    Expect(false, "a verdict on an assignment that was never given");
  } else if (row != assignments_.end()) {
    CheckVerdict(row->second, effect);
  }
}

void ContractChecker::CheckVerdict(const AssignmentRecord& row, const VerdictEffect& effect) {
  Expect(row.device == report_->device, "a verdict was given to another device");
  Expect(ExpectedVerdict(row.state) == effect.verdict, "a verdict does not say what the row says");
  Expect((effect.verdict == Verdict::kInvalid) == (effect.refusal_reason != 0),
         "a refusal reason belongs to an invalid update and to nothing else");
  auto [first, inserted] = verdicts_.emplace(row.id, effect);
  if (inserted) return;
  Expect(first->second.verdict == effect.verdict && first->second.refusal_reason == effect.refusal_reason &&
             first->second.message == effect.message,
         "a repeated report got another answer than the first");
}

void ContractChecker::OnEffect(const UnknownAssignmentEffect& effect) {
  Expect(report_ && report_->token == effect.token && !report_answered_, "an answer to a report that was not made");
  report_answered_ = true;
  if (!report_) return;
  auto row = assignments_.find(report_->assignment);
  bool handed = row != assignments_.end();
  Expect(!handed || row->second.device != report_->device, "a device's own assignment was called unknown");
  Expect(effect.other_device == handed, "an unknown assignment and another device's were mixed up");
}

void ContractChecker::OnEffect(const CommitEffect& effect) {
  AttemptKey key{effect.round, effect.attempt};
  auto round = rounds_.find(key);
  Expect(
      round != rounds_.end() && round->second.phase == RoundPhase::kCommitting && round->second.parent == effect.parent,
      "a commit was asked for that is not in the rows");
  std::set<AssignmentId> accepted;
  for (const AssignmentRecord& row : effect.accepted) accepted.insert(row.id);
  Expect(accepted.size() == effect.accepted.size(), "a commit counts an update twice");
  Expect(key == sum_of_ && accepted == folded_, "a commit names other updates than were folded");
  Expect(accepted == AcceptedOf(key), "a commit names other updates than were accepted");
  Expect(std::is_sorted(effect.accepted.begin(), effect.accepted.end(),
                        [](const auto& a, const auto& b) { return a.id < b.id; }),
         "a commit lists its updates in an order that depends on their arrival");
}

void ContractChecker::OnEffect(const ResetSumEffect& effect) {
  sum_of_ = {effect.round, effect.attempt};
  folded_.clear();
  auto round = rounds_.find(sum_of_);
  Expect(round != rounds_.end() && round->second.parent == effect.parent, "a sum begins for an attempt without a row");
}

void ContractChecker::OnEffect(const RoundEndedEffect& effect) {
  AttemptKey key{effect.round.round, effect.round.attempt};
  Expect(ended_.insert(key).second, "an attempt ended twice");
  Expect(!IsOpenPhase(effect.round.phase), "an attempt ended in an open phase");
  for (const AssignmentRecord& row : effect.assignments) {
    Expect(row.state != AssignmentState::kOpen, "an attempt ended with an open assignment");
  }
}

void ContractChecker::OnEffect(const RunEndedEffect& effect) {
  Expect(!run_ended_, "the run ended twice");
  run_ended_ = true;
  Expect(effect.run.state != RunState::kRunning && run_ && run_->state == effect.run.state,
         "the run ended without its row");
}

// ---- state ----

void ContractChecker::CheckState(const Engine& engine) {
  Expect(engine.waiting() == polls_.size(), "the engine lost or invented a waiting poll");
  for (const auto& [token, poll] : polls_) {
    Expect(now_ < poll.since + spec_.max_poll_hold, "a poll was held longer than it may be");
  }
  Expect(run_ && run_->state == engine.run().state && run_->committed_rounds == engine.run().committed_rounds &&
             run_->model == engine.run().model,
         "the engine's run is not the stored one");
  std::optional<Time> next = engine.NextDeadline();
  bool running = engine.run().state == RunState::kRunning;
  Expect(next.has_value() == (running || !polls_.empty()), "a time limit is missing, or runs for nothing");
  // After a restart what is overdue waits for the next event.
  if (next && !restoring_) Expect(*next > now_, "something overdue was not done");
  if (!running) {
    Expect(polls_.empty(), "a poll waits after the end of the run");
    return;
  }
  const RoundRecord& round = *engine.round();
  AttemptKey key{round.round, round.attempt};
  Expect(rounds_.contains(key) && rounds_[key].phase == round.phase && rounds_[key].deadline == round.deadline,
         "the engine's round is not the stored one");
  size_t open = 0;
  for (const auto& [id, row] : engine.assignments()) {
    auto stored = assignments_.find(id);
    Expect(stored != assignments_.end() && stored->second.state == row.state, "an assignment is not as it is stored");
    if (row.state == AssignmentState::kOpen) ++open;
  }
  size_t accepted = AcceptedOf(key).size();
  Expect(open == engine.open() && accepted == engine.accepted(), "the engine miscounts its assignments");
  Expect(open == 0 || round.phase == RoundPhase::kCollecting, "an assignment is open in a closed round");
  Expect(open + accepted <= SelectionTarget(spec_, round.round), "more devices are at work than the round needs");
  if (round.phase == RoundPhase::kSelecting) {
    const bool later = IsLater(round.round);
    Expect(polls_.size() < (later ? spec_.later_min_available_devices : spec_.min_available_devices),
           "enough devices wait and nothing happens");
  }
}

std::set<AssignmentId> ContractChecker::AcceptedOf(AttemptKey key) const {
  std::set<AssignmentId> accepted;
  for (const auto& [id, row] : assignments_) {
    if (row.state == AssignmentState::kAccepted && AttemptKey{row.round, row.attempt} == key) accepted.insert(id);
  }
  return accepted;
}

}  // namespace heddle::coordinator::testing
