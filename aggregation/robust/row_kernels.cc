#include "aggregation/robust/row_kernels.h"

#include <bit>
#include <cstring>

#include "common/instruction_sets.h"

namespace heddle::aggregation {
namespace {

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));

// Plain loops of a fixed length, so that the compiler makes of each line of a tile the vectors that it has.
HEDDLE_INLINE void Exchange(float* upper, float* lower) {
  for (size_t i = 0; i < kTileColumns; ++i) {
    const float a = upper[i], b = lower[i];
    upper[i] = b < a ? b : a;
    lower[i] = b < a ? a : b;
  }
}

HEDDLE_INLINE void SortLoop(float* tile, size_t rows) {
  if (rows < 2) return;
  const size_t top = std::bit_ceil(rows) / 2;
  for (size_t p = top; p > 0; p /= 2) {
    size_t q = top, r = 0, distance = p;
    while (true) {
      for (size_t i = 0; i + distance < rows; ++i) {
        if ((i & p) == r) Exchange(tile + i * kTileColumns, tile + (i + distance) * kTileColumns);
      }
      if (q == p) break;
      distance = q - p;
      q /= 2;
      r = p;
    }
  }
}

// Through a pointer: a vector that is returned has another ABI on each instruction set.
HEDDLE_INLINE void Widen(const float* x, Doubles* wide) {
  Floats part;
  std::memcpy(&part, x, sizeof part);
  *wide = __builtin_convertvector(part, Doubles);
}

HEDDLE_INLINE void Widen(const double* x, Doubles* wide) { std::memcpy(wide, x, sizeof *wide); }

// Eight lanes written as one vector, so that the order of additions is part of the source.
template <typename A>
HEDDLE_INLINE void DifferencesLoop(const A* a, const float* b, size_t count, std::array<double, 8>* lanes) {
  Doubles sums;
  std::memcpy(&sums, lanes->data(), sizeof sums);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    Doubles left, right;
    Widen(a + i, &left);
    Widen(b + i, &right);
    const Doubles difference = left - right;
    sums += difference * difference;
  }
  std::memcpy(lanes->data(), &sums, sizeof sums);
  for (size_t lane = 0; i < count; ++i, ++lane) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    (*lanes)[lane] += difference * difference;
  }
}

HEDDLE_INLINE void ScaledLoop(const float* x, double weight, double* sum, size_t count) {
  for (size_t i = 0; i < count; ++i) sum[i] += static_cast<double>(x[i]) * weight;
}

#define HEDDLE_ROW_KERNELS(suffix, target)                                                                         \
  target void Sort##suffix(float* tile, size_t rows) { SortLoop(tile, rows); }                                     \
  target void Differences##suffix(const float* a, const float* b, size_t count, std::array<double, 8>* lanes) {    \
    DifferencesLoop(a, b, count, lanes);                                                                           \
  }                                                                                                                \
  target void DifferencesTo##suffix(const double* a, const float* b, size_t count, std::array<double, 8>* lanes) { \
    DifferencesLoop(a, b, count, lanes);                                                                           \
  }                                                                                                                \
  target void Scaled##suffix(const float* x, double weight, double* sum, size_t count) {                           \
    ScaledLoop(x, weight, sum, count);                                                                             \
  }

HEDDLE_ROW_KERNELS(Portable, )
#if HEDDLE_X86
HEDDLE_ROW_KERNELS(Avx2, HEDDLE_AVX2)
HEDDLE_ROW_KERNELS(Avx512, HEDDLE_AVX512)
#endif

constexpr RowKernels kPortable = {"portable", SortPortable, DifferencesPortable, DifferencesToPortable, ScaledPortable};

}  // namespace

std::span<const RowKernels> UsableRowKernels() {
#if HEDDLE_X86
  static const std::vector<RowKernels> kernels =
      Usable<RowKernels>({"avx512", SortAvx512, DifferencesAvx512, DifferencesToAvx512, ScaledAvx512},
                         {"avx2", SortAvx2, DifferencesAvx2, DifferencesToAvx2, ScaledAvx2}, kPortable);
#else
  static const std::vector<RowKernels> kernels = {kPortable};
#endif
  return kernels;
}

}  // namespace heddle::aggregation
