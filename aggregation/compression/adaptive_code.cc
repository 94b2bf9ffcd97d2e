#include "aggregation/compression/adaptive_code.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace heddle::compression {
namespace {

constexpr double kLn4 = 1.3862943611198906;
constexpr double kMostLevels = 32767;
constexpr uint64_t kHeadBytes = 2 * sizeof(float), kMostBits = 16;

// On either side of the middle. n is finite and not below 0.
uint32_t LevelsOf(double n, uint32_t weight) {
  const double levels = std::floor(std::sqrt(32 * n * kLn4 / (weight * 1e-6)));
  return static_cast<uint32_t>(std::clamp(levels, 1.0, kMostLevels));
}

struct Range {
  float middle = 0, half = 0;
};

Range RangeOf(std::span<const float> values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  Range range;
  range.middle = static_cast<float>((static_cast<double>(*least) + static_cast<double>(*most)) / 2);
  const double middle = range.middle;
  const double half = std::max(static_cast<double>(*most) - middle, middle - static_cast<double>(*least));
  range.half = static_cast<float>(half);
  if (static_cast<double>(range.half) < half) {
    range.half = std::nextafter(range.half, std::numeric_limits<float>::infinity());
  }
  return range;
}

float ValueOf(const Range& range, uint32_t code, uint32_t levels) {
  const double steps = static_cast<double>(code) - static_cast<double>(levels);
  const double value = static_cast<double>(range.middle) + steps * static_cast<double>(range.half) / levels;
  constexpr double kLargest = std::numeric_limits<float>::max();  // rounding the range may have gone beyond it
  return static_cast<float>(std::clamp(value, -kLargest, kLargest));
}

}  // namespace

unsigned AdaptiveBits(float half_range, uint32_t weight) {
  if (half_range == 0) return 0;
  return static_cast<unsigned>(std::bit_width(2 * LevelsOf(half_range, weight)));
}

void AppendAdaptive(std::span<const float> values, uint32_t weight, std::string* out) {
  if (values.empty()) return;
  const Range range = RangeOf(values);
  out->append(reinterpret_cast<const char*>(&range.middle), sizeof range.middle);
  out->append(reinterpret_cast<const char*>(&range.half), sizeof range.half);
  const unsigned bits = AdaptiveBits(range.half, weight);
  if (bits == 0) return;
  const uint32_t levels = LevelsOf(range.half, weight);
  const double middle = range.middle, scale = levels / static_cast<double>(range.half);
  uint64_t waiting = 0;
  unsigned count = 0;
  for (const float value : values) {
    const double steps = std::nearbyint((static_cast<double>(value) - middle) * scale);
    const auto code = static_cast<uint64_t>(std::clamp(steps + levels, 0.0, 2.0 * levels));
    waiting |= code << count;
    for (count += bits; count >= 8; count -= 8, waiting >>= 8) out->push_back(static_cast<char>(waiting & 0xFF));
  }
  if (count > 0) out->push_back(static_cast<char>(waiting));
}

Status ReadAdaptive(uint32_t weight, std::span<const std::byte>* in, std::span<float> out) {
  if (out.empty()) return OkStatus();
  Range range;
  if (in->size() < kHeadBytes) return InvalidArgument("the range of its values is cut off");
  std::memcpy(&range.middle, in->data(), sizeof range.middle);
  std::memcpy(&range.half, in->data() + sizeof range.middle, sizeof range.half);
  *in = in->subspan(kHeadBytes);
  if (!std::isfinite(range.middle) || !std::isfinite(range.half)) {
    return OutOfRange("the range of its values is not finite");
  }
  if (std::signbit(range.half)) return InvalidArgument("the range of its values is negative");
  const unsigned bits = AdaptiveBits(range.half, weight);
  const uint32_t levels = bits == 0 ? 1 : LevelsOf(range.half, weight);
  const uint64_t bytes = (out.size() * bits + 7) / 8;
  if (in->size() < bytes) return InvalidArgument("its values are cut off");
  uint64_t waiting = 0;
  unsigned count = 0;
  size_t next = 0;
  for (float& value : out) {
    for (; count < bits; count += 8) waiting |= static_cast<uint64_t>((*in)[next++]) << count;
    const auto code = static_cast<uint32_t>(waiting & ((uint64_t{1} << bits) - 1));
    waiting >>= bits;
    count -= bits;
    if (code > 2 * levels) return InvalidArgument("a code is above " + std::to_string(2 * levels));
    value = bits == 0 ? range.middle : ValueOf(range, code, levels);
  }
  if (waiting != 0) return InvalidArgument("there are bits set behind the last value");
  *in = in->subspan(bytes);
  return OkStatus();
}

uint64_t MinAdaptiveBytes(uint64_t count) { return count == 0 ? 0 : kHeadBytes; }
uint64_t MaxAdaptiveBytes(uint64_t count) { return count == 0 ? 0 : kHeadBytes + (count * kMostBits + 7) / 8; }

}  // namespace heddle::compression
