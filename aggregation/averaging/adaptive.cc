// FedAdagrad, FedAdam and FedYogi (Reddi et al., 2003.00295): one step, of three second moments.
#include <cmath>

#include "aggregation/averaging/methods.h"
#include "aggregation/averaging/server_optimizer.h"

namespace heddle::aggregation {
namespace {

using Rates = ServerOptimizer::Rates;

double SumOfSquares(const Rates&, double v, double mean) { return v + mean * mean; }

double MeanOfSquares(const Rates& rates, double v, double mean) {
  return rates.beta_2 * v + (1 - rates.beta_2) * mean * mean;
}

// Towards the square by a part of it, whichever side it is on.
double TowardsSquare(const Rates& rates, double v, double mean) {
  const double square = mean * mean;
  const double sign = v > square ? 1 : v < square ? -1 : 0;
  return v - (1 - rates.beta_2) * square * sign;
}

template <double (*kSecondMoment)(const Rates&, double, double)>
double Step(const Rates& rates, ServerOptimizer::Element* element) {
  element->m = rates.beta_1 * element->m + (1 - rates.beta_1) * element->mean;
  element->v = kSecondMoment(rates, element->v, element->mean);
  return rates.learning_rate * element->m / (std::sqrt(element->v) + rates.tau);
}

template <double (*kSecondMoment)(const Rates&, double, double)>
Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  return MakeServerOptimizer({Step<kSecondMoment>, true}, parent, options, state);
}

}  // namespace

Method FedAdagradMethod() {
  return {.name = "FedAdagrad",
          .make = Make<SumOfSquares>,
          .settings = {kAdaptiveLearningRate, {kBeta1.name, kBeta1.help, 0, kBeta1.min, kBeta1.max}, kTau}};
}

Method FedAdamMethod() {
  return {.name = "FedAdam", .make = Make<MeanOfSquares>, .settings = {kAdaptiveLearningRate, kBeta1, kBeta2, kTau}};
}

Method FedYogiMethod() {
  return {.name = "FedYogi", .make = Make<TowardsSquare>, .settings = {kAdaptiveLearningRate, kBeta1, kBeta2, kTau}};
}

}  // namespace heddle::aggregation
