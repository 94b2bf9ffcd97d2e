#include "aggregation/fixed_point.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "common/assert.h"

// The same source is compiled for several instruction sets and chosen when the program starts. Integer results are the
// same on all of them. Sanitizers and Clang 14 do not know function multiversioning.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define HEDDLE_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HEDDLE_MULTIVERSION
#endif

namespace heddle::aggregation {
namespace {

constexpr double kRound = 0x1.8p52;  // adding it rounds |y| <= 2^51 to an integer, which stands in the low bits

HEDDLE_MULTIVERSION
void AddLoop(const float* x, double scale, int64_t* sum, size_t count) {
  const auto offset = std::bit_cast<int64_t>(kRound);
  for (size_t i = 0; i < count; ++i) {
    double rounded = static_cast<double>(x[i]) * scale + kRound;
    // Unsigned, so that values beyond the bounds wrap instead of being undefined.
    uint64_t q = static_cast<uint64_t>(std::bit_cast<int64_t>(rounded)) - static_cast<uint64_t>(offset);
    sum[i] = static_cast<int64_t>(static_cast<uint64_t>(sum[i]) + q);
  }
}

HEDDLE_MULTIVERSION
uint32_t MaxAbsBits(const float* x, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// Smallest e with value <= 2^e.
int CeilLog2(double value) {
  int exponent = 0;
  double mantissa = std::frexp(value, &exponent);  // value = mantissa * 2^exponent, mantissa in [0.5, 1)
  return mantissa == 0.5 ? exponent - 1 : exponent;
}

}  // namespace

Result<FixedPointGrid> FixedPointGrid::Make(double max_abs, uint64_t max_weight, uint64_t max_updates) {
  if (!(max_abs > 0 && max_abs <= 0x1p40)) return InvalidArgument("max_abs must be above 0 and at most 2^40");
  if (max_weight < 1 || max_weight > uint64_t{1} << 29)
    return InvalidArgument("max_num_examples must be from 1 to 2^29");
  if (max_updates < 1 || max_updates > uint64_t{1} << 32)
    return InvalidArgument("the number of updates must be from 1 to 2^32");
  int one = CeilLog2(max_abs) + CeilLog2(static_cast<double>(max_weight));
  int fraction_bits = std::min(51 - one, 62 - one - CeilLog2(static_cast<double>(max_updates)));
  if (fraction_bits < 16) {
    return InvalidArgument("max_abs, max_num_examples and the number of updates leave only " +
                           std::to_string(fraction_bits) + " bits of precision to the sum; make one of them smaller");
  }
  return FixedPointGrid(std::min(fraction_bits, 200));
}

void FixedPointGrid::Add(std::span<const float> x, uint64_t weight, std::span<int64_t> sum) const {
  HEDDLE_ASSERT(x.size() == sum.size(), "a sum has as many elements as its updates");
  AddLoop(x.data(), std::ldexp(static_cast<double>(weight), fraction_bits_), sum.data(), x.size());
}

void FixedPointGrid::MeanOnto(std::span<const float> parent, std::span<const int64_t> sum, uint64_t total_weight,
                              std::span<float> out) const {
  HEDDLE_ASSERT(parent.size() == sum.size() && out.size() == sum.size() && total_weight > 0, "sizes must agree");
  const double divisor = std::ldexp(static_cast<double>(total_weight), fraction_bits_);
  for (size_t i = 0; i < sum.size(); ++i) {
    double mean = static_cast<double>(sum[i]) / divisor;
    out[i] = static_cast<float>(static_cast<double>(parent[i]) + mean);
  }
}

float MaxAbs(std::span<const float> x) { return std::bit_cast<float>(MaxAbsBits(x.data(), x.size())); }

double SumOfSquares(std::span<const float> x) {
  std::array<double, 8> lanes{};
  size_t whole = x.size() / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) {
    for (size_t j = 0; j < 8; ++j) lanes[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (size_t i = whole; i < x.size(); ++i) lanes[i - whole] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace heddle::aggregation
