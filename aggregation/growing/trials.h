// Side-by-side trials of adapters that grow (FedAdapter): which group a device is in, and what its group trains.
//
// A model of such a run holds the tensors of group 0 under their own names; of a group g above 0 under
// heddle.trial.<g>.<key>; and under heddle.reserve.<key> the first values of the largest adapter, from which adapters
// grow. A device knows nothing of all this: it gets the tensors of its group under their own names, and a configuration
// of their size. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aggregation/device_rules.h"
#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::aggregation {

inline constexpr std::string_view kTrialPrefix = "heddle.trial.", kReservePrefix = "heddle.reserve.";

// In 0 .. rules.groups - 1, by the run's seed, the trial and the device's name; 0 where the rules have no groups.
uint32_t GroupOf(const DeviceRules& rules, uint64_t run_seed, std::string_view device);

// The tensors of a group under their own names, nothing else; of a group that the model does not have those of group 0.
// They share their bytes with `model`.
StateDict GroupModel(const StateDict& model, uint32_t group);

// Layers (ascending) and width of the bottleneck adapters among these tensors; none when there are none.
struct GrownSize {
  std::vector<int64_t> layers;
  int64_t width = 0;
};
std::optional<GrownSize> SizeOfAdapters(const StateDict& tensors);

// `adapter` with bottlenecks in the top `depth` layers of `reserve` and of that width: what it has is kept, the rest
// comes from `reserve`, where the second matrices are zero, so that it computes the same as before. Nothing shrinks.
// Tensors that are no adapters come from `adapter`, where it has them. Errors: kInvalidArgument when a tensor of
// `adapter` has no partner in `reserve` that is at least as large.
Result<StateDict> Grown(const StateDict& adapter, const StateDict& reserve, int64_t depth, int64_t width);

// The first `width` of a bottleneck's tensors; others as they are.
Tensor CutToWidth(std::string_view key, const Tensor& tensor, int64_t width);

}  // namespace heddle::aggregation
