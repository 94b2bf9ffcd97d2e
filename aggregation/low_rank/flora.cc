// FLoRA: the sum of the devices' products goes into the base.
#include <algorithm>

#include "aggregation/low_rank/merging.h"
#include "aggregation/low_rank/methods.h"

namespace heddle::aggregation::low_rank {
namespace {

// What the sum has beside s B A.
Product Rest(const Product& sum, Product factors, double scaling) {
  for (size_t i = 0; i < factors.left.rows() * factors.left.cols(); ++i) factors.left.data()[i] *= -scaling;
  return Joined(sum, factors);
}

bool IsZero(const Matrix& m) {
  return std::all_of(m.data(), m.data() + m.rows() * m.cols(), [](double x) { return x == 0; });
}

Result<Merged> Stack(const Merge& merge) {
  HEDDLE_ASSIGN_OR_RETURN(Product sum, merge.WeightedSum());
  Product factors = merge.setting("warm_start") == 0 ? merge.FreshFactors() : RankFactors(merge, sum);
  // Fresh factors add nothing where B begins at zero; of others (PiSSA's) the base must not have what they add.
  if (IsZero(factors.left)) return Merged{std::move(factors), std::move(sum)};
  Product rest = Rest(sum, factors, merge.scaling());
  return Merged{std::move(factors), std::move(rest)};
}

}  // namespace

Method FloraMethod() {
  return {.name = "FLoRA",
          .make =
              [](const StateDict& parent, const AggregatorOptions& options, const StateDict&) {
                return MakeMerging({.merge = Stack, .needs_fresh = options.method.find("warm_start")->second == 0},
                                   parent, options);
              },
          .settings = {{"warm_start", "1: the best rank-r part of the sum stays in the adapter", 0, 0, 1},
                       kMaxBaseRank,
                       kBaseTolerance},
          .rules = [](const AggregatorOptions&) { return DeviceRules{.mixed_ranks = true}; }};
}

}  // namespace heddle::aggregation::low_rank
