// How the values of one tensor are written with as many levels as its range is worth (NNADQ of FedOBD; Chen et al.,
// 2208.05174). Internal to compression and its tests.
//
// With m the middle between the largest and the smallest value (double, rounded to float32), n the largest distance of
// a value from m (rounded up to float32) and a weight w, there are s = max(1, floor(sqrt(32 n ln 4 / w))) levels on
// either side of m, at most 32767. A value x has the code s + rint((x - m) / n s), which stands for m + (code - s) n /
// s; codes have as many bits as 2 s needs, so the sign is among them. A tensor of equal values has n = 0 and no codes.
//
//   m, n             float32 each
//   codes            of all values, the first value in the lowest bits; bits behind the last value are zero
//
// No values: no bytes. s is not written: both sides compute it from n and w, in double. Thread-safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/status.h"

namespace heddle::compression {

// Bits of a code for this n; 0 for n = 0. weight in millionths, above 0.
unsigned AdaptiveBits(float half_range, uint32_t weight);

// Values are finite.
void AppendAdaptive(std::span<const float> values, uint32_t weight, std::string* out);
// Reads out.size() values from the front of `in`, which is shortened by what was read. Errors, of
// what AppendAdaptive cannot have written: kOutOfRange for a range that is not finite, else kInvalidArgument.
Status ReadAdaptive(uint32_t weight, std::span<const std::byte>* in, std::span<float> out);

// Of `count` values, at least and at most.
uint64_t MinAdaptiveBytes(uint64_t count);
uint64_t MaxAdaptiveBytes(uint64_t count);

}  // namespace heddle::compression
