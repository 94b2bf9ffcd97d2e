#include "simulator/world/simulation.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <queue>
#include <thread>
#include <utility>
#include <vector>

#include "client/worker/local_task.h"
#include "client/worker/train_plan.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/recipe/base_folder.h"
#include "model/config/registry.h"
#include "model/parts/tensor_tree.h"
#include "protocol/validate.h"
#include "simulator/world/devices.h"
#include "simulator/world/output_folder.h"
#include "simulator/world/spent_updates.h"
#include "simulator/world/training_pool.h"
#include "simulator/world/virtual_clock.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
using coordinator::RunCore;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kAdapterFile = "adapter_model.safetensors";
// A device's task of a round, and so its update, is the same in every attempt: where each one is refused, only tasks
// that were interrupted before can still change that.
constexpr uint32_t kMostRefusedAttempts = 10;

struct Device {
  DeviceSpec spec;
  std::set<Sha256Digest> cache;        // blobs it has fetched
  std::optional<Sha256Digest> ledger;  // of a run with shared seeds: the newest one that it has
  std::optional<v1::TaskAssignment> assignment;
  std::future<Result<client::TaskOutput>> training;
  std::string trouble;                       // why its present task failed
  client::TaskInput input;                   // of its present task
  std::optional<client::TaskOutput> output;  // of a task that is over
  std::string upload;                        // the update as it travels
  double compute_seconds = 0;                // of the task in hand
  uint64_t bytes_down = 0;                   // for it, but for the base model
  StateDict next_personal;                   // what it keeps if its report is accepted
  bool fails = false;
};

// What happens next: the earliest first, of those at one time the one that was planned first.
struct Planned {
  Time at;
  uint64_t order = 0;
  size_t device = 0;
  enum class What { kCheckin, kTrained, kUploaded } what = What::kCheckin;
  friend bool operator>(const Planned& a, const Planned& b) {
    return std::pair(a.at, a.order) > std::pair(b.at, b.order);
  }
};

class World {
 public:
  World(const SimulationOptions& options, coordinator::Recipe recipe)
      : options_(options), recipe_(std::move(recipe)), resources_(client::MakeTaskResources()) {}

  Result<SimulationResult> Run();

 private:
  Status TakeDevices();
  Status Begin();
  Status Loop();
  Status Step(const Planned& planned);
  Status Feed(const coordinator::Event& event);
  Status Checkin(size_t index);
  Status OnRejection(size_t index, const v1::Rejection& rejection);
  Status StartTask(size_t index, v1::TaskAssignment assignment);
  Status Finish(size_t index);
  Status Report(size_t index);
  Status Complete(Device& device, const client::TaskOutput& output, coordinator::ReportEvent* report);
  Result<fs::path> AdapterFolder(const v1::TaskPlan& plan);
  const coordinator::DeviceProfile& ProfileOf(const Device& device) const {
    return recipe_.simulation.profiles[device.spec.profile];
  }
  uint64_t MemoryOf(const Device& device) const {
    return static_cast<uint64_t>(ProfileOf(device).memory_limit_mb * (1 << 20));
  }
  Status EndRound(const coordinator::RoundRecord& round);
  Status CountRefused(const coordinator::RoundRecord& round,
                      std::span<const coordinator::AssignmentRecord> assignments);
  Result<fs::path> OwnModel(const DeviceSpec& device, const fs::path& checkpoint) const;
  Status Count(Device& device, const v1::TaskPlan& plan);
  Result<std::vector<model::TensorFile>> PartOf(const v1::TaskPlan& plan) const;
  std::optional<uint64_t> PatchBytes(const Sha256Digest& from, const Sha256Digest& to) const;
  void Plan(Duration after, size_t device, Planned::What what) {
    queue_.push({clock_.Now() + after, next_order_++, device, what});
  }

