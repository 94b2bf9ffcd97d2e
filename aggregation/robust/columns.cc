#include "aggregation/robust/columns.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/assert.h"

namespace heddle::aggregation {
namespace {

// A sorted column inside a tile.
struct Column {
  const float* values;
  size_t rows;
  double operator[](size_t k) const { return static_cast<double>(values[k * kTileColumns]); }
};

double Median(const Column& column) {
  const size_t middle = column.rows / 2;
  return column.rows % 2 == 1 ? column[middle] : (column[middle - 1] + column[middle]) / 2;
}

double MeanOf(const Column& column, size_t begin, size_t end) {
  double sum = 0;
  for (size_t k = begin; k < end; ++k) sum += column[k];
  return sum / static_cast<double>(end - begin);
}

// In a sorted column the values nearest to the median stand side by side.
double NearestMedian(const Column& column, size_t keep) {
  const double median = Median(column);
  size_t begin = (column.rows - 1) / 2, end = begin + 1;
  while (end - begin < keep) {
    const bool below = end == column.rows || (begin > 0 && median - column[begin - 1] <= column[end] - median);
    if (below) {
      --begin;
    } else {
      ++end;
    }
  }
  return MeanOf(column, begin, end);
}

double Reduce(ColumnRule rule, size_t cut, const Column& column) {
  switch (rule) {
    case ColumnRule::kMedian:
      return Median(column);
    case ColumnRule::kTrimmedMean:
      return MeanOf(column, cut, column.rows - cut);
    case ColumnRule::kNearestMedian:
      return NearestMedian(column, column.rows - 2 * cut);
  }
  return 0;
}

}  // namespace

void ReduceColumns(ColumnRule rule, size_t cut, const float* block, size_t rows, size_t stride, std::span<double> out,
                   const RowKernels& kernels) {
  HEDDLE_ASSERT(rows >= 1 && (rule == ColumnRule::kMedian || 2 * cut < rows), "a rule leaves a value of each column");
  std::vector<float> tile(rows * kTileColumns);
  for (size_t begin = 0; begin < out.size(); begin += kTileColumns) {
    const size_t count = std::min(kTileColumns, out.size() - begin);
    for (size_t k = 0; k < rows; ++k) {
      std::memcpy(tile.data() + k * kTileColumns, block + k * stride + begin, count * sizeof(float));
    }
    kernels.sort_columns(tile.data(), rows);
    for (size_t j = 0; j < count; ++j) out[begin + j] = Reduce(rule, cut, {tile.data() + j, rows});
  }
}

}  // namespace heddle::aggregation
