// Personalisation: tensors that a recipe leaves on the devices, with any method. The method never sees them: they are
// taken off the model before it is asked and put back, unchanged, beside what it makes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "aggregation/aggregator.h"

namespace heddle::aggregation {

// The adapter's tensors that match a pattern (device_rules.h) move from `model` to the result.
StateDict TakeKept(const std::vector<std::string>& patterns, StateDict* model);

// An aggregator whose models have `kept` beside what `inner` makes.
std::unique_ptr<Aggregator> MakeKeeping(std::unique_ptr<Aggregator> inner, StateDict kept);

}  // namespace heddle::aggregation