  const SimulationOptions& options_;
  coordinator::Recipe recipe_;
  VirtualClock clock_;
  std::unique_ptr<coordinator::Store> store_;
  std::unique_ptr<coordinator::BlobStore> blobs_;
  std::unique_ptr<RunCore> core_;
  std::shared_ptr<client::TaskResources> resources_;
  DeviceSet set_;
  std::vector<Device> devices_;
  size_t refusals_in_a_row_ = 0;   // for want of memory: where nobody has it, no round will ever be complete
  uint32_t refused_attempts_ = 0;  // in a row: abandoned, with updates of which none was accepted
  DeviceCost round_cost_;
  SimulationResult result_;
  Status round_status_;                             // what went wrong at the end of a round
  std::map<coordinator::PollToken, size_t> polls_;  // waiting check-ins
  // What a device keeps of the run; no file: nothing.
  fs::path PersonalFile(const DeviceId& device) const {
    return options_.out / "personal" / (device.value() + ".safetensors");
  }
  coordinator::PollToken next_token_ = 1;
  v1::ReportVerdict verdict_ = v1::REPORT_VERDICT_UNSPECIFIED;  // of the report that was fed last
  uint64_t next_order_ = 0;
  std::priority_queue<Planned, std::vector<Planned>, std::greater<>> queue_;
  coordinator::Traffic traffic_;
  SpentUpdates spent_;
  bool cancelled_ = false;
  std::unique_ptr<TrainingPool> pool_;  // last: its threads use what stands above
};

Status World::TakeDevices() {
  HEDDLE_ASSIGN_OR_RETURN(set_, MakeDevices(recipe_, options_.recipe.string(), options_.out / "data"));
  for (const DeviceSpec& spec : set_.devices) devices_.emplace_back().spec = spec;
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  const unsigned threads = recipe_.simulation.threads;
  pool_ = std::make_unique<TrainingPool>(threads > 0 ? threads : cores, resources_);
  return OkStatus();
}

Status World::Begin() {
  HEDDLE_RETURN_IF_ERROR(CheckDevices(recipe_, options_.recipe.string()));
  HEDDLE_RETURN_IF_ERROR(ClearOutput(options_.out));
  HEDDLE_ASSIGN_OR_RETURN(recipe_.base_model, coordinator::DeviceBaseFolder(recipe_, options_.out));
  HEDDLE_RETURN_IF_ERROR(TakeDevices());
  HEDDLE_ASSIGN_OR_RETURN(store_, coordinator::Store::Open(options_.out / "state" / "coordinator.db"));
  coordinator::BlobStoreOptions blob_options;
  blob_options.root = options_.out / "state";
  HEDDLE_ASSIGN_OR_RETURN(blobs_, coordinator::BlobStore::Open(std::move(blob_options)));
  coordinator::RunCoreOptions core;
  core.store = store_.get();
  core.blobs = blobs_.get();
  core.clock = &clock_;
  core.run_folder = options_.out;
  core.traffic = [this] { return traffic_; };
  core.observer.round_ended = [this](const coordinator::RoundRecord& round,
                                     std::span<const coordinator::AssignmentRecord> assignments) {
    if (round_status_.ok()) round_status_ = EndRound(round);
    if (round_status_.ok()) round_status_ = CountRefused(round, assignments);
    if (core_ && options_.progress && !options_.progress(core_->Progress())) cancelled_ = true;
  };
  coordinator::Submission submission;
  HEDDLE_ASSIGN_OR_RETURN(submission.recipe_text, ReadFile(options_.recipe, size_t{1} << 20));
  std::error_code error;
  submission.folder = fs::absolute(options_.recipe, error).parent_path();
  submission.overrides = options_.overrides;
  HEDDLE_ASSIGN_OR_RETURN(core_, RunCore::Create(std::move(core), submission));
  HEDDLE_RETURN_IF_ERROR(core_->folder_state());
  for (size_t i = 0; i < devices_.size(); ++i) Plan(Duration(0), i, Planned::What::kCheckin);
  return OkStatus();
}

Status World::Loop() {
  while (core_->running() && !cancelled_) {
    const std::optional<Time> deadline = core_->NextDeadline();
    if (queue_.empty() && !deadline) return Internal("the simulated run waits for nothing");
    if (queue_.empty() || (deadline && *deadline <= queue_.top().at)) {
      clock_.AdvanceTo(*deadline);
      HEDDLE_RETURN_IF_ERROR(Feed(coordinator::TickEvent{}));
    } else {
      const Planned next = queue_.top();
      queue_.pop();
      clock_.AdvanceTo(next.at);
      HEDDLE_RETURN_IF_ERROR(Step(next));
    }
    HEDDLE_RETURN_IF_ERROR(round_status_);
  }
  return cancelled_ ? Cancelled("the simulation was interrupted") : OkStatus();
}

