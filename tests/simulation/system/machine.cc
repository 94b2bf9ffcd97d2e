#include "tests/simulation/system/machine.h"

#include <charconv>
#include <limits>
#include <utility>
#include <variant>

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
  options.memory_limit_bytes = checker_.MemoryOf(peer_.device);
  session_ = std::make_unique<client::Session>(options);
  stopped_.reset();
  too_large_.reset();
  pending_.clear();
  upload_.reset();
  forms_ = {};
  call_ = 0;
  training_ = waiting_ = fresh_ = false;
  client::Started started;
  if (kept_.journal && unreadable_) {
    ++checker_.counts.happened["journal that cannot be read"];
    kept_.journal.reset();
  }
  started.unreported = kept_.journal;
  Tell(std::move(started));
  if (eligible_) Tell(client::EligibilityChanged{true, ""});
}

void Machine::Vanish() {
  if (call_ != 0) network_.Vanish(std::exchange(call_, 0));
  ++life_;
  session_.reset();
}

void Machine::CutPower() {
  Vanish();
  kept_.CutPower(time_, &checker_.counts.happened);
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

void Machine::Call(Request request, Network::Heard heard, Network::Cut cut) {
  const auto now = [this, life = life_, operation = operation_] { return life == life_ && operation == operation_; };
  Network::Cut received;
  if (cut) {
    received = [now, cut = std::move(cut)](const Network::Answer& head, std::string_view bytes) {
      if (now()) cut(head, bytes);
    };
  }
  call_ = network_.Send(
      number_, peer_, std::move(request),
      [this, now, heard = std::move(heard)](Result<Network::Answer> answer) {
        if (!now()) return;
        call_ = 0;
        heard(std::move(answer));
      },
      std::move(received));
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
  if (too_large_ && (action.memory_bytes == 0 || action.memory_bytes >= *too_large_))
    checker_.Breach(device() + " asks for a task as large as one for which it had no memory");
  checker_.Told(peer_.device, action.memory_bytes);
  v1::CheckinRequest message = forms_.Checkin(action.local_tasks, action.memory_bytes, ledger);
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
  if (task.plan().memory_bytes() > checker_.RealMemoryOf(peer_.device)) {
    ++checker_.counts.happened["task too large"];
    too_large_ = task.plan().memory_bytes();
    trained.out_of_memory = true;
    if (DeriveSeed(seed_, "end without memory", task.assignment_id()) % 2 == 0)
      trained.outcome = Trained::Outcome::kInterrupted;
    return Tell(std::move(trained));
  }
  if (time_.Chance(nature_.interrupts)) {
    trained.outcome = Trained::Outcome::kInterrupted;
    return Tell(std::move(trained));
  }
  if (full_ || unreadable_ || time_.Chance(nature_.fails)) return Tell(std::move(trained));
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
  kept_.removed.reset();
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
  if (unreadable_) return Failed(Internal("cannot read the update"));
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
  if (unreadable_ && action.with_update) return Failed(Internal("cannot read the update"));
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

void Machine::Do(const client::SaveReport& action) {
  if (full_) return;  // the daemon says so and goes on
  kept_.journal = action.report;
  kept_.removed.reset();
}

void Machine::Do(const client::EndTask&) {
  if (kept_.journal) kept_.removed = MachineDisk::Task{std::exchange(kept_.journal, std::nullopt), kept_.update};
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
