// Norm clipping: an update that is longer than a bound counts as the one of that length in its direction, whatever the
// method. So no device moves the model by more than its share of the bound.
#pragma once

#include <memory>

#include "aggregation/aggregator.h"

namespace heddle::aggregation {

// The update scaled by min(1, clip_norm / its L2 norm), each element in double and rounded once. Control variates
// (under kControlPrefix) are a vector of their own with the same bound. What is not clipped shares its bytes with
// `update`. May throw std::bad_alloc.
StateDict ClipUpdate(const StateDict& update, double clip_norm);

// An aggregator that clips what it folds and leaves everything else to `inner`. clip_norm > 0.
std::unique_ptr<Aggregator> MakeClipping(std::unique_ptr<Aggregator> inner, double clip_norm);

}  // namespace heddle::aggregation