Status World::Step(const Planned& planned) {
  switch (planned.what) {
    case Planned::What::kCheckin:
      return Checkin(planned.device);
    case Planned::What::kTrained:
      return Finish(planned.device);
    case Planned::What::kUploaded:
      return Report(planned.device);
  }
  return OkStatus();
}

// The committed adapter with what the device keeps in its place, as a folder of its own; else the committed one.
Result<fs::path> World::OwnModel(const DeviceSpec& device, const fs::path& checkpoint) const {
  std::error_code error;
  if (!fs::exists(PersonalFile(device.id), error)) return checkpoint;
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile personal, ReadSafetensors(PersonalFile(device.id)));
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile model, ReadSafetensors(checkpoint / kAdapterFile));
  bool differs = false;
  for (const auto& [name, tensor] : personal.tensors) {
    const auto committed = model.tensors.find(name);
    if (committed == model.tensors.end() || committed->second.spec() != tensor.spec()) continue;
    committed->second = tensor;
    differs = true;
  }
  if (!differs) return checkpoint;
  const fs::path folder = options_.out / "adapters" / ("own-" + device.id.value());
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  fs::copy_file(checkpoint / kConfigFile, folder / kConfigFile, fs::copy_options::overwrite_existing, error);
  if (error) return ErrnoStatus(error.value(), "cannot write " + (folder / kConfigFile).string());
  HEDDLE_RETURN_IF_ERROR(WriteSafetensors(folder / kAdapterFile, model.tensors));
  return folder;
}

// The round's line of history is written by now, and the model of a committed one stands in its checkpoint.
Status World::EndRound(const coordinator::RoundRecord& round) {
  if (core_) HEDDLE_RETURN_IF_ERROR(core_->folder_state());
  HEDDLE_RETURN_IF_ERROR(spent_.EndRound(round.round, *blobs_));
  std::string members = CostJson(round_cost_);
  round_cost_ = DeviceCost();
  const bool anything = !set_.test.empty() || !set_.devices.front().test.empty();
  if (round.phase == coordinator::RoundPhase::kCommitted && anything && IsTestRound(recipe_, round.round)) {
    const fs::path checkpoint = coordinator::RunFiles::CheckpointFolder(options_.out, round.round);
    HEDDLE_ASSIGN_OR_RETURN(result_.figures,
                            TestModel(recipe_, recipe_.base_model, checkpoint, set_, *resources_,
                                      [&](const DeviceSpec& device) { return OwnModel(device, checkpoint); }));
    if (options_.tested) options_.tested(round.round, result_.figures);
    const std::string figures = FiguresJson(result_.figures);
    members += (members.empty() || figures.empty() ? "" : ",") + figures;
  }
  return AddToLastLine(options_.out / "history.jsonl", members);
}

// A coordinator of real devices goes on: others may come. Here they are all known.
Status World::CountRefused(const coordinator::RoundRecord& round,
                           std::span<const coordinator::AssignmentRecord> assignments) {
  using coordinator::AssignmentState;
  std::string refusal;
  for (const coordinator::AssignmentRecord& one : assignments) {
    if (one.state == AssignmentState::kAccepted) {
      refusal.clear();
      break;
    }
    if (one.state == AssignmentState::kInvalid) refusal = one.device.value() + ": " + one.message;
  }
  const bool refused = round.phase == coordinator::RoundPhase::kAbandoned && !refusal.empty();
  refused_attempts_ = refused ? refused_attempts_ + 1 : 0;
  if (refused_attempts_ < kMostRefusedAttempts) return OkStatus();
  return FailedPrecondition("every update of round " + std::to_string(round.round) + " was refused in " +
                            std::to_string(refused_attempts_) + " attempts in a row, the last one of " + refusal +
                            "; change the setting that it names, or the training");
}

