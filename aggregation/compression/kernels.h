// The loops of quantisation, once for each instruction set. All give the same bits; the fastest that the processor has
// is chosen once. Internal to compression and its tests.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace heddle::compression {

inline constexpr size_t kGroupWords = 64;  // of 16 Philox blocks

struct Kernels {
  std::string_view name;  // "portable", "avx2", "avx512"

  // Words 64 group to 64 (group + groups) - 1: W(n) of docs/formats.md under the key, of stream 0.
  void (*words)(uint64_t key, uint64_t group, size_t groups, uint32_t* out);

  // codes[i] = floor((x[i] * inverse + levels) + (words[i] + 1/2) * 2^-32), each operation in double and not fused. The
  // caller has made sure that |x * inverse| <= levels (1 + 2^-50), so 0 <= code <= 2 levels.
  void (*quantise)(const float* x, const uint32_t* words, size_t count, double inverse, double levels, uint8_t* codes);

  // out[i] = (codes[i] - levels) * scale in float, cut off at the largest finite number.
  void (*restore)(const uint8_t* codes, size_t count, float scale, float levels, float* out);

  uint8_t (*max_code)(const uint8_t* codes, size_t count);

  // Largest bit pattern of |x[i]|: order of size for numbers, above that of infinity when there is a NaN.
  uint32_t (*max_abs_bits)(const float* x, size_t count);

  // lanes[i % 8] += |x[i]| in double, i in order; `count` before the last call is a multiple of 8.
  void (*add_sizes)(const float* x, size_t count, std::array<double, 8>* lanes);
};

// Those that this processor can run, the fastest first; never empty.
std::span<const Kernels> UsableKernels();
inline const Kernels& BestKernels() { return UsableKernels().front(); }

}  // namespace heddle::compression
