// SPRY (Panchal et al., 2405.15551): w += the mean, weighted by examples, of what the devices of a tensor's group sent;
// a tensor that no device of the round trained stays as it is.
#include "aggregation/averaging/methods.h"
#include "aggregation/layer_groups.h"
#include "aggregation/parts/layerwise_mean.h"

namespace heddle::aggregation {
namespace {

constexpr double kMostGroups = 4096;

}  // namespace

Method SpryMethod() {
  return {.name = "SPRY",
          .make =
              [](const StateDict& parent, const AggregatorOptions& options, const StateDict&) {
                const uint32_t groups = LayerGroupsOf("SPRY", options), usable = UsableGroups(parent, groups);
                return MakeLayerwiseMean(parent, options, [=](const UpdateInfo& info, StateDictSpec whole) {
                  const uint32_t group = LayerGroupOf(options.seed, options.round, info.device, groups) % usable;
                  std::erase_if(whole, [&](const auto& item) { return !InLayerGroup(item.first, usable, group); });
                  return whole;
                });
              },
          .settings = {{"layer_groups", "groups that the layers are split into, no more than there are; 0: cohort_size",
                        0, 0, kMostGroups,
                        /*whole=*/true}}};
}

}  // namespace heddle::aggregation
