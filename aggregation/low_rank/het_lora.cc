// HetLoRA: padded factors, weighted by how much their product does.
#include <cmath>

#include "aggregation/low_rank/linear_algebra.h"
#include "aggregation/low_rank/merging.h"
#include "aggregation/low_rank/methods.h"

namespace heddle::aggregation::low_rank {
namespace {

Result<Merged> ByNorm(const Merge& merge) {
  std::vector<double> weights;
  double sum = 0;
  for (size_t c = 0; c < merge.size(); ++c) {
    HEDDLE_ASSIGN_OR_RETURN(const Product factors, merge.Factors(c));
    weights.push_back(FrobeniusNorm(factors));
    sum += weights.back();
  }
  if (sum > 0) {
    for (double& weight : weights) weight /= sum;
  } else {
    weights.assign(merge.shares().begin(), merge.shares().end());  // nobody has done anything
  }
  HEDDLE_ASSIGN_OR_RETURN(Product mean, merge.MeanFactors(weights));
  return Merged{std::move(mean), {}};
}

DeviceRules Rules(const AggregatorOptions& options) {
  return {.prune_gamma = options.method.find("prune_gamma")->second,
          .prune_lambda = options.method.find("prune_lambda")->second,
          .mixed_ranks = true};
}

}  // namespace

Method HetLoraMethod() {
  return {
      .name = "HetLoRA",
      .make = [](const StateDict& parent, const AggregatorOptions& options,
                 const StateDict&) { return MakeMerging({.merge = ByNorm, .rules = Rules(options)}, parent, options); },
      .settings = {{"prune_gamma", "part of its rank that a device keeps when it prunes; 0: it never does", 0.99, 0,
                    0.9999},
                   {"prune_lambda", "weight of the tail's norm in the device's loss", 0.001, 0, 1000}},
      .rules = Rules};
}

}  // namespace heddle::aggregation::low_rank
