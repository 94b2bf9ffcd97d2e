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
#include "client/worker/upload.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/recipe/base_folder.h"
#include "protocol/validate.h"
#include "simulator/corpus/kjv.h"
#include "simulator/world/recipe_split.h"
#include "simulator/world/training_pool.h"
#include "simulator/world/virtual_clock.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
using coordinator::Answer;
using coordinator::RunCore;
using coordinator::SimulatedDevices;

struct Device {
  DeviceId id;
  fs::path data;
  double seconds_per_step = 0;
  std::set<Sha256Digest> cache;  // blobs it has fetched
  std::optional<v1::TaskAssignment> assignment;
  std::future<Result<client::TaskOutput>> training;
  client::TaskInput input;  // of its present task
  StateDict next_personal;  // what it keeps if its report is accepted
  bool fails = false;
};

// What happens next: the earliest first, of those at one time the one that was planned first.
struct Planned {
  Time at;
  uint64_t order = 0;
  size_t device = 0;
  enum class What { kCheckin, kTrained } what = What::kCheckin;
  friend bool operator>(const Planned& a, const Planned& b) {
    return std::pair(a.at, a.order) > std::pair(b.at, b.order);
  }
};

// A folder may be used when it is empty or an earlier simulation's.
Status CheckOut(const fs::path& out) {
  if (out.empty()) return InvalidArgument("the simulation needs an output folder");
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_empty(out, error) && !fs::exists(out / ".heddle-simulation", error)) {
    return InvalidArgument(out.string() + " holds something that is not a run; name a new folder");
  }
  for (const char* old : {"run.json", "history.jsonl", "checkpoints", "state", "adapters", "data"}) {
    fs::remove_all(out / old, error);
    if (error) return ErrnoStatus(error.value(), "cannot clear " + (out / old).string());
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out / "state"));
  return WriteFileAtomically(out / ".heddle-simulation",
                             "This folder is a simulation's: the next one into it clears it.\n");
}

class World {
 public:
  World(const SimulationOptions& options, coordinator::Recipe recipe)
      : options_(options), recipe_(std::move(recipe)), resources_(client::MakeTaskResources()) {}

  Result<SimulationResult> Run();

 private:
  Status MakeDevices();
  Status Begin();
  Status Loop();
  Status Step(const Planned& planned);
  Status Feed(const coordinator::Event& event);
  Status Checkin(size_t index);
  Status StartTask(size_t index, v1::TaskAssignment assignment);
  Status Finish(size_t index);
  Status Complete(Device& device, client::TaskOutput& output, coordinator::ReportEvent* report);
  Result<fs::path> AdapterFolder(const v1::TaskPlan& plan);
  void Count(Device& device, const v1::TaskPlan& plan);
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
  std::vector<Device> devices_;
  std::map<DeviceId, size_t> index_;
  std::map<coordinator::PollToken, size_t> polls_;  // waiting check-ins
  // What a device keeps of the run; no file: nothing.
  fs::path PersonalFile(const Device& device) const {
    return options_.out / "personal" / (device.id.value() + ".safetensors");
  }

  coordinator::PollToken next_token_ = 1;
  v1::ReportVerdict verdict_ = v1::REPORT_VERDICT_UNSPECIFIED;  // of the report that was fed last
  uint64_t next_order_ = 0;
  std::priority_queue<Planned, std::vector<Planned>, std::greater<>> queue_;
  coordinator::Traffic traffic_;
  bool cancelled_ = false;
  std::unique_ptr<TrainingPool> pool_;  // last: its threads use what stands above
};

