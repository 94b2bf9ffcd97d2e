// FedAvg (McMahan et al., 1602.05629): the next model is the parent plus the mean of the updates, weighted by
// num_examples. Exact and order-independent, see fixed_point.h. Settings: none of its own. Tensors of the parent that
// do not travel stay as they are.
#pragma once

#include <memory>

#include "aggregation/method.h"

namespace heddle::aggregation {

Method FedAvgMethod();

}  // namespace heddle::aggregation
