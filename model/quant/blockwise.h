// Blocks of weights in 4 or 8 bits: the loops over plain memory. What a stored code stands for is its value times its
// block's scale, in float32 with one rounding, so the same codes give the same bits everywhere.
//
// Blocks run over the matrix in row-major order, across the ends of rows; the last one may be shorter.
//
// Free of LibTorch. Thread-safety: pure functions on the caller's memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace heddle::model {

enum class QuantKind {
  kInt8,  // -127 to 127 evenly, scale = largest magnitude of the block / 127
  kNf4,   // codes.h; scale = largest magnitude of the block, itself kept in 8 bits (double quantisation)
};

// Weights a block. NF4: 64, as in QLoRA. int8: 128, since the even grid suffers more from one large weight than from
// few scales: against 64 the error grows by 8 % on normal weights and the scales cost 0.03 instead of 0.06 byte a
// weight.
inline constexpr size_t kNf4Block = 64;
inline constexpr size_t kInt8Block = 128;
// NF4's scales that share one float32 scale of their own (QLoRA, double quantisation).
inline constexpr size_t kScaleGroup = 256;

constexpr size_t BlockOf(QuantKind kind) { return kind == QuantKind::kNf4 ? kNf4Block : kInt8Block; }

// Largest magnitude; 0 of nothing; NaN when one is among them.
float AbsMax(std::span<const float> x);

// Double quantisation: scale i is stored as an int8 of its distance from `mean`, in units of its group's `unit`.
//   scale = max(0, mean + code * unit)
// EncodeScales writes one code a scale and one unit a group of kScaleGroup; DecodeScale is what readers see. The error
// of a scale is at most half its group's unit, which is the group's largest distance from the mean / 127.
float MeanOf(std::span<const float> scales);  // in float64, rounded once
void EncodeScales(std::span<const float> scales, float mean, std::span<int8_t> codes, std::span<float> units);
inline float DecodeScale(int8_t code, float mean, float unit) {
  const float scale = mean + static_cast<float>(code) * unit;
  return scale > 0 ? scale : 0;
}

// One block of finite weights. `scale` is the one that decoding will use, so each weight gets the code whose decoded
// value is nearest to it. NF4: two codes a byte, the first in the low half; x.size() <= kNf4Block, and (x.size() + 1) /
// 2 bytes are written.
void EncodeNf4(std::span<const float> x, float scale, uint8_t* out);
void EncodeInt8(std::span<const float> x, float scale, int8_t* out);

// The loops of AbsMax and Encode… for one instruction set; all of them give the same bits. NF4's takes a whole block
// and the borders between codes, of which there are 15: above limit i the code is above i. int8's scale is above zero.
using Nf4Limits = std::array<float, 15>;
struct BlockEncoders {
  const char* name;
  int32_t (*abs_max)(const float* x, size_t count);  // its bits
  void (*nf4)(const float* x, const Nf4Limits& limits, uint8_t* out);
  void (*int8)(const float* x, size_t count, float scale, int8_t* out);
};
// Those that this processor can run, the fastest first; never empty. For tests; the functions above take the fastest.
std::span<const BlockEncoders> UsableBlockEncoders();

// One block of `count` <= BlockOf weights, to float32 or (rounded to nearest, ties to even) to bfloat16's bits.
void DecodeNf4(const uint8_t* codes, size_t count, float scale, float* out);
void DecodeNf4(const uint8_t* codes, size_t count, float scale, uint16_t* out);
void DecodeInt8(const int8_t* codes, size_t count, float scale, float* out);
void DecodeInt8(const int8_t* codes, size_t count, float scale, uint16_t* out);

}  // namespace heddle::model
