#include "tests/unit/coordinator/upgrade/small_run.h"

#include <stdexcept>
#include <variant>

#include "common/safetensors.h"
#include "protocol/validate.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::coordinator::testing {
namespace {

namespace fs = std::filesystem;

void Need(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}
template <typename T>
T Need(Result<T> result) {
  Need(result.status());
  return *std::move(result);
}

constexpr const char* kRecipe = R"(name = "upgrade"
seed = 11
[model]
base = "base"
[lora]
r = 1
target_modules = ["q_proj"]
[train]
local_steps = 2
batch_size = 2
sequence_length = 16
[strategy]
num_server_rounds = 3
cohort_size = 2
min_reports = 2
max_abs = 4.0
)";

model::ModelSpec Base() {
  model::ModelSpec config = model::SmallestConfig(260);
  config.max_position_embeddings = 16;
  return config;
}

}  // namespace

Status SmallRun::Open() {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(state_));
  HEDDLE_ASSIGN_OR_RETURN(store_, Store::Open(state_ / "coordinator.db"));
  BlobStoreOptions options;
  options.root = state_;
  HEDDLE_ASSIGN_OR_RETURN(blobs_, BlobStore::Open(std::move(options)));
  return OkStatus();
}

RunCoreOptions SmallRun::Options() {
  RunCoreOptions options;
  options.store = store_.get();
  options.blobs = blobs_.get();
  options.clock = &clock_;
  options.runs_folder = state_ / "runs";
  options.traffic = [this] { return traffic_; };
  return options;
}

Submission SmallRun::Prepare(const fs::path& folder, const std::map<std::string, std::string>& overrides) {
  model::WriteModelFolder(folder / "base", Base());
  return {.recipe_text = kRecipe, .folder = folder, .overrides = overrides};
}

void SmallRun::Create(const fs::path& folder, const std::map<std::string, std::string>& overrides) {
  core_ = Need(RunCore::Create(Options(), Prepare(folder, overrides)));
}

void SmallRun::Resume() {
  const auto active = Need(store_->ActiveRun());
  if (!active) throw std::runtime_error("no run is running");
  const Snapshot snapshot = Need(store_->LoadSnapshot(*active));
  if (snapshot.round) clock_.NotBefore(snapshot.round->selected_at + Seconds(5));
  core_ = Need(RunCore::Resume(Options(), *active));
}

void SmallRun::Feed(const Event& event) {
  clock_.Step();
  traffic_.down += 3;
  traffic_.up += 1;
  for (AddressedAnswer& item : Need(core_->Handle(event))) {
    const auto who = asked_.find(item.token);
    if (who == asked_.end()) continue;
    if (const auto* status = std::get_if<Status>(&item.answer)) Need(*status);
    if (auto* report = std::get_if<v1::ReportResponse>(&item.answer)) verdicts_[who->second] = *report;
    auto* checkin = std::get_if<v1::CheckinResponse>(&item.answer);
    if (checkin != nullptr && checkin->has_assignment()) tasks_[who->second] = checkin->assignment();
    asked_.erase(who);
  }
}

void SmallRun::Checkin(const std::string& device) {
  const PollToken token = next_token_++;
  asked_[token] = device;
  Feed(CheckinEvent{.token = token, .device = DeviceId(device), .local_tasks = {"lora_sft"}});
}

void SmallRun::CheckinBoth() {
  Checkin(kFirst);
  Checkin(kSecond);
}

void SmallRun::Report(const std::string& device) {
  const auto task = tasks_.find(device);
  if (task == tasks_.end()) throw std::runtime_error(device + " has no task");
  const v1::TaskAssignment assignment = task->second;
  tasks_.erase(task);
  const auto parent = Need(blobs_->Map(Need(protocol::DigestOf(assignment.plan().adapter(1)))));
  const SafetensorsFile file = Need(ParseSafetensors(parent->bytes(), parent));
  StateDict update;
  for (const auto& [name, tensor] : file.tensors) {
    // Differs with round and device, so that a lost or doubled update shows in the model.
    const float value = 0.01F * static_cast<float>(assignment.round()) + (device == kFirst ? 0.001F : 0.002F);
    const std::vector<float> values(static_cast<size_t>(tensor.numel()), value);
    update.emplace(name, Tensor::FromFloats(tensor.shape(), values));
  }
  const std::string bytes = SerializeSafetensors(update);
  ReportEvent report;
  report.token = next_token_++;
  report.assignment = AssignmentId(assignment.assignment_id());
  report.device = DeviceId(device);
  report.completed = true;
  report.update = Need(blobs_->Put(bytes));
  report.update_bytes = bytes.size();
  report.metrics = {.num_examples = 4, .num_tokens = 64, .steps = 2, .train_loss = 2.5};
  asked_[report.token] = device;
  Feed(report);
  if (verdicts_[device].verdict() != v1::REPORT_VERDICT_ACCEPTED) {
    throw std::runtime_error("the update of " + device + " was not accepted: " + verdicts_[device].ShortDebugString());
  }
}

void SmallRun::Round() {
  CheckinBoth();
  Report(kFirst);
  Report(kSecond);
}

void SmallRun::Tick() { Feed(TickEvent{}); }

}  // namespace heddle::coordinator::testing
