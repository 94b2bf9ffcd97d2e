// What the merges are compared with: dense matrices in double, written as plainly as can be and without the library
// that the merges use.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "aggregation/low_rank/matrix.h"
#include "common/random.h"

namespace heddle::aggregation::low_rank {

// Values uniform on [-1, 1).
inline Matrix RandomMatrix(size_t rows, size_t cols, uint64_t seed) {
  const PhiloxStream random(seed, 77);
  Matrix out(rows, cols);
  for (size_t i = 0; i < rows * cols; ++i) out.data()[i] = 2.0 * static_cast<double>(random.UniformAt(i)) - 1;
  return out;
}

inline Product RandomProduct(size_t d, size_t k, size_t rank, uint64_t seed) {
  return {RandomMatrix(d, rank, 2 * seed), RandomMatrix(k, rank, 2 * seed + 1)};
}

// left * transpose(right), all of it.
inline Matrix Dense(const Product& product) {
  Matrix out(product.left.rows(), product.right.rows());
  for (size_t n = 0; n < product.rank(); ++n) {
    for (size_t j = 0; j < out.cols(); ++j) {
      for (size_t i = 0; i < out.rows(); ++i) out(i, j) += product.left(i, n) * product.right(j, n);
    }
  }
  return out;
}

inline void AddScaled(Matrix* to, const Matrix& what, double factor) {
  for (size_t i = 0; i < what.rows() * what.cols(); ++i) to->data()[i] += factor * what.data()[i];
}

inline double Norm(const Matrix& m) {
  double squares = 0;
  for (size_t i = 0; i < m.rows() * m.cols(); ++i) squares += m.data()[i] * m.data()[i];
  return std::sqrt(squares);
}

inline double Distance(const Matrix& a, const Matrix& b) {
  Matrix difference = a;
  AddScaled(&difference, b, -1);
  return Norm(difference);
}

// Descending, min(rows, cols) of them, by one-sided Jacobi rotations of the columns.
inline std::vector<double> SingularValues(Matrix m) {
  if (m.rows() < m.cols()) {
    Matrix turned(m.cols(), m.rows());
    for (size_t i = 0; i < m.rows(); ++i) {
      for (size_t j = 0; j < m.cols(); ++j) turned(j, i) = m(i, j);
    }
    m = turned;
  }
  const auto dot = [&](size_t a, size_t b) {
    double sum = 0;
    for (size_t i = 0; i < m.rows(); ++i) sum += m(i, a) * m(i, b);
    return sum;
  };
  for (bool turned = true; turned;) {
    turned = false;
    for (size_t p = 0; p + 1 < m.cols(); ++p) {
      for (size_t q = p + 1; q < m.cols(); ++q) {
        const double pp = dot(p, p), qq = dot(q, q), pq = dot(p, q);
        if (std::abs(pq) <= 1e-14 * std::sqrt(pp * qq) || pq == 0) continue;
        turned = true;
        const double zeta = (qq - pp) / (2 * pq);
        const double t = (zeta >= 0 ? 1 : -1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (size_t i = 0; i < m.rows(); ++i) {
          const double x = m(i, p), y = m(i, q);
          m(i, p) = c * x - s * y;
          m(i, q) = s * x + c * y;
        }
      }
    }
  }
  std::vector<double> values;
  for (size_t j = 0; j < m.cols(); ++j) values.push_back(std::sqrt(dot(j, j)));
  std::sort(values.rbegin(), values.rend());
  return values;
}

// The Frobenius norm of what the best approximation of this rank leaves.
inline double Tail(const std::vector<double>& singular_values, size_t rank) {
  double squares = 0;
  for (size_t i = rank; i < singular_values.size(); ++i) squares += singular_values[i] * singular_values[i];
  return std::sqrt(squares);
}

}  // namespace heddle::aggregation::low_rank
