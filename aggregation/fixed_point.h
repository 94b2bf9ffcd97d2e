// Weighted sums on a fixed grid: the reason why an average does not depend on the order of its parts (DESIGN 5.3, 6).
//
// Element x of an update with weight n contributes the integer q = round_half_even(x * n * 2^s). Integers add without
// rounding, so any order, thread count or grouping gives the same sum. With |x| <= A, n <= N and at most M updates, s
// is the largest integer for which both of these hold:
//   A * N * 2^s <= 2^51   the product x * n has at most 24 + 29 bits, so it is exact in a double, and adding 1.5 * 2^52
//   rounds it
//                         to an integer in the same way on every instruction set;
//   A * N * 2^s * M <= 2^62   the sum fits an int64, so overflow is impossible by construction.
// The error of the mean is at most 2^-(s+1) / (mean weight): below 2^-52 of A * N / n, far finer than a float32 of
// usual size.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"

namespace heddle::aggregation {

class FixedPointGrid {
 public:
  // Errors: kInvalidArgument when the bounds leave fewer than 16 bits behind the point, or are out of range
  // (0 < max_abs <= 2^40, 1 <= max_weight <= 2^29, 1 <= max_updates <= 2^32).
  static Result<FixedPointGrid> Make(double max_abs, uint64_t max_weight, uint64_t max_updates);

  int fraction_bits() const { return fraction_bits_; }

  // sum[i] += round(x[i] * weight * 2^s). The caller has checked |x[i]| <= max_abs and weight <= max_weight; other
  // values give a wrong sum, never undefined behaviour. sum.size() == x.size(). Not thread-safe on overlapping sums.
  void Add(std::span<const float> x, uint64_t weight, std::span<int64_t> sum) const;

  // out[i] = float(parent[i] + sum[i] / (total_weight * 2^s)), each operation in double in this order. total_weight >
  // 0.
  void MeanOnto(std::span<const float> parent, std::span<const int64_t> sum, uint64_t total_weight,
                std::span<float> out) const;

 private:
  explicit FixedPointGrid(int fraction_bits) : fraction_bits_(fraction_bits) {}
  int fraction_bits_;
};

// Largest |x| as a float; infinity or NaN when any element is (NaN wins). 0 for none.
float MaxAbs(std::span<const float> x);
// Sum of squares in double, in a fixed order (eight lanes, then the lanes in order): the same bits everywhere.
double SumOfSquares(std::span<const float> x);

}  // namespace heddle::aggregation
