// Normally distributed numbers with random access, as common/random.h has uniform ones. Pure functions.
#pragma once

#include <array>
#include <cstdint>

#include "common/random.h"

namespace heddle {

// Two independent N(0, 1) numbers, number `index` of the stream's pairs: 53 bits of each of the words U64At(2 index)
// and U64At(2 index + 1) by the Box-Muller transform, in double. No value is beyond 8.6. The same bits wherever the
// library's log, sin and cos are the same.
std::array<double, 2> NormalPairAt(const PhiloxStream& random, uint64_t index);

}  // namespace heddle
