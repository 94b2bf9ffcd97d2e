#include <cmath>

#include "aggregation/averaging/methods.h"
#include "aggregation/averaging/server_optimizer.h"

namespace heddle::aggregation {
namespace {

double Step(const ServerOptimizer::Rates& rates, ServerOptimizer::Element* element) {
  element->m = rates.beta_1 * element->m + (1 - rates.beta_1) * element->mean;
  element->v += element->mean * element->mean;
  return rates.learning_rate * element->m / (std::sqrt(element->v) + rates.tau);
}

}  // namespace

Method FedAdagradMethod() {
  return {.name = "FedAdagrad",
          .make =
              [](const StateDict& parent, const AggregatorOptions& options, const StateDict& state) {
                return MakeServerOptimizer({Step, true}, parent, options, state);
              },
          .settings = {kAdaptiveLearningRate, {kBeta1.name, kBeta1.help, 0, kBeta1.min, kBeta1.max}, kTau}};
}

}  // namespace heddle::aggregation
