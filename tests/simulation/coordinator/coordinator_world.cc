#include "tests/simulation/coordinator/coordinator_world.h"

#include <algorithm>
#include <tuple>

namespace heddle::coordinator::testing {
namespace {

constexpr const char* kFile = "coordinator.db";
const Time kStart = FromUnixMicros(1'700'000'000'000'000);
constexpr Duration kFaultsEnd = std::chrono::minutes(15);
constexpr size_t kTraceLines = 40;

RunSpec DrawSpec(PhiloxStream& random, uint64_t seed) {
  RunSpec spec;
  spec.id = RunId("sim-0000abcd");
  spec.seed = seed;
  spec.local_task = "lora_sft";
  spec.rounds = 1 + random.NextBelow(3);
  spec.cohort_size = 1 + random.NextBelow(4);
  spec.over_selection = 1 + 0.25 * random.NextBelow(4);
  spec.min_reports = 1 + random.NextBelow(spec.cohort_size);
  spec.min_available_devices = spec.min_reports + random.NextBelow(3);
  spec.selection_timeout = Seconds(40);
  spec.report_deadline = Seconds(60);
  spec.max_abandoned_attempts = 2 + random.NextBelow(4);
  spec.max_poll_hold = Seconds(25);
  spec.min_retry_after = Seconds(1);
  spec.max_retry_after = Seconds(5);
  spec.max_update_bytes = 1000;
  spec.max_num_examples = 80;
  // Some runs have a second stage: of a stream of its own, so that the other worlds stay.
  if (PhiloxStream stages(DeriveSeed(seed, "second stage", "")); stages.NextBelow(4) == 0) {
    spec.first_stage_rounds = 1 + stages.NextBelow(2);
    spec.later_cohort_size = 1 + stages.NextBelow(4);
    spec.later_min_available_devices = spec.min_available_devices;
    spec.later_min_reports = 1 + stages.NextBelow(std::min(spec.later_cohort_size, spec.min_available_devices));
  }
  // Some give devices parts of a model by their memory.
  if (DeriveSeed(seed, "layer memory", "") % 4 == 0) spec.layer_memory = {100, 200, 300};
  return spec;
}

// The aggregation of this world: any function of the parent and the multiset of updates will do, if it forgets nothing.
Sha256Digest ModelOf(const Sha256Digest& parent, std::vector<Sha256Digest> updates) {
  std::sort(updates.begin(), updates.end());
  Sha256Hasher hasher;
  hasher.Update(parent.raw());
  for (const Sha256Digest& update : updates) hasher.Update(update.raw());
  return hasher.Finish();
}

bool SameRow(const AssignmentRecord& a, const AssignmentRecord& b) {
  return a.id == b.id && a.device == b.device && a.state == b.state && a.update == b.update && a.layers == b.layers &&
         a.issued_at == b.issued_at && a.reported_at == b.reported_at && a.message == b.message &&
         a.refusal_reason == b.refusal_reason;
}

bool SameRow(const RoundRecord& a, const RoundRecord& b) {
  return a.round == b.round && a.attempt == b.attempt && a.phase == b.phase && a.deadline == b.deadline &&
         a.parent == b.parent && a.model == b.model && a.reason == b.reason && a.started_at == b.started_at &&
         a.selected_at == b.selected_at && a.ended_at == b.ended_at;
}

bool SameRow(const RunRecord& a, const RunRecord& b) {
  return a.id == b.id && a.state == b.state && a.committed_rounds == b.committed_rounds && a.model == b.model &&
         a.reason == b.reason && a.started_at == b.started_at && a.ended_at == b.ended_at;
}

}  // namespace

struct CoordinatorWorld::Device {
  size_t index = 0;
  DeviceId id;
  double slowness = 1;  // factor on the time of training
  double fails = 0;     // a task ends as interrupted
  double lies = 0;      // a report is not what it should be
  double repeats = 0;   // an answered report is sent again
  double loses = 0;     // a message or its answer
  bool revoked = false;
  uint64_t attention = 0;                       // what it waits for now; answers to earlier things are not heard
  std::map<AssignmentId, VerdictEffect> heard;  // the first verdict of each assignment
  std::set<AssignmentId> tasks;
};

CoordinatorWorld::CoordinatorWorld(uint64_t seed)
    : random_(DeriveSeed(seed, "coordinator world", "")),
      spec_(DrawSpec(random_, seed)),
      now_(kStart),
      disk_("simulated-" + std::to_string(seed)),
      checker_(spec_) {
  crash_rate_ = Chance(0.3) ? 0 : 0.002 + 0.06 * random_.NextUniform();
  disk_fault_rate_ = Chance(0.4) ? 0 : 0.1 * random_.NextUniform();
  // A coordinator that dies every few seconds gets nowhere, and may. Once the faults end, every attempt ends by its own
  // time limits.
  deadline_of_world_ = kStart + kFaultsEnd + std::chrono::hours(3);
  size_t count = spec_.min_available_devices + random_.NextBelow(5);
  for (size_t i = 0; i < count; ++i) {
    auto device = std::make_unique<Device>();
    device->index = i;
    device->id = DeviceId("device-" + std::to_string(i));
    device->slowness = Chance(0.2) ? 4 : 1;
    device->fails = Chance(0.4) ? 0.3 : 0;
    device->lies = Chance(0.25) ? 0.5 : 0;
    device->repeats = Chance(0.5) ? 0.5 : 0.05;
    device->loses = Chance(0.4) ? 0.2 : 0;
    devices_.push_back(std::move(device));
  }
}

CoordinatorWorld::~CoordinatorWorld() = default;

void CoordinatorWorld::After(Duration delay, std::function<void()> what) {
  queue_.push({now_ + delay, order_++, std::move(what)});
}

void CoordinatorWorld::Note(const std::string& line) {
  std::string text = std::to_string(ToSeconds(now_ - kStart)) + " " + line;
  fingerprint_.Update(text);
  trace_.push_back(std::move(text));
  if (trace_.size() > 2 * kTraceLines) trace_.erase(trace_.begin(), trace_.begin() + kTraceLines);
}

std::string CoordinatorWorld::Trace() const {
  std::string text;
  for (const std::string& line : trace_) text += line + "\n";
  return text;
}

Sha256Digest CoordinatorWorld::Fingerprint() { return fingerprint_.Finish(); }

void CoordinatorWorld::Breach(const std::string& sentence) {
  if (!breach_) breach_ = sentence;
}

std::optional<std::string> CoordinatorWorld::Run() {
  Start();
  for (auto& device : devices_) {
    Device& d = *device;
    CheckinAfter(d, Between(0, 10));
    if (Chance(0.03)) {
      After(Between(5, 150), [this, &d] {
        d.revoked = true;
        Note("revoke " + d.id.value());
        if (engine_) Feed(DeviceRevokedEvent{d.id});
      });
    }
  }
  if (Chance(0.08)) {
    After(Between(5, 200), [this] {
      Note("stop");
      if (engine_) Feed(StopRunEvent{"the operator said so"});
    });
  }
  std::optional<Time> over;
  while (!breach_ && !queue_.empty()) {
    Happening next = queue_.top();
    queue_.pop();
    now_ = next.at;
    if (now_ > deadline_of_world_) {
      Breach("the run waits for ever");
      break;
    }
    if (now_ > kStart + kFaultsEnd) crash_rate_ = disk_fault_rate_ = 0;
    next.what();
    // Once the run has ended, what is still on its way may arrive.
    if (ended_ && engine_ && !over) over = now_ + Seconds(120);
    if (over && now_ > *over) break;
  }
  if (!breach_) CheckEnd();
  return breach_;
}

// ---- the coordinator ----

void CoordinatorWorld::Start() {
  if (!store_) {
    auto opened = Store::Open(kFile, {.busy_timeout = Seconds(0), .vfs = disk_.name()});
    if (!opened.ok()) return Breach("the store does not open after a crash: " + opened.status().ToString());
    store_ = *std::move(opened);
    FindUncertain();
  }
  ++life_;
  Step first;
  auto stored = store_->GetRun(spec_.id);
  if (!stored.ok()) {
    auto engine = Engine::Create(spec_, Sha256("initial"), now_, &first);
    RunOrigin origin{.spec = spec_, .recipe = "", .resolved_json = "{}", .material_json = "{}"};
    if (!engine.ok() || !store_->CreateRun(origin, first.writes).ok()) return Breach("the run cannot be created");
    engine_.emplace(*std::move(engine));
    checker_.Created(*engine_, now_, first);
  } else {
    CompareRows();
    auto snapshot = store_->LoadSnapshot(spec_.id);
    if (!snapshot.ok()) return Breach("no snapshot: " + snapshot.status().ToString());
    auto engine = Engine::Restore(stored->origin.spec, *std::move(snapshot), now_, &first);
    if (!engine.ok()) return Breach("the run does not restore: " + engine.status().ToString());
    if (!store_->Apply(first.writes).ok()) return Breach("the restored run cannot be written");
    if (!first.writes.empty()) uncertain_.clear();
    engine_.emplace(*std::move(engine));
    checker_.Restarted(*engine_, now_, first);
    ended_ = ended_ || engine_->run().state != RunState::kRunning;
  }
  Note("up in life " + std::to_string(life_));
  if (checker_.breach()) Breach(*checker_.breach());
  CarryOut(first);
  ScheduleTick();
}

void CoordinatorWorld::Die(bool power_cut) {
  if (power_cut) {
    ++counts_.power_cuts;
    disk_.PowerCut(random_.NextU32());
  } else {
    disk_.Kill();
  }
  Note(power_cut ? "power cut" : "killed");
  engine_.reset();
  store_.reset();
  BreakPolls();
  After(Chance(0.1) ? Between(30, 120) : Between(0.01, 3), [this] { Start(); });
}

void CoordinatorWorld::BreakPolls() {
  sum_.clear();
  ++life_;
  for (const auto& [token, poll] : polls_) {
    Device& device = *devices_[poll.device];
    std::optional<ReportEvent> report = poll.report;
    bool repetition = poll.repetition;
    After(Between(0.5, 8), [this, &device, report, repetition] {
      if (report) {
        SendReport(device, *report, repetition);
      } else {
        Checkin(device);
      }
    });
  }
  polls_.clear();
}

void CoordinatorWorld::Feed(const Event& event) {
  ++counts_.steps;
  checker_.BeforeEvent(now_, event);
  Step step = engine_->Handle(now_, event);
  if (!Durable(event, step)) return;
  checker_.AfterStep(*engine_, step);
  if (checker_.breach()) return Breach(*checker_.breach());
  CarryOut(step);
  if (engine_) ScheduleTick();
}

// A step that the store answered with an error may be there after a restart, as a whole, when nothing was written
// since. Which one it is shows in its rows; that it is whole, and that nothing else is there, CompareRows finds out.
void CoordinatorWorld::FindUncertain() {
  const Uncertain* found = nullptr;
  size_t most = 0;
  for (const Uncertain& uncertain : uncertain_) {
    std::map<AssignmentId, AssignmentRecord> assignments;  // several writes of one row: the last one counts
    std::map<std::pair<uint32_t, uint32_t>, RoundRecord> rounds;
    for (const Record& record : uncertain.step.writes) {
      if (const auto* round = std::get_if<RoundRecord>(&record)) rounds[{round->round, round->attempt}] = *round;
      if (const auto* row = std::get_if<AssignmentRecord>(&record)) assignments[row->id] = *row;
    }
    size_t there = 0;
    auto stored_rounds = store_->ListRounds(spec_.id);
    if (!stored_rounds.ok()) return Breach("the rounds cannot be read: " + stored_rounds.status().ToString());
    for (const RoundRecord& stored : *stored_rounds) {
      auto row = rounds.find({stored.round, stored.attempt});
      if (row != rounds.end() && SameRow(row->second, stored)) ++there;
    }
    for (const auto& [id, row] : assignments) {
      auto stored = store_->FindAssignment(id);
      if (stored.ok() && *stored && SameRow(**stored, row)) ++there;
    }
    if (there == assignments.size() + rounds.size() && there > most) {
      most = there;
      found = &uncertain;
    }
  }
  if (found != nullptr) {
    ++counts_.found_after_error;
    checker_.BeforeEvent(found->at, found->event);
    checker_.Written(found->step);
    if (checker_.breach()) Breach(*checker_.breach());
  }
  uncertain_.clear();
}

// The store holds what the checker was told, no row more or less.
void CoordinatorWorld::CompareRows() {
  auto run = store_->GetRun(spec_.id);
  if (!run.ok() || !checker_.run() || !SameRow(run->run, *checker_.run())) {
    return Breach("the stored run is not what was promised");
  }
  auto rounds = store_->ListRounds(spec_.id);
  if (!rounds.ok()) return Breach("the rounds cannot be read: " + rounds.status().ToString());
  if (rounds->size() != checker_.rounds().size()) return Breach("the store has lost or invented a round");
  size_t assignments = 0;
  for (const RoundRecord& row : *rounds) {
    auto known = checker_.rounds().find({row.round, row.attempt});
    if (known == checker_.rounds().end() || !SameRow(known->second, row)) {
      return Breach("a stored round is not what was promised");
    }
    auto rows = store_->ListAssignments(spec_.id, row.round, row.attempt);
    if (!rows.ok()) return Breach("the assignments cannot be read: " + rows.status().ToString());
    assignments += rows->size();
    for (const AssignmentRecord& assignment : *rows) {
      auto promised = checker_.assignments().find(assignment.id);
      if (promised == checker_.assignments().end() || !SameRow(promised->second, assignment)) {
        return Breach("a stored assignment is not what was promised");
      }
    }
  }
  if (assignments != checker_.assignments().size()) Breach("the store has lost or invented an assignment");
}

bool CoordinatorWorld::Durable(const Event& event, const Step& step) {
  if (Chance(crash_rate_)) {
    ++counts_.crashes_before;
    Note("dies before the write");
    Die(Chance(0.5));
    return false;
  }
  bool faulty = !step.writes.empty() && Chance(disk_fault_rate_);
  bool stays = Chance(0.7);
  if (faulty) {
    const bool full = Chance(0.5);
    disk_.FailAt(1 + random_.NextBelow(14), full ? SQLITE_FULL : SQLITE_IOERR_WRITE, stays);
  }
  Status status = store_->Apply(step.writes);
  if (status.ok()) {
    disk_.Heal();
    if (!step.writes.empty()) uncertain_.clear();
    if (!Chance(crash_rate_)) return true;
    ++counts_.crashes_after;
    Note("dies after the write");
    checker_.Written(step);
    if (checker_.breach()) Breach(*checker_.breach());
    Die(Chance(0.5));
    return false;
  }
  if (!faulty) Breach("the store fails without a fault: " + status.ToString());
  ++counts_.disk_faults;
  uncertain_.push_back({now_, event, step});
  if (stays && Chance(0.6)) {
    Note("the write fails, and then all");
    Die(true);
    return false;
  }
  disk_.Heal();
  if (Chance(0.3)) {
    Note("the write fails");
    Die(false);
    return false;
  }
  // The disk recovers, and the coordinator starts its engine anew from what is stored.
  Note("the write fails, the engine is rebuilt");
  engine_.reset();
  BreakPolls();
  Start();
  return false;
}

void CoordinatorWorld::CarryOut(const Step& step) {
  uint64_t life = life_;
  for (const Effect& effect : step.effects) {
    if (Chance(crash_rate_ / 4)) {
      ++counts_.crashes_after;
      Note("dies between two effects");
      Die(Chance(0.5));
    }
    if (life != life_ || breach_) return;
    Do(effect);
  }
}

void CoordinatorWorld::Do(const Effect& effect) {
  if (const auto* assign = std::get_if<AssignEffect>(&effect)) {
    Note("task " + assign->assignment.id.value() + " to " + assign->assignment.device.value());
    Answered(assign->token, [this, a = assign->assignment](Device& device) { Train(device, a); });
  } else if (const auto* reject = std::get_if<RejectEffect>(&effect)) {
    Answered(reject->token, [this, wait = reject->retry_after](Device& device) { CheckinAfter(device, wait); });
  } else if (const auto* fold = std::get_if<FoldEffect>(&effect)) {
    sum_.push_back(fold->assignment.update);
  } else if (const auto* verdict = std::get_if<VerdictEffect>(&effect)) {
    auto poll = polls_.find(verdict->token);
    if (poll == polls_.end()) return Breach("a verdict for nobody");
    ReportEvent report = *poll->second.report;
    Note("verdict " + std::to_string(static_cast<int>(verdict->verdict)) + " on " + report.assignment.value());
    Answered(verdict->token, [this, v = *verdict, report](Device& device) { HearVerdict(device, report, v); });
  } else if (const auto* unknown = std::get_if<UnknownAssignmentEffect>(&effect)) {
    ++counts_.unknown;
    Answered(unknown->token, [](Device&) {});
  } else if (std::holds_alternative<ResetSumEffect>(effect)) {
    sum_.clear();
  } else if (const auto* commit = std::get_if<CommitEffect>(&effect)) {
    RoundModelReady ready{.round = commit->round, .attempt = commit->attempt, .model = ModelOf(commit->parent, sum_)};
    RoundModelFailed failed{.round = commit->round,
                            .attempt = commit->attempt,
                            .reason = "no room for the model",
                            .for_good = commit->attempt > 3};
    bool fails = Chance(0.05);
    After(Chance(0.05) ? Between(55, 90) : Between(0.1, 4), [this, ready, failed, fails, life = life_] {
      if (life != life_ || !engine_) return;
      Note(fails ? "no model" : "model " + ready.model.ToHex().substr(0, 8));
      if (fails) {
        Feed(failed);
      } else {
        Feed(ready);
      }
    });
  } else if (const auto* ended = std::get_if<RoundEndedEffect>(&effect)) {
    ++(ended->round.phase == RoundPhase::kCommitted ? counts_.committed : counts_.abandoned);
  } else if (std::holds_alternative<RunEndedEffect>(effect)) {
    ended_ = true;
  }
}

void CoordinatorWorld::ScheduleTick() {
  std::optional<Time> next = engine_->NextDeadline();
  if (!next) return;
  After(std::max(*next - now_, Duration::zero()), [this, life = life_, at = *next] {
    if (life != life_ || !engine_ || engine_->NextDeadline() != at) return;
    Feed(TickEvent{});
  });
}

// ---- devices ----

// A device does one thing after the other: what it meant to do before is forgotten.
void CoordinatorWorld::CheckinAfter(Device& device, Duration delay) {
  After(delay, [this, &device, attention = ++device.attention] {
    if (device.attention == attention) Checkin(device);
  });
}

void CoordinatorWorld::Checkin(Device& device) {
  if (ended_ && engine_) return;
  uint64_t attention = ++device.attention;
  if (!engine_ || device.revoked || Chance(device.loses)) {
    if (!device.revoked) CheckinAfter(device, Between(1, 6));
    return;
  }
  PollToken token = next_token_++;
  polls_[token] = {.device = device.index, .report = {}};
  if (Chance(0.1)) {  // it loses its connection while it waits
    After(Between(0.1, 20), [this, &device, token, attention, life = life_] {
      if (life != life_ || !engine_ || polls_.erase(token) == 0) return;
      Note("poll gone of " + device.id.value());
      Feed(PollGoneEvent{token});
      if (device.attention == attention) CheckinAfter(device, Between(1, 5));
    });
  }
  Note("check-in of " + device.id.value());
  // It tells another each time (0: none). As many devices as a round waits for have enough for a layer.
  const uint64_t draw = DeriveSeed(spec_.seed, "memory", std::to_string(token));
  const bool none = device.index >= spec_.min_available_devices && (draw >> 8) % 4 == 0;
  Feed(CheckinEvent{.token = token,
                    .device = device.id,
                    .local_tasks = {spec_.local_task},
                    .memory_bytes = none ? 99 : draw % 4 * 100});
}

// The answer travels, or is lost: then the device notices and asks again.
void CoordinatorWorld::Answered(PollToken token, const std::function<void(Device&)>& what) {
  auto poll = polls_.find(token);
  if (poll == polls_.end()) return;
  Poll gone = std::move(poll->second);
  polls_.erase(poll);
  Device& device = *devices_[gone.device];
  if (Chance(device.loses)) {
    After(Between(1, 10), [this, &device, gone] {
      if (gone.report) {
        SendReport(device, *gone.report, gone.repetition);
      } else {
        Checkin(device);
      }
    });
    return;
  }
  After(Between(0.01, 0.5), [&device, what] { what(device); });
}

void CoordinatorWorld::Train(Device& device, const AssignmentRecord& assignment) {
  if (!device.tasks.insert(assignment.id).second) {  // at work on it already, or it told lies about it
    CheckinAfter(device, Between(5, 20));
    return;
  }
  ReportEvent report;
  report.assignment = assignment.id;
  report.device = device.id;
  report.completed = !Chance(device.fails);
  report.message = report.completed ? "" : "interrupted";
  if (report.completed) {
    report.update = Sha256("update " + assignment.id.value());
    report.update_bytes = 900;
    report.metrics.num_examples = 80;
  }
  if (Chance(device.lies)) {
    switch (random_.NextBelow(5)) {
      case 0:
        report.metrics.num_examples = random_.NextBelow(2) == 0 ? 0 : 1'000'000'000;
        break;
      case 1:
        report.validity = InvalidArgument("an element is NaN");
        report.refusal_reason = 7;
        break;
      case 2:
        report.update_bytes = 1'000'000;
        break;
      case 3:
        report.assignment = AssignmentId(Sha256(device.id.value()).ToHex().substr(0, 32));
        break;
      default:
        // Another device's task, in its own name: the certificate says who it is.
        if (!checker_.assignments().empty()) {
          auto other = checker_.assignments().begin();
          std::advance(other, random_.NextBelow(static_cast<uint32_t>(checker_.assignments().size())));
          report.assignment = other->first;
        }
    }
  }
  After(Between(2, 25) * static_cast<int>(device.slowness), [this, &device, report] {
    SendReport(device, report, false);
    if (Chance(device.repeats)) {
      ReportEvent again = report;  // and it tells another story
      again.completed = Chance(0.8);
      again.update = Sha256("another update of " + device.id.value());
      After(Between(0, 100), [this, &device, again] { SendReport(device, again, true); });
    }
  });
}

void CoordinatorWorld::SendReport(Device& device, ReportEvent report, bool repetition) {
  if (!engine_ || Chance(device.loses)) {
    After(Between(1, 6), [this, &device, report, repetition] { SendReport(device, report, repetition); });
    return;
  }
  report.token = next_token_++;
  report.stored.reset();
  if (!engine_->assignments().contains(report.assignment)) {
    auto stored = store_->FindAssignment(report.assignment);
    if (!stored.ok()) return Breach("an assignment cannot be read: " + stored.status().ToString());
    report.stored = *std::move(stored);
  }
  polls_[report.token] = {.device = device.index, .report = report, .repetition = repetition};
  Note("report on " + report.assignment.value() + " by " + device.id.value());
  Feed(report);
  if (!repetition) CheckinAfter(device, Between(0.1, 3));
}

void CoordinatorWorld::HearVerdict(Device& device, const ReportEvent& report, const VerdictEffect& effect) {
  auto [first, inserted] = device.heard.emplace(report.assignment, effect);
  if (!inserted) {
    ++counts_.repeated;
    const VerdictEffect& before = first->second;
    if (before.verdict != effect.verdict || before.refusal_reason != effect.refusal_reason ||
        before.message != effect.message) {
      Breach(device.id.value() + " heard two verdicts on " + report.assignment.value());
    }
    return;
  }
  switch (effect.verdict) {
    case Verdict::kAccepted:
      ++counts_.accepted;
      break;
    case Verdict::kLate:
      ++counts_.late;
      break;
    case Verdict::kInvalid:
      ++counts_.invalid;
      break;
    case Verdict::kSuperseded:
      ++counts_.superseded;
      break;
    case Verdict::kNoted:
      ++counts_.noted;
      break;
  }
}

// ---- the end ----

// From the store alone, as an auditor would: the chain of models explains itself, and everything that a device heard is
// true.
void CoordinatorWorld::CheckEnd() {
  if (!engine_) {
    Start();
    if (breach_) return;
  }
  auto run = store_->GetRun(spec_.id);
  if (!run.ok()) return Breach("the run is gone");
  switch (run->run.state) {
    case RunState::kRunning:
      return Breach("nothing happens any more and the run has not ended");
    case RunState::kComplete:
      ++counts_.complete;
      break;
    case RunState::kStopped:
      ++counts_.stopped;
      break;
    case RunState::kFailed:
      ++counts_.failed;
      break;
  }
  CompareRows();
  Sha256Digest model = Sha256("initial");
  uint32_t version = 0;
  std::map<AssignmentId, int> counted;
  std::map<AssignmentId, AssignmentRecord> rows;
  auto rounds = store_->ListRounds(spec_.id);
  for (const RoundRecord& round : *rounds) {
    if (round.parent != model) return Breach("a round does not start from the last committed model");
    std::vector<Sha256Digest> updates;
    auto assignments = store_->ListAssignments(spec_.id, round.round, round.attempt);
    for (const AssignmentRecord& row : *assignments) {
      rows[row.id] = row;
      if (row.state == AssignmentState::kOpen) return Breach("an assignment is open after the end");
      if (row.state != AssignmentState::kAccepted) continue;
      if (row.reported_at >= round.deadline && round.phase == RoundPhase::kAbandoned) {
        return Breach("an update was accepted at or after the deadline");
      }
      updates.push_back(row.update);
      if (round.phase == RoundPhase::kCommitted) ++counted[row.id];
    }
    if (round.phase == RoundPhase::kAbandoned) {
      if (round.reason.empty()) return Breach("an abandoned attempt does not say why");
      continue;
    }
    if (round.phase != RoundPhase::kCommitted) return Breach("a round is open after the end of the run");
    const bool later = spec_.first_stage_rounds > 0 && round.round > spec_.first_stage_rounds;
    if (updates.size() < (later ? spec_.later_min_reports : spec_.min_reports)) {
      return Breach("a round was committed with too few updates");
    }
    if (round.model != ModelOf(round.parent, updates)) {
      return Breach("the model of round " + std::to_string(round.round) + " is not made of its accepted updates");
    }
    model = round.model;
    ++version;
  }
  if (run->run.model != model || run->run.committed_rounds != version) Breach("the run does not name its last model");
  for (const auto& device : devices_) {
    for (const auto& [id, verdict] : device->heard) {
      auto row = rows.find(id);
      if (row == rows.end()) return Breach("a verdict was given on an assignment without a row");
      bool accepted = row->second.state == AssignmentState::kAccepted;
      if (accepted != (verdict.verdict == Verdict::kAccepted)) Breach("what a device heard is not what is stored");
      if (counted[id] > 1) Breach("an update was counted twice");
    }
  }
}

}  // namespace heddle::coordinator::testing
