#include "coordinator/service/run_core.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/assert.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/passing.h"
#include "common/safetensors.h"
#include "common/test_hooks.h"
#include "coordinator/service/run_json.h"
#include "coordinator/service/run_material_json.h"
#include "protocol/refusal.h"
#include "protocol/validate.h"

namespace heddle::coordinator {

namespace fs = std::filesystem;

namespace {

v1::RejectionReason ReasonOf(RejectReason reason) { return static_cast<v1::RejectionReason>(reason); }

v1::ReportResponse ResponseOf(const VerdictEffect& effect) {
  v1::ReportResponse response;
  response.set_verdict(static_cast<v1::ReportVerdict>(effect.verdict));
  if (effect.verdict == Verdict::kInvalid) {
    *response.mutable_refusal() =
        protocol::MakeRefusal(static_cast<v1::RefusalReason>(effect.refusal_reason), effect.message);
  }
  return response;
}

Status UnknownStatus(const UnknownAssignmentEffect& effect) {
  return effect.other_device ? PermissionDenied("the assignment belongs to another device")
                             : NotFound("there is no assignment with this id");
}

// After storage failed under a step.
constexpr Duration kRebuildAfter = std::chrono::seconds(1), kMostRebuildPause = std::chrono::seconds(15);

}  // namespace

// ---- start ----

Status RunCore::Prepare(const Submission& submission, RunMaterial* material) {
  HEDDLE_ASSIGN_OR_RETURN(recipe_,
                          Recipe::LoadText(submission.recipe_text, submission.folder, "recipe", submission.overrides,
                                           material == nullptr ? Recipe::Origin::kStored : Recipe::Origin::kGiven));
  recipe_.aggregator.threads = std::max(1U, options_.aggregation_threads);
  if (material == nullptr) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(*material, PrepareRun(recipe_));
  return OkStatus();
}

Result<std::unique_ptr<RunCore>> RunCore::Create(RunCoreOptions options, const Submission& submission) {
  std::unique_ptr<RunCore> core(new RunCore(std::move(options)));
  RunMaterial material;
  HEDDLE_RETURN_IF_ERROR(core->Prepare(submission, &material));
  if (const auto warning = core->recipe_.Warning()) {
    Log(Severity::kWarning, *warning, {{"run_id", material.spec.id.value()}});
  }
  BlobStore& blobs = *core->options_.blobs;
  for (const auto& [ref, path] : material.base_model) {
    if (path.empty()) {
      HEDDLE_RETURN_IF_ERROR(blobs.Put(material.model_config_json).status());
      continue;
    }
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest stored, blobs.PutCopyOf(path));
    if (stored.raw() != ref.sha256()) return Aborted(path.string() + " changed while it was read; submit again");
  }
  for (auto& [ref, bytes] : material.tensor_trees) {
    HEDDLE_RETURN_IF_ERROR(blobs.Put(bytes).status());
    std::string().swap(bytes);
  }
  HEDDLE_RETURN_IF_ERROR(blobs.Put(material.adapter_config_json).status());
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest adapter, blobs.Put(material.initial_adapter_bytes));

  StoredRun stored;
  stored.origin = RunOrigin{.spec = material.spec,
                            .recipe = submission.recipe_text,
                            .resolved_json = core->recipe_.resolved_json,
                            .material_json = MaterialJson(submission, material, adapter)};
  Step first;
  HEDDLE_ASSIGN_OR_RETURN(Engine engine, Engine::Create(material.spec, adapter, core->options_.clock->Now(), &first));
  HEDDLE_FAILPOINT(kRunBlobsStored);
  core->files_ = RunFiles(core->FolderOf(material.spec.id), BaseModelJsonOf(material));
  std::error_code error;
  const fs::path folder = core->files_.folder();
  const bool was_there = fs::exists(folder, error);
  Status created = core->files_.Make();
  if (created.ok()) created = core->options_.store->CreateRun(stored.origin, first.writes);
  if (!created.ok() && !was_there) {  // no run, no folder
    fs::remove(folder / "checkpoints", error);
    fs::remove(folder, error);
  }
  HEDDLE_RETURN_IF_ERROR(created);
  HEDDLE_FAILPOINT(kRunCreated);
  // From here on the run exists, and would keep the next one from starting if nobody took it up.
  stored.run = engine.run();
  material.initial_adapter.clear();
  std::string().swap(material.initial_adapter_bytes);  // clear() would keep the memory for the whole run
  core->material_ = std::move(material);
  core->engine_.emplace(std::move(engine));
  first.writes.clear();
  HEDDLE_RETURN_IF_ERROR(core->TakeUp(stored));
  std::vector<AddressedAnswer> none;
  if (Status begun = core->Execute({std::move(first)}, &none); !begun.ok()) core->GoOnFromWhatIsStored(begun);
  return core;
}

