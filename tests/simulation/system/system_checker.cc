#include "tests/simulation/system/system_checker.h"

#include <algorithm>
#include <cmath>

#include "common/file.h"
#include "protocol/refusal.h"
#include "protocol/short_form.h"
#include "protocol/validate.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::system_simulation {

using coordinator::AssignmentRecord;
using coordinator::AssignmentState;
using coordinator::RoundPhase;
using coordinator::RoundRecord;
using coordinator::RunState;

namespace {

v1::ReportVerdict VerdictOfState(AssignmentState state) {
  switch (state) {
    case AssignmentState::kAccepted:
      return v1::REPORT_VERDICT_ACCEPTED;
    case AssignmentState::kLate:
      return v1::REPORT_VERDICT_LATE;
    case AssignmentState::kInvalid:
      return v1::REPORT_VERDICT_INVALID;
    case AssignmentState::kSuperseded:
      return v1::REPORT_VERDICT_SUPERSEDED;
    case AssignmentState::kFailed:
      return v1::REPORT_VERDICT_NOTED;
    default:
      return v1::REPORT_VERDICT_UNSPECIFIED;
  }
}

}  // namespace

void SystemChecker::Breach(const std::string& sentence) {
  if (breach_) return;
  breach_ = sentence;
  time_.Note("BREACH: " + sentence);
}

void SystemChecker::RunBegan(const RunId& run) {
  auto stored = host_.store().GetRun(run);
  if (!stored.ok()) return Breach("the run that was just submitted is not stored");
  run_ = run;
  spec_ = stored->origin.spec;
  initial_ = stored->run.model;
  auto bytes = ReadFile(host_.blobs().Path(initial_));
  auto values = bytes.ok() ? ReadValues(*bytes, &model_spec_) : bytes.status();
  if (!values.ok()) return Breach("the initial adapter cannot be read: " + values.status().ToString());
  models_[initial_].model = *std::move(values);
}

void SystemChecker::Made(const std::string& device, const std::string& assignment, const MadeUpdate& update) {
  Known& known = updates_[update.digest];
  ++counts.happened[FlawName(update.flaw)];
  const bool wrong = update.flaw == Flaw::kWrongDigest;
  (wrong ? known.wrong_copy : known.right_copy) = true;
  // The right one stays known beside those of the same bytes that are told wrongly.
  known.honest = known.honest || update.flaw == Flaw::kNone;
  if (update.flaw == Flaw::kNone || !known.honest) known.update = update;
  if (known.by.empty()) known.made_at = time_.true_now();
  known.by.emplace(device, assignment);
}

const MadeUpdate* SystemChecker::SomeUpdate(uint32_t pick) const {
  if (updates_.empty()) return nullptr;
  auto found = updates_.begin();
  std::advance(found, pick % updates_.size());
  return found->second.honest ? &found->second.update : nullptr;
}

// ---- answers ----

void SystemChecker::OnAnswer(const std::string& device, const Request& request, const Network::Answer& answer) {
  ++counts.answers;
  CheckTyped(request, answer);
  if (request.path == "/v1/checkin" && answer.status == 200) OnCheckin(device, answer);
  if (request.path == "/v1/reports" && answer.status == 200) OnReport(device, request, answer);
  if (request.path == "/v1/reports" && answer.status == 422) OnMismatch(request);
  if (request.path.starts_with("/v1/uploads")) OnUpload(request, answer);
}

void SystemChecker::CheckTyped(const Request& request, const Network::Answer& answer) {
  if (answer.status < 400) return;
  ++counts.refusals;
  if (request.method == "HEAD") return;  // has no body
  const auto refusal = protocol::ParseMessage<v1::Refusal>(answer.body);
  const std::string what = request.method + " " + request.path + " was answered " + std::to_string(answer.status);
  if (!refusal.ok()) return Breach(what + " without a refusal that can be read");
  if (refusal->reason() == v1::REFUSAL_REASON_UNSPECIFIED || refusal->message().empty()) {
    return Breach(what + " without a reason or a sentence");
  }
  ++refused_[std::string(protocol::ReasonName(refusal->reason()))];
  if (answer.status != 416 && protocol::HttpStatusOf(refusal->reason()) != answer.status) {
    return Breach(what + " with the reason " + std::string(protocol::ReasonName(refusal->reason())));
  }
  if (answer.status < 500) return;
  ++counts.storage_errors;
  if (refusal->retry_after_ms() == 0) return Breach(what + " and does not say when to come back");
  if (faults_ended_at_ && time_.true_now() > *faults_ended_at_ + Seconds(60)) {
    Breach(what + " although nothing fails: " + refusal->message());
  }
}

