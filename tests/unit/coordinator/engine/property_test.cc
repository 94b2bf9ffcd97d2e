// Random specs and random events: whatever comes, the contract holds and the run moves on.
#include <gtest/gtest.h>

// RapidCheck's bridge expects GoogleTest to be there.
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

// Numbers for one event; small, so that a failing sequence shrinks to a readable one.
struct Draw {
  int kind = 0;
  int device = 0;
  int detail = 0;
};

std::ostream& operator<<(std::ostream& out, const Draw& draw) {
  return out << "{" << draw.kind << ", " << draw.device << ", " << draw.detail << "}";
}

// Drives one engine with nothing known but the contract: rows live in the checker.
class Hostile {
 public:
  explicit Hostile(RunSpec spec) : spec_(std::move(spec)), checker_(spec_) {
    Step first;
    auto engine = Engine::Create(spec_, DigestOf("initial"), now_, &first);
    RC_ASSERT(engine.ok());
    engine_.emplace(*std::move(engine));
    Take(first);
    checker_.Created(*engine_, now_, first);
    Check();
  }

  void Do(const Event& event) {
    checker_.BeforeEvent(now_, event);
    Step step = engine_->Handle(now_, event);
    Take(step);
    checker_.AfterStep(*engine_, step);
    Check();
    std::optional<Time> next = engine_->NextDeadline();
    RC_ASSERT(!next || *next > now_);
  }

  void Play(const Draw& draw) {
    DeviceId device("phone-" + std::to_string(draw.device));
    switch (draw.kind) {
      case 0:
      case 1:
      case 2: {
        std::vector<std::string> tasks = {draw.detail == 0 ? "another" : spec_.local_task};
        const auto memory = static_cast<uint64_t>(draw.detail % 5);
        Do(CheckinEvent{.token = ++token_, .device = device, .local_tasks = tasks, .memory_bytes = memory});
        return;
      }
      case 3:
        // Tokens that wait, were answered, or never were.
        return Do(PollGoneEvent{.token = static_cast<PollToken>(draw.detail + draw.device * 5)});
      case 4:
      case 5:
      case 6:
      case 7:
        return Report(draw);
      case 8:
        now_ += Seconds(draw.detail * 7);
        return Do(TickEvent{});
      case 9:
        if (auto next = engine_->NextDeadline()) now_ = *next;
        return Do(TickEvent{});
      case 10: {
        const RoundRecord& round = *engine_->round();
        uint32_t attempt = draw.detail == 0 ? round.attempt - 1 : round.attempt;
        return Do(
            RoundModelReady{.round = round.round, .attempt = attempt, .model = DigestOf(std::to_string(++token_))});
      }
      case 11:
        if (draw.detail != 0) return;
        return Do(RoundModelFailed{
            .round = engine_->round()->round, .attempt = engine_->round()->attempt, .reason = "the disk is full"});
      case 12:
        return draw.detail == 0 ? Do(DeviceRevokedEvent{device}) : Restart(draw.detail);
      default:
        if (draw.detail == 0 && draw.device == 0) Do(StopRunEvent{"stop"});
    }
  }

  // From whatever state, with no device left: the run comes to rest at a state that only new devices can change.
  void RunOut() {
    for (uint32_t ticks = 0; engine_->NextDeadline(); ++ticks) {
      RC_ASSERT(ticks < 4 * (spec_.max_abandoned_attempts + 1) + 50);
      now_ = *engine_->NextDeadline();
      Do(TickEvent{});
    }
    RC_ASSERT(engine_->run().state != RunState::kRunning);
  }

  const Engine& engine() const { return *engine_; }

 private:
  void Check() {
    if (checker_.breach()) RC_FAIL(*checker_.breach());
  }

  void Take(const Step& step) {
    for (const Record& record : step.writes) {
      if (const auto* run = std::get_if<RunRecord>(&record)) run_ = *run;
      if (const auto* row = std::get_if<AssignmentRecord>(&record)) rows_[row->id] = *row;
      if (const auto* round = std::get_if<RoundRecord>(&record)) round_ = *round;
    }
  }

  void Report(const Draw& draw) {
    if (rows_.empty()) return;
    auto row = rows_.begin();
    std::advance(row, static_cast<std::ptrdiff_t>(
                          (static_cast<size_t>(draw.detail) * 31 + static_cast<size_t>(draw.device)) % rows_.size()));
    ReportEvent report;
    report.token = ++token_;
    report.assignment = row->first;
    report.device = draw.kind == 7 && draw.detail == 0 ? DeviceId("stranger") : row->second.device;
    report.completed = draw.kind != 6;
    report.message = "interrupted";
    report.update = DigestOf("update " + std::to_string(token_));  // a repeated report tells another story
    report.update_bytes = 900;
    report.metrics.num_examples = draw.kind == 5 && draw.detail < 2 ? 0 : 80;
    if (draw.kind == 5 && draw.detail == 2) {
      report.validity = InvalidArgument("NaN");
      report.refusal_reason = 7;
    }
    if (!engine_->assignments().contains(row->first)) report.stored = row->second;
    Do(report);
  }