Status World::MakeDevices() {
  const SimulatedDevices& sim = recipe_.simulation;
  if (sim.names.empty()) {
    return InvalidArgument(options_.recipe.string() + ": there is nothing to simulate; name devices in [simulation]");
  }
  std::vector<fs::path> data = sim.data;
  if (sim.source == "kjv") {
    HEDDLE_ASSIGN_OR_RETURN(KjvFiles files, WriteKjv(options_.out / "data", sim.names));
    data = std::move(files.parts);
  } else if (sim.source == "split") {
    HEDDLE_ASSIGN_OR_RETURN(Split split, SplitOfRecipe(recipe_, options_.out / "data"));
    data = std::move(split.train);
  }
  if (data.size() != sim.names.size()) {
    return InvalidArgument(options_.recipe.string() + ": simulation.data needs one file for each device");
  }
  for (size_t i = 0; i < sim.names.size(); ++i) {
    Device device;
    device.id = DeviceId(sim.names[i]);
    device.data = data[i];
    const float slow = PhiloxStream(DeriveSeed(recipe_.seed, "speed", sim.names[i])).UniformAt(0);
    device.seconds_per_step = sim.seconds_per_step * (1 + sim.speed_spread * slow);
    index_[device.id] = devices_.size();
    devices_.push_back(std::move(device));
  }
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  pool_ = std::make_unique<TrainingPool>(sim.threads > 0 ? sim.threads : cores, resources_);
  return OkStatus();
}

Status World::Begin() {
  HEDDLE_RETURN_IF_ERROR(CheckOut(options_.out));
  HEDDLE_RETURN_IF_ERROR(MakeDevices());
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
  core.observer.round_ended = [this](const coordinator::RoundRecord&, std::span<const coordinator::AssignmentRecord>) {
    if (core_ && options_.progress && !options_.progress(core_->Progress())) cancelled_ = true;
  };
  coordinator::Submission submission;
  HEDDLE_ASSIGN_OR_RETURN(submission.recipe_text, ReadFile(options_.recipe, size_t{1} << 20));
  std::error_code error;
  submission.folder = fs::absolute(options_.recipe, error).parent_path();
  submission.overrides = options_.overrides;
  HEDDLE_ASSIGN_OR_RETURN(core_, RunCore::Create(std::move(core), submission));
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
      continue;
    }
    const Planned next = queue_.top();
    queue_.pop();
    clock_.AdvanceTo(next.at);
    HEDDLE_RETURN_IF_ERROR(Step(next));
  }
  return cancelled_ ? Cancelled("the simulation was interrupted") : OkStatus();
}

Status World::Step(const Planned& planned) {
  return planned.what == Planned::What::kCheckin ? Checkin(planned.device) : Finish(planned.device);
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
      const auto wait = std::chrono::milliseconds(response.rejection().retry_after_ms());
      Plan(std::max<Duration>(wait, Duration(1)), index, Planned::What::kCheckin);
    }
  }
  return OkStatus();
}

Status World::Checkin(size_t index) {
  const coordinator::PollToken token = next_token_++;
  polls_[token] = index;
  return Feed(
      coordinator::CheckinEvent{.token = token, .device = devices_[index].id, .local_tasks = client::LocalTaskNames()});
}

// What a device's cache does not hold crosses the simulated network.
void World::Count(Device& device, const v1::TaskPlan& plan) {
  for (const auto* refs : {&plan.base_model(), &plan.adapter()}) {
    for (const v1::BlobRef& ref : *refs) {
      auto digest = protocol::DigestOf(ref);
      if (digest.ok() && device.cache.insert(*digest).second) traffic_.down += ref.size_bytes();
    }
  }
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
  Count(device, plan);
  HEDDLE_ASSIGN_OR_RETURN(const auto task, client::FindLocalTask(plan.local_task()));
  client::TaskInput input;
  input.train = client::ToTrainSettings(plan.train());
  input.seed = plan.seed();
  input.base_model_dir = recipe_.base_model;
  HEDDLE_ASSIGN_OR_RETURN(input.adapter_dir, AdapterFolder(plan));
  input.personal_path = PersonalFile(device);
  input.data_path = device.data;
  input.device = recipe_.simulation.device;
  const std::string detail =
      std::to_string(assignment.round()) + "/" + std::to_string(assignment.attempt()) + "/" + device.id.value();
  device.fails =
      PhiloxStream(DeriveSeed(recipe_.seed, "failure", detail)).UniformAt(0) < recipe_.simulation.failure_probability;
  double seconds = device.seconds_per_step * plan.train().local_steps();
  if (device.fails) {
    seconds /= 2;  // it was interrupted half way: nothing needs to be computed
  } else {
    device.input = input;
    device.training = pool_->Start(task, std::move(input));
  }
  device.assignment = std::move(assignment);
  Plan(Seconds(seconds), index, Planned::What::kTrained);
  return OkStatus();
}