Result<std::unique_ptr<RunCore>> RunCore::Resume(RunCoreOptions options, const RunId& id) {
  std::unique_ptr<RunCore> core(new RunCore(std::move(options)));
  HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, core->options_.store->GetRun(id));
  Submission submission{.recipe_text = stored.origin.recipe, .folder = {}, .overrides = {}};
  HEDDLE_RETURN_IF_ERROR(ReadMaterialJson(stored.origin.material_json, &submission, &core->material_));
  HEDDLE_RETURN_IF_ERROR(core->Prepare(submission, nullptr));
  core->material_.spec = stored.origin.spec;
  HEDDLE_RETURN_IF_ERROR(core->TakeUp(stored));
  HEDDLE_FAILPOINT(kRecoveryRunRepaired);
  HEDDLE_RETURN_IF_ERROR(core->RecallLosses());
  std::vector<AddressedAnswer> none;
  if (Status rebuilt = core->Rebuild(&none); !rebuilt.ok()) {
    if (!MayPass(rebuilt.code())) return rebuilt;
    core->GoOnFromWhatIsStored(rebuilt);
  }
  HEDDLE_FAILPOINT(kRecoveryRunRebuilt);
  return core;
}

// What Create and Resume have in common: the folder and what devices may fetch.
Status RunCore::TakeUp(const StoredRun& stored) {
  origin_ = stored.origin;
  taken_up_ = stored.run;
  files_ = RunFiles(FolderOf(origin_.spec.id), BaseModelJsonOf(material_));
  for (const auto& [ref, path] : material_.base_model) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(ref));
    always_published_.insert(digest);
  }
  for (const auto& [ref, bytes] : material_.tensor_trees) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(ref));
    always_published_.insert(digest);
  }
  always_published_.insert(Sha256(material_.adapter_config_json));
  published_ = always_published_;
  published_.insert(stored.run.model);
  start_traffic_ = round_traffic_ = TrafficNow();
  Status folder = files_.Make();
  if (folder.ok()) folder = WriteFolder(UINT64_MAX).status();
  FolderIs(std::move(folder));
  return OkStatus();
}

// The engine anew from what is stored: at a restart, and after storage failed under a step.
Status RunCore::Rebuild(std::vector<AddressedAnswer>* answers) {
  engine_.reset();
  HEDDLE_ASSIGN_OR_RETURN(Snapshot snapshot, options_.store->LoadSnapshot(origin_.spec.id));
  Step first;
  HEDDLE_ASSIGN_OR_RETURN(Engine engine,
                          Engine::Restore(origin_.spec, std::move(snapshot), options_.clock->Now(), &first));
  engine_.emplace(std::move(engine));
  published_.insert(engine_->run().model);
  open_assignments_->Clear();
  for (const auto& [id, assignment] : engine_->assignments()) {
    if (assignment.state != AssignmentState::kOpen) continue;
    // Devices are at work on it: what they started from must be known. Where it is lost, the sum says so, and what
    // then.
    if (Status status = NoteOpen(assignment, engine_->round()->parent); MayPass(status.code())) {
      engine_.reset();
      return status;
    }
  }
  restoring_ = true;
  Status status = Execute({std::move(first)}, answers);
  restoring_ = false;
  if (!status.ok()) engine_.reset();
  return status;
}

// What the losses of the rounds before a restart were, so that a stall that was told is not told again.
Status RunCore::RecallLosses() {
  HEDDLE_ASSIGN_OR_RETURN(std::vector<RoundRecord> rounds, options_.store->ListRounds(id()));
  std::erase_if(rounds, [](const RoundRecord& round) { return round.phase != RoundPhase::kCommitted; });
  constexpr size_t kEvery = RoundLossWatch::kEvery, kKeep = RoundLossWatch::kRounds + kEvery;
  const size_t skipped = rounds.size() > kKeep ? (rounds.size() - kKeep) / kEvery * kEvery : 0;
  loss_watch_ = {};
  for (size_t i = skipped; i < rounds.size(); ++i) {
    HEDDLE_ASSIGN_OR_RETURN(const auto assignments,
                            options_.store->ListAssignments(id(), rounds[i].round, rounds[i].attempt));
    const RoundLosses losses = LossesOf(assignments);
    if (losses.told()) loss_watch_.Add(losses.train_loss);
  }
  return OkStatus();
}

