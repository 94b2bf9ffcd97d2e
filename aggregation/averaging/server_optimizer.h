// An optimizer on the server that takes the mean of the updates for its (negative) gradient. A method is one rule for
// one element. Internal to the room.
#pragma once

#include <memory>

#include "aggregation/method.h"

namespace heddle::aggregation {

struct ServerOptimizer {
  // Moves the moments m and v in place and returns the step of the element. `tau` and so on are in settings.
  struct Element {
    double mean;
    double m, v;
  };
  struct Rates {
    double learning_rate = 1, momentum = 0, beta_1 = 0, beta_2 = 0, tau = 0;  // those that the method declares
  };
  double (*step)(const Rates& rates, Element* element);
  bool has_v;  // v is remembered, and begins at tau^2; m begins at 0
};

// The settings, shared by those methods that have them.
inline constexpr Setting kServerLearningRate{"server_learning_rate", "factor of the server's step", 1, 0, 1000};
inline constexpr Setting kAdaptiveLearningRate{"server_learning_rate", "factor of the server's step", 0.01, 0, 1000};
inline constexpr Setting kServerMomentum{"server_momentum", "part of the last step that is taken again", 0.9, 0,
                                         0.999999};
inline constexpr Setting kBeta1{"beta_1", "decay of the first moment", 0.9, 0, 0.999999};
inline constexpr Setting kBeta2{"beta_2", "decay of the second moment", 0.99, 0, 0.999999};
inline constexpr Setting kTau{"tau", "degree of adaptivity, added to the root of the second moment", 1e-3, 1e-12, 1};

// State: "m.<key>" and, with has_v, "v.<key>", F32 in the tensor's shape.
Result<std::unique_ptr<Aggregator>> MakeServerOptimizer(const ServerOptimizer& optimizer, const StateDict& parent,
                                                        const AggregatorOptions& options, const StateDict& state);

}  // namespace heddle::aggregation
