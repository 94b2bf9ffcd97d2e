// FedEx-LoRA: the mean of the factors, and what it misses into the base.
#include "aggregation/low_rank/merging.h"
#include "aggregation/low_rank/methods.h"

namespace heddle::aggregation::low_rank {
namespace {

Result<Merged> MeanAndResidual(const Merge& merge) {
  HEDDLE_ASSIGN_OR_RETURN(Product mean, merge.MeanFactors(merge.shares()));
  HEDDLE_ASSIGN_OR_RETURN(Product residual, ResidualOfMean(merge, mean));
  return Merged{std::move(mean), std::move(residual)};
}

}  // namespace

Method FedExLoraMethod() {
  return {.name = "FedEx-LoRA",
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict&) { return MakeMerging({.merge = MeanAndResidual}, parent, options); },
          .settings = {kMaxBaseRank, kBaseTolerance},
          .rules = [](const AggregatorOptions&) { return DeviceRules{.mixed_ranks = true}; }};
}

}  // namespace heddle::aggregation::low_rank