// ---- events ----

void RunCore::Take(const Event& event, InlineContent content) {
  if (!take_state_.ok()) return;
  if (!engine_) {
    take_state_ = Rebuild(&early_answers_);
    if (!take_state_.ok()) return;
  }
  if (content) {
    const auto& report = std::get<ReportEvent>(event);
    contents_[{report.assignment, report.update}] = std::move(content);
  }
  taken_.push_back(engine_->Handle(options_.clock->Now(), event));
}

Result<std::vector<AddressedAnswer>> RunCore::Commit() {
  std::vector<AddressedAnswer> answers = std::exchange(early_answers_, {});
  Status status = std::exchange(take_state_, OkStatus());
  std::vector<Step> steps = std::exchange(taken_, {});
  if (status.ok()) status = Execute(std::move(steps), &answers);
  contents_.clear();
  MendFolder();
  if (status.ok()) {
    rebuild_pause_ = kRebuildAfter;
    storage_state_ = OkStatus();
    return answers;
  }
  GoOnFromWhatIsStored(status);
  return status;
}

void RunCore::GoOnFromWhatIsStored(const Status& status) {
  Log(Severity::kError, "storage failed under a step; the run goes on from what is stored when that can be read",
      {{"run_id", id().value()}, {"error", status.message()}});
  engine_.reset();
  storage_state_ = status;
  rebuild_at_ = options_.clock->Now() + rebuild_pause_;
  rebuild_pause_ = std::min<Duration>(2 * rebuild_pause_, kMostRebuildPause);
}

Result<std::vector<AddressedAnswer>> RunCore::Handle(const Event& event, InlineContent content) {
  Take(event, std::move(content));
  return Commit();
}

std::optional<Time> RunCore::NextDeadline() const {
  std::optional<Time> next = engine_ ? engine_->NextDeadline() : NotLaterThanIn(kMostRebuildPause, rebuild_at_);
  if (folder_state_.ok()) return next;
  const Time mend = NextMend();
  return next ? std::min(*next, mend) : mend;
}

// The rows of all steps and the contents of the updates they accept, in one transaction.
Status RunCore::Write(const std::vector<Step>& steps) {
  std::vector<Record> writes;
  std::vector<SmallUpdate> updates;
  for (const Step& step : steps) {
    writes.insert(writes.end(), step.writes.begin(), step.writes.end());
    for (const Effect& effect : step.effects) {
      const auto* fold = std::get_if<FoldEffect>(&effect);
      if (fold == nullptr) continue;
      const auto content = contents_.find({fold->assignment.id, fold->assignment.update});
      if (content != contents_.end()) updates.push_back({fold->assignment.id, content->second});
    }
  }
  const Status written = options_.store->Apply(writes, updates);
  if (!written.ok() && !HEDDLE_PLANTED(kAnswerAfterFailedWrite)) return written;
  for (const Step& step : steps) NoteOpenAssignments(step);
  return OkStatus();
}

// Effects may be events of their own (a model is ready), which make further steps.
Status RunCore::Execute(std::vector<Step> steps, std::vector<AddressedAnswer>* answers) {
  while (!steps.empty()) {
    HEDDLE_RETURN_IF_ERROR(Write(steps));
    std::vector<Event> next;
    for (const Step& step : steps) {
      for (const Effect& effect : step.effects) {
        std::visit([&](const auto& e) { On(e, answers, &next); }, effect);
      }
    }
    HEDDLE_RETURN_IF_ERROR(std::exchange(storage_, OkStatus()));
    steps.clear();
    for (const Event& event : next) steps.push_back(engine_->Handle(options_.clock->Now(), event));
  }
  return OkStatus();
}

// ---- effects for devices ----

void RunCore::On(const AssignEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>*) {
  const AssignmentRecord& a = effect.assignment;
  const Result<AdapterBlobs> adapter = ViewOf(effect.parent, recipe_.ViewFor(a.device, a.round, a.layers));
  if (!adapter.ok()) {
    Log(Severity::kError, "the model of the round is not in the blobs",
        {{"run_id", id().value()}, {"error", adapter.status().message()}});
    answers->push_back({effect.token, Unavailable("the coordinator has lost the model of this round")});
    return;
  }
  // What the device is told counts, also where it could not be read when the assignment was noted.
  open_assignments_->SetStart(a.id, protocol::DigestOf(adapter->ledger ? *adapter->ledger : adapter->model).value());
  v1::CheckinResponse response;
  v1::TaskAssignment* out = response.mutable_assignment();
  out->set_assignment_id(a.id.value());
  out->set_run_id(a.run.value());
  out->set_round(a.round);
  out->set_attempt(a.attempt);
  out->set_deadline_unix_us(ToUnixMicros(effect.deadline));
  *out->mutable_plan() = MakeTaskPlan(recipe_, material_, a.round, *adapter, a.device, a.layers);
  answers->push_back({effect.token, std::move(response)});
}

