// What every method asks of an update before it looks further. Pure functions.
#pragma once

#include "aggregation/aggregator.h"

namespace heddle::aggregation {

// Spec equal to `expected` (F32), values finite, |element| <= max_abs, L2 norm <= max_norm (when > 0), num_examples in
// range.
Validity CheckUpdate(const StateDict& update, const UpdateInfo& info, const StateDictSpec& expected,
                     const AggregatorOptions& options);

// The cheap part, without reading values: spec and num_examples.
Validity CheckUpdateSpec(const StateDict& update, const UpdateInfo& info, const StateDictSpec& expected,
                         const AggregatorOptions& options);

}  // namespace heddle::aggregation
