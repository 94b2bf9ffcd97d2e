// How the values of one tensor are written, and read again. Internal to compression and its tests.
//
//   float32, bf16    4 or 2 bytes a value, little-endian
//   int8, int4, int2 a float32 scale for each 256 values (the last block may have fewer), then the codes of all values,
//                    8, 4 or 2 bits each, the first value in the lowest bits. With L = 127, 7 or 1 levels on each side,
//                    the scale s is the smallest float with L s >= the block's largest size, and a value x has the code
//                    floor(x / s + L + u), u uniform on (0, 1) from word i of the key for value i: it stands for
//                    (code - L) s, whose mean is x within 2^-32 s.
//   sign             the float32 scale, the mean of the values' sizes, then a bit a value: 1 when it is below zero
//
// Bits behind the last value are zero. Values are finite on both sides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "aggregation/compression/kernels.h"
#include "aggregation/compression/pipeline.h"
#include "common/status.h"

namespace heddle::compression {

inline constexpr size_t kScaleBlock = 256;  // values

// The last stage of a pipeline; nothing: float32.
using NumberStage = std::optional<StageKind>;
NumberStage NumberStageOf(const Pipeline& pipeline);

// Of `count` values: of their scales, and of the values themselves.
uint64_t ScaleBytes(NumberStage stage, uint64_t count);
uint64_t CodeBytes(NumberStage stage, uint64_t count);

// Levels on each side of zero of int8, int4, int2.
int LevelsOf(StageKind stage);
// The smallest float s with s * levels >= largest; 0 for 0.
float ScaleOf(float largest, int levels);

// Fills `out`, which has ScaleBytes + CodeBytes. `key` gives the random words.
void EncodeValues(NumberStage stage, std::span<const float> values, uint64_t key, std::span<std::byte> out,
                  const Kernels& kernels = BestKernels());

// The other way; `in` has ScaleBytes + CodeBytes of out.size() values. Errors, of what EncodeValues cannot have
// written: kOutOfRange for values or scales that are not finite; kInvalidArgument for scales that are negative or too
// large, codes out of range, bits behind the end.
Status DecodeValues(NumberStage stage, std::span<const std::byte> in, std::span<float> out,
                    const Kernels& kernels = BestKernels());

}  // namespace heddle::compression
