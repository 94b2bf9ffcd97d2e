// FedAvg (McMahan et al., 1602.05629): the next model is the parent plus the mean of the updates, weighted by
// num_examples. Exact and order-independent, see fixed_point.h. Settings: none of its own.
#pragma once

#include <memory>

#include "aggregation/aggregator.h"

namespace heddle::aggregation {

Result<std::unique_ptr<Aggregator>> MakeFedAvg(const StateDict& parent, const AggregatorOptions& options);

}  // namespace heddle::aggregation
