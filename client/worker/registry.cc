// One line a local task.
#include <algorithm>
#include <array>
#include <string>

#include "client/worker/bbpt.h"
#include "client/worker/local_task.h"
#include "client/worker/lora_sft.h"
#include "client/worker/zo_ledger.h"
#include "client/worker/zo_sft.h"
#include "common/config.h"

namespace heddle::client {
namespace {

struct Entry {
  std::string_view name;
  std::shared_ptr<const LocalTask> (*make)();
};

constexpr std::array kTasks = {
    Entry{"lora_sft", MakeLoraSft},    // plans without DeviceRules: what workers of before know
    Entry{"few_shot", MakeLoraSft},    // plans with pseudo-labels or a prompt
    Entry{"prefix_sft", MakeLoraSft},  // models some of whose layers' prefixes travel
    Entry{"sft", MakeLoraSft},
    Entry{"part_sft", MakeLoraSft},  // plans with layers, and so of a part of the
                                     // base model
    Entry{"zo_ledger", MakeZoLedger},
    Entry{"zo_sft", MakeZoSft},
    Entry{"bbpt", MakeBbpt},
};

}  // namespace

Result<std::shared_ptr<const LocalTask>> FindLocalTask(std::string_view name) {
  for (const Entry& entry : kTasks) {
    if (entry.name == name) return entry.make();
  }
  auto nearest = NearestName(name, LocalTaskNames());
  return NotFound("this worker has no local task '" + std::string(name) + "'" +
                  (nearest ? "; did you mean '" + *nearest + "'?" : std::string()));
}

std::vector<std::string> LocalTaskNames() {
  std::vector<std::string> names;
  for (const Entry& entry : kTasks) names.emplace_back(entry.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace heddle::client
