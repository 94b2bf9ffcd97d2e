// Rules of single elements: the median and the trimmed mean.
#include <cmath>
#include <numeric>

#include "aggregation/robust/robust_round.h"
#include "aggregation/robust/rules.h"

namespace heddle::aggregation {
namespace {

uint64_t One(const Settings&) { return 1; }

std::vector<size_t> AllOf(const RobustRound& round) {
  std::vector<size_t> all(round.size());
  std::iota(all.begin(), all.end(), size_t{0});
  return all;
}

Status Median(RobustRound* round) { return round->StepByColumns(AllOf(*round), ColumnRule::kMedian, 0); }

Status Trimmed(RobustRound* round) {
  // The fraction is below one half, so that something is left; floor of a product that rounded up could still reach it.
  const size_t n = round->size();
  const auto cut = static_cast<size_t>(std::floor(round->setting("trim_fraction") * static_cast<double>(n)));
  return round->StepByColumns(AllOf(*round), ColumnRule::kTrimmedMean, std::min(cut, (n - 1) / 2));
}

constexpr RobustRule kMedian{"CoordinateMedian", One, Median};
constexpr RobustRule kTrimmed{"TrimmedMean", One, Trimmed};

}  // namespace

Method CoordinateMedianMethod() {
  return {.name = kMedian.name,
          .make = [](const StateDict& parent, const AggregatorOptions& options, const StateDict& state) {
            return MakeRobust(kMedian, parent, options, state);
          }};
}

Method TrimmedMeanMethod() {
  return {
      .name = kTrimmed.name,
      .make = [](const StateDict& parent, const AggregatorOptions& options,
                 const StateDict& state) { return MakeRobust(kTrimmed, parent, options, state); },
      .settings = {{"trim_fraction", "part of the updates that is cut at each end of each element", 0.2, 0, 0.4999}}};
}

}  // namespace heddle::aggregation
