// How a method enters the registry: one line there, one function that describes it in its own file. Internal to the
// room.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "aggregation/aggregator.h"

namespace heddle::aggregation {

struct Method {
  std::string_view name;
  // Sees options.method complete and within range. The parent and the state are F32 and finite. The parent may hold
  // tensors under kOwnPrefix.
  Result<std::unique_ptr<Aggregator>> (*make)(const StateDict& parent, const AggregatorOptions& options,
                                              const StateDict& state);
  std::vector<Setting> settings = {};
  // Null: DeviceRules{}. Sees options.method complete.
  DeviceRules (*rules)(const AggregatorOptions& options) = nullptr;
  // The model of before the first round. Null: the adapter itself. Sees options.method complete.
  Result<StateDict> (*begin)(const StateDict& adapter, const AggregatorOptions& options) = nullptr;
};

}  // namespace heddle::aggregation
