#include "aggregation/fixed_point.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "common/assert.h"

namespace heddle::aggregation {
namespace {

constexpr int kSpillBit = 55;
constexpr int kLowBits = 62;        // the low limb holds sums up to 2^62
constexpr int kMaxReserveBits = 8;  // room for 256 updates of the largest weight before the first spill
constexpr int kMaxFractionBits = 200;

__extension__ typedef __int128 Int128;

// Smallest e with value <= 2^e. value > 0.
int CeilLog2(double value) {
  int exponent = 0;
  double mantissa = std::frexp(value, &exponent);  // value = mantissa * 2^exponent, mantissa in [0.5, 1)
  return mantissa == 0.5 ? exponent - 1 : exponent;
}

}  // namespace

Result<FixedPointGrid> FixedPointGrid::Make(double max_abs, uint64_t max_weight, uint64_t max_updates) {
  if (!(max_abs > 0 && max_abs <= 0x1p40)) return InvalidArgument("max_abs must be above 0 and at most 2^40");
  if (max_weight < 1 || max_weight > uint64_t{1} << 29) {
    return InvalidArgument("max_num_examples must be from 1 to 2^29");
  }
  if (max_updates < 1 || max_updates > uint64_t{1} << 24) {
    return InvalidArgument("the number of updates in one sum must be from 1 to 2^24");
  }
  const int weight_bits = CeilLog2(static_cast<double>(max_weight));
  const int reserve_bits = std::min(CeilLog2(static_cast<double>(max_updates)), kMaxReserveBits);
  const int fraction_bits = kLowBits - reserve_bits - weight_bits - CeilLog2(max_abs);
  if (fraction_bits < 16) {
    return InvalidArgument("max_abs and max_num_examples leave only " + std::to_string(fraction_bits) +
                           " bits of precision to the sum and it needs 16; make one of them smaller");
  }
  return FixedPointGrid(std::min(fraction_bits, kMaxFractionBits), uint64_t{1} << (weight_bits + reserve_bits));
}

void FixedPointSum::Add(std::span<const float> x, uint64_t weight, size_t begin, const Kernels& kernels) {
  HEDDLE_ASSERT(begin <= size() && x.size() <= size() - begin, "a sum has as many elements as its updates");
  kernels.add(x.data(), std::ldexp(static_cast<double>(weight), grid_.fraction_bits()), low_.data() + begin, x.size());
}

void FixedPointSum::AddScaled(std::span<const float> x, uint64_t weight, double factor, size_t begin,
                              const Kernels& kernels) {
  HEDDLE_ASSERT(begin <= size() && x.size() <= size() - begin, "a sum has as many elements as its updates");
  HEDDLE_ASSERT(factor >= 0 && factor <= 1, "a factor must not take an update out of its bounds");
  const double scale = std::ldexp(static_cast<double>(weight) * factor, grid_.fraction_bits());
  kernels.add(x.data(), scale, low_.data() + begin, x.size());
}

void FixedPointSum::Spill(size_t begin, size_t end) {
  HEDDLE_ASSERT(high_.size() == low_.size() && begin <= end && end <= size(), "Spill needs ReserveSpill");
  constexpr auto kMask = (int64_t{1} << kSpillBit) - 1;
  for (size_t i = begin; i < end; ++i) {
    // Through unsigned: values beyond the bounds wrap instead of being undefined.
    high_[i] = static_cast<int32_t>(static_cast<uint32_t>(high_[i]) + static_cast<uint32_t>(low_[i] >> kSpillBit));
    low_[i] &= kMask;
  }
}

double FixedPointSum::ValueAt(size_t i) const {
  return high_.empty() ? static_cast<double>(low_[i])
                       : static_cast<double>(Int128{high_[i]} * (Int128{1} << kSpillBit) + low_[i]);
}

void FixedPointSum::MeanOnto(std::span<const float> parent, uint64_t total_weight, size_t begin,
                             std::span<float> out) const {
  HEDDLE_ASSERT(parent.size() == out.size() && begin <= size() && out.size() <= size() - begin && total_weight > 0,
                "the parent, the sum and the result must agree");
  const double divisor = std::ldexp(static_cast<double>(total_weight), grid_.fraction_bits());
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(static_cast<double>(parent[i]) + ValueAt(begin + i) / divisor);
  }
}

void FixedPointSum::Mean(uint64_t total_weight, size_t begin, std::span<double> out) const {
  HEDDLE_ASSERT(begin <= size() && out.size() <= size() - begin && total_weight > 0, "a mean is of what was added");
  const double divisor = std::ldexp(static_cast<double>(total_weight), grid_.fraction_bits());
  for (size_t i = 0; i < out.size(); ++i) out[i] = ValueAt(begin + i) / divisor;
}

}  // namespace heddle::aggregation
