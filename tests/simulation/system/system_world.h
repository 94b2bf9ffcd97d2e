// A whole federation in one thread, drawn from one seed: the real coordinator on a disk that fails, twenty devices with
// the real session, a network between them, and whatever goes wrong in all of these. Time is virtual; the same seed
// gives the same world, event by event.
//
// Run() plays one run to its end and returns the first breach of the contract, or nothing. One world at a time on a
// Stage; not thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/system/enrolments.h"
#include "tests/simulation/system/machine.h"
#include "tests/simulation/system/rogue.h"

namespace heddle::system_simulation {

// The owner gives the run up: so long after it began, or up to `patience` later, as soon as it stands still. Then the
// coordinator starts anew and cannot read its blobs.
struct OwnersStop {
  Duration after, patience;
};

class SystemWorld {
 public:
  SystemWorld(Stage& stage, uint64_t seed);
  ~SystemWorld();

  std::optional<std::string> Run();

  Counts counts() const;
  uint64_t steps() const { return time_.steps(); }
  uint64_t fingerprint() const { return time_.fingerprint(); }
  std::string Trace() const { return time_.Trace(); }

 private:
  using Trouble = void (SystemWorld::*)();

  // ---- what is drawn ----
  void DrawWeather();
  void DrawMachines();
  void DrawTroubles();
  static Method DrawMethod(uint64_t seed);
  static bool RoundsDownloads(uint64_t seed);
  static std::optional<SecondStage> DrawSecondStage(uint64_t seed);
  static bool HasNewerTroubles(uint64_t seed);
  static std::optional<PhiloxStream> DrawFolderTroubles(uint64_t seed);
  static std::optional<OwnersStop> DrawStop(uint64_t seed);
  std::string DrawRecipe();

  // ---- the coordinator ----
  void StartCoordinator();
  void RestartLater();
  void CoordinatorDies(bool power_cut);
  void HasDied();
  bool RunHasEnded();
  void PlanStop();
  void TryToStop(Time impatient_at);
  void CleanUpNowAndThen();
  void LetFoldersBeMended();
  void CheckFolder();
  std::string State();

  // ---- troubles ----
  void NextTrouble();
  void Kill() { CoordinatorDies(false); }
  void CutPower() { CoordinatorDies(true); }
  void DieInOperation();
  void StopOrderly();
  void FailOnce();
  void FillDisk();
  void FailReads();
  void LockDatabase();
  void HealLater(Duration after);
  void PlanFolderTroubles();
  void Partition();
  void MachineVanishes();
  void MachineLosesPower();
  void MachineDiskFails();
  void SetClock();
  void OwnerUsesDevice();
  void TakeBackup();
  void RevokeDevice();
  void Mischief();
  void EndFaults();

  Machine& AnyMachine() { return *machines_[time_.Below(static_cast<uint32_t>(machines_.size()))]; }

  uint64_t seed_;
  Timeline time_;
  CoordinatorHost host_;
  Network network_;
  SystemChecker checker_;
  std::vector<std::unique_ptr<Machine>> machines_;
  Rogue rogue_;
  Enrolments enrolments_;
  std::string recipe_;
  std::optional<PhiloxStream> folder_troubles_;  // their own chance
  std::optional<OwnersStop> stop_;
  std::vector<Trouble> troubles_;  // those of this world, the frequent ones several times
  double trouble_pause_s_ = 10;
  bool submitted_ = false, disk_trouble_ = false, faults_over_ = false;
  uint64_t trouble_number_ = 0;
  size_t revoked_ = 0;
};

}  // namespace heddle::system_simulation
