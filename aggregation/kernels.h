// The loops that touch every element, once for each instruction set. All give the same bits; the fastest that the
// processor has is chosen once. Internal to aggregation and its tests.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace heddle::aggregation {

struct Kernels {
  std::string_view name;  // "portable", "avx2", "avx512"

  // sum[i] += round_half_even(x[i] * scale) for |x[i] * scale| <= 2^62, exact products. Other values (NaN too) give a
  // wrong sum, never undefined behaviour: the additions wrap.
  void (*add)(const float* x, double scale, int64_t* sum, size_t count);

  // Largest bit pattern of |x[i]|: order of size for numbers, above that of infinity when there is a NaN.
  uint32_t (*max_abs_bits)(const float* x, size_t count);

  // lanes[i % 8] += x[i]^2 in double, i in order.
  void (*add_squares)(const float* x, size_t count, std::array<double, 8>* lanes);
};

// Those that this processor can run, the fastest first; never empty.
std::span<const Kernels> UsableKernels();
inline const Kernels& BestKernels() { return UsableKernels().front(); }

}  // namespace heddle::aggregation
