// FlexLoRA and HLoRA: the mean of the products, back at the adapter's rank.
#include "aggregation/low_rank/merging.h"
#include "aggregation/low_rank/methods.h"

namespace heddle::aggregation::low_rank {
namespace {

Result<Merged> BestOfRank(const Merge& merge) {
  HEDDLE_ASSIGN_OR_RETURN(const Product sum, merge.WeightedSum());
  return Merged{RankFactors(merge, sum), {}};
}

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options, const StateDict&) {
  return MakeMerging({.merge = BestOfRank}, parent, options);
}

DeviceRules Rules(const AggregatorOptions&) { return {.mixed_ranks = true}; }

}  // namespace

Method FlexLoraMethod() { return {.name = "FlexLoRA", .make = Make, .settings = {}, .rules = Rules}; }
Method HLoraMethod() { return {.name = "HLoRA", .make = Make, .settings = {}, .rules = Rules}; }

}  // namespace heddle::aggregation::low_rank
