#include "tests/simulation/system/machine.h"

#include <charconv>
#include <limits>
#include <utility>
#include <variant>

#include "client/daemon/base_part.h"
#include "client/daemon/link.h"
#include "protocol/validate.h"

namespace heddle::system_simulation {

using client::CallFailed;
using client::SessionOptions;
using client::Trained;

namespace {

constexpr int kMaxPatches = 64;

std::optional<uint64_t> Number(const Network::Answer& answer, std::string_view name) {
  const auto text = answer.Header(name);
  uint64_t value = 0;
  if (!text) return std::nullopt;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  return error == std::errc() && end == text->data() + text->size() ? std::optional(value) : std::nullopt;
}

// The daemon's own reading of a refusal.
CallFailed FailureOf(const Network::Answer& answer) {
  protocol::HttpResponse response;
  response.status = answer.status;
  response.headers = answer.headers;
  response.body = answer.body;
  return client::FailureOf(response);
}

// What a device fetches whole, as the daemon has it.
std::vector<v1::BlobRef> WholeFiles(const v1::TaskPlan& plan) {
  std::vector<v1::BlobRef> files;
  const auto of_base = client::WholeBlobs(plan).value();
  for (const client::CachedBlob& blob : of_base) {
    files.push_back(protocol::MakeBlobRef(blob.digest, blob.size_bytes, blob.name));
  }
  files.insert(files.end(), plan.adapter().begin(), plan.adapter().end());
  return files;
}

}  // namespace

Machine::Machine(size_t number, size_t identity, Timeline& time, Network& network, SystemChecker& checker,
                 Nature nature, uint64_t seed)
    : number_(number),
      time_(time),
      network_(network),
      checker_(checker),
      nature_(nature),
      seed_(DeriveSeed(seed, "machine", std::to_string(number))) {
  peer_.authenticated = true;
  peer_.device = Stage::DeviceName(identity).value();
  peer_.serial_hex = Stage::Serial(identity);
}

// ---- life ----

void Machine::Start(Memory memory) {
  ++life_;
  if (memory == Memory::kLost) kept_ = {};
  if (memory == Memory::kBackup) kept_ = backup_;
  SessionOptions options;
  options.seed = seed_ + life_;
  options.backoff_max = Seconds(15);
  options.max_inline_update_bytes = nature_.inline_bytes;
  session_ = std::make_unique<client::Session>(options);
  stopped_.reset();
  pending_.clear();
  upload_.reset();
  forms_ = {};
  call_ = 0;
  training_ = waiting_ = fresh_ = false;
  client::Started started;
  started.unreported = kept_.journal;
  Tell(std::move(started));
  if (eligible_) Tell(client::EligibilityChanged{true, ""});
}

void Machine::Vanish() {
  if (call_ != 0) network_.Vanish(std::exchange(call_, 0));
  ++life_;
  session_.reset();
}

void Machine::SetEligible(bool eligible) {
  eligible_ = eligible;
  if (alive()) Tell(client::EligibilityChanged{eligible, "its owner uses it"});
}

void Machine::Tell(client::Event event) {
  pending_.push_back(std::move(event));
  if (std::exchange(dispatching_, true)) return;
  while (!pending_.empty() && session_ != nullptr) {
    const client::Event next = std::move(pending_.front());
    pending_.pop_front();
    for (const client::Action& action : session_->Handle(next)) {
      std::visit([this](const auto& a) { Do(a); }, action);
    }
  }
  dispatching_ = false;
}

void Machine::Later(Duration delay, std::function<void()> what) {
  time_.After(delay, [this, life = life_, operation = operation_, what = std::move(what)] {
    if (life == life_ && operation == operation_) what();
  });
}

void Machine::Call(Request request, Network::Heard heard) {
  call_ = network_.Send(
      number_, peer_, std::move(request),
      [this, life = life_, operation = operation_, heard = std::move(heard)](Result<Network::Answer> answer) {
        if (life != life_ || operation != operation_) return;
        call_ = 0;
        heard(std::move(answer));
      });
}

void Machine::Failed(Status status) {
  CallFailed failed;
  failed.status = std::move(status);
  Tell(std::move(failed));
}

void Machine::Failed(const Result<Network::Answer>& answer) {
  if (!answer.ok()) return Failed(answer.status());
  Tell(FailureOf(*answer));
}

// ---- actions ----

void Machine::Do(const client::ProbeWorker&) {
  ++operation_;
  Later(Seconds(0.05), [this] {
    client::WorkerProbed probed;
    probed.local_tasks = {"lora_sft", "sft"};
    if (checker_.has_ledger()) probed.local_tasks.emplace_back("zo_ledger");
    if (checker_.has_layers()) probed.local_tasks.emplace_back("part_sft");
    Tell(std::move(probed));
  });
}

void Machine::Do(const client::CheckIn& action) {
  ++operation_;
  std::optional<Sha256Digest> ledger;
  if (!kept_.last_ledger.empty()) ledger = Sha256Digest::FromBytes(kept_.last_ledger).value();
  v1::CheckinRequest message = forms_.Checkin(action.local_tasks, 0, ledger);
  if (number_ % 2 == 1) message.clear_short_forms();  // one of before
  Call({"POST", "/v1/checkin", {}, message.SerializeAsString(), "check-in"}, [this](Result<Network::Answer> answer) {
    if (!answer.ok() || answer->status != 200) return Failed(answer);
    auto parsed = protocol::ParseMessage<v1::CheckinResponse>(answer->body);
    if (!parsed.ok()) return Failed(parsed.status());
    if (parsed->rejection().reason() == v1::REJECTION_REASON_UNSUPPORTED_TASK) forms_.Forget();
    if (parsed->has_assignment()) {
      std::string patch;
      auto whole = forms_.Take(std::move(*parsed->mutable_assignment()), &patch);
      if (!whole.ok()) return Failed(whole.status());
      for (const v1::BlobRef& blob : whole->plan().adapter()) {
        if (blob.name() == zo::kLedgerFile && !patch.empty()) TakePatch(blob, patch);
      }
      *parsed->mutable_assignment() = *std::move(whole);
    }
    client::CheckinAnswered event;
    event.response = *std::move(parsed);
    Tell(std::move(event));
  });
}

void Machine::Do(const client::Fetch& action) {
  ++operation_;
  FetchNext(action.assignment);
}

void Machine::FetchNext(v1::TaskAssignment task) {
  for (const v1::BlobRef& blob : WholeFiles(task.plan())) {
    if (kept_.cache.contains(blob.sha256())) continue;
    if (blob.name() == zo::kLedgerFile && !kept_.last_ledger.empty()) return FetchLedger(task, blob);
    const uint64_t first = blob.size_bytes() > 1 && time_.Chance(nature_.splits) ? blob.size_bytes() / 2 : 0;
    return FetchRange(task, blob, "", first);
  }
  if (client::FetchesPart(task.plan())) return FetchPart(task);
  Tell(client::Fetched{});
}

// The rest of a device that computes with a part of the base model: of its file the tensors that it needs.
void Machine::FetchPart(const v1::TaskAssignment& task) {
  const auto& trees = task.plan().tensor_trees();
  const auto& layers = task.plan().train().layers();
  std::string which;
  for (const v1::BlobRef& tree : trees) which += tree.sha256();
  for (const uint32_t layer : layers) which += ' ' + std::to_string(layer);
  Tensors& tensors = parts_[which];
  if (tensors == nullptr) {
    auto part = client::PartOf(task.plan(), [this](const client::CachedBlob& blob, size_t) -> Result<std::string> {
      const auto found = kept_.places.find(std::string(blob.digest.raw()));
      if (found == kept_.places.end()) return NotFound(blob.name + " is not at hand");
      return found->second;
    });
    if (!part.ok()) return checker_.Breach("a device cannot tell its part: " + part.status().ToString());
    tensors = std::make_shared<const std::vector<model::TensorFile>>(std::move(part->tensors));
  }
  FetchTensor(task, tensors, 0);
}

// Each in one range, to be what the tree says.
void Machine::FetchTensor(const v1::TaskAssignment& task, Tensors tensors, size_t at) {
  while (at < tensors->size() && kept_.cache.contains(std::string((*tensors)[at].digest.raw()))) ++at;
  if (at == tensors->size()) return Tell(client::Fetched{});
  const model::TensorFile& next = (*tensors)[at];
  Request request{"GET", "/v1/blobs/" + next.source_digest.ToHex(), {}, "", "tensor"};
  request.headers.emplace_back(
      "Range", "bytes=" + std::to_string(next.begin) + "-" + std::to_string(next.begin + next.bytes - 1));
  Call(std::move(request), [this, task, tensors = std::move(tensors), at](Result<Network::Answer> answer) {
    if (!answer.ok() || answer->status != 206) return Failed(answer);
    const model::TensorFile& asked = (*tensors)[at];
    if (Sha256(asked.head + answer->body) != asked.digest)
      return checker_.Breach("a device was sent other bytes than the tensor that it asked for");
    ++checker_.counts.tensors;
    kept_.cache.emplace(asked.digest.raw());
    FetchTensor(task, tensors, at + 1);
  });
}

// Fetches on from `have`, up to `until` (0: to the end).
void Machine::FetchRange(const v1::TaskAssignment& task, const v1::BlobRef& blob, std::string have, uint64_t until) {
  const Sha256Digest digest = protocol::DigestOf(blob).value();
  Request request{"GET", "/v1/blobs/" + digest.ToHex(), {}, "", "fetch"};
  if (!have.empty() || until > 0) {
    request.headers.emplace_back("Range", "bytes=" + std::to_string(have.size()) + "-" +
                                              (until > 0 ? std::to_string(until - 1) : std::string()));
  }
  Call(std::move(request), [this, task, blob, have = std::move(have), digest](Result<Network::Answer> answer) {
    if (!answer.ok() || (answer->status != 200 && answer->status != 206)) return Failed(answer);
    const std::string all = answer->status == 206 ? have + answer->body : answer->body;
    if (all.size() < blob.size_bytes()) return FetchRange(task, blob, all, 0);
    if (Sha256(all) != digest) return checker_.Breach("a device was sent other bytes than it asked for");
    Got(blob, all);
    FetchNext(task);
  });
}

void Machine::Got(const v1::BlobRef& blob, const std::string& bytes) {
  kept_.cache.insert(blob.sha256());
  const bool place = blob.name() == "config.json" || blob.name().ends_with(model::kTensorTreeEnding);
  if (place && checker_.has_layers()) kept_.places[blob.sha256()] = bytes;
  if (blob.name() != zo::kLedgerFile) return;
  kept_.ledgers[blob.sha256()] = bytes;
  kept_.last_ledger = blob.sha256();
}

// What has changed since the newest ledger that it has; where that cannot be had, the whole.
void Machine::FetchLedger(const v1::TaskAssignment& task, const v1::BlobRef& blob) {
  const auto hex = [](const std::string& raw) { return Sha256Digest::FromBytes(raw).value().ToHex(); };
  Request request{"GET", "/v1/blobs/" + hex(blob.sha256()) + "/from/" + hex(kept_.last_ledger), {}, "", "patch"};
  Call(std::move(request), [this, task, blob](Result<Network::Answer> answer) {
    if (!answer.ok()) return Failed(answer);
    if (answer->status != 200) return FetchRange(task, blob, "", 0);
    TakePatch(blob, answer->body);
    FetchNext(task);
  });
}

void Machine::TakePatch(const v1::BlobRef& blob, const std::string& patch) {
  if (kept_.cache.contains(blob.sha256())) return;
  ++checker_.counts.patches;
  const auto earlier = zo::DecodeLedger(std::as_bytes(std::span(kept_.ledgers[kept_.last_ledger])));
  const auto later = zo::ApplyPatch(*earlier, std::as_bytes(std::span(patch)));
  const std::string made = later.ok() ? zo::EncodeLedger(*later) : "";
  if (Sha256(made).raw() != blob.sha256()) return checker_.Breach("a patch leads to another ledger than was asked for");
  Got(blob, made);
}

void Machine::Do(const client::Train& action) {
  ++operation_;
  training_ = true;
  Later(time_.Between(2 * nature_.slowness, 14 * nature_.slowness), [this, task = action.assignment] {
    training_ = false;
    EndTraining(task);
  });
}

MadeUpdate Machine::Made(const v1::TaskAssignment& task, uint64_t key, Flaw flaw) {
  const uint64_t most = task.plan().max_update_bytes();
  if (checker_.has_ledger()) {
    std::string ledger;
    for (const v1::BlobRef& blob : task.plan().adapter()) {
      if (blob.name() == zo::kLedgerFile) ledger = kept_.ledgers[blob.sha256()];
    }
    return MakeScalars(task.plan().train(), checker_.ProofFor(task, ledger), key, flaw, most);
  }
  const auto& words = task.plan().train().rules().upload();
  const auto planned = privacy::ParseUpload(std::vector<std::string>(words.begin(), words.end()));
  const auto stages = compression::Pipeline::Parse(planned->rest);
  const compression::Compressor compressor(*stages, task.plan().seed());
  const StateDictSpec sent = checker_.SentFor(device(), task, key, &flaw);
  return MakeUpdate(sent, key, flaw, most, stages->empty() ? nullptr : &compressor, planned->privacy,
                    privacy::TaskSecret(device(), task.plan().SerializeAsString()));
}

void Machine::EndTraining(const v1::TaskAssignment& task) {
  Trained trained;
  trained.message = "no memory left";
  if (time_.Chance(nature_.interrupts)) {
    trained.outcome = Trained::Outcome::kInterrupted;
    return Tell(std::move(trained));
  }
  if (time_.Chance(nature_.fails)) return Tell(std::move(trained));
  Flaw flaw = Flaw::kNone;
  if (time_.Chance(nature_.flaws)) flaw = static_cast<Flaw>(1 + time_.Below(kNumCommonFlaws - 2));
  if (flaw != Flaw::kNone && checker_.has_layers() && time_.Chance(0.5)) {
    flaw = static_cast<Flaw>(kNumCommonFlaws + time_.Below(kNumLayerFlaws));
  }
  // One that is too long the session itself stops, and reports that the task failed.
  if (const uint64_t draw = DeriveSeed(seed_, "rare flaw", task.assignment_id());
      flaw != Flaw::kNone && MakesRareFlaws(seed_) && draw % 2 == 0) {
    flaw = draw % 4 == 0 ? Flaw::kTooLong : Flaw::kWrongBase;
  }
  // Of a wrong base it is another update than the task's good one: their reports tell of different digests.
  kept_.update =
      Made(task, DeriveSeed(seed_, flaw == Flaw::kWrongBase ? "stale" : "train", task.assignment_id()), flaw);
  checker_.Made(device(), task.assignment_id(), kept_.update);
  if (flaw != Flaw::kNone) time_.Note(device() + " makes an update with the flaw: " + FlawName(kept_.update.flaw));
  trained.outcome = Trained::Outcome::kCompleted;
  trained.message.clear();
  trained.update = protocol::MakeBlobRef(kept_.update.digest, kept_.update.size_bytes, "update.safetensors");
  trained.metrics.set_num_examples(kept_.update.num_examples);
  trained.metrics.set_steps(8);
  const auto& words = task.plan().train().rules().upload();
  const bool told =
      privacy::ParseUpload(std::vector<std::string>(words.begin(), words.end()))->privacy.noise_multiplier == 0;
  trained.metrics.set_train_loss(told ? 2.5 : std::numeric_limits<double>::quiet_NaN());
  fresh_ = true;
  Tell(std::move(trained));
}

// ---- upload and report: as client/daemon/link.cc does it ----

void Machine::Do(const client::Upload& action) {
  ++operation_;
  uploading_ = action.report;
  if (action.anew) upload_.reset();
  const bool fresh = std::exchange(fresh_, false) || action.anew;
  if (!upload_ || upload_->assignment != uploading_.assignment_id()) {
    upload_ = UploadState{.assignment = uploading_.assignment_id(), .location = {}, .asked = !fresh};
  }
  if (upload_->location.empty()) return BeginUpload(!std::exchange(upload_->asked, true));
  Request head{"HEAD", upload_->location, {}, "", "offset"};
  Call(std::move(head), [this](Result<Network::Answer> answer) {
    if (answer.ok() && answer->status == 404) {
      upload_->location.clear();
      return BeginUpload(false);
    }
    UploadAnswered(std::move(answer), 0);
  });
}

void Machine::BeginUpload(bool whole) {
  Request request{"POST", "/v1/uploads", {}, "", "upload"};
  request.headers = {{"Heddle-Assignment", uploading_.assignment_id()},
                     {"Heddle-Digest", kept_.update.digest.ToHex()},
                     {"Upload-Length", std::to_string(kept_.update.bytes.size())}};
  if (whole) request.body = kept_.update.bytes;
  Call(std::move(request), [this](Result<Network::Answer> answer) { UploadAnswered(std::move(answer), 0); });
}

void Machine::Patch(uint64_t offset, int patches) {
  Request request{"PATCH", upload_->location, {}, kept_.update.bytes.substr(offset), "go on with the upload"};
  // The last header is the world's own: the coordinator does not know it, the checker does.
  request.headers = {{"Upload-Offset", std::to_string(offset)}, {"Simulated-Digest", kept_.update.digest.ToHex()}};
  Call(std::move(request),
       [this, patches](Result<Network::Answer> answer) { UploadAnswered(std::move(answer), patches + 1); });
}

void Machine::UploadAnswered(Result<Network::Answer> answer, int patches) {
  if (!answer.ok()) return Failed(answer);
  const bool conflict = answer->status == 409 && Number(*answer, "Upload-Offset");
  if (!conflict && (answer->status < 200 || answer->status > 299)) {
    if (answer->status == 404 || answer->status == 422) upload_->location.clear();
    return Failed(answer);
  }
  if (const auto location = answer->Header("Location")) upload_->location = std::string(*location);
  if (answer->Header("Upload-Complete") == "1") return Tell(client::Uploaded{});
  const auto at = Number(*answer, "Upload-Offset");
  if (!at || *at > kept_.update.bytes.size() || upload_->location.empty()) {
    return checker_.Breach("an answer to an upload makes no sense");
  }
  if (patches == kMaxPatches) return Failed(Unavailable("the upload makes no progress"));
  Patch(*at, patches);
}

void Machine::Do(const client::Report& action) {
  ++operation_;
  v1::ReportRequest report = action.report;
  const bool wrong_base = kept_.update.flaw == Flaw::kWrongBase && report.has_update();
  if (wrong_base) report.set_parent_sha256(std::string(Sha256("another adapter").raw()));
  // A short form names no base: its proof does.
  if (action.with_update && wrong_base) report.set_inline_update(kept_.update.bytes);
  if (action.with_update && !wrong_base) forms_.AddUpdate(kept_.update.bytes, &report);
  std::string body = report.SerializeAsString();
  if (sent_reports_.empty() || sent_reports_.back() != body) sent_reports_.push_back(body);
  Call({"POST", "/v1/reports", {}, std::move(body), "report"}, [this](Result<Network::Answer> answer) {
    if (!answer.ok() || answer->status != 200) return Failed(answer);
    auto parsed = protocol::ParseMessage<v1::ReportResponse>(answer->body);
    if (!parsed.ok()) return Failed(parsed.status());
    client::ReportAnswered event;
    event.response = *std::move(parsed);
    Tell(std::move(event));
  });
}

// ---- the rest ----

void Machine::Do(const client::Wait& action) {
  ++operation_;
  waiting_ = true;
  const auto scaled = std::chrono::duration_cast<Duration>(action.time * nature_.clock);
  Later(scaled, [this] {
    waiting_ = false;
    Tell(client::TimerFired{});
  });
}

void Machine::Do(const client::CancelOperation&) {
  if (call_ != 0) return network_.Cancel(call_);
  if (std::exchange(waiting_, false)) {
    ++operation_;
    return Later(Seconds(0.001), [this] { Tell(client::TimerFired{}); });
  }
  if (!std::exchange(training_, false)) return;
  ++operation_;
  Later(Seconds(0.2), [this] {
    Trained trained;
    trained.outcome = Trained::Outcome::kInterrupted;
    Tell(std::move(trained));
  });
}

void Machine::Do(const client::SaveReport& action) { kept_.journal = action.report; }

void Machine::Do(const client::EndTask&) {
  kept_.journal.reset();
  upload_.reset();
}

void Machine::Do(const client::Note& action) {
  if (action.warning) time_.Note(device() + (number_ >= kDevices ? "'s twin: " : ": ") + action.text);
}

void Machine::Do(const client::Finish& action) {
  stopped_ = action.status;
  time_.Note(device() + " stops: " + action.status.ToString());
  ++operation_;
  call_ = 0;
}

}  // namespace heddle::system_simulation
