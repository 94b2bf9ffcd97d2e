// Float types of weights, from one to the other: half precision (IEEE binary16) and bfloat16 by their bits. On x86-64
// with AVX2 the loops use it; the results are the same bits everywhere.
//
// Thread-safety: pure functions on the caller's memory.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/state_dict.h"

namespace heddle {

inline bool IsFloat(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32 || dtype == DType::kF64;
}

float HalfToFloat(uint16_t half);                                                                   // exact
inline float Bfloat16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }  // exact
// To the nearest, of two equally near ones the even one; too large becomes infinite, NaN one certain NaN.
inline uint16_t FloatToBfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto rounded = static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
  return value != value ? uint16_t{0x7fc0} : rounded;
}

// `count` elements of a float type (asserted) to float32, float64 rounded to the nearest. `in` need not be aligned and
// may not overlap `out`.
void ConvertToFloat(DType from, const std::byte* in, size_t count, float* out);
// The same to bfloat16: float64 by way of float32, bfloat16 as it is.
void ConvertToBfloat16(DType from, const std::byte* in, size_t count, uint16_t* out);

// Whether none is NaN or infinite.
bool AllFinite(std::span<const float> values);

}  // namespace heddle