void SystemChecker::OnCheckin(const std::string& device, const Network::Answer& answer) {
  const auto response = protocol::ParseMessage<v1::CheckinResponse>(answer.body);
  if (!response.ok()) return Breach("an answer to a check-in cannot be read: " + response.status().message());
  if (!response->has_assignment()) return;
  v1::TaskAssignment task = response->assignment();
  if (task.lasting_key() != 0) {
    const auto whole = protocol::Completed(lasting_[task.lasting_key()], task);
    if (!whole.ok()) return Breach("a short assignment leaves out what nobody was told: " + whole.status().message());
    ++counts.short_forms;
    task = *whole;
  }
  const v1::TaskAssignment part = protocol::LastingPart(task);
  lasting_[protocol::LastingKey(part)] = part;
  const std::string& id = task.assignment_id();
  if (has_ledger()) models_[initial_].ledger = EmptyLedger(task.plan().train(), initial_);
  CheckStart(device, task);
  if (task.plan().train().local_steps() != (IsLater(task.round()) ? second_stage_->local_steps : kLocalSteps)) {
    return Breach("a task of round " + std::to_string(task.round()) + " has another number of steps");
  }
  if (auto before = issued_.find(id); before != issued_.end()) {
    const Issued& old = before->second;
    if (old.device != device || old.round != task.round() || old.attempt != task.attempt()) {
      return Breach("the assignment " + id + " was given out twice, for different things");
    }
    if (verdicts_.contains(id)) return Breach("the assignment " + id + " was given out again after its verdict");
  } else {
    issued_list_.emplace_back(id, device);
  }
  issued_[id] = {device, task.round(), task.attempt(), task.deadline_unix_us()};
  const auto [attempt, first] = deadlines_.emplace(std::pair(task.round(), task.attempt()), task.deadline_unix_us());
  if (!first && attempt->second != task.deadline_unix_us()) {
    Breach("the deadline of round " + std::to_string(task.round()) + " was moved");
  }
}

// A task starts from a committed model: from its file, or where downloads are rounded from its rounding and nothing
// else; with layers of its own, from what the file has of these.
void SystemChecker::CheckStart(const std::string& device, const v1::TaskAssignment& task) {
  if (has_ledger()) return;
  const Sha256Digest start = protocol::DigestOf(task.plan().adapter(1)).value();
  if (!rounds_downloads_ && !has_layers()) {
    if (!models_.contains(start)) Breach("a task starts from a model that was never committed");
    return;
  }
  const Share share = ShareFor(device, task);
  if (has_layers()) {
    const std::set<uint32_t>* told = ByMemory(method_, seed_) ? &told_[device] : nullptr;
    if (const auto mistake = MistakeIn(task.plan(), share, told)) return Breach(*mistake + ": " + device);
  }
  const StateDictSpec spec = has_layers() ? Within(share.held, model_spec_) : model_spec_;
  for (const auto& [digest, version] : models_) {
    if (version.model.empty()) continue;  // its rows could not be read
    const auto [known, first] = starts_.try_emplace({digest, share.held});
    if (first) {
      known->second = rounds_downloads_ ? RoundedFileOf(spec, version) : Sha256(FilesOf(spec, version).model);
    }
    if (known->second == start) return;
  }
  Breach("a task starts from what is not a committed model as its device gets it");
}

Share SystemChecker::ShareFor(const std::string& device, const v1::TaskAssignment& task) const {
  if (!has_layers()) return {};
  const auto depth = ByMemory(method_, seed_) ? std::optional(DepthIn(task.plan())) : std::nullopt;
  return ShareOf(method_, seed_, device, task.round(), depth);
}

