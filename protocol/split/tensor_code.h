// Activations and gradients as the bytes that cross a cut: a matrix of float32 rows x width, row after row.
//
//   kFloat32   4 bytes an element; exact
//   kBfloat16  2 bytes an element, rounded to the nearest: |x - x'| <= 2^-8 |x| (from 2^-126 on; below, <= 2^-134)
//   kInt8      1 byte an element and a float32 scale for each of the `width` channels, which come first:
//              s_c = max over the rows of |x_c| / 127, x' = s_c * round(x / s_c): |x - x'| <= (1/2 + 2^-15) s_c.
//              Channels have scales of their own because a few of a transformer's are far larger than the others. A
//              channel with nothing above 2^-120 is sent as zeros.
//
// Free of LibTorch. Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle::protocol {

// The numbers are those on the wire.
enum class CutEncoding : uint8_t { kFloat32 = 1, kBfloat16 = 2, kInt8 = 3 };

// "f32", "bf16", "int8". Errors: kInvalidArgument, with the nearest name.
Result<CutEncoding> CutEncodingFromName(std::string_view name);
std::string_view CutEncodingName(CutEncoding encoding);

// rows, width >= 0, and their product below 2^31.
uint64_t EncodedBytes(CutEncoding encoding, uint64_t rows, uint64_t width);

// Appends EncodedBytes to `out`. values.size() must be a multiple of width (asserted). Errors: kInvalidArgument when a
// value is NaN or infinite; `out` is then as it was.
Status EncodeTensor(CutEncoding encoding, std::span<const float> values, uint64_t width, std::string* out);

// Into values.size() elements. Errors: kInvalidArgument when there are too few or too many bytes, or a value or a scale
// is not finite, a scale negative or a code -128, which none is written as.
Status DecodeTensor(CutEncoding encoding, std::string_view bytes, uint64_t width, std::span<float> values);

}  // namespace heddle::protocol