  void Restart(int seconds_down) {
    now_ += Seconds(seconds_down);
    Snapshot snapshot;
    snapshot.run = run_;
    snapshot.round = round_;
    for (const auto& [id, row] : rows_) {
      if (row.round == round_.round && row.attempt == round_.attempt) snapshot.assignments.push_back(row);
    }
    Step first;
    auto engine = Engine::Restore(spec_, snapshot, now_, &first);
    if (!engine.ok()) RC_FAIL(engine.status().ToString());
    engine_.emplace(*std::move(engine));
    Take(first);
    checker_.Restarted(*engine_, now_, first);
    Check();
  }

  RunSpec spec_;
  Time now_ = FromUnixMicros(1'700'000'000'000'000);
  ContractChecker checker_;
  std::optional<Engine> engine_;
  PollToken token_ = 0;
  RunRecord run_;
  RoundRecord round_;
  std::map<AssignmentId, AssignmentRecord> rows_;
};

rc::Gen<RunSpec> AnySpec() {
  return rc::gen::exec([] {
    RunSpec spec = SmallSpec();
    spec.seed = *rc::gen::arbitrary<uint64_t>();
    spec.rounds = *rc::gen::inRange<uint32_t>(1, 5);
    spec.cohort_size = *rc::gen::inRange<uint32_t>(1, 5);
    spec.over_selection = 1 + *rc::gen::inRange(0, 5) * 0.25;
    spec.min_reports = *rc::gen::inRange<uint32_t>(1, spec.cohort_size + 1);
    spec.min_available_devices = *rc::gen::inRange<uint32_t>(spec.min_reports, spec.min_reports + 5);
    spec.first_stage_rounds = *rc::gen::inRange<uint32_t>(0, 4);
    if (spec.first_stage_rounds > 0) {
      spec.later_cohort_size = *rc::gen::inRange<uint32_t>(1, 5);
      spec.later_min_reports = *rc::gen::inRange<uint32_t>(1, spec.later_cohort_size + 1);
      spec.later_min_available_devices =
          *rc::gen::inRange<uint32_t>(spec.later_min_reports, spec.later_min_reports + 5);
    }
    spec.max_abandoned_attempts = *rc::gen::inRange<uint32_t>(1, 6);
    const auto layers = *rc::gen::inRange<size_t>(0, 4);
    for (size_t i = 0; i < layers; ++i) spec.layer_memory.push_back(*rc::gen::inRange<uint64_t>(0, 6));
    return spec;
  });
}

rc::Gen<std::vector<Draw>> AnyEvents() {
  return rc::gen::container<std::vector<Draw>>(rc::gen::exec([] {
    return Draw{*rc::gen::inRange(0, 14), *rc::gen::inRange(0, 8), *rc::gen::inRange(0, 6)};
  }));
}

RC_GTEST_PROP(EngineProperty, KeepsTheContractAndComesToRestWhateverHappens, ()) {
  Hostile world(*AnySpec());
  const std::vector<Draw> draws = *rc::gen::scale(4.0, AnyEvents());
  for (const Draw& draw : draws) world.Play(draw);
  world.RunOut();
}

// The property above says nothing when runs never get anywhere: friendly devices must finish any of its specs.
RC_GTEST_PROP(EngineProperty, CompletesARunWithEnoughFriendlyDevices, ()) {
  RunSpec spec = *AnySpec();
  World world(spec);
  for (int steps = 0; world.engine().run().state == RunState::kRunning; ++steps) {
    RC_ASSERT(steps < 200);
    std::set<std::string> waiting = world.Waiting();
    std::set<std::string> at_work = world.AtWork();
    for (int i = 0; i < 12; ++i) {
      std::string device = "phone-" + std::to_string(i);
      if (!waiting.contains(device) && !at_work.contains(device)) world.Checkin(device);
    }
    for (const std::string& device : world.AtWork()) {
      if (world.round().phase == RoundPhase::kCollecting) world.Report(device);
    }
    if (world.round().phase == RoundPhase::kCommitting) world.ModelReady();
  }
  RC_ASSERT(world.run_row().state == RunState::kComplete);
  RC_ASSERT(world.rounds().size() == spec.rounds);  // no attempt was abandoned
}

}  // namespace
}  // namespace heddle::coordinator::testing
