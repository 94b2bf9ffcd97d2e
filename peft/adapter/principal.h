// The largest singular values of a matrix and their vectors, for adapters that start from the base's own weights
// (PiSSA, 2404.02948). Free of LibTorch; the same bits on every machine with the same arithmetic. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace heddle::peft {

// values[i] with left[i * rows ..] (a column of U) and right[i * columns ..] (a row of V^T), largest first. Of each
// pair of vectors the entry of `right` that is largest in size is positive.
struct Principal {
  std::vector<double> values, left, right;
};

// Of `matrix` [rows, columns], row-major; count from 1 to min(rows, columns) (asserted). Subspace iteration in float64
// from fixed random vectors (Halko et al., 0909.4061), until the values change by less than 1e-10 of the largest, at
// most 200 times: vectors of values that lie close together may then still be mixed with each other.
Principal LargestSingular(std::span<const float> matrix, int64_t rows, int64_t columns, int64_t count);

}  // namespace heddle::peft
