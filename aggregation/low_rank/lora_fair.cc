// LoRA-FAIR: the mean of the factors with B corrected towards the mean of the products. The published distance is a
// similarity found by gradient descent; with squared Frobenius norms the minimum is known:
// D = (sum p_c B_c A_c - B A) transpose(A) (A transpose(A) + lambda I)^-1.
#include "aggregation/low_rank/linear_algebra.h"
#include "aggregation/low_rank/merging.h"
#include "aggregation/low_rank/methods.h"

namespace heddle::aggregation::low_rank {
namespace {

Result<Merged> Corrected(const Merge& merge) {
  HEDDLE_ASSIGN_OR_RETURN(Product mean, merge.MeanFactors(merge.shares()));
  const Matrix gram = TransposedTimes(mean.right, mean.right);  // A transpose(A)
  Matrix target(mean.left.rows(), mean.rank());
  for (size_t c = 0; c < merge.size(); ++c) {
    HEDDLE_ASSIGN_OR_RETURN(const Product factors, merge.Factors(c));
    const Matrix overlap = TransposedTimes(mean.right, factors.right);  // A transpose(A_c)
    AddProduct(factors.left, overlap, merge.share(c), &target);
  }
  AddProduct(mean.left, gram, -1, &target);
  const Matrix correction = SolveRidge(target, gram, merge.setting("fair_lambda"));
  for (size_t i = 0; i < correction.rows() * correction.cols(); ++i) mean.left.data()[i] += correction.data()[i];
  return Merged{std::move(mean), {}};
}

}  // namespace

Method LoraFairMethod() {
  return {.name = "LoRA-FAIR",
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict&) { return MakeMerging({.merge = Corrected}, parent, options); },
          .settings = {{"fair_lambda", "weight of the correction's own size", 0.01, 0, 1e6}},
          .rules = [](const AggregatorOptions&) { return DeviceRules{.mixed_ranks = true}; }};
}

}  // namespace heddle::aggregation::low_rank
