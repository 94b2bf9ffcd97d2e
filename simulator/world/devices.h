// The simulated devices of a recipe: their data, their kind of machine, and what they are tested on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "client/worker/local_task.h"
#include "common/ids.h"
#include "common/status.h"
#include "coordinator/recipe/recipe.h"
#include "protocol/v1/task.pb.h"

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

// What the device sends of a task that is over, as a worker makes it (client/worker/upload.h). The secret of its noise
// is the SHA-256, in hex, of "simulated noise secret", the recipe's seed and the device's name, with line ends between,
// so that runs repeat. An attacker sends something else than it learnt (attack.h), and neither clips nor noises it:
// `input`, the task's, then says so. Errors: those of MakeUpload.
Result<std::string> UploadOf(const coordinator::Recipe& recipe, const DeviceSpec& device, const v1::TaskPlan& plan,
                             client::TaskInput* input, client::TaskOutput* output);

// That there are devices, and enough for a round to begin and to end. Errors: kInvalidArgument.
Status CheckDevices(const coordinator::Recipe& recipe, const std::string& recipe_name);

// Writes what has to be written under <folder>, once CheckDevices is content. Profiles are dealt by their shares, which
// device gets which is drawn by the recipe's seed. Errors: kInvalidArgument when the recipe has no file for some
// device; those of WriteKjv and WriteSplit. Messages about the recipe begin with `recipe_name`.
Result<DeviceSet> MakeDevices(const coordinator::Recipe& recipe, const std::string& recipe_name,
                              const std::filesystem::path& folder);

}  // namespace heddle::simulator