Status World::Feed(const coordinator::Event& event) {
  HEDDLE_ASSIGN_OR_RETURN(auto answers, core_->Handle(event));
  for (coordinator::AddressedAnswer& item : answers) {
    if (const auto* failed = std::get_if<Status>(&item.answer)) return *failed;
    if (const auto* report = std::get_if<v1::ReportResponse>(&item.answer)) {
      verdict_ = report->verdict();
      if (report->verdict() == v1::REPORT_VERDICT_INVALID) {
        Log(Severity::kWarning, "an update was refused", {{"message", report->refusal().message()}});
      }
      continue;
    }
    auto poll = polls_.find(item.token);
    if (poll == polls_.end()) continue;
    const size_t index = poll->second;
    polls_.erase(poll);
    auto& response = std::get<v1::CheckinResponse>(item.answer);
    if (response.has_assignment()) {
      HEDDLE_RETURN_IF_ERROR(StartTask(index, std::move(*response.mutable_assignment())));
    } else {
      HEDDLE_RETURN_IF_ERROR(OnRejection(index, response.rejection()));
    }
  }
  return OkStatus();
}

Status World::OnRejection(size_t index, const v1::Rejection& rejection) {
  if (rejection.reason() != v1::REJECTION_REASON_TOO_LITTLE_MEMORY) {
    Plan(std::chrono::milliseconds(std::max(1U, rejection.retry_after_ms())), index, Planned::What::kCheckin);
    return OkStatus();
  }
  // It would come back in vain for ever.
  const size_t without = ++result_.devices_without_memory;
  const uint32_t needed = std::max(recipe_.spec.min_reports, recipe_.spec.later_min_reports);
  if (devices_.size() - without >= needed) return OkStatus();
  return ResourceExhausted("memory for a task is missing on " + std::to_string(without) + " of " +
                           std::to_string(devices_.size()) + " simulated devices so far, and a round needs " +
                           std::to_string(needed) + "; give their profiles more memory_limit_mb");
}

Status World::Checkin(size_t index) {
  const coordinator::PollToken token = next_token_++;
  polls_[token] = index;
  return Feed(coordinator::CheckinEvent{.token = token,
                                        .device = devices_[index].spec.id,
                                        .local_tasks = client::LocalTaskNames(),
                                        .memory_bytes = MemoryOf(devices_[index])});
}

// What a device that has an earlier ledger is sent in place of the newer one; nothing when there is no patch.
std::optional<uint64_t> World::PatchBytes(const Sha256Digest& from, const Sha256Digest& to) const {
  const auto read = [this](const Sha256Digest& digest) -> Result<zo::Ledger> {
    HEDDLE_ASSIGN_OR_RETURN(const auto mapped, blobs_->Map(digest));
    return zo::DecodeLedger(mapped->bytes());
  };
  const auto earlier = read(from), later = read(to);
  if (!earlier.ok() || !later.ok() || !(earlier->head == later->head)) return std::nullopt;
  return zo::EncodePatch(*earlier, *later).size();
}

// The tensors of the base model that a device with a part of it fetches.
Result<std::vector<model::TensorFile>> World::PartOf(const v1::TaskPlan& plan) const {
  std::map<std::string, model::TensorTree, std::less<>> trees;
  for (const v1::BlobRef& ref : plan.tensor_trees()) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(ref));
    HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(blobs_->Path(digest), model::kMaxTensorTreeBytes));
    HEDDLE_ASSIGN_OR_RETURN(model::TensorTree tree, model::DecodeTensorTree(bytes));
    trees.emplace(ref.name(), std::move(tree));
  }
  HEDDLE_ASSIGN_OR_RETURN(model::ModelSpec spec, model::ReadModelConfig(recipe_.base_model));
  spec.part.layers.assign(plan.train().layers().begin(), plan.train().layers().end());
  return model::FilesOfPart(spec, trees);
}

// What a device's cache does not hold crosses the simulated network. The base model comes once and is not timed: how
// long it takes says nothing about a method.
Status World::Count(Device& device, const v1::TaskPlan& plan) {
  device.bytes_down = 0;
  const bool part = !plan.train().layers().empty() && !plan.tensor_trees().empty();
  if (part) {
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<model::TensorFile> tensors, PartOf(plan));
    for (const model::TensorFile& tensor : tensors) {
      if (!device.cache.insert(tensor.digest).second) continue;
      traffic_.down += tensor.bytes;
      result_.base_model_bytes += tensor.bytes;
    }
  }
  for (const auto* refs : {&plan.base_model(), &plan.tensor_trees(), &plan.adapter()}) {
    uint64_t& bytes = refs == &plan.adapter() ? device.bytes_down : result_.base_model_bytes;
    for (const v1::BlobRef& ref : *refs) {
      if (part && refs == &plan.base_model() && ref.name().ends_with(".safetensors")) continue;
      auto digest = protocol::DigestOf(ref);
      if (!digest.ok() || !device.cache.insert(*digest).second) continue;
      uint64_t size = ref.size_bytes();
      if (ref.name() == zo::kLedgerFile) {
        if (device.ledger) size = std::min(size, PatchBytes(*device.ledger, *digest).value_or(size));
        device.ledger = *digest;
      }
      traffic_.down += size;
      bytes += size;
    }
  }
  return OkStatus();
}

