#include "model/quant/codes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace heddle::model {
namespace {

constexpr std::array<float, 16> kNf4 = {
    -1.0F,
    -0.6961928009986877F,
    -0.5250730514526367F,
    -0.39491748809814453F,
    -0.28444138169288635F,
    -0.18477343022823334F,
    -0.09105003625154495F,
    0.0F,
    0.07958029955625534F,
    0.16093020141124725F,
    0.24611230194568634F,
    0.33791524171829224F,
    0.44070982933044434F,
    0.5626170039176941F,
    0.7229568362236023F,
    1.0F,
};

// The largest float from which `low` is not farther than `high`.
float LastOfLower(float low, float high) {
  const double middle = (static_cast<double>(low) + static_cast<double>(high)) / 2;
  auto rounded = static_cast<float>(middle);
  if (static_cast<double>(rounded) > middle) {
    rounded = std::nextafter(rounded, -std::numeric_limits<float>::infinity());
  }
  return rounded;
}

}  // namespace

std::span<const float, 16> Nf4Values() { return kNf4; }

DynamicCodes::DynamicCodes(bool is_signed) {
  std::vector<float> all = {0.0F, 1.0F};
  for (int zeros = 0; zeros < 7; ++zeros) {
    const int parts = 1 << ((is_signed ? 6 : 7) - zeros);
    const double width = 0.9 / parts;
    for (int i = 0; i < parts; ++i) {
      const double value = std::pow(10.0, -zeros) * (0.1 + (i + 0.5) * width);
      all.push_back(static_cast<float>(value));
      if (is_signed) all.push_back(static_cast<float>(-value));
    }
  }
  std::sort(all.begin(), all.end());
  std::copy_n(all.begin(), 256, values_.begin());
  for (size_t i = 0; i < boundaries_.size(); ++i) boundaries_[i] = LastOfLower(values_[i], values_[i + 1]);
  for (uint32_t cell = 0; cell < kCells; ++cell) {
    const auto x = std::bit_cast<float>(cell << 16);
    const auto index = [this](float of) {
      return static_cast<uint8_t>(std::lower_bound(boundaries_.begin(), boundaries_.end(), of) - boundaries_.begin());
    };
    positive_[cell] = index(x);
    negative_[cell] = index(-x);
  }
}

const DynamicCodes& DynamicCodes::Signed() {
  static const DynamicCodes codes(true);
  return codes;
}

const DynamicCodes& DynamicCodes::Unsigned() {
  static const DynamicCodes codes(false);
  return codes;
}

}  // namespace heddle::model
