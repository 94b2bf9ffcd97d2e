// The geometric median: the point with the smallest sum of distances to all updates, by smoothed Weiszfeld iterations.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "aggregation/parallel.h"
#include "aggregation/robust/robust_round.h"
#include "aggregation/robust/rules.h"

namespace heddle::aggregation {
namespace {

constexpr size_t kStripe = 2048;        // columns whose squares are added in one go; a part of the result
constexpr double kStandsStill = 1e-10;  // of a weight from one iteration to the next, of a sum of 1

// Squared distances of all updates to their mean with these weights, whose sum is 1.
Result<std::vector<double>> DistancesToMean(const RobustRound& round, const std::vector<double>& weights) {
  const size_t n = round.size();
  const RowKernels& kernels = BestRowKernels();
  std::vector<double> squares(n, 0.0), mean;
  HEDDLE_RETURN_IF_ERROR(round.ForBlocks([&](const Block& block) {
    mean.assign(block.count, 0.0);
    const auto add_up = [&](size_t begin, size_t end) {
      for (size_t k = 0; k < n; ++k) {
        kernels.add_scaled(block.row(k) + begin, weights[k], mean.data() + begin, end - begin);
      }
    };
    ParallelRanges(block.count, round.threads(), add_up, /*min_per_thread=*/4096);
    const auto compare = [&](size_t first, size_t last) {
      for (size_t k = first; k < last; ++k) {
        for (size_t begin = 0; begin < block.count; begin += kStripe) {
          const size_t count = std::min(kStripe, block.count - begin);
          std::array<double, 8> lanes{};
          kernels.add_squared_differences_to(mean.data() + begin, block.row(k) + begin, count, &lanes);
          squares[k] += SumOf(lanes);
        }
      }
    };
    ParallelRanges(n, round.threads(), compare, /*min_per_thread=*/16);
  }));
  return squares;
}

void Normalise(std::vector<double>* weights) {
  const double sum = std::accumulate(weights->begin(), weights->end(), 0.0);
  for (double& weight : *weights) weight /= sum;
}

Status Weiszfeld(RobustRound* round) {
  const size_t n = round->size();
  std::vector<double> alpha(n, 1.0);
  if (round->setting("weigh_by_examples") > 0) {
    for (size_t k = 0; k < n; ++k) alpha[k] = static_cast<double>(round->info(k).num_examples);
  }
  Normalise(&alpha);
  const double smoothing = round->setting("smoothing");
  const auto iterations = static_cast<int>(round->setting("max_iterations"));
  std::vector<double> weights = alpha;
  for (int i = 0; i < iterations; ++i) {
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<double> squares, DistancesToMean(*round, weights));
    std::vector<double> next(n);
    for (size_t k = 0; k < n; ++k) next[k] = alpha[k] / std::max(smoothing, std::sqrt(squares[k]));
    Normalise(&next);
    double moved = 0;
    for (size_t k = 0; k < n; ++k) moved = std::max(moved, std::abs(next[k] - weights[k]));
    weights = std::move(next);
    if (moved <= kStandsStill) break;
  }
  return round->StepByMean(weights);
}

constexpr RobustRule kGeometricMedian{"GeometricMedian", [](const Settings&) { return uint64_t{1}; }, Weiszfeld};

}  // namespace

Method GeometricMedianMethod() {
  return {.name = kGeometricMedian.name,
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict& state) { return MakeRobust(kGeometricMedian, parent, options, state); },
          .settings = {{"max_iterations", "each reads all updates once", 10, 1, 1000, true},
                       {"smoothing", "distances below it count as it", 1e-6, 1e-12, 1e6},
                       {"weigh_by_examples", "1: believe the devices' numbers of examples", 0, 0, 1, true}}};
}

}  // namespace heddle::aggregation
