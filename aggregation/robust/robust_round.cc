#include "aggregation/robust/robust_round.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>
#include <utility>

#include "aggregation/parallel.h"
#include "aggregation/robust/columns.h"
#include "common/assert.h"

namespace heddle::aggregation {
namespace {

// Columns whose squares are added in one go before the lanes are: a part of the result, so never to be changed by what
// a machine has. 100 rows of it stay in the second cache.
constexpr size_t kStripe = 2048;

// Of all rows. A multiple of the stripe wherever one fits.
size_t BlockColumns(size_t rows) {
  const size_t columns = std::max<size_t>(1, kBlockBytes / sizeof(float) / std::max<size_t>(1, rows));
  return columns > kStripe ? columns / kStripe * kStripe : columns;
}

}  // namespace

double RobustRound::setting(std::string_view name) const {
  const auto found = options_.method.find(name);
  HEDDLE_ASSERT(found != options_.method.end(), "a rule reads the settings that it declares");
  return found->second;
}

Status RobustRound::ForBlocks(std::span<const size_t> rows, const std::function<void(const Block&)>& body) const {
  std::vector<size_t> of_spool;
  for (const size_t k : rows) of_spool.push_back(order_[k]);
  const size_t width = std::min(BlockColumns(rows.size()), columns());
  std::vector<float> values(rows.size() * width);
  for (size_t begin = 0; begin < columns(); begin += width) {
    const size_t count = std::min(width, columns() - begin);
    const auto part = std::span(values).first(rows.size() * count);
    HEDDLE_RETURN_IF_ERROR(spool_.Read(of_spool, begin, count, part));
    body({begin, count, part.data()});
  }
  return OkStatus();
}

Status RobustRound::ForBlocks(const std::function<void(const Block&)>& body) const {
  std::vector<size_t> all(size());
  std::iota(all.begin(), all.end(), size_t{0});
  return ForBlocks(all, body);
}

Result<PairMatrix> RobustRound::SquaredDistances() const {
  PairMatrix distances(size());
  std::vector<std::pair<uint32_t, uint32_t>> pairs(distances.pairs());
  for (uint32_t i = 1; i < size(); ++i) {
    for (uint32_t j = 0; j < i; ++j) pairs[PairMatrix::Index(i, j)] = {i, j};
  }
  const RowKernels& kernels = BestRowKernels();
  const auto add = [&](const Block& block) {
    // A thread has pairs of its own, and goes with all of them over one stripe after the other.
    ParallelRanges(
        pairs.size(), threads(),
        [&](size_t first, size_t last) {
          for (size_t begin = 0; begin < block.count; begin += kStripe) {
            const size_t count = std::min(kStripe, block.count - begin);
            for (size_t p = first; p < last; ++p) {
              std::array<double, 8> lanes{};
              kernels.add_squared_differences(block.row(pairs[p].first) + begin, block.row(pairs[p].second) + begin,
                                              count, &lanes);
              distances.values()[p] += SumOf(lanes);
            }
          }
        },
        /*min_per_thread=*/64);
  };
  HEDDLE_RETURN_IF_ERROR(ForBlocks(add));
  return distances;
}

void RobustRound::Step(size_t begin, std::span<const double> steps) {
  // The first slot that ends behind `begin`.
  auto slot = std::upper_bound(slots_.begin(), slots_.end(), begin,
                               [](size_t column, const Slot& s) { return column < s.offset + s.next.size(); });
  size_t done = 0;
  for (; slot != slots_.end() && done < steps.size(); ++slot) {
    if (slot->next.empty()) continue;
    const size_t first = begin + done - slot->offset;
    const size_t count = std::min(slot->next.size() - first, steps.size() - done);
    const auto parent = slot->parent.values<float>();
    for (size_t i = 0; i < count; ++i) {
      slot->next[first + i] = static_cast<float>(static_cast<double>(parent[first + i]) + steps[done + i]);
    }
    done += count;
  }
  HEDDLE_ASSERT(done == steps.size(), "a step is within the model");
}

Status RobustRound::StepByMean(std::span<const double> weights) {
  HEDDLE_ASSERT(weights.size() == size(), "every update has a weight");
  std::vector<size_t> rows;
  double total = 0;
  for (size_t k = 0; k < size(); ++k) {
    if (weights[k] == 0) continue;
    rows.push_back(k);
    total += weights[k];
  }
  std::vector<double> sum;
  return ForBlocks(rows, [&](const Block& block) {
    sum.assign(block.count, 0.0);
    const auto add_up = [&](size_t begin, size_t end) {
      for (size_t k = 0; k < rows.size(); ++k) {
        BestRowKernels().add_scaled(block.row(k) + begin, weights[rows[k]], sum.data() + begin, end - begin);
      }
      for (size_t j = begin; j < end && total > 0; ++j) sum[j] /= total;
    };
    ParallelRanges(block.count, threads(), add_up, /*min_per_thread=*/4096);
    Step(block.begin, sum);
  });
}

Status RobustRound::StepByColumns(std::span<const size_t> rows, ColumnRule rule, size_t cut) {
  std::vector<double> steps;
  std::atomic<bool> no_memory = false;
  HEDDLE_RETURN_IF_ERROR(ForBlocks(rows, [&](const Block& block) {
    steps.resize(block.count);
    const auto reduce = [&](size_t begin, size_t end) {
      try {
        ReduceColumns(rule, cut, block.values + begin, rows.size(), block.count,
                      std::span(steps).subspan(begin, end - begin));
      } catch (const std::bad_alloc&) {
        no_memory = true;
      }
    };
    ParallelRanges(block.count, threads(), reduce, /*min_per_thread=*/1024);
    Step(block.begin, steps);
  }));
  if (no_memory) return ResourceExhausted("there is no memory to sort the columns of the updates");
  return OkStatus();
}

}  // namespace heddle::aggregation
