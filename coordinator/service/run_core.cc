#include "coordinator/service/run_core.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/file.h"
#include "common/logging.h"
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

// A folder that could not be written: what stands in its way lasts minutes, and an attempt costs a read of the history.
constexpr Duration kMendFolderEvery = std::chrono::seconds(5);
// After storage failed under a step.
constexpr Duration kRebuildAfter = std::chrono::seconds(1), kMostRebuildPause = std::chrono::seconds(15);
// Bytes of checkpoints that are written before devices are answered again.
constexpr uint64_t kMendAtOnce = uint64_t{64} << 20;

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
  std::vector<AddressedAnswer> none;
  HEDDLE_RETURN_IF_ERROR(core->Rebuild(&none));
  HEDDLE_RETURN_IF_ERROR(core->RecallLosses());
  HEDDLE_FAILPOINT(kRecoveryRunRebuilt);
  return core;
}

// What Create and Resume have in common: the folder and what devices may fetch.
Status RunCore::TakeUp(const StoredRun& stored) {
  origin_ = stored.origin;
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

Result<bool> RunCore::WriteFolder(uint64_t most_bytes) {
  HEDDLE_ASSIGN_OR_RETURN(const StoredRun stored, options_.store->GetRun(id()));
  HEDDLE_ASSIGN_OR_RETURN(const bool whole,
                          files_.Repair(id(), *options_.store, *options_.blobs, material_.adapter_config_json,
                                        unwritten_traffic_, most_bytes));
  if (!whole) return false;
  const Traffic now = TrafficNow();
  HEDDLE_RETURN_IF_ERROR(
      files_.WriteRun(stored.run, origin_, {now.down - start_traffic_.down, now.up - start_traffic_.up}));
  return true;
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
    // Devices are at work on it: what they started from must be known.
    if (Status status = NoteOpen(assignment, engine_->round()->parent); !status.ok()) {
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
    return answers;
  }
  GoOnFromWhatIsStored(status);
  return status;
}

void RunCore::GoOnFromWhatIsStored(const Status& status) {
  Log(Severity::kError, "storage failed under a step; the run goes on from what is stored",
      {{"run_id", id().value()}, {"error", status.message()}});
  engine_.reset();
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
  const Time mend = NotLaterThanIn(kMendFolderEvery, mend_folder_at_);
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

Status RunCore::NoteOpen(const AssignmentRecord& assignment, const Sha256Digest& parent) {
  const DeviceView of = recipe_.ViewFor(assignment.device, assignment.round, assignment.layers);
  const Result<Sha256Digest> start = StartOf(parent, of);
  // The device may ask again while it is at work and the model cannot be read: what it was told still holds.
  if (!start.ok() && open_assignments_->Find(assignment.id)) return start.status();
  open_assignments_->Add(assignment, start.ok() ? std::optional(*start) : std::nullopt, of);
  return start.status();
}

// Step by step, in order: an assignment that is given out and closed within one commit is not open afterwards.
void RunCore::NoteOpenAssignments(const Step& step) {
  for (const Effect& effect : step.effects) {
    const auto* assign = std::get_if<AssignEffect>(&effect);
    if (assign == nullptr) continue;
    const AssignmentRecord& given = assign->assignment;
    static_cast<void>(ViewOf(assign->parent, recipe_.ViewFor(given.device, given.round, given.layers)));
    // Where the model cannot be read, the assignment is answered so (On AssignEffect), and a report on it told to wait.
    static_cast<void>(NoteOpen(given, assign->parent));
  }
  for (const Record& record : step.writes) {
    const auto* assignment = std::get_if<AssignmentRecord>(&record);
    if (assignment != nullptr && assignment->state != AssignmentState::kOpen) open_assignments_->Remove(assignment->id);
  }
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

// ---- effects for people: a failure here is logged, and mended when the folder can be written again ----

void RunCore::FolderIs(Status status) {
  const bool new_trouble = !status.ok() && status.message() != folder_state_.message();
  if (!HEDDLE_PLANTED(kForgetFolder)) folder_state_ = std::move(status);
  mend_folder_at_ = options_.clock->Now() + kMendFolderEvery;
  if (!new_trouble) return;
  Log(Severity::kError, "the run folder could not be written; it is tried again",
      {{"run_id", id().value()}, {"error", folder_state_.message()}});
}

void RunCore::MendFolder(bool now_too) {
  if (folder_state_.ok()) return;
  const Time now = options_.clock->Now();
  if (!now_too && now < NotLaterThanIn(kMendFolderEvery, mend_folder_at_)) return;
  const Result<bool> whole = WriteFolder(kMendAtOnce);
  if (whole.ok() && !*whole) {
    mend_folder_at_ = now;  // the rest of it, after what has come in meanwhile
    return;
  }
  FolderIs(whole.status());
  if (!folder_state_.ok()) return;
  unwritten_traffic_.clear();
  Log(Severity::kInfo, "the run folder is whole again", {{"run_id", id().value()}});
}

Time RunCore::NotLaterThanIn(Duration most, Time at) const {
  const Time now = options_.clock->Now();
  return at > now + most ? now : at;
}

// After a failure everything goes by way of MendFolder: a line must not be added to a torn one, and lines are in order.
void RunCore::WriteRound(const RoundEndedEffect& effect, const Traffic& traffic) {
  const RoundRecord& round = effect.round;
  const bool committed = round.phase == RoundPhase::kCommitted;
  if (folder_state_.ok()) {
    const RoundFigures figures = committed ? FiguresOfModel(round.model, *options_.blobs) : RoundFigures{};
    Status status = files_.AppendHistory(round, HistoryLine(round, effect.assignments, traffic, figures));
    if (committed && status.ok()) {
      status = files_.WriteCheckpoint(round.round, material_.adapter_config_json, round.model, *options_.blobs);
    }
    FolderIs(std::move(status));
    if (folder_state_.ok()) return;
  }
  unwritten_traffic_[{round.round, round.attempt}] = traffic;
}

void RunCore::On(const RoundEndedEffect& effect, std::vector<AddressedAnswer>*, std::vector<Event>*) {
  const RoundRecord& round = effect.round;
  const Traffic now = TrafficNow();
  const Traffic traffic{now.down - round_traffic_.down, now.up - round_traffic_.up};
  const bool committed = round.phase == RoundPhase::kCommitted;
  WriteRound(effect, traffic);
  const RoundLosses losses = LossesOf(effect.assignments);
  if (committed) {
    PublishAround(round.parent, round.model);
    last_train_loss_ = losses.told() ? std::optional(losses.train_loss) : std::nullopt;
    Log(Severity::kInfo, "round committed",
        {{"run_id", id().value()},
         {"round", round.round},
         {"attempt", round.attempt},
         {"updates", losses.num_accepted},
         {"train_loss", losses.train_loss},
         {"seconds", ToSeconds(round.ended_at - round.started_at)},
         {"model_sha256", round.model.ToHex()}});
    if (losses.told() && loss_watch_.Add(losses.train_loss)) {
      Log(Severity::kWarning, loss_watch_.Sentence(recipe_.train.zo().zo_eps() > 0),
          {{"run_id", id().value()}, {"round", round.round}});
    }
  } else {
    Log(Severity::kWarning, "round abandoned",
        {{"run_id", id().value()}, {"round", round.round}, {"attempt", round.attempt}, {"reason", round.reason}});
  }
  if (options_.observer.round_ended) options_.observer.round_ended(round, effect.assignments);
}

void RunCore::On(const RunEndedEffect& effect, std::vector<AddressedAnswer>*, std::vector<Event>*) {
  HEDDLE_FAILPOINT(kRunEndUnwritten);
  if (folder_state_.ok()) {
    const Result<bool> whole = WriteFolder(kMendAtOnce);
    FolderIs(whole.ok() && !*whole ? Unavailable("there is more to write") : whole.status());
  } else {
    MendFolder(true);
  }
  Log(Severity::kInfo, "run ended",
      {{"run_id", id().value()},
       {"state", StateName(effect.run.state)},
       {"rounds", effect.run.committed_rounds},
       {"reason", effect.run.reason},
       {"model_sha256", effect.run.model.ToHex()}});
  aggregator_.reset();
  if (options_.observer.run_ended) options_.observer.run_ended(effect.run);
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
  if (!engine_) {
    out.run.id = id();
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