StateDictSpec SystemChecker::SentFor(const std::string& device, const v1::TaskAssignment& task, uint64_t key,
                                     Flaw* flaw) const {
  if (!has_layers()) return model_spec_;
  Layers sent = ShareFor(device, task).sent;
  if (*flaw >= Flaw::kOneLayerMore && *flaw <= Flaw::kOtherPart)
    sent = WrongLayers(std::move(sent), method_, seed_, key, flaw);
  return Within(sent, model_spec_);
}

void SystemChecker::Count(v1::ReportVerdict verdict) {
  switch (verdict) {
    case v1::REPORT_VERDICT_ACCEPTED:
      ++counts.accepted;
      break;
    case v1::REPORT_VERDICT_LATE:
      ++counts.late;
      break;
    case v1::REPORT_VERDICT_INVALID:
      ++counts.invalid;
      break;
    case v1::REPORT_VERDICT_SUPERSEDED:
      ++counts.superseded;
      break;
    default:
      ++counts.noted;
  }
}

void SystemChecker::OnReport(const std::string& device, const Request& request, const Network::Answer& answer) {
  const auto response = protocol::ParseMessage<v1::ReportResponse>(answer.body);
  auto report = protocol::ParseMessage<v1::ReportRequest>(request.body);
  if (!response.ok() || !report.ok()) return Breach("a report or its answer cannot be read, and it was answered 200");
  if (!report->has_update() && report->outcome() == v1::TASK_OUTCOME_COMPLETED) {  // the short form
    const std::string update =
        report->scalars().empty() ? report->inline_update() : zo::UpdateOfScalars(report->scalars());
    *report->mutable_update() = protocol::MakeBlobRef(Sha256(update), update.size(), "update.safetensors");
  }
  if (response->has_refusal()) ++refused_[std::string(protocol::ReasonName(response->refusal().reason()))];
  const std::string& id = report->assignment_id();
  auto issued = issued_.find(id);
  // An assignment whose answer was lost with its process may still be reported on by nobody but its device.
  if (issued != issued_.end() && issued->second.device != device) {
    return Breach(device + " got a verdict on an assignment of " + issued->second.device);
  }
  if (auto before = verdicts_.find(id); before != verdicts_.end()) {
    ++counts.repeated;
    if (before->second.bytes != answer.body) {
      Breach("the report on " + id + " was answered " + v1::ReportVerdict_Name(before->second.verdict) + " and then " +
             v1::ReportVerdict_Name(response->verdict()));
    }
    return;
  }
  Count(response->verdict());
  const Verdict verdict{answer.body, response->verdict()};
  verdicts_[id] = verdict;
  CheckRow(id, verdict);
  OnFirstVerdict(device, *report, *response);
}

void SystemChecker::OnFirstVerdict(const std::string& device, const v1::ReportRequest& request,
                                   const v1::ReportResponse& response) {
  if (response.verdict() == v1::REPORT_VERDICT_ACCEPTED) return CheckAccepted(device, request.assignment_id());
  if (response.verdict() == v1::REPORT_VERDICT_LATE || response.verdict() == v1::REPORT_VERDICT_SUPERSEDED) {
    return CheckLate(device, request.assignment_id());
  }
  if (response.verdict() != v1::REPORT_VERDICT_INVALID || !request.has_update()) return;
  auto known = updates_.find(protocol::DigestOf(request.update()).value());
  if (known == updates_.end()) return;
  const MadeUpdate& update = known->second.update;
  const int reason = response.refusal().reason();
  const bool own = known->second.by.contains({device, request.assignment_id()});
  const bool as_made =
      request.metrics().num_examples() == update.num_examples && request.update().size_bytes() == update.size_bytes;
  if (!as_made || !own) return;  // a tale of another update
  // What is heard first may be the answer to a repetition: of a twin, say, after the answer to the other was lost.
  auto row = host_.store().FindAssignment(AssignmentId(request.assignment_id()));
  if (!row.ok() || !*row || (*row)->update != known->first || (*row)->update_bytes != update.size_bytes ||
      (*row)->metrics.num_examples != update.num_examples) {
    return;
  }
  if (update.flaw == Flaw::kNone) {
    return Breach("a good update of " + device + " was called invalid: " + response.refusal().message());
  }
  if (!(has_ledger() ? LedgerReasonsFor(update.flaw) : ReasonsFor(update.flaw, EncodesUploads(seed_)))
           .contains(reason)) {
    Breach(std::string("an update with the flaw '") + FlawName(update.flaw) + "' was refused as " +
           std::string(protocol::ReasonName(response.refusal().reason())));
  }
}

