#include "simulator/world/devices.h"

#include <algorithm>

#include "aggregation/privacy/update_privacy.h"
#include "client/worker/upload.h"
#include "common/digest.h"
#include "common/random.h"
#include "simulator/corpus/kjv.h"
#include "simulator/partition/draws.h"
#include "simulator/world/attack.h"
#include "simulator/world/recipe_split.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
using coordinator::SimulatedDevices;

// The data of each device, in the order of their names.
struct DeviceFiles {
  std::vector<fs::path> train, test;
};

Result<DeviceFiles> MakeFiles(const coordinator::Recipe& recipe, const fs::path& folder, DeviceSet* set) {
  const SimulatedDevices& sim = recipe.simulation;
  if (!sim.test_data.empty()) set->test = sim.test_data.front();
  DeviceFiles files{sim.data, {}};
  if (sim.source == "kjv") {
    HEDDLE_ASSIGN_OR_RETURN(KjvFiles kjv, WriteKjv(folder, sim.names));
    files.train = std::move(kjv.parts);
    set->all = std::move(kjv.all);
    // Only when it is asked for: a pass over it takes longer than a short run.
    if (set->test.empty() && sim.eval_every > 0) set->test = std::move(kjv.heldout);
  } else if (sim.source == "split") {
    HEDDLE_ASSIGN_OR_RETURN(Split split, SplitOfRecipe(recipe, folder));
    files.train = std::move(split.train);
    files.test = std::move(split.device_test);
    set->all = std::move(split.all);
    set->test = std::move(split.test);
  }
  return files;
}

// The profile of each device: as many as the shares say, in an order of the seed.
std::vector<size_t> DealProfiles(const coordinator::Recipe& recipe) {
  const SimulatedDevices& sim = recipe.simulation;
  double sum = 0;
  std::vector<double> shares;
  for (const coordinator::DeviceProfile& profile : sim.profiles) sum += profile.share;
  for (const coordinator::DeviceProfile& profile : sim.profiles) shares.push_back(profile.share / sum);
  std::vector<size_t> dealt;
  const auto count = static_cast<int64_t>(sim.names.size());
  const std::vector<int64_t> counts = Apportion(count, shares);
  for (size_t p = 0; p < counts.size(); ++p) dealt.insert(dealt.end(), static_cast<size_t>(counts[p]), p);
  PhiloxStream stream(DeriveSeed(recipe.seed, "profiles", ""));
  std::vector<size_t> of_device(dealt.size());
  const std::vector<int64_t> order = DrawOrder(count, stream);
  for (size_t i = 0; i < order.size(); ++i) of_device[static_cast<size_t>(order[i])] = dealt[i];
  return of_device;
}

// As many as the share says, drawn by the seed.
void DrawAttackers(const coordinator::Recipe& recipe, std::vector<DeviceSpec>* devices) {
  const auto count = static_cast<int64_t>(devices->size());
  const auto attackers = static_cast<size_t>(recipe.simulation.attackers * static_cast<double>(count) + 0.5);
  PhiloxStream stream(DeriveSeed(recipe.seed, "attackers", ""));
  const std::vector<int64_t> order = DrawOrder(count, stream);
  for (size_t i = 0; i < attackers; ++i) (*devices)[static_cast<size_t>(order[i])].attacks = true;
}

}  // namespace

Result<std::string> UploadOf(const coordinator::Recipe& recipe, const DeviceSpec& device, const v1::TaskPlan& plan,
                             client::TaskInput* input, client::TaskOutput* output) {
  if (device.attacks) {
    Attack(recipe.simulation.attack, recipe.simulation.attack_scale, input->seed, &output->update);
    HEDDLE_ASSIGN_OR_RETURN(privacy::PlannedUpload planned, privacy::ParseUpload(input->train.rules.upload));
    input->train.rules.upload = std::move(planned.rest);
  }
  // Of the form that a device's own has.
  const std::string secret =
      Sha256("simulated noise secret\n" + std::to_string(recipe.seed) + "\n" + device.id.value()).ToHex();
  return client::MakeUpload(*input, output, privacy::TaskSecret(secret, plan.SerializeAsString()));
}

Status CheckDevices(const coordinator::Recipe& recipe, const std::string& recipe_name) {
  const size_t devices = recipe.simulation.names.size();
  if (devices == 0) {
    return InvalidArgument(recipe_name + ": there is nothing to simulate; name devices in [simulation]");
  }
  const coordinator::RunSpec& spec = recipe.spec;
  const uint32_t needed = std::max({spec.min_available_devices, spec.min_reports, spec.later_min_reports});
  if (devices >= needed) return OkStatus();
  return InvalidArgument("a round needs " + std::to_string(needed) + " devices, but [simulation] has " +
                         std::to_string(devices) +
                         "; add devices, or lower strategy.cohort_size and what else was set of over_selection, "
                         "min_available_devices and min_reports");
}

Result<DeviceSet> MakeDevices(const coordinator::Recipe& recipe, const std::string& recipe_name,
                              const fs::path& folder) {
  const SimulatedDevices& sim = recipe.simulation;
  DeviceSet set;
  HEDDLE_ASSIGN_OR_RETURN(const DeviceFiles files, MakeFiles(recipe, folder, &set));
  if (files.train.size() != sim.names.size()) {
    return InvalidArgument(recipe_name + ": simulation.data needs one file for each device");
  }
  const std::vector<size_t> profiles = DealProfiles(recipe);
  for (size_t i = 0; i < sim.names.size(); ++i) {
    DeviceSpec device;
    device.id = DeviceId(sim.names[i]);
    device.data = files.train[i];
    if (!files.test.empty()) device.test = files.test[i];
    device.profile = profiles[i];
    const float slow = PhiloxStream(DeriveSeed(recipe.seed, "speed", sim.names[i])).UniformAt(0);
    device.seconds_per_step = sim.profiles[profiles[i]].seconds_per_step * (1 + sim.speed_spread * slow);
    set.devices.push_back(std::move(device));
  }
  DrawAttackers(recipe, &set.devices);
  return set;
}

}  // namespace heddle::simulator
