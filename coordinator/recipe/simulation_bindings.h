// The keys of [simulation] and where their values go. Part of RecipeBindings.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "coordinator/recipe/simulated_devices.h"

namespace heddle::coordinator {

class SimulationBindings {
 public:
  void Bind(ConfigSchema* schema, SimulatedDevices* devices);
  // After a load. batch_size: what min_examples is where the recipe does not say. Errors: those of ParseProfiles.
  Status Store(SimulatedDevices* devices, uint64_t batch_size) const;
  // One sentence for each contradiction, with its key; empty when there is none. After Store.
  std::vector<std::string> Mistakes(const SimulatedDevices& devices) const;

 private:
  void BindMachines(ConfigSchema* schema, SimulatedDevices* devices);

  std::vector<std::string> data_, test_data_;
  std::map<std::string, std::string> profiles_;
  uint64_t num_devices_ = 0, threads_ = 0;
};

// "device-001", … with as many digits as the last one needs, at least 3.
std::vector<std::string> NumberedDevices(uint64_t count);

}  // namespace heddle::coordinator
