#include "aggregation/compression/kernels.h"

#include <bit>
#include <cstring>
#include <limits>

#include "common/instruction_sets.h"

namespace heddle::compression {
namespace {

// Sixteen blocks side by side, so that the compiler makes vectors of any width out of the inner loops.
HEDDLE_INLINE void WordsLoop(uint64_t key, uint64_t group, size_t groups, uint32_t* __restrict out) {
  constexpr size_t kBlocks = 16;
  for (size_t g = 0; g < groups; ++g, out += kGroupWords) {
    const uint64_t block = (group + g) * kBlocks;  // its upper half is that of all sixteen
    uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
    for (size_t i = 0; i < kBlocks; ++i) {
      c0[i] = static_cast<uint32_t>(block + i);
      c1[i] = static_cast<uint32_t>(block >> 32);
      c2[i] = c3[i] = 0;
    }
    auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      for (size_t i = 0; i < kBlocks; ++i) {
        const uint64_t p0 = uint64_t{0xD2511F53} * c0[i], p1 = uint64_t{0xCD9E8D57} * c2[i];
        c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
        c1[i] = static_cast<uint32_t>(p1);
        c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
        c3[i] = static_cast<uint32_t>(p0);
      }
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    std::memcpy(out, c0, sizeof c0);
    std::memcpy(out + kBlocks, c1, sizeof c1);
    std::memcpy(out + 2 * kBlocks, c2, sizeof c2);
    std::memcpy(out + 3 * kBlocks, c3, sizeof c3);
  }
}

HEDDLE_INLINE void QuantiseLoop(const float* __restrict x, const uint32_t* __restrict words, size_t count,
                                double inverse, double levels, uint8_t* __restrict codes) {
  for (size_t i = 0; i < count; ++i) {
    // Signed conversions are the ones that instruction sets have; the sum is (word + 1/2) * 2^-32, without rounding.
    const double random = static_cast<double>(static_cast<int32_t>(words[i] ^ 0x80000000U)) * 0x1p-32 + (0.5 + 0x1p-33);
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>((static_cast<double>(x[i]) * inverse + levels) + random));
  }
}

HEDDLE_INLINE void RestoreLoop(const uint8_t* __restrict codes, size_t count, float scale, float levels,
                               float* __restrict out) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (size_t i = 0; i < count; ++i) {
    float value = (static_cast<float>(codes[i]) - levels) * scale;
    value = value > kLargest ? kLargest : value;
    out[i] = value < -kLargest ? -kLargest : value;
  }
}

HEDDLE_INLINE uint8_t MaxCodeLoop(const uint8_t* codes, size_t count) {
  uint8_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = codes[i] > largest ? codes[i] : largest;
  return largest;
}

HEDDLE_INLINE uint32_t MaxAbsBitsLoop(const float* x, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFU;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

HEDDLE_INLINE void AddSizesLoop(const float* x, size_t count, std::array<double, 8>* lanes) {
  double sums[8];
  std::memcpy(sums, lanes->data(), sizeof sums);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) {
      const float size = std::bit_cast<float>(std::bit_cast<uint32_t>(x[i + lane]) & 0x7FFFFFFFU);
      sums[lane] += static_cast<double>(size);
    }
  }
  for (size_t lane = 0; i < count; ++i, ++lane) {
    sums[lane] += static_cast<double>(std::bit_cast<float>(std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFU));
  }
  std::memcpy(lanes->data(), sums, sizeof sums);
}

#define HEDDLE_KERNELS(attributes, suffix)                                                                             \
  attributes void Words##suffix(uint64_t key, uint64_t group, size_t groups, uint32_t* out) {                          \
    WordsLoop(key, group, groups, out);                                                                                \
  }                                                                                                                    \
  attributes void Quantise##suffix(const float* x, const uint32_t* words, size_t count, double inverse, double levels, \
                                   uint8_t* codes) {                                                                   \
    QuantiseLoop(x, words, count, inverse, levels, codes);                                                             \
  }                                                                                                                    \
  attributes void Restore##suffix(const uint8_t* codes, size_t count, float scale, float levels, float* out) {         \
    RestoreLoop(codes, count, scale, levels, out);                                                                     \
  }                                                                                                                    \
  attributes uint8_t MaxCode##suffix(const uint8_t* codes, size_t count) { return MaxCodeLoop(codes, count); }         \
  attributes uint32_t MaxAbsBits##suffix(const float* x, size_t count) { return MaxAbsBitsLoop(x, count); }            \
  attributes void AddSizes##suffix(const float* x, size_t count, std::array<double, 8>* lanes) {                       \
    AddSizesLoop(x, count, lanes);                                                                                     \
  }                                                                                                                    \
  constexpr Kernels k##suffix(std::string_view name) {                                                                 \
    return {name,                                                                                                      \
            Words##suffix,                                                                                             \
            Quantise##suffix,                                                                                          \
            Restore##suffix,                                                                                           \
            MaxCode##suffix,                                                                                           \
            MaxAbsBits##suffix,                                                                                        \
            AddSizes##suffix};                                                                                         \
  }

HEDDLE_KERNELS(, Portable)
#if HEDDLE_X86
HEDDLE_KERNELS(HEDDLE_AVX2, Avx2)
HEDDLE_KERNELS(HEDDLE_AVX512, Avx512)
#endif

}  // namespace

std::span<const Kernels> UsableKernels() {
#if HEDDLE_X86
  static const std::vector<Kernels> kernels = Usable(kAvx512("avx512"), kAvx2("avx2"), kPortable("portable"));
#else
  static const std::vector<Kernels> kernels = {kPortable("portable")};
#endif
  return kernels;
}

}  // namespace heddle::compression
