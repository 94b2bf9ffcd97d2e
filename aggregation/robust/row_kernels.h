// The loops over rows of updates that robust rules spend their time in, once for each instruction set; all give the
// same bits. Internal to aggregation and its tests.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace heddle::aggregation {

// Columns that are sorted side by side: one cache line of float32.
inline constexpr size_t kTileColumns = 16;

struct RowKernels {
  std::string_view name;  // "portable", "avx2", "avx512"

  // Sorts each of the kTileColumns columns of tile[rows][kTileColumns], smallest first, by Batcher's merge exchange
  // (Knuth, TAOCP 3, 5.2.2, algorithm M). No NaN. Equal values keep their bits, -0 and 0 among them in an order that
  // depends on the order of the rows only.
  void (*sort_columns)(float* tile, size_t rows);

  // lanes[i % 8] += (a[i] - b[i])^2 in double, i in order.
  void (*add_squared_differences)(const float* a, const float* b, size_t count, std::array<double, 8>* lanes);
  // The same with a in double.
  void (*add_squared_differences_to)(const double* a, const float* b, size_t count, std::array<double, 8>* lanes);

  // sum[i] += x[i] * weight, in double.
  void (*add_scaled)(const float* x, double weight, double* sum, size_t count);
};

// Those that this processor can run, the fastest first; never empty.
std::span<const RowKernels> UsableRowKernels();
inline const RowKernels& BestRowKernels() { return UsableRowKernels().front(); }

// The eight lanes added in order.
inline double SumOf(const std::array<double, 8>& lanes) {
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace heddle::aggregation