// Upload and report, as the service takes them.
Status World::Complete(Device& device, client::TaskOutput& output, coordinator::ReportEvent* report) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, client::MakeUpload(device.input, &output));
  traffic_.up += bytes.size();
  HEDDLE_ASSIGN_OR_RETURN(report->update, blobs_->Put(bytes));
  report->update_bytes = bytes.size();
  const client::TaskStats& stats = output.stats;
  report->metrics = {.num_examples = stats.num_examples,
                     .num_tokens = stats.num_tokens,
                     .steps = stats.steps,
                     .train_loss = stats.train_loss,
                     .first_loss = stats.first_loss,
                     .last_loss = stats.last_loss,
                     .train_seconds = stats.train_seconds,
                     .peak_memory_bytes = 0};
  if (!core_->IsOpen(report->assignment, device.id)) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const StateDict update, core_->reader()->Read(std::as_bytes(std::span(bytes)), nullptr,
                                                                        device.id, recipe_.RankOf(device.id)));
  const auto validity = core_->validator()->Validate(update, core_->UpdateInfoOf(device.id, report->metrics));
  if (!validity.ok()) {
    report->validity = InvalidArgument(validity.message);
    report->refusal_reason = static_cast<int>(validity.refusal);
  }
  return OkStatus();
}

Status World::Finish(size_t index) {
  Device& device = devices_[index];
  coordinator::ReportEvent report;
  report.token = next_token_++;
  report.assignment = AssignmentId(device.assignment->assignment_id());
  report.device = device.id;
  if (device.fails) {
    report.message = "the device was interrupted";
  } else {
    auto output = device.training.get();
    if (!output.ok()) return output.status().Annotate("device " + device.id.value());
    report.completed = true;
    HEDDLE_RETURN_IF_ERROR(Complete(device, *output, &report));
    device.next_personal = std::move(output->personal);
  }
  if (!core_->Holds(report.assignment)) {
    HEDDLE_ASSIGN_OR_RETURN(report.stored, store_->FindAssignment(report.assignment));
  }
  device.assignment.reset();
  verdict_ = v1::REPORT_VERDICT_UNSPECIFIED;
  HEDDLE_RETURN_IF_ERROR(Feed(report));
  const StateDict personal = std::exchange(device.next_personal, {});
  if (verdict_ == v1::REPORT_VERDICT_ACCEPTED && !personal.empty()) {
    HEDDLE_RETURN_IF_ERROR(MakeDirectories(PersonalFile(device).parent_path()));
    HEDDLE_RETURN_IF_ERROR(WriteSafetensors(PersonalFile(device), personal));
  }
  Plan(Duration(0), index, Planned::What::kCheckin);
  return OkStatus();
}

Result<SimulationResult> World::Run() {
  const auto start = std::chrono::steady_clock::now();
  HEDDLE_RETURN_IF_ERROR(Begin());
  HEDDLE_RETURN_IF_ERROR(Loop());
  SimulationResult result;
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
  HEDDLE_ASSIGN_OR_RETURN(recipe.base_model, coordinator::DeviceBaseFolder(recipe, options.out));
  World world(options, std::move(recipe));
  return world.Run();
}

}  // namespace heddle::simulator