// Looks at the row: what is heard first may be the answer to a repetition that tells another story.
void SystemChecker::CheckAccepted(const std::string& device, const std::string& id) {
  auto row = host_.store().FindAssignment(AssignmentId(id));
  if (!row.ok() || !*row) return;  // CheckRow has said what there is to say
  const AssignmentRecord& accepted = **row;
  auto known = updates_.find(accepted.update);
  if (known == updates_.end() || !known->second.may_count()) {
    const char* flaw = known == updates_.end() ? "made by nobody" : FlawName(known->second.update.flaw);
    return Breach("an update was accepted that is not good: " + std::string(flaw));
  }
  if (!known->second.by.contains({device, id})) {
    return Breach(device + " was credited with an update that it never made for this task");
  }
  const uint64_t examples = accepted.metrics.num_examples;
  if (examples == 0 || examples > kMaxExamples) {
    return Breach("an update was accepted with " + std::to_string(examples) + " examples");
  }
  if (accepted.update_bytes != known->second.update.bytes.size()) {
    return Breach("an update was accepted whose size is not what the report says");
  }
  auto issued = issued_.find(id);
  if (issued != issued_.end() && ToUnixMicros(accepted.reported_at) >= issued->second.deadline) {
    Breach("a report of " + device + " was accepted at or after its deadline");
  }
}

// A task of a device that was revoked meanwhile has ended with that; any other is open until its round collects no
// more.
void SystemChecker::CheckLate(const std::string& device, const std::string& id) {
  const auto row = host_.store().FindAssignment(AssignmentId(id));
  const auto rounds = host_.store().ListRounds(*run_);
  if (!row.ok() || !*row || !rounds.ok() || rounds->empty() || revoked_.contains(device)) return;
  const RoundRecord& last = rounds->back();
  if ((*row)->round != last.round || (*row)->attempt != last.attempt || last.phase != RoundPhase::kCollecting) return;
  if ((*row)->reported_at < last.deadline) Breach("a report of " + device + " was called late that came in time");
}

// What was said is what is stored.
void SystemChecker::CheckRow(const std::string& id, const Verdict& verdict) {
  auto row = host_.store().FindAssignment(AssignmentId(id));
  if (!row.ok()) return;  // the disk of the moment; looked at again later
  if (!*row) return Breach("a verdict was given on " + id + ", which is not stored");
  const v1::ReportVerdict stored = VerdictOfState((*row)->state);
  if (stored != verdict.verdict) {
    Breach("the report on " + id + " was answered " + v1::ReportVerdict_Name(verdict.verdict) +
           ", but stored is the state " + std::to_string(static_cast<int>((*row)->state)));
  }
}

// A report was refused because the update inside is not the one it names.
void SystemChecker::OnMismatch(const Request& request) {
  const auto report = protocol::ParseMessage<v1::ReportRequest>(request.body);
  if (!report.ok() || Sha256(report->inline_update()).raw() != report->update().sha256()) return;
  Breach("an update inside its report was called another one than the report names");
}

void SystemChecker::OnUpload(const Request& request, const Network::Answer& answer) {
  std::optional<Sha256Digest> declared;
  if (auto text = protocol::FindHeader(request.headers, "Heddle-Digest")) {
    if (auto digest = Sha256Digest::FromHex(*text); digest.ok()) declared = *digest;
  } else if (auto note = protocol::FindHeader(request.headers, "Simulated-Digest")) {
    declared = Sha256Digest::FromHex(*note).value();
  }
  if (!declared) return;
  auto known = updates_.find(*declared);
  if (known == updates_.end()) return;
  // What was not synced of an unfinished upload may be torn by a power cut: then the device begins again.
  const bool torn = power_cut_at_ && *power_cut_at_ >= known->second.made_at;
  if (!known->second.wrong_copy && answer.status == 422 && !torn)
    return Breach("an upload of the right bytes was refused as wrong ones");
  if (known->second.right_copy || answer.status >= 300 || answer.Header("Upload-Complete") != "1") return;
  // For a closed assignment nothing is left to send, whatever the bytes are, and nothing is kept.
  if (const auto id = protocol::FindHeader(request.headers, "Heddle-Assignment")) {
    const auto row = host_.store().FindAssignment(AssignmentId(std::string(*id)));
    if (!row.ok()) return;
    if (*row && (*row)->state != coordinator::AssignmentState::kOpen) {
      if (host_.blobs().Has(*declared)) Breach("an upload with the wrong bytes is a blob");
      return;
    }
  }
  Breach("an upload with the wrong bytes was taken as complete");
}

