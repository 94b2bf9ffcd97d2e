#include "aggregation/layer_groups.h"

#include <algorithm>
#include <set>
#include <string>

#include "common/dotted_name.h"
#include "common/random.h"

namespace heddle::aggregation {

std::optional<uint32_t> LayerOfKey(std::string_view key) { return FirstNumber(key); }

bool InLayerGroup(std::string_view key, uint32_t groups, uint32_t group) {
  if (groups == 0) return true;
  const std::optional<uint32_t> layer = LayerOfKey(key);
  return !layer || *layer % groups == group;
}

uint32_t UsableGroups(const StateDict& tensors, uint32_t groups) {
  if (groups == 0) return 0;
  std::set<uint32_t> layers;
  for (const auto& [key, tensor] : tensors) {
    if (const std::optional<uint32_t> layer = LayerOfKey(key)) layers.insert(*layer);
  }
  for (uint32_t fewer = std::min(groups, static_cast<uint32_t>(layers.size())); fewer > 1; --fewer) {
    std::set<uint32_t> held;
    for (const uint32_t layer : layers) held.insert(layer % fewer);
    if (held.size() == fewer) return fewer;
  }
  return 1;
}

uint32_t LayerGroupOf(uint64_t seed, uint32_t round, std::string_view device, uint32_t groups) {
  if (groups == 0) return 0;
  const std::string which = "round=" + std::to_string(round) + " device=" + std::string(device);
  return static_cast<uint32_t>(DeriveSeed(seed, "layer group", which) % groups);
}

uint32_t LayerGroupsOf(std::string_view method, const AggregatorOptions& options) {
  if (method != "SPRY") return 0;
  const auto given = options.method.find("layer_groups");
  if (given != options.method.end() && given->second >= 1) return static_cast<uint32_t>(given->second);
  return static_cast<uint32_t>(std::clamp<uint64_t>(options.cohort, 1, 4096));
}

}  // namespace heddle::aggregation
