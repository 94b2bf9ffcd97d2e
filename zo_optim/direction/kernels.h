// The inner loops of direction.h, once for each instruction set: kernel_body.inc compiled with other flags. Internal.
#pragma once

#include <cstddef>
#include <cstdint>

namespace heddle::zo {

enum class Path : uint8_t;

inline constexpr size_t kGroupWords = 64;  // of 16 Philox blocks

struct Kernels {
  // Words 64 g to 64 (g + groups) - 1.
  void (*words)(uint64_t seed, uint64_t stream, uint64_t group, size_t groups, uint32_t* out);
  // z, and w + scale z, from the words: of normal directions `count` words, of Rademacher ceil(count / 32).
  void (*fill_normal)(const uint32_t* words, size_t count, float* out);
  void (*add_normal)(const uint32_t* words, size_t count, float scale, float* weights);
  void (*fill_rademacher)(const uint32_t* words, size_t count, float* out);
  void (*add_rademacher)(const uint32_t* words, size_t count, float scale, float* weights);
  // grid.h: w + sum of R(to[m], z) - R(from[m], z) over `moves`; magic is 1.5 * 2^23 units.
  void (*move_normal)(const uint32_t* words, size_t count, const float* from, const float* to, size_t moves,
                      float magic, float* weights);
};

extern const Kernels kScalarKernels;
// Of a path that the machine supports.
const Kernels& KernelsOf(Path path);
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels, kAvx512Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

// T of direction.h.
extern const int16_t kNormalTable[32];

// The sum of direction.h in units of 2^-13.
inline int32_t NormalUnits(uint32_t word) {
  const auto term = [word](int shift) {
    const int32_t entry = kNormalTable[word >> shift & 31U];
    return (word >> (shift + 5) & 1U) == 0 ? entry : -entry;
  };
  return term(0) + term(6) + term(16) + term(22);
}

}  // namespace heddle::zo
