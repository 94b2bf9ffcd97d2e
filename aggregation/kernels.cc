#include "aggregation/kernels.h"

#include <bit>
#include <cstring>

#include "common/instruction_sets.h"

#if HEDDLE_X86
#include <immintrin.h>
#endif

namespace heddle::aggregation {
namespace {

// Adding 1.5 * 2^52 to |y| <= 2^51 rounds y to an integer, half to even, which then stands in the low bits of the
// double. |y| up to 2^62 is first cut into a multiple of 2^26 and an exact remainder of at most 2^25. The multiple is
// even, so half to even of the remainder is half to even of y.
HEDDLE_INLINE void AddSome(const float* x, double scale, int64_t* sum, size_t count) {
  constexpr double kRound = 0x1.8p52;
  const auto offset = std::bit_cast<uint64_t>(kRound);
  for (size_t i = 0; i < count; ++i) {
    double y = static_cast<double>(x[i]) * scale;
    double high = y * 0x1p-26 + kRound;
    double low = (y - (high - kRound) * 0x1p26) + kRound;
    uint64_t q = ((std::bit_cast<uint64_t>(high) - offset) << 26) + (std::bit_cast<uint64_t>(low) - offset);
    sum[i] = static_cast<int64_t>(static_cast<uint64_t>(sum[i]) + q);
  }
}

// Asks for what kAhead bytes further on will be read: adding waits for memory, and a processor's own guesses stop at
// each page. `x` and `sum` are where kStep elements begin: one line of the update, two of the sum. Beyond an array's
// end it asks for nothing that matters.
constexpr size_t kStep = 16;
HEDDLE_INLINE void FetchAhead(const float* x, const int64_t* sum) {
  constexpr uintptr_t kAhead = 1024, kLine = 64;
  const auto next = [](const void* at, uintptr_t bytes) {
    return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + bytes);
  };
  __builtin_prefetch(next(x, kAhead), 0, 0);
  __builtin_prefetch(next(sum, kAhead), 1, 3);
  __builtin_prefetch(next(sum, kAhead + kLine), 1, 3);
}

HEDDLE_INLINE void AddLoop(const float* x, double scale, int64_t* sum, size_t count) {
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    FetchAhead(x + i, sum + i);
    AddSome(x + i, scale, sum + i, kStep);
  }
  AddSome(x + i, scale, sum + i, count - i);
}

HEDDLE_INLINE uint32_t MaxAbsBitsLoop(const float* x, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// Eight lanes written as one vector, so that the order of additions is part of the source.
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));

HEDDLE_INLINE void AddSquaresLoop(const float* x, size_t count, std::array<double, 8>* lanes) {
  Doubles sums;
  std::memcpy(&sums, lanes->data(), sizeof sums);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    Floats part;
    std::memcpy(&part, x + i, sizeof part);
    Doubles wide = __builtin_convertvector(part, Doubles);
    sums += wide * wide;
  }
  std::memcpy(lanes->data(), &sums, sizeof sums);
  for (size_t lane = 0; i < count; ++i, ++lane) (*lanes)[lane] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
}

void AddPortable(const float* x, double scale, int64_t* sum, size_t count) { AddLoop(x, scale, sum, count); }
uint32_t MaxPortable(const float* x, size_t count) { return MaxAbsBitsLoop(x, count); }
void SquaresPortable(const float* x, size_t count, std::array<double, 8>* lanes) { AddSquaresLoop(x, count, lanes); }

#if HEDDLE_X86
HEDDLE_AVX2 void AddAvx2(const float* x, double scale, int64_t* sum, size_t count) { AddLoop(x, scale, sum, count); }
HEDDLE_AVX2 uint32_t MaxAvx2(const float* x, size_t count) { return MaxAbsBitsLoop(x, count); }
HEDDLE_AVX2 void SquaresAvx2(const float* x, size_t count, std::array<double, 8>* lanes) {
  AddSquaresLoop(x, count, lanes);
}

// AVX-512 has the conversion as an instruction.
HEDDLE_AVX512 void AddAvx512(const float* x, double scale, int64_t* sum, size_t count) {
  const __m512d factor = _mm512_set1_pd(scale);
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    FetchAhead(x + i, sum + i);
    for (size_t j = i; j < i + kStep; j += 8) {
      __m512d y = _mm512_mul_pd(_mm512_cvtps_pd(_mm256_loadu_ps(x + j)), factor);
      __m512i q = _mm512_cvt_roundpd_epi64(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm512_storeu_si512(sum + j, _mm512_add_epi64(_mm512_loadu_si512(sum + j), q));
    }
  }
  AddSome(x + i, scale, sum + i, count - i);
}
HEDDLE_AVX512 uint32_t MaxAvx512(const float* x, size_t count) { return MaxAbsBitsLoop(x, count); }
HEDDLE_AVX512 void SquaresAvx512(const float* x, size_t count, std::array<double, 8>* lanes) {
  AddSquaresLoop(x, count, lanes);
}
#endif

constexpr Kernels kPortable = {"portable", AddPortable, MaxPortable, SquaresPortable};

}  // namespace

std::span<const Kernels> UsableKernels() {
#if HEDDLE_X86
  static const std::vector<Kernels> kernels = Usable<Kernels>({"avx512", AddAvx512, MaxAvx512, SquaresAvx512},
                                                              {"avx2", AddAvx2, MaxAvx2, SquaresAvx2}, kPortable);
#else
  static const std::vector<Kernels> kernels = {kPortable};
#endif
  return kernels;
}

}  // namespace heddle::aggregation