// ---- the store ----

void SystemChecker::CheckBlob(const Sha256Digest& digest, const std::string& what) {
  const auto bytes = ReadFile(host_.blobs().Path(digest));
  if (!bytes.ok()) return Breach("the blob of " + what + " is gone: " + bytes.status().message());
  if (Sha256(*bytes) != digest) Breach("the blob of " + what + " is damaged");
}

void SystemChecker::OnRestart() {
  if (!run_) return;
  ++counts.restarts;
  auto run = host_.store().GetRun(*run_);
  if (!run.ok()) return Breach("the run is gone after a restart: " + run.status().message());
  if (run->run.state == RunState::kFailed && spec_.max_abandoned_attempts == 0) {
    return Breach("the run has failed: " + run->run.reason);
  }
  CheckState(run->run.state);
  for (const auto& [id, verdict] : verdicts_) CheckRow(id, verdict);
  auto rounds = host_.store().ListRounds(*run_);
  if (!rounds.ok() || rounds->empty()) return;
  const auto [version, model] = CheckChain(*rounds, run->run.state);
  if (run->run.model != model || run->run.committed_rounds != version) Breach("the run does not name its last model");
  const RoundRecord& last = rounds->back();
  if (last.phase == RoundPhase::kCommitted || last.phase == RoundPhase::kAbandoned) return;
  auto rows = host_.store().ListAssignments(*run_, last.round, last.attempt);
  if (!rows.ok()) return;
  for (const AssignmentRecord& row : *rows) {
    if (row.state != AssignmentState::kAccepted) continue;
    const auto small = host_.store().GetSmallUpdate(row.id);
    if (!small.ok()) {
      CheckBlob(row.update, "an accepted update");
    } else if (Sha256(*small) != row.update) {
      Breach("an accepted update in the database is damaged");
    }
  }
}

const Values& SystemChecker::Replayed(const zo::Ledger& ledger) {
  zo::Ledger open = ledger;
  open.weights = {};
  const auto [known, first] = replays_.try_emplace(zo::EncodeLedger(open));
  if (first) known->second = ReplayOf(models_[initial_].model, ledger);
  return known->second;
}

Sha256Digest SystemChecker::ProofFor(const v1::TaskAssignment& task, const std::string& ledger_bytes) {
  zo::Ledger ledger = EmptyLedger(task.plan().train(), initial_);
  if (ledger_bytes.empty()) return ProofOf(Replayed(ledger));
  const zo::LedgerHead head = ledger.head;
  auto given = zo::DecodeLedger(std::as_bytes(std::span(ledger_bytes)));
  if (!given.ok() || !(given->head == head)) {
    Breach("a device was sent a ledger that is not of its run");
    return {};
  }
  const Sha256Digest proof = ProofOf(Replayed(*given));
  if (proof != given->weights) Breach("a ledger does not lead to the weights that it names");
  return proof;
}

VersionFiles SystemChecker::Follow(const RoundRecord& round, const Version& parent,
                                   const std::vector<std::pair<const MadeUpdate*, uint64_t>>& accepted, Version* next) {
  if (has_ledger()) {
    std::vector<std::pair<const std::vector<zo::LedgerEntry>*, uint64_t>> steps;
    for (const auto& [update, examples] : accepted) steps.emplace_back(update->steps.get(), examples);
    next->ledger = NextLedger(method_, parent.ledger, round.round, steps);
    next->model = Replayed(next->ledger);
    next->ledger.weights = ProofOf(next->model);
    return FilesOf(model_spec_, next->ledger, next->model);
  }
  std::vector<std::pair<const Values*, uint64_t>> values;
  for (const auto& [update, examples] : accepted) values.emplace_back(update->values.get(), examples);
  *next = NextVersion(method_, parent, values, CohortOf(round.round));
  return FilesOf(model_spec_, *next);
}

