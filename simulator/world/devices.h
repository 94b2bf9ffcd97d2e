// The simulated devices of a recipe: their data, their kind of machine, and what they are tested on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/state_dict.h"
#include "common/status.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::simulator {

struct DeviceSpec {
  DeviceId id;
  std::filesystem::path data, test;  // test is empty when nothing is held out on the device
  size_t profile = 0;                // index into SimulatedDevices::profiles
  bool attacks = false;              // what it sends is not what it learnt (attack.h)
  double seconds_per_step = 0;       // the profile's, times the device's own slowness
};

struct DeviceSet {
  std::vector<DeviceSpec> devices;
  std::filesystem::path all;   // all devices' training examples in one file; empty when there is no such file
  std::filesystem::path test;  // held out from all; empty when nothing is
};

// Puts what an attacker sends in place of what it learnt (attack.h), as the recipe says.
void AttackAs(const coordinator::SimulatedDevices& simulation, uint64_t seed, StateDict* update);

// Writes what has to be written under <folder>. Profiles are dealt by their shares, which device gets which is drawn by
// the recipe's seed. Errors: kInvalidArgument when the recipe names no devices, or has no file for some; those of
// WriteKjv and WriteSplit. Messages about the recipe begin with `recipe_name`.
Result<DeviceSet> MakeDevices(const coordinator::Recipe& recipe, const std::string& recipe_name,
                              const std::filesystem::path& folder);

}  // namespace heddle::simulator
