// Rules that look at one column (the same element of all updates) at a time. Pure functions on blocks of updates.
#pragma once

#include <cstddef>
#include <span>

#include "aggregation/robust/row_kernels.h"

namespace heddle::aggregation {

// What becomes of a sorted column of n values.
enum class ColumnRule : unsigned char {
  kMedian,         // the middle one, or the mean of the two in the middle
  kTrimmedMean,    // the mean without the `cut` smallest and the `cut` largest; 2 cut < n
  kNearestMedian,  // the mean of the n - 2 cut values nearest to the median; of two equally near the smaller
};

// out[j] = the rule of block[k * stride + j] over all `rows` k, in double; sums go from the smallest to the largest.
// rows >= 1; finite values. `stride` is the length of a row of the block, at least out.size(). May throw
// std::bad_alloc.
void ReduceColumns(ColumnRule rule, size_t cut, const float* block, size_t rows, size_t stride, std::span<double> out,
                   const RowKernels& kernels = BestRowKernels());

}  // namespace heddle::aggregation
