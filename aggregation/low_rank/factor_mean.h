// Means of the factors that travel. Internal to low_rank.
#pragma once

#include <memory>

#include "aggregation/aggregator.h"

namespace heddle::aggregation::low_rank {

// FedAvg over what `rules` let travel, for devices of any rank: a column that a device does not have counts as zero.
// What does not travel stays as it is. Errors: kInvalidArgument for a parent without factor pairs, or when nothing
// travels; kResourceExhausted.
Result<std::unique_ptr<Aggregator>> MakeFactorMean(const StateDict& parent, const AggregatorOptions& options,
                                                   const DeviceRules& rules);

}  // namespace heddle::aggregation::low_rank
