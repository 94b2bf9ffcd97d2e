#include "peft/adapter/memory_need.h"

#include <algorithm>
#include <string>

namespace heddle::peft {
namespace {

// The linear layers for which an adapter has more than a bias.
std::vector<model::LinearSpec> TrainedLinears(const model::ModelSpec& spec, const StateDictSpec& adapter) {
  std::vector<model::LinearSpec> trained = spec.LinearModules();
  std::erase_if(trained, [&](const model::LinearSpec& linear) {
    const std::string path = "base_model.model." + linear.path + ".";
    for (auto at = adapter.lower_bound(path); at != adapter.end() && at->first.starts_with(path); ++at) {
      if (at->first != path + "bias") return false;
    }
    return true;
  });
  return trained;
}

uint64_t BytesOf(const StateDictSpec& tensors) {
  uint64_t sum = 0;
  for (const auto& [name, spec] : tensors) {
    sum += static_cast<uint64_t>(NumElements(spec.shape).value()) * DTypeSize(spec.dtype);
  }
  return sum;
}

}  // namespace

uint64_t TrainingBytes(const model::ModelSpec& spec, model::MemorySettings settings, const StateDictSpec& adapter) {
  settings.rank = 0;  // its tensors are counted as they are
  settings.targets = TrainedLinears(spec, adapter);
  return static_cast<uint64_t>(EstimateMemory(spec, model::MemoryUse::kLora, settings).total()) + 4 * BytesOf(adapter);
}

}  // namespace heddle::peft
