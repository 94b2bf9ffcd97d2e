// What many devices' scalars of the same directions become. All in whole numbers, so exact and independent of order.
// Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace heddle::aggregation {

__extension__ typedef __int128 Wide;  // no sum of a round needs as many bits

// numerator / denominator rounded to the nearest whole number, of two equally near ones the even one. denominator > 0.
int64_t RoundedRatio(Wide numerator, Wide denominator);

// The mean of what is left when the floor(trim n) smallest and largest are taken away; 0 with nothing. trim in 0 ..
// 0.5; with 0.5 the median (of an even number the mean of both in the middle). Reorders `values`.
int64_t TrimmedMean(std::span<int64_t> values, double trim);

// Krum (Blanchard et al., 1703.02757) on rows of one length: the row whose n - f - 2 nearest others are the nearest,
// the first of equal ones. At least one row.
size_t KrumRow(std::span<const std::vector<int64_t>> rows, size_t f);

}  // namespace heddle::aggregation
