#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {

RunSpec SmallSpec() {
  RunSpec spec;
  spec.id = RunId("test-0000abcd");
  spec.seed = 7;
  spec.local_task = "lora_sft";
  spec.cohort_size = 2;
  spec.min_available_devices = 2;
  spec.min_reports = 2;
  spec.selection_timeout = Seconds(100);
  spec.report_deadline = Seconds(50);
  spec.max_poll_hold = Seconds(30);
  spec.min_retry_after = Seconds(2);
  spec.max_retry_after = Seconds(9);
  spec.max_update_bytes = 1000;
  spec.max_num_examples = 80;
  return spec;
}

World::World(RunSpec spec) : spec_(std::move(spec)), checker_(spec_) {
  Step first;
  auto engine = Engine::Create(spec_, DigestOf("initial"), now_, &first);
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) std::abort();
  engine_.emplace(*std::move(engine));
  Take(first);
  checker_.Created(*engine_, now_, first);
  EXPECT_FALSE(checker_.breach()) << *checker_.breach();
}

void World::Take(const Step& step) {
  for (const Record& record : step.writes) {
    if (const auto* run = std::get_if<RunRecord>(&record)) run_ = *run;
    if (const auto* round = std::get_if<RoundRecord>(&record)) rounds_[{round->round, round->attempt}] = *round;
    if (const auto* assignment = std::get_if<AssignmentRecord>(&record)) {
      assignments_[assignment->id] = *assignment;
      if (assignment->state == AssignmentState::kOpen) newest_[assignment->device.value()] = assignment->id;
    }
  }
  for (const Effect& effect : step.effects) {
    if (const auto* assign = std::get_if<AssignEffect>(&effect)) unanswered_.erase(assign->token);
    if (const auto* reject = std::get_if<RejectEffect>(&effect)) unanswered_.erase(reject->token);
  }
  last_ = step;
}

std::set<std::string> World::Waiting() const {
  std::set<std::string> devices;
  for (const auto& [token, device] : unanswered_) devices.insert(device);
  return devices;
}

Step World::Do(const Event& event) {
  checker_.BeforeEvent(now_, event);
  Step step = engine_->Handle(now_, event);
  Take(step);
  checker_.AfterStep(*engine_, step);
  EXPECT_FALSE(checker_.breach()) << *checker_.breach();
  return step;
}

Step World::TickAtDeadline() {
  auto next = engine_->NextDeadline();
  EXPECT_TRUE(next);
  if (next) now_ = std::max(now_, *next);
  return Do(TickEvent{});
}

Step World::TickAfter(Duration by) {
  now_ += by;
  return Do(TickEvent{});
}

Step World::Checkin(const std::string& device, uint64_t memory_bytes) {
  poll_of_[device] = next_token_;
  unanswered_[next_token_] = device;
  return Do(CheckinEvent{.token = next_token_++,
                         .device = DeviceId(device),
                         .local_tasks = {spec_.local_task},
                         .memory_bytes = memory_bytes});
}

Step World::PollGone(const std::string& device) { return Do(PollGoneEvent{.token = poll_of_.at(device)}); }

const AssignmentRecord& World::Newest(const std::string& device) const { return assignments_.at(newest_.at(device)); }

ReportEvent World::GoodReport(const AssignmentRecord& assignment) {
  ReportEvent report;
  report.token = next_token_++;
  report.assignment = assignment.id;
  report.device = assignment.device;
  report.completed = true;
  report.update = DigestOf("update " + assignment.id.value());
  report.update_bytes = 900;
  report.metrics.num_examples = 80;
  auto row = assignments_.find(assignment.id);
  if (row != assignments_.end() && !engine_->assignments().contains(assignment.id)) report.stored = row->second;
  return report;
}

Step World::Report(const std::string& device) { return Do(GoodReport(Newest(device))); }

Step World::ReportFailed(const std::string& device, const std::string& message) {
  ReportEvent report = GoodReport(Newest(device));
  report.completed = false;
  report.update = {};
  report.update_bytes = 0;
  report.message = message;
  return Do(report);
}

Step World::ReportInvalid(const std::string& device, int reason, const std::string& message) {
  ReportEvent report = GoodReport(Newest(device));
  report.validity = InvalidArgument(message);
  report.refusal_reason = reason;
  return Do(report);
}

Step World::ModelReady(const std::string& model) {
  std::string name = model.empty() ? "model " + std::to_string(round().round) : model;
  return Do(RoundModelReady{.round = round().round, .attempt = round().attempt, .model = DigestOf(name)});
}

Step World::ModelFailed(const std::string& reason) {
  return Do(RoundModelFailed{.round = round().round, .attempt = round().attempt, .reason = reason});
}

Step World::Revoke(const std::string& device) { return Do(DeviceRevokedEvent{DeviceId(device)}); }
Step World::Stop(const std::string& reason) { return Do(StopRunEvent{reason}); }

Snapshot World::SnapshotOfRows() const {
  Snapshot snapshot;
  snapshot.run = run_;
  snapshot.round = rounds_.rbegin()->second;
  for (const auto& [id, row] : assignments_) {
    if (row.round == snapshot.round->round && row.attempt == snapshot.round->attempt) {
      snapshot.assignments.push_back(row);
    }
  }
  return snapshot;
}

Step World::Restart(Duration down) {
  now_ += down;
  poll_of_.clear();
  unanswered_.clear();
  Step first;
  auto engine = Engine::Restore(spec_, SnapshotOfRows(), now_, &first);
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) std::abort();
  engine_.emplace(*std::move(engine));
  Take(first);
  checker_.Restarted(*engine_, now_, first);
  EXPECT_FALSE(checker_.breach()) << *checker_.breach();
  return first;
}

std::set<std::string> World::Assigned(const Step& step) {
  std::set<std::string> devices;
  for (const AssignEffect& effect : All<AssignEffect>(step)) devices.insert(effect.assignment.device.value());
  return devices;
}

std::set<std::string> World::AtWork() const {
  std::set<std::string> devices;
  for (const auto& [id, row] : engine_->assignments()) {
    if (row.state == AssignmentState::kOpen) devices.insert(row.device.value());
  }
  return devices;
}

}  // namespace heddle::coordinator::testing
