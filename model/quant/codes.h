// The values that few bits stand for. Free of LibTorch. Thread-safety: immutable tables, pure functions.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <span>

namespace heddle::model {

// NF4 (Dettmers et al., 2305.14314, appendix E): 16 quantiles of a normal distribution scaled to [-1, 1], ascending,
// with an exact zero at index 7.
std::span<const float, 16> Nf4Values();

// The 8-bit dynamic data type (Dettmers, 1511.04561; Dettmers et al., 2110.02861): 256 values, ascending. k leading
// zero bits stand for 10^-k, k from 0 to 6, and the bits that are left divide [0.1, 1] of that power evenly, each part
// standing for its middle; and 0 and 1. With a sign the smallest positive value is 5.5e-7, without 3.25e-7.
class DynamicCodes {
 public:
  // With a sign: from -0.993 to 1. Without: 0 to 1, twice as fine.
  static const DynamicCodes& Signed();
  static const DynamicCodes& Unsigned();

  std::span<const float, 256> values() const { return values_; }
  // Where the next value becomes the nearest one, ascending: the largest float that belongs to value i, for 0 <= i <
  // 255.
  std::span<const float, 255> boundaries() const { return boundaries_; }

  // The index of the value that is nearest to x, of two equally near ones the smaller. x from -1 to 1; outside: the
  // nearest end. NaN: some index.
  uint8_t Nearest(float x) const {
    // A table over the upper 16 bits of the float finds the value but for one comparison: between two of its entries
    // lies one boundary at most.
    const auto bits = std::bit_cast<uint32_t>(x);
    const uint32_t magnitude = (bits >> 16) & 0x7fffU;
    const uint32_t cell = magnitude < kCells ? magnitude : kCells - 1;
    if ((bits >> 31) == 0) {
      const uint8_t low = positive_[cell];
      return static_cast<uint8_t>(low + (low < 255 && x > boundaries_[low] ? 1 : 0));
    }
    const uint8_t high = negative_[cell];
    return static_cast<uint8_t>(high - (high > 0 && x <= boundaries_[high - 1] ? 1 : 0));
  }

 private:
  explicit DynamicCodes(bool is_signed);
  static constexpr uint32_t kCells = 0x3f80 + 1;  // up to 1.0
  std::array<float, 256> values_;
  std::array<float, 255> boundaries_;
  std::array<uint8_t, kCells> positive_, negative_;  // the value at the cell's end nearer to zero
};

}  // namespace heddle::model
