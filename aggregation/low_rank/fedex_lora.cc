// FedEx-LoRA: the mean of the factors, and what it misses into the base.
//
// The residual sum p_c B_c A_c - B A is sum p_c (B_c - B) (A_c - A) where B and A are the means, so it is as small as
// the devices' disagreement, and factors of it have no large parts that cancel. Columns that a device does not have are
// zero there, so all such devices together add one column: their share times B's and A's own.
#include <algorithm>
#include <cmath>

#include "aggregation/low_rank/merging.h"
#include "aggregation/low_rank/methods.h"

namespace heddle::aggregation::low_rank {
namespace {

double Length(std::span<const double> column) {
  double squares = 0;
  for (const double x : column) squares += x * x;
  return std::sqrt(squares);
}

// to = factor * (from - mean)
void Centred(std::span<const double> from, std::span<const double> mean, double factor, std::span<double> to) {
  for (size_t i = 0; i < to.size(); ++i) to[i] = factor * (from[i] - mean[i]);
}

Result<Product> Residual(const Merge& merge, const Product& mean) {
  const FactorPair& pair = merge.pair();
  size_t columns = pair.rank;  // of those that lack a column
  for (size_t c = 0; c < merge.size(); ++c) columns += merge.rank(c);
  Product out{Matrix(pair.d, columns), Matrix(pair.k, columns)};
  size_t at = 0;
  std::vector<double> lacking(pair.rank);
  for (size_t c = 0; c < merge.size(); ++c) {
    HEDDLE_ASSIGN_OR_RETURN(const Product factors, merge.Factors(c));
    const double share = merge.share(c) * merge.scaling();
    for (size_t n = 0; n < factors.rank(); ++n) {
      Centred(factors.left.column(n), mean.left.column(n), share, out.left.column(at));
      Centred(factors.right.column(n), mean.right.column(n), 1, out.right.column(at));
      // What is left of a single device's column is only the rounding of its mean, squared.
      const double of_mean = share * Length(mean.left.column(n)) * Length(mean.right.column(n));
      if (Length(out.left.column(at)) * Length(out.right.column(at)) > 0x1p-45 * of_mean) ++at;
    }
    for (size_t n = factors.rank(); n < pair.rank; ++n) lacking[n] += share;
  }
  for (size_t n = 0; n < pair.rank; ++n) {
    if (lacking[n] == 0) continue;
    std::ranges::transform(mean.left.column(n), out.left.column(at).begin(), [&](double x) { return lacking[n] * x; });
    std::ranges::copy(mean.right.column(n), out.right.column(at).begin());
    ++at;
  }
  out.left.KeepColumns(at);
  out.right.KeepColumns(at);
  return out;
}

Result<Merged> MeanAndResidual(const Merge& merge) {
  HEDDLE_ASSIGN_OR_RETURN(Product mean, merge.MeanFactors(merge.shares()));
  HEDDLE_ASSIGN_OR_RETURN(Product residual, Residual(merge, mean));
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
