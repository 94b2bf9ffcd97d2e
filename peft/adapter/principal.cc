#include "peft/adapter/principal.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/assert.h"
#include "common/random.h"

namespace heddle::peft {
namespace {

// Vectors of one length, one after the other.
struct Block {
  Block(int64_t count_in, int64_t length_in)
      : count(count_in), length(length_in), data(static_cast<size_t>(count * length)) {}
  std::span<double> at(int64_t i) {
    return std::span(data).subspan(static_cast<size_t>(i * length), static_cast<size_t>(length));
  }
  std::span<const double> at(int64_t i) const {
    return std::span(data).subspan(static_cast<size_t>(i * length), static_cast<size_t>(length));
  }
  int64_t count, length;
  std::vector<double> data;
};

double Dot(std::span<const double> a, std::span<const double> b) {
  double lanes[4] = {};
  size_t i = 0;
  for (; i + 4 <= a.size(); i += 4) {
    for (size_t j = 0; j < 4; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  for (; i < a.size(); ++i) lanes[0] += a[i] * b[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

// Gram-Schmidt, twice. A vector that depends on those before it becomes zero.
void Orthonormalise(Block* block) {
  for (int64_t i = 0; i < block->count; ++i) {
    const std::span<double> v = block->at(i);
    const double before = std::sqrt(Dot(v, v));
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        const std::span<const double> u = std::as_const(*block).at(j);
        const double along = Dot(v, u);
        for (size_t k = 0; k < v.size(); ++k) v[k] -= along * u[k];
      }
    }
    const double norm = std::sqrt(Dot(v, v));
    const double scale = norm > 1e-12 * before && norm > 0 ? 1 / norm : 0;
    for (double& x : v) x *= scale;
  }
}

// out_i = matrix * in_i, of vectors as long as a row.
void Times(std::span<const float> matrix, const Block& in, Block* out) {
  const auto columns = static_cast<size_t>(in.length);
  std::vector<double> row(columns);
  for (int64_t r = 0; r < out->length; ++r) {
    const float* from = matrix.data() + static_cast<size_t>(r) * columns;
    for (size_t c = 0; c < columns; ++c) row[c] = static_cast<double>(from[c]);
    for (int64_t i = 0; i < in.count; ++i) out->at(i)[static_cast<size_t>(r)] = Dot(row, in.at(i));
  }
}

// out_i = matrix^T * in_i, of vectors as long as a column.
void TransposedTimes(std::span<const float> matrix, const Block& in, Block* out) {
  const auto columns = static_cast<size_t>(out->length);
  std::fill(out->data.begin(), out->data.end(), 0.0);
  for (int64_t r = 0; r < in.length; ++r) {
    const float* from = matrix.data() + static_cast<size_t>(r) * columns;
    for (int64_t i = 0; i < in.count; ++i) {
      const double factor = in.at(i)[static_cast<size_t>(r)];
      if (factor == 0) continue;
      const std::span<double> to = out->at(i);
      for (size_t c = 0; c < columns; ++c) to[c] += factor * static_cast<double>(from[c]);
    }
  }
}

// Eigenvalues and vectors of a symmetric matrix by Jacobi's rotations, largest first; `vectors` row by row.
void SymmetricEigen(std::vector<double> a, size_t n, std::vector<double>* values, std::vector<double>* vectors) {
  std::vector<double> v(n * n);
  for (size_t i = 0; i < n; ++i) v[i * n + i] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, diagonal = 0;
    for (size_t i = 0; i < n; ++i) {
      diagonal += a[i * n + i] * a[i * n + i];
      for (size_t j = i + 1; j < n; ++j) off += a[i * n + j] * a[i * n + j];
    }
    if (off <= 1e-32 * diagonal) break;
    for (size_t p = 0; p < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) {
        if (a[p * n + q] == 0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
        const double t = (theta >= 0 ? 1.0 : -1.0) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (size_t k = 0; k < n; ++k) {
          const double x = a[k * n + p], y = a[k * n + q];
          a[k * n + p] = c * x - s * y;
          a[k * n + q] = s * x + c * y;
        }
        for (size_t k = 0; k < n; ++k) {
          const double x = a[p * n + k], y = a[q * n + k];
          a[p * n + k] = c * x - s * y;
          a[q * n + k] = s * x + c * y;
        }
        for (size_t k = 0; k < n; ++k) {
          const double x = v[p * n + k], y = v[q * n + k];
          v[p * n + k] = c * x - s * y;
          v[q * n + k] = s * x + c * y;
        }
      }
    }
  }
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return a[i * n + i] > a[j * n + j]; });
  values->clear();
  vectors->clear();
  for (const size_t i : order) {
    values->push_back(a[i * n + i]);
    vectors->insert(vectors->end(), v.begin() + static_cast<std::ptrdiff_t>(i * n),
                    v.begin() + static_cast<std::ptrdiff_t>((i + 1) * n));
  }
}

// in combined by `weights`, a row for each vector of the result.
Block Combined(const Block& in, const std::vector<double>& weights, int64_t count) {
  Block out(count, in.length);
  for (int64_t i = 0; i < count; ++i) {
    const std::span<double> to = out.at(i);
    for (int64_t j = 0; j < in.count; ++j) {
      const double factor = weights[static_cast<size_t>(i * in.count + j)];
      const std::span<const double> from = in.at(j);
      for (size_t k = 0; k < to.size(); ++k) to[k] += factor * from[k];
    }
  }
  return out;
}

}  // namespace

