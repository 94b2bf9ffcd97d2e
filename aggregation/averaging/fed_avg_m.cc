#include "aggregation/averaging/methods.h"
#include "aggregation/averaging/server_optimizer.h"

namespace heddle::aggregation {
namespace {

double Step(const ServerOptimizer::Rates& rates, ServerOptimizer::Element* element) {
  element->m = rates.momentum * element->m + element->mean;
  return rates.learning_rate * element->m;
}

}  // namespace

Method FedAvgMMethod() {
  return {.name = "FedAvgM",
          .make =
              [](const StateDict& parent, const AggregatorOptions& options, const StateDict& state) {
                return MakeServerOptimizer({Step, false}, parent, options, state);
              },
          .settings = {kServerLearningRate, kServerMomentum}};
}

}  // namespace heddle::aggregation
