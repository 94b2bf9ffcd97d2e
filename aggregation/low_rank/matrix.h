// A dense matrix of doubles, column by column: what the low-rank merges compute with. A value.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace heddle::aggregation::low_rank {

class Matrix {
 public:
  Matrix() = default;
  // All zero. May throw std::bad_alloc.
  Matrix(size_t rows, size_t cols) : rows_(rows), cols_(cols), values_(rows * cols) {}

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  double& operator()(size_t row, size_t col) { return values_[col * rows_ + row]; }
  double operator()(size_t row, size_t col) const { return values_[col * rows_ + row]; }
  double* data() { return values_.data(); }
  const double* data() const { return values_.data(); }
  std::span<double> column(size_t col) { return {values_.data() + col * rows_, rows_}; }
  std::span<const double> column(size_t col) const { return {values_.data() + col * rows_, rows_}; }

  // The first `cols` columns; `cols` at most cols(). Keeps the memory.
  void KeepColumns(size_t cols) {
    cols_ = cols;
    values_.resize(rows_ * cols_);
  }

 private:
  size_t rows_ = 0, cols_ = 0;
  std::vector<double> values_;
};

// The matrix left * transpose(right), [left.rows, right.rows], known by its factors only: of B A, left is B and the
// columns of right are the rows of A. Both have the same number of columns, which bounds the rank.
struct Product {
  Matrix left, right;
  size_t rank() const { return left.cols(); }
};

}  // namespace heddle::aggregation::low_rank