Principal LargestSingular(std::span<const float> matrix, int64_t rows, int64_t columns, int64_t count) {
  HEDDLE_ASSERT(count >= 1 && count <= std::min(rows, columns), "a matrix has no so many singular values");
  HEDDLE_ASSERT(matrix.size() == static_cast<size_t>(rows * columns), "a matrix of another size");
  // Spare vectors make the wanted ones converge by the gap to values further down.
  const int64_t width = std::min(std::min(rows, columns), count + std::max<int64_t>(count, 8));
  Block right(width, columns), left(width, rows);
  const PhiloxStream random(DeriveSeed(1, "principal", ""));
  for (size_t i = 0; i < right.data.size(); ++i) right.data[i] = 2 * static_cast<double>(random.UniformAt(i)) - 1;
  std::vector<double> before, squares, rotation;
  const auto n = static_cast<size_t>(width);
  for (int step = 0; step < 200; ++step) {
    Times(matrix, right, &left);
    Orthonormalise(&left);
    TransposedTimes(matrix, left, &right);  // right = (U^T M) row by row
    std::vector<double> gram(n * n);
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t j = 0; j < width; ++j) gram[static_cast<size_t>(i * width + j)] = Dot(right.at(i), right.at(j));
    }
    SymmetricEigen(std::move(gram), n, &squares, &rotation);
    const auto wanted = static_cast<size_t>(count);
    bool settled = before.size() == n;
    for (size_t i = 0; settled && i < wanted; ++i) {
      settled = std::abs(std::sqrt(std::max(0.0, squares[i])) - before[i]) <= 1e-10 * before[0];
    }
    before.clear();
    for (const double square : squares) before.push_back(std::sqrt(std::max(0.0, square)));
    left = Combined(left, rotation, width);
    right = Combined(right, rotation, width);
    if (settled || before[0] == 0) break;
    Orthonormalise(&right);
  }
  Principal out;
  for (int64_t i = 0; i < count; ++i) {
    const std::span<double> u = left.at(i), v = right.at(i);
    const double norm = std::sqrt(Dot(v, v));
    if (norm > 0) {
      for (double& x : v) x /= norm;
    }
    const auto largest =
        std::max_element(v.begin(), v.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
    const double sign = *largest < 0 ? -1 : 1;
    out.values.push_back(before[static_cast<size_t>(i)]);
    for (const double x : u) out.left.push_back(sign * x);
    for (const double x : v) out.right.push_back(sign * x);
  }
  return out;
}

}  // namespace heddle::peft