void RunCore::On(const RejectEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>*) {
  answers->push_back({effect.token, protocol::MakeRejection(ReasonOf(effect.reason), effect.retry_after)});
}

void RunCore::On(const VerdictEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>*) {
  answers->push_back({effect.token, ResponseOf(effect)});
}

void RunCore::On(const UnknownAssignmentEffect& effect, std::vector<AddressedAnswer>* answers, std::vector<Event>*) {
  answers->push_back({effect.token, UnknownStatus(effect)});
}

// By an engine that never acts on its first step: what cannot be read is not needed to end.
Result<RunState> RunCore::StopUnready(const std::string& reason) {
  HEDDLE_ASSERT(!ready(), "an engine that is there stops its run itself");
  const Time now = options_.clock->Now();
  HEDDLE_ASSIGN_OR_RETURN(Snapshot snapshot, options_.store->LoadSnapshot(id()));
  Step first;
  HEDDLE_ASSIGN_OR_RETURN(Engine engine, Engine::Restore(origin_.spec, std::move(snapshot), now, &first));
  const Step last = engine.Handle(now, StopRunEvent{reason});
  std::vector<Record> writes = first.writes;
  writes.insert(writes.end(), last.writes.begin(), last.writes.end());
  HEDDLE_RETURN_IF_ERROR(options_.store->Apply(writes));
  open_assignments_->Clear();
  for (const Effect& effect : last.effects) {
    if (const auto* round = std::get_if<RoundEndedEffect>(&effect)) On(*round, nullptr, nullptr);
  }
  On(RunEndedEffect{engine.run()}, nullptr, nullptr);
  return engine.run().state;
}

// ---- questions ----

bool RunCore::Holds(const AssignmentId& id) const { return engine_ && engine_->assignments().contains(id); }

bool RunCore::IsOpen(const AssignmentId& id, const DeviceId& device) const {
  if (!engine_) return false;
  auto found = engine_->assignments().find(id);
  return found != engine_->assignments().end() && found->second.device == device &&
         found->second.state == AssignmentState::kOpen;
}

RunProgress RunCore::Progress() const {
  RunProgress out;
  out.rounds = origin_.spec.rounds;
  out.cohort_size = SizesOf(origin_.spec, 1).cohort_size;
  out.max_update_bytes = origin_.spec.max_update_bytes;
  out.last_train_loss = last_train_loss_;
  out.loss_stalled = loss_watch_.stalled();
  const Traffic now = TrafficNow();
  out.traffic = {now.down - start_traffic_.down, now.up - start_traffic_.up};
  out.storage_error = storage_state_.message();
  if (!engine_) {
    out.run = taken_up_;
    out.round = std::min(taken_up_.committed_rounds + 1, out.rounds);
    out.attempt = 1;
    return out;
  }
  out.run = engine_->run();
  out.waiting = engine_->waiting();
  out.open = engine_->open();
  out.accepted = engine_->accepted();
  if (const auto& round = engine_->round()) {
    out.round = round->round;
    out.attempt = round->attempt;
    out.phase = round->phase;
    out.cohort_size = SizesOf(origin_.spec, round->round).cohort_size;
  }
  return out;
}

Result<AddressedAnswer> AnswerReportWithoutRun(Store& store, Time now, const ReportEvent& event) {
  const Step step = Engine::HandleReportWithoutRun(now, event);
  if (!step.writes.empty()) HEDDLE_RETURN_IF_ERROR(store.Apply(step.writes));
  for (const Effect& effect : step.effects) {
    if (const auto* verdict = std::get_if<VerdictEffect>(&effect)) {
      return AddressedAnswer{verdict->token, ResponseOf(*verdict)};
    }
    if (const auto* unknown = std::get_if<UnknownAssignmentEffect>(&effect)) {
      return AddressedAnswer{unknown->token, UnknownStatus(*unknown)};
    }
  }
  return Internal("a report was left without an answer");
}

}  // namespace heddle::coordinator
