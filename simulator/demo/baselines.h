// What the federated adapter is compared with: the base model as it is, each device training alone, and one machine
// that has all devices' data. All with the recipe's own local task and settings.
//
// Thread-safety: one call at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/status.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::simulator {

struct BaselineOptions {
  coordinator::Recipe recipe;
  std::vector<std::filesystem::path> device_data;  // one file a device
  std::filesystem::path all_data;                  // all of them together
  std::filesystem::path heldout;
  std::filesystem::path initial_adapter;    // PEFT folder: what round 1 starts from
  std::filesystem::path federated_adapter;  // PEFT folder: the last checkpoint
  std::filesystem::path scratch;            // for trained adapters
  // done in 0 .. 1; from several threads; false ends it (kCancelled).
  std::function<bool(const std::string& what, double done)> progress;
};

// Held-out perplexities.
struct Baselines {
  double base = 0;
  double local_only = 0;  // mean over the devices
  double federated = 0;
  double centralised = 0;
  std::vector<double> local_each;
};

// A device alone takes rounds x local_steps steps on its own data; the centralised run takes as many steps on all data
// with a batch of devices x batch_size, so it sees as many examples as all devices together. Errors: those of the
// tasks.
Result<Baselines> MeasureBaselines(const BaselineOptions& options);

}  // namespace heddle::simulator