// The adapter of a plan as a folder in PEFT's layout, made once.
Result<fs::path> World::AdapterFolder(const v1::TaskPlan& plan) {
  std::string name;
  for (const v1::BlobRef& ref : plan.adapter()) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(ref));
    name += digest.ToHex().substr(0, 32);
  }
  const fs::path folder = options_.out / "adapters" / name;
  std::error_code error;
  if (fs::exists(folder, error)) return folder;
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  for (const v1::BlobRef& ref : plan.adapter()) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(ref));
    fs::create_hard_link(blobs_->Path(digest), folder / ref.name(), error);
    if (error) return ErrnoStatus(error.value(), "cannot write " + (folder / ref.name()).string());
  }
  return folder;
}

Status World::StartTask(size_t index, v1::TaskAssignment assignment) {
  Device& device = devices_[index];
  const v1::TaskPlan& plan = assignment.plan();
  HEDDLE_RETURN_IF_ERROR(Count(device, plan));
  HEDDLE_ASSIGN_OR_RETURN(const auto task, client::FindLocalTask(plan.local_task()));
  client::TaskInput input;
  input.train = client::ToTrainSettings(plan.train());
  input.seed = plan.seed();
  input.base_model_dir = recipe_.base_model;
  HEDDLE_ASSIGN_OR_RETURN(input.adapter_dir, AdapterFolder(plan));
  input.personal_path = PersonalFile(device.spec.id);
  input.data_path = device.spec.data;
  input.device = recipe_.simulation.device;
  input.memory_limit_bytes = MemoryOf(device);
  input.shares_process = true;
  const std::string detail =
      std::to_string(assignment.round()) + "/" + std::to_string(assignment.attempt()) + "/" + device.spec.id.value();
  device.fails =
      PhiloxStream(DeriveSeed(recipe_.seed, "failure", detail)).UniformAt(0) < recipe_.simulation.failure_probability;
  device.compute_seconds = device.spec.seconds_per_step * plan.train().local_steps();
  if (device.fails) {
    device.compute_seconds /= 2;  // it was interrupted half way: nothing needs to be computed
  } else {
    device.input = input;
    device.training = pool_->Start(task, std::move(input));
  }
  device.assignment = std::move(assignment);
  const double fetching = TransferSeconds(device.bytes_down, ProfileOf(device).download_bytes_per_s);
  Plan(Seconds(fetching + device.compute_seconds), index, Planned::What::kTrained);
  return OkStatus();
}

// Upload and report, as the service takes them.
Status World::Complete(Device& device, const client::TaskOutput& output, coordinator::ReportEvent* report) {
  const std::string& bytes = device.upload;
  traffic_.up += bytes.size();
  HEDDLE_ASSIGN_OR_RETURN(report->update, blobs_->Put(bytes));
  report->update_bytes = bytes.size();
  spent_.Note(device.assignment->round(), report->update);
  const client::TaskStats& stats = output.stats;
  report->metrics = {.num_examples = stats.num_examples,
                     .num_tokens = stats.num_tokens,
                     .steps = stats.steps,
                     .train_loss = stats.train_loss,
                     .first_loss = stats.first_loss,
                     .last_loss = stats.last_loss,
                     .train_seconds = stats.train_seconds,
                     .peak_memory_bytes = 0};
  const coordinator::DeviceProfile& profile = ProfileOf(device);
  DeviceCost cost = CostOf(profile, device.compute_seconds, stats.num_tokens, device.bytes_down, bytes.size());
  cost.memory_bytes = stats.estimated_memory_bytes;
  round_cost_.Add(cost);
  result_.costs[profile.name].Add(cost);
  const auto open = core_->open_assignments()->Find(report->assignment);
  if (!open) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const StateDict update,
                          core_->reader()->Read(std::as_bytes(std::span(bytes)), nullptr, device.spec.id, open->view));
  const auto validity =
      core_->validator()->Validate(update, coordinator::UpdateInfoOf(open->view, device.spec.id, report->metrics));
  if (!validity.ok()) {
    report->validity = InvalidArgument(validity.message);
    report->refusal_reason = static_cast<int>(validity.refusal);
  }
  return OkStatus();
}

