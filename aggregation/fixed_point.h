// Weighted sums on a fixed grid: the reason why an average does not depend on the order of its parts (DESIGN 5.3, 6).
//
// Element x of an update with weight n contributes the integer q = round_half_even(x * n * 2^s). Integers add without
// rounding, so any order, grouping, thread count or restart gives the same sum.
//
// The grid. Let A and N be the smallest powers of two not below max_abs and max_weight, and R = min(256, the power of
// two not below max_updates). Then s is chosen so that A * N * R * 2^s = 2^62. Therefore
//   - x * n * 2^s is exact in a double: x has 24 significant bits and n at most 29, and 2^s only moves the point;
//   - |q| <= n * U with U = A * 2^s, a whole number, and n * U <= 2^62 / R: one update fits many times over;
//   - a sum of updates of total weight w is at most w * U. While w * U <= 2^62 it stands in an int64 (the low limb).
//     Before it could pass that, everything above bit 55 moves to a second limb of 32 bits (Spill), which leaves a low
//     limb below 2^55, and w counts from 0 again: the low limb stays below 2^55 + 2^62 < 2^63. The whole is at most
//     max_updates * 2^62 / R <= 2^24 * 2^54 = 2^78 < 2^(55 + 31), so the second limb cannot overflow either. It is
//     allocated only when it is needed, which up to 256 updates is never.
//
// Precision. The rounding of one q is at most 1/2, so the mean is off by at most 2^-(s+1) / (mean weight of the
// updates). With the defaults (A = 16, N = 2^20, R = 256) s is 30 and 500 examples a device give 10^-12.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "aggregation/kernels.h"
#include "common/status.h"

namespace heddle::aggregation {

class FixedPointGrid {
 public:
  // Errors: kInvalidArgument when a bound is out of range (0 < max_abs <= 2^40, 1 <= max_weight <= 2^29, 1 <=
  // max_updates <= 2^24), or all of them together leave fewer than 16 bits behind the point.
  static Result<FixedPointGrid> Make(double max_abs, uint64_t max_weight, uint64_t max_updates);

  int fraction_bits() const { return fraction_bits_; }  // s
  // Weight that a low limb holds before it must spill: 2^62 / U.
  uint64_t low_capacity() const { return low_capacity_; }

 private:
  FixedPointGrid(int fraction_bits, uint64_t low_capacity)
      : fraction_bits_(fraction_bits), low_capacity_(low_capacity) {}
  int fraction_bits_;
  uint64_t low_capacity_;
};

// The sums of one tensor's elements. Not thread-safe, but disjoint ranges may be worked on at the same time.
// The owner counts the weights and spills in time (see the proof above); FedAvg does.
class FixedPointSum {
 public:
  // All zero. May throw std::bad_alloc.
  FixedPointSum(FixedPointGrid grid, size_t size) : grid_(grid), low_(size) {}

  size_t size() const { return low_.size(); }

  // For i in [begin, begin + x.size()): sum[i] += round(x[i - begin] * weight * 2^s). The caller has checked |x| <=
  // max_abs and weight <= max_weight; other values give a wrong sum, never undefined behaviour.
  void Add(std::span<const float> x, uint64_t weight, size_t begin, const Kernels& kernels = BestKernels());
  // The same with weight * factor, 0 <= factor <= 1, for the weight: the product with x is rounded to double once
  // before it is rounded to the grid, so the sum still does not depend on the order of its parts.
  void AddScaled(std::span<const float> x, uint64_t weight, double factor, size_t begin,
                 const Kernels& kernels = BestKernels());

  // Allocates the second limb. May throw std::bad_alloc; the sum is then unchanged.
  void ReserveSpill() { high_.resize(low_.size()); }
  // Moves the upper bits of [begin, end) to the second limb, after ReserveSpill. Changes no value.
  void Spill(size_t begin, size_t end);

  // out[i] = float(parent[i] + sum[i] / (total_weight * 2^s)) for i in [begin, begin + out.size()): the sum rounded to
  // double, then one double operation after the other, then float. total_weight > 0.
  void MeanOnto(std::span<const float> parent, uint64_t total_weight, size_t begin, std::span<float> out) const;
  // out[i] = sum[i] / (total_weight * 2^s), for those who do more with it than add it.
  void Mean(uint64_t total_weight, size_t begin, std::span<double> out) const;

 private:
  // The sum rounded to double. Both limbs' conversions round the same integer, so having spilled changes nothing.
  double ValueAt(size_t i) const;
  FixedPointGrid grid_;
  std::vector<int64_t> low_;
  std::vector<int32_t> high_;  // empty until the first spill; the value is high * 2^55 + low
};

}  // namespace heddle::aggregation