// The model of a committed round from its accepted rows.
void SystemChecker::CheckModel(const RoundRecord& round, const Version& parent, bool newest, Version* next) {
  auto rows = host_.store().ListAssignments(*run_, round.round, round.attempt);
  if (!rows.ok()) return;
  const std::string name = "round " + std::to_string(round.round);
  std::vector<std::pair<const MadeUpdate*, uint64_t>> accepted;
  std::set<std::string> devices;
  for (const AssignmentRecord& row : *rows) {
    if (row.state != AssignmentState::kAccepted) continue;
    auto known = updates_.find(row.update);
    if (known == updates_.end() || !known->second.may_count()) {
      return Breach("an update is counted in " + name + " that nobody trained");
    }
    if (!devices.insert(row.device.value()).second) return Breach(row.device.value() + " is counted twice in " + name);
    accepted.emplace_back(&known->second.update, row.metrics.num_examples);
  }
  if (accepted.size() < spec_.min_reports) return Breach(name + " was committed with too few updates");
  if (accepted.size() > CohortOf(round.round)) return Breach(name + " was committed with too many updates");
  const VersionFiles files = Follow(round, parent, accepted, next);
  if (Sha256(files.model) != round.model) {
    return Breach("the model of " + name + " is not what " + MethodName(method_) + " makes of its " +
                  std::to_string(accepted.size()) + " accepted updates");
  }
  // What an earlier model's method remembered, nobody needs, nor after the run.
  if (!files.state.empty() && (newest || !cleans_))
    CheckBlob(Sha256(files.state), "what the method remembers of " + name);
}

// An attempt with enough updates commits, unless somebody stops the run.
void SystemChecker::CheckAbandoned(const RoundRecord& round) {
  if (round.reason.empty()) return Breach("an abandoned attempt does not say why");
  auto rows = host_.store().ListAssignments(*run_, round.round, round.attempt);
  if (!rows.ok() || round.reason == "the run was stopped") return;
  const auto accepted = std::count_if(
      rows->begin(), rows->end(), [](const AssignmentRecord& row) { return row.state == AssignmentState::kAccepted; });
  if (accepted >= spec_.min_reports) {
    Breach("an attempt with " + std::to_string(accepted) + " accepted updates was abandoned: " + round.reason);
  }
}

void SystemChecker::OnRoundEnded(const RoundRecord& round) {
  const bool committed = round.phase == RoundPhase::kCommitted;
  ++(committed ? counts.committed : counts.abandoned);
  if (committed && stopped_) Breach("a round was committed after the owner was told that the run is stopped");
  if (!committed) {
    CheckAbandoned(round);
  } else if (auto parent = models_.find(round.parent); parent == models_.end()) {
    Breach("round " + std::to_string(round.round) + " starts from a model that was never committed");
  } else {
    CheckModel(round, parent->second, true, &models_[round.model]);
  }
  // Nothing disturbed it since it began: it ends when its time is over.
  const Duration since_start = time_.Now() - round.started_at;
  // By the clock that may have been set back meanwhile: its beginning is as much longer ago.
  if (disturbed_at_ && time_.true_now() - *disturbed_at_ < since_start + set_back_ + Seconds(5)) return;
  const Duration most = spec_.selection_timeout + spec_.report_deadline + Seconds(1);
  if (since_start > most) Breach("an attempt lasted " + std::to_string(ToSeconds(since_start)) + " s");
}

void SystemChecker::AfterPump() {
  if (!host_.up()) return;
  CheckBounds();
  const auto next = host_.driver().NextWake();
  if (!next) return;
  // What is due at this very instant may be the next thing to happen.
  if (*next < time_.Now()) return Breach("what was due has not been done");
  const Duration longest = std::max({spec_.selection_timeout, spec_.report_deadline, Duration(Seconds(300))});
  if (run_ && *next - time_.Now() > longest + set_back_) Breach("a time limit lies too far in the future");
}

}  // namespace heddle::system_simulation