// The task is over; its update still has to travel.
Status World::Finish(size_t index) {
  Device& device = devices_[index];
  device.output.reset();
  if (device.fails) return Report(index);
  auto output = device.training.get();
  if (device.input.memory_limit_bytes > 0 && output.status().code() == Code::kResourceExhausted) {
    device.trouble = output.status().message();
    if (++refusals_in_a_row_ > 2 * devices_.size()) {
      return output.status().Annotate("no simulated device can take the task: " + device.spec.id.value());
    }
    return Report(index);
  }
  if (!output.ok()) return output.status().Annotate("device " + device.spec.id.value());
  refusals_in_a_row_ = 0;
  device.output = *std::move(output);
  HEDDLE_ASSIGN_OR_RETURN(device.upload,
                          UploadOf(recipe_, device.spec, device.assignment->plan(), &device.input, &*device.output));
  const double rate = ProfileOf(device).upload_bytes_per_s;
  if (rate <= 0) return Report(index);
  Plan(Seconds(TransferSeconds(device.upload.size(), rate)), index, Planned::What::kUploaded);
  return OkStatus();
}

Status World::Report(size_t index) {
  Device& device = devices_[index];
  coordinator::ReportEvent report;
  report.token = next_token_++;
  report.assignment = AssignmentId(device.assignment->assignment_id());
  report.device = device.spec.id;
  if (device.output) {
    report.completed = true;
    HEDDLE_RETURN_IF_ERROR(Complete(device, *device.output, &report));
    device.next_personal = std::move(device.output->personal);
    device.output.reset();
  } else {
    report.message = device.trouble.empty() ? "the device was interrupted" : std::exchange(device.trouble, {});
  }
  if (!core_->Holds(report.assignment)) {
    HEDDLE_ASSIGN_OR_RETURN(report.stored, store_->FindAssignment(report.assignment));
  }
  device.assignment.reset();
  verdict_ = v1::REPORT_VERDICT_UNSPECIFIED;
  HEDDLE_RETURN_IF_ERROR(Feed(report));
  const StateDict personal = std::exchange(device.next_personal, {});
  if (verdict_ == v1::REPORT_VERDICT_ACCEPTED && !personal.empty()) {
    HEDDLE_RETURN_IF_ERROR(MakeDirectories(PersonalFile(device.spec.id).parent_path()));
    HEDDLE_RETURN_IF_ERROR(WriteSafetensors(PersonalFile(device.spec.id), personal));
  }
  Plan(Duration(0), index, Planned::What::kCheckin);
  return OkStatus();
}

Result<SimulationResult> World::Run() {
  const auto start = std::chrono::steady_clock::now();
  HEDDLE_RETURN_IF_ERROR(Begin());
  HEDDLE_RETURN_IF_ERROR(Loop());
  HEDDLE_RETURN_IF_ERROR(core_->folder_state());
  SimulationResult result = std::move(result_);
  result.run = core_->Progress().run;
  result.rounds = recipe_.spec.rounds;
  result.devices = devices_.size();
  result.traffic = traffic_;
  result.virtual_seconds = ToSeconds(clock_.Now() - FromUnixMicros(VirtualClock::kStartMicros));
  result.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::error_code error;
  fs::remove_all(options_.out / "adapters", error);
  if (result.run.state != coordinator::RunState::kComplete) {
    return FailedPrecondition("the simulated run did not complete: " + result.run.reason);
  }
  return result;
}

}  // namespace

Result<SimulationResult> Simulate(const SimulationOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(coordinator::Recipe recipe, coordinator::Recipe::Load(options.recipe, options.overrides));
  World world(options, std::move(recipe));
  return world.Run();
}

}  // namespace heddle::simulator
