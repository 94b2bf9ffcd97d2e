#include "tests/simulation/system/system_world.h"

#include <algorithm>
#include <utility>

#include "tests/simulation/system/told_run.h"

namespace heddle::system_simulation {
namespace {

constexpr Duration kFaultsEnd = std::chrono::minutes(12);
// Once nothing fails any more, ten rounds take minutes. A clock that was set back makes the deadlines of the moment lie
// that much further away, which is granted too.
constexpr Duration kLimit = std::chrono::hours(6);
constexpr Duration kAfterEnd = std::chrono::seconds(100);
// In the worlds that throw away what nothing needs: as often, and what is older. In a real coordinator ten minutes and
// a day.
constexpr Duration kCleaning = std::chrono::seconds(100);
constexpr Duration kGarbageAge = std::chrono::seconds(30);
constexpr size_t kMostTwins = 2;

std::string Text(double value) {
  std::string text = std::to_string(value);
  return text;
}

}  // namespace

SystemWorld::SystemWorld(Stage& stage, uint64_t seed)
    : seed_(seed),
      time_(seed),
      host_(stage, time_, seed),
      network_(time_, host_),
      checker_(time_, host_, seed, DrawMethod(seed), DeriveSeed(seed, "cleaning", "") % 3 == 0, RoundsDownloads(seed),
               DrawSecondStage(seed)),
      rogue_(time_, network_, checker_, machines_),
      enrolments_(stage, time_, host_, network_, checker_),
      folder_troubles_(DrawFolderTroubles(seed)),
      stop_(DrawStop(seed)) {
  DrawWeather();
  DrawMachines();
  DrawTroubles();
  recipe_ = DrawRecipe();
  network_.witness = [this](const std::string& device, const Request& request, const Network::Answer& answer) {
    checker_.OnAnswer(device, request, answer);
    enrolments_.OnAnswer(request, answer);
  };
  host_.round_ended = [this](const coordinator::RoundRecord& round) { checker_.OnRoundEnded(round); };
  host_.gone = [this] { network_.CoordinatorGone(); };
  host_.died = [this](bool power_cut) {
    if (power_cut) checker_.PowerWasCut();
    HasDied();
  };
}

SystemWorld::~SystemWorld() { network_.CoordinatorGone(); }

// ---- what is drawn ----

void SystemWorld::DrawWeather() {
  if (time_.Chance(0.1)) return;  // a fair day
  const auto some = [this](double most) { return time_.Chance(0.5) ? most * time_.Between(0, 1).count() * 1e-6 : 0; };
  Weather& weather = network_.weather;
  weather.loses_request = some(0.1);
  weather.loses_answer = some(0.1);
  weather.breaks = some(0.15);
  weather.goes_silent = some(1);
  weather.duplicates = some(0.15);
  weather.truncates = some(0.1);
  weather.slow = some(0.8);
  if (HasNewerTroubles(seed_)) weather.cuts_answer = some(0.15);
}

void SystemWorld::DrawMachines() {
  const bool rough = time_.Chance(0.8);
  for (size_t i = 0; i < kDevices; ++i) {
    Nature nature;
    nature.inline_bytes = time_.Chance(0.5) ? 64 << 10 : 0;
    if (rough) {
      nature.slowness = time_.Chance(0.15) ? 4 : 1;
      nature.clock = time_.Chance(0.2) ? ToSeconds(time_.Between(0.1, 4)) : 1;
      nature.fails = time_.Chance(0.2) ? 0.3 : 0;
      nature.interrupts = time_.Chance(0.2) ? 0.3 : 0;
      nature.flaws = time_.Chance(0.25) ? 0.6 : 0;
      nature.splits = time_.Chance(0.3) ? 0.5 : 0;
    }
    machines_.push_back(std::make_unique<Machine>(i, i, time_, network_, checker_, nature, seed_));
  }
  if (!time_.Chance(0.3)) return;
  // Somebody has copied a device's identity.
  for (size_t twin = 0; twin < 1 + time_.Below(kMostTwins); ++twin) {
    ++checker_.counts.happened["twin"];
    machines_.push_back(
        std::make_unique<Machine>(kDevices + twin, time_.Below(kDevices), time_, network_, checker_, Nature{}, seed_));
  }
}

void SystemWorld::DrawTroubles() {
  if (time_.Chance(0.1)) return;
  const std::vector<std::vector<Trouble>> kinds = {
      {&SystemWorld::Kill, &SystemWorld::CutPower, &SystemWorld::StopOrderly},
      {&SystemWorld::DieInOperation, &SystemWorld::DieInOperation},
      {&SystemWorld::FailOnce, &SystemWorld::FailOnce},
      {&SystemWorld::FillDisk, &SystemWorld::FailReads, &SystemWorld::LockDatabase},
      {&SystemWorld::Partition},
      {&SystemWorld::MachineVanishes, &SystemWorld::MachineVanishes, &SystemWorld::TakeBackup},
      {&SystemWorld::SetClock},
      {&SystemWorld::OwnerUsesDevice},
      {&SystemWorld::RevokeDevice},
      {&SystemWorld::Mischief, &SystemWorld::Mischief, &SystemWorld::Mischief},
  };
  for (const auto& kind : kinds) {
    if (time_.Chance(0.5)) troubles_.insert(troubles_.end(), kind.begin(), kind.end());
  }
  trouble_pause_s_ = ToSeconds(time_.Skewed(1.5, 40));
  if (!HasNewerTroubles(seed_) || time_.Chance(0.4)) return;
  troubles_.insert(troubles_.end(), {&SystemWorld::MachineLosesPower, &SystemWorld::MachineDiskFails});
}

// Half of the worlds average; the others remember something from round to round, or read their updates again from a
// file. Of all, one in six has a ledger. Before all that one in eight has devices with parts of the model: of a stream
// of its own, in which none of the kept seeds is drawn, so that the worlds of these and of seven in eight others stay.
Method SystemWorld::DrawMethod(uint64_t seed) {
  if (const uint64_t draw = DeriveSeed(seed, "part of the model", ""); draw % 8 == 0) {
    return static_cast<Method>(static_cast<uint64_t>(Method::kHeteroLayers) + draw / 8 % 3);
  }
  if (const uint64_t draw = DeriveSeed(seed, "shared seeds", ""); draw % 6 == 0) {
    return draw % 12 == 0 ? Method::kFedKSeed : Method::kDeComFl;
  }
  if (seed % 2 == 0) return Method::kFedAvg;
  return static_cast<Method>(1 + DeriveSeed(seed, "method", "") % (kNumTensorMethods - 1));
}

bool SystemWorld::RoundsDownloads(uint64_t seed) { return DeriveSeed(seed, "download", "") % 4 == 0; }

// Answers that are cut off, devices' disks, enrolment: one world in three, of which no kept one is.
bool SystemWorld::HasNewerTroubles(uint64_t seed) { return DeriveSeed(seed, "late enrolment", "") % 3 == 0; }

// What is wrong with the folder of runs: one world in six, of which no kept one is.
std::optional<PhiloxStream> SystemWorld::DrawFolderTroubles(uint64_t seed) {
  const uint64_t draw = DeriveSeed(seed, "folders of runs", "");
  return draw % 6 == 0 ? std::optional(PhiloxStream(draw)) : std::nullopt;
}

// One world in eight; of a stream of its own that draws no kept seed, as the parts of the model.
std::optional<SecondStage> SystemWorld::DrawSecondStage(uint64_t seed) {
  const uint64_t draw = DeriveSeed(seed, "second stage", "");
  if (draw % 8 != 0) return std::nullopt;
  PhiloxStream random(draw);
  // The tasks of a ledger are of one size.
  const uint32_t steps = HasLedger(DrawMethod(seed)) ? kLocalSteps : 1 + random.NextBelow(kLocalSteps);
  return SecondStage{.after = 1 + random.NextBelow(8), .cohort_size = 2 + random.NextBelow(14), .local_steps = steps};
}

std::string SystemWorld::DrawRecipe() {
  const uint32_t cohort = 5 + time_.Below(8);
  const double over = 1 + 0.25 * time_.Below(3);
  const auto second_stage = DrawSecondStage(seed_);
  const uint32_t drawn_reports = 1 + time_.Below(cohort);
  const uint32_t min_reports = second_stage ? std::min(drawn_reports, second_stage->cohort_size) : drawn_reports;
  const uint32_t available = std::max(min_reports, time_.Below(2) == 0 ? cohort : 3 + time_.Below(10));
  const Method method = DrawMethod(seed_);
  const bool layers = HasLayers(method);
  std::string more;
  if (method == Method::kFedKSeed) more = "pool_size = " + std::to_string(kPoolSize) + "\n";
  if (HasLedger(method)) {
    more += "bf16_scalars = " + std::to_string(seed_ % 2) +
            "\n[zo]\ndistribution = \"rademacher\"\nzo_eps = " + Text(kEpsilon) +
            "\nclip_projected_grad = " + Text(kMaxScalar) + "\nnum_perturbations = " + std::to_string(1 + seed_ % 3) +
            "\n";
  } else {
    // In some worlds updates are made smaller, in some what devices start from; by the seed alone, so that the other
    // draws of a world stay.
    if (EncodesUploads(seed_)) more += "upload = [\"int8\"]\n";
    if (RoundsDownloads(seed_)) more += "download = \"bf16\"\n";
    if (!more.empty()) more = "[compression]\n" + more;
    if (layers) more = LayerSettings(method, seed_) + more;
    // In some devices clip their updates and add noise to them, and tell no losses.
    if (DeriveSeed(seed_, "privacy", "") % 4 == 0) more += "[privacy]\nupdate_clip = 0.5\nnoise_multiplier = 0.1\n";
  }
  std::string train;
  if (second_stage) {
    more = "first_stage_rounds = " + std::to_string(second_stage->after) +
           "\nlater_cohort_size = " + std::to_string(second_stage->cohort_size) + "\n" + more;
    if (second_stage->local_steps != kLocalSteps) {
      train = "later_local_steps = " + std::to_string(second_stage->local_steps) + "\n";
    }
  }
  return Stage::Recipe(seed_,
                       {{"num_server_rounds", "10"},
                        {"cohort_size", std::to_string(cohort)},
                        {"over_selection", Text(over)},
                        {"min_reports", std::to_string(min_reports)},
                        {"min_available_devices", std::to_string(available)},
                        {"selection_timeout_s", "40.0"},
                        {"report_deadline_s", "60.0"},
                        {"max_poll_hold_s", "25.0"},
                        {"min_retry_after_s", "1.0"},
                        {"max_retry_after_s", "5.0"},
                        {"name", '"' + std::string(MethodName(method)) + '"'},
                        {"max_abs", Text(kMaxAbs)},
                        {"max_norm", Text(kMaxNorm)},
                        {"max_num_examples", std::to_string(kMaxExamples)}},
                       layers, train) +
         more;
}

// ---- the whole ----

std::optional<std::string> SystemWorld::Run() {
  StartCoordinator();
  for (auto& machine : machines_) {
    const bool enrols = HasNewerTroubles(seed_) && machine->number() < kDevices && time_.Chance(0.1);
    time_.After(time_.Between(0, 12), [this, &m = *machine, enrols] {
      if (enrols) return enrolments_.Begin(m);
      m.Start(Machine::Memory::kKept);
    });
  }
  time_.After(time_.Between(0, 6), [this] {
    auto run = host_.Submit(recipe_);
    if (!run.ok()) return checker_.Breach("the run was not taken: " + run.status().ToString());
    submitted_ = true;
    checker_.RunBegan(*run);
    host_.Pump();
    PlanFolderTroubles();
    PlanStop();
    time_.After(time_.Between(0.1, 5), [this] { NextTrouble(); });
  });
  time_.After(kFaultsEnd, [this] { EndFaults(); });
  if (checker_.cleans()) CleanUpNowAndThen();
  std::optional<Time> over;
  while (!checker_.breach() && time_.Step()) {
    checker_.AfterPump();
    if (over ? time_.true_now() > *over : time_.elapsed() > kLimit + checker_.set_back()) break;
    if (!over && RunHasEnded()) over = time_.true_now() + kAfterEnd;
  }
  if (!checker_.breach() && !over) checker_.Breach("the run waits for ever: " + State());
  if (!checker_.breach()) {
    EndFaults();
    if (host_.dying()) host_.Pump();  // of what it has met in the last step: its connections go before a new life comes
    if (!host_.up()) StartCoordinator();
    LetFoldersBeMended();
    if (host_.up() && !checker_.breach()) checker_.AtEnd();
    if (host_.up() && !checker_.breach()) CheckFolder();
  }
  return checker_.breach();
}

// A minute is what the coordinator takes at most, and a little more than it sleeps.
void SystemWorld::LetFoldersBeMended() {
  if (!folder_troubles_) return;
  const Time until = time_.true_now() + Seconds(130);
  while (!checker_.breach() && time_.true_now() < until && time_.Step()) checker_.AfterPump();
}

void SystemWorld::CheckFolder() {
  const auto run = host_.store().GetRun(*checker_.run());
  const auto rounds = host_.store().ListRounds(*checker_.run());
  if (!run.ok() || !rounds.ok()) return checker_.Breach("the run cannot be read at the end");
  const auto folder = host_.RunsFolder() / checker_.run()->value();
  if (const auto mistake = MistakeInFolder(folder, run->run, *rounds, DrawMethod(seed_) == Method::kFedAvg)) {
    checker_.Breach(*mistake);
  }
}

Counts SystemWorld::counts() const {
  Counts all = checker_.counts;
  all.happened.insert(network_.happened.begin(), network_.happened.end());
  return all;
}

void SystemWorld::CleanUpNowAndThen() {
  time_.After(kCleaning, [this] {
    if (host_.up()) checker_.counts.cleaned += host_.CleanUp(kGarbageAge);
    CleanUpNowAndThen();
  });
}

std::string SystemWorld::State() {
  if (!host_.up()) return "the coordinator is down";
  const auto progress = host_.driver().Progress();
  if (!progress) return "there is no run";
  return "round " + std::to_string(progress->round) + ", attempt " + std::to_string(progress->attempt) + ", phase " +
         std::to_string(static_cast<int>(progress->phase)) + ", " + std::to_string(progress->waiting) + " waiting, " +
         std::to_string(progress->open) + " at work, " + std::to_string(progress->accepted) + " accepted, cohort " +
         std::to_string(progress->cohort_size);
}

// ---- the coordinator ----

void SystemWorld::StartCoordinator() {
  if (host_.up()) return;
  const Status status = host_.Start();
  if (status.ok() && !host_.dying()) {
    time_.Note("coordinator up, life " + std::to_string(host_.lives()));
    checker_.OnRestart();
    host_.Pump();
    return;
  }
  if (host_.dying()) {
    host_.Pump();  // clears it away, and comes back here
    return;
  }
  // Without the message: it names folders, which are others each time.
  time_.Note("coordinator does not start: " + std::string(CodeName(status.code())));
  if (!disk_trouble_) return checker_.Breach("the coordinator does not start: " + status.ToString());
  RestartLater();
}

void SystemWorld::RestartLater() {
  const Duration after = time_.Chance(0.1) ? time_.Between(20, 70) : time_.Skewed(0.01, 4);
  time_.After(after, [this] { StartCoordinator(); });
}

void SystemWorld::CoordinatorDies(bool power_cut) {
  if (!host_.up()) return;
  time_.Note(power_cut ? "power cut" : "killed");
  if (!power_cut) ++checker_.counts.happened["kill"];
  if (power_cut) checker_.PowerWasCut();
  host_.Die(power_cut);
  HasDied();
}

void SystemWorld::HasDied() {
  checker_.Disturbed();
  disk_trouble_ = false;
  if (folder_troubles_ && submitted_) host_.TearHistory(*checker_.run(), folder_troubles_->NextBelow(600));
  RestartLater();
}

// ---- troubles ----

void SystemWorld::NextTrouble() {
  if (troubles_.empty() || faults_over_) return;
  (this->*troubles_[time_.Below(static_cast<uint32_t>(troubles_.size()))])();
  time_.After(time_.Skewed(0.2, 3 * trouble_pause_s_), [this] { NextTrouble(); });
}

void SystemWorld::DieInOperation() {
  if (!host_.up() || disk_trouble_) return;
  const uint64_t n = 1 + time_.Below(time_.Chance(0.5) ? 12 : 150);
  const bool power_cut = time_.Chance(0.5);
  time_.Note("will die in operation " + std::to_string(n));
  ++checker_.counts.happened["armed crash"];
  host_.ArmCrash(n, power_cut);
  disk_trouble_ = true;
  HealLater(time_.Between(10, 60));
}

void SystemWorld::StopOrderly() {
  if (!host_.up() || disk_trouble_) return;
  time_.Note("orderly stop");
  ++checker_.counts.happened["orderly stop"];
  checker_.Disturbed();
  network_.CoordinatorStops();
  host_.Stop();
  RestartLater();
}

void SystemWorld::HealLater(Duration after) {
  time_.After(after, [this, number = ++trouble_number_] {
    if (number != trouble_number_ || !disk_trouble_ || host_.dying()) return;
    time_.Note("the disk is well");
    checker_.Disturbed();
    host_.Heal();
    disk_trouble_ = false;
  });
}

void SystemWorld::FailOnce() {
  if (disk_trouble_) return;
  time_.Note("a disk operation will fail");
  ++checker_.counts.happened["failing operation"];
  checker_.Disturbed();
  host_.FailOnce();
  disk_trouble_ = true;
  HealLater(time_.Between(2, 30));
}

void SystemWorld::FillDisk() {
  if (disk_trouble_) return;
  time_.Note("the disk is full");
  ++checker_.counts.happened["full disk"];
  checker_.Disturbed();
  host_.FillDisk();
  disk_trouble_ = true;
  HealLater(time_.Skewed(0.5, 30));
}

void SystemWorld::FailReads() {
  if (disk_trouble_) return;
  time_.Note("the disk cannot be read");
  ++checker_.counts.happened["read error"];
  checker_.Disturbed();
  host_.FailReads();
  disk_trouble_ = true;
  HealLater(time_.Skewed(0.5, 20));
}

void SystemWorld::LockDatabase() {
  if (disk_trouble_) return;
  time_.Note("the database is locked by another process");
  ++checker_.counts.happened["locked database"];
  checker_.Disturbed();
  host_.LockDatabase();
  disk_trouble_ = true;
  HealLater(time_.Skewed(0.5, 20));
}

// What people read of a run cannot be written for a while, up to three times.
void SystemWorld::PlanFolderTroubles() {
  if (!folder_troubles_) return;
  for (uint32_t times = 1 + folder_troubles_->NextBelow(3); times > 0; --times) {
    const Duration begin = std::chrono::milliseconds(folder_troubles_->NextBelow(240'000));
    const Duration length = std::chrono::milliseconds(folder_troubles_->NextBelow(90'000));
    time_.After(begin, [this] {
      if (faults_over_) return;
      time_.Note("the folder of runs cannot be written");
      ++checker_.counts.happened["blocked run folder"];
      host_.BlockRuns();
    });
    time_.After(begin + length, [this] { host_.UnblockRuns(); });
  }
}

void SystemWorld::Partition() {
  const double share = time_.Chance(0.3) ? 1 : ToSeconds(time_.Between(0, 1));
  const Duration length = time_.Skewed(1, 90);
  time_.Note("partition of " + std::to_string(share));
  ++checker_.counts.happened["partition"];
  for (auto& machine : machines_) {
    if (!time_.Chance(share)) continue;
    network_.SetPartition(machine->number(), true);
    time_.After(length, [this, number = machine->number()] { network_.SetPartition(number, false); });
  }
}

void SystemWorld::SetClock() {
  const bool back = time_.Chance(0.5);
  const Duration by = time_.Chance(0.3) ? time_.Between(60, 3600) : time_.Skewed(0.1, 60);
  time_.Note(std::string("the clock is set ") + (back ? "back by " : "forward by ") + std::to_string(ToSeconds(by)));
  ++checker_.counts.jumps;
  checker_.Disturbed();
  if (back) checker_.ClockWasSetBack(by);
  time_.SetClockBy(back ? -by : by);
  host_.Pump();
}

void SystemWorld::Mischief() {
  for (uint32_t i = 1 + time_.Below(4); i > 0; --i) rogue_.Act();
}

void SystemWorld::EndFaults() {
  if (std::exchange(faults_over_, true)) return;
  time_.Note("nothing fails any more");
  network_.weather = {};
  network_.HealAll();
  if (!host_.dying()) host_.Heal();
  host_.UnblockRuns();
  disk_trouble_ = false;
  checker_.Disturbed();
  checker_.FaultsEnd();
  for (auto& machine : machines_) {
    machine->BecomeGood();
    machine->SetEligible(true);
    if (!machine->alive()) machine->Start(Machine::Memory::kKept);
  }
}

}  // namespace heddle::system_simulation
