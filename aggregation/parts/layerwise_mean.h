// The mean where devices train different layers: w += the mean, weighted by examples, of what those devices sent that
// trained a tensor; one that no device of the round trained stays as it is. There is a sum for each layer
// (layer_groups.h) and one for what is in none, so the tensors of a layer must travel together.
//
// Exact and independent of order (weighted_sums.h). As thread-safe as every Aggregator.
#pragma once

#include <functional>
#include <memory>

#include "aggregation/aggregator.h"

namespace heddle::aggregation {

// Which of `whole`'s tensors the device of an update sends. Pure.
using SentByDevice = std::function<StateDictSpec(const UpdateInfo& info, StateDictSpec whole)>;

// Errors: those of WeightedSums::Make.
Result<std::unique_ptr<Aggregator>> MakeLayerwiseMean(const StateDict& parent, const AggregatorOptions& options,
                                                      SentByDevice sent);

}  // namespace heddle::aggregation
