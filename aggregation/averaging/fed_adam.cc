#include <cmath>

#include "aggregation/averaging/methods.h"
#include "aggregation/averaging/server_optimizer.h"

namespace heddle::aggregation {
namespace {

double Step(const ServerOptimizer::Rates& rates, ServerOptimizer::Element* element) {
  element->m = rates.beta_1 * element->m + (1 - rates.beta_1) * element->mean;
  element->v = rates.beta_2 * element->v + (1 - rates.beta_2) * element->mean * element->mean;
  return rates.learning_rate * element->m / (std::sqrt(element->v) + rates.tau);
}

}  // namespace

Method FedAdamMethod() {
  return {.name = "FedAdam",
          .make =
              [](const StateDict& parent, const AggregatorOptions& options, const StateDict& state) {
                return MakeServerOptimizer({Step, true}, parent, options, state);
              },
          .settings = {kAdaptiveLearningRate, kBeta1, kBeta2, kTau}};
}

}  // namespace heddle::aggregation
