// The troubles of devices in a simulated world.
#include <algorithm>

#include "tests/simulation/system/system_world.h"

namespace heddle::system_simulation {
namespace {

constexpr size_t kMostRevoked = 2;

}  // namespace

void SystemWorld::MachineVanishes() {
  Machine& machine = AnyMachine();
  if (!machine.alive()) return;
  time_.Note(machine.device() + " vanishes");
  ++checker_.counts.happened["vanished device"];
  machine.Vanish();
  Machine::Memory memory = Machine::Memory::kKept;
  if (time_.Chance(0.3)) memory = time_.Chance(0.5) ? Machine::Memory::kLost : Machine::Memory::kBackup;
  time_.After(time_.Skewed(0.1, 200), [this, &machine, memory] {
    if (machine.alive()) return;
    time_.Note(machine.device() + " comes back");
    machine.Start(memory);
  });
}

void SystemWorld::MachineLosesPower() {
  // Rather one with something to lose.
  const auto found = std::find_if(machines_.begin(), machines_.end(),
                                  [](const auto& machine) { return machine->alive() && machine->in_download(); });
  Machine& machine = found != machines_.end() ? **found : AnyMachine();
  if (!machine.alive()) return;
  time_.Note(machine.device() + " loses its power");
  ++checker_.counts.happened["device's power cut"];
  machine.CutPower();
  time_.After(time_.Skewed(0.1, 200), [this, &machine] {
    if (machine.alive()) return;
    time_.Note(machine.device() + " has power again");
    machine.Start(Machine::Memory::kKept);
  });
}

void SystemWorld::MachineDiskFails() {
  Machine& machine = AnyMachine();
  const bool full = time_.Chance(0.5);
  ++checker_.counts.happened[full ? "device's full disk" : "device's read error"];
  full ? machine.FillDisk() : machine.FailReads();
  if (!full && machine.alive() && time_.Chance(0.5)) {  // and the daemon starts anew on what it cannot read
    machine.Vanish();
    machine.Start(Machine::Memory::kKept);
  }
  time_.After(time_.Skewed(0.5, 120), [&machine] { machine.HealDisk(); });
}

void SystemWorld::TakeBackup() {
  ++checker_.counts.happened["backup"];
  AnyMachine().TakeBackup();
}

void SystemWorld::OwnerUsesDevice() {
  Machine& machine = AnyMachine();
  ++checker_.counts.happened["owner at work"];
  machine.SetEligible(false);
  time_.After(time_.Skewed(0.1, 60), [&machine] { machine.SetEligible(true); });
}

void SystemWorld::RevokeDevice() {
  if (!host_.up() || disk_trouble_ || revoked_ >= kMostRevoked) return;
  ++revoked_;
  const size_t device = time_.Below(kDevices);
  time_.Note("revoke " + machines_[device]->device());
  ++checker_.counts.happened["revocation"];
  checker_.WasRevoked(machines_[device]->device());
  host_.Revoke(Stage::DeviceName(device));
  host_.Pump();
  // It gets a new token, some time; its old certificate is worth nothing any more, its twin's neither.
  if (HasNewerTroubles(seed_)) {
    time_.After(time_.Between(5, 60), [this, device] { enrolments_.Begin(*machines_[device]); });
    return;
  }
  time_.After(time_.Between(5, 120), [this, device] {
    if (!host_.up() || disk_trouble_) return;
    const std::string serial = "6e" + std::to_string(1000 + device);
    host_.EnrolAgain(device, serial);
    machines_[device]->SetSerial(serial);
    if (machines_[device]->stopped()) machines_[device]->Start(Machine::Memory::kKept);
  });
}

}  // namespace heddle::system_simulation
