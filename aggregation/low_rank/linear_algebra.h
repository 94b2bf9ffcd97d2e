// Exact linear algebra on matrices that are known by their factors, in double. The factors go through a QR
// decomposition each (Householder), and what is left is as small as the rank, or as a side of the layer where that is
// smaller. So the product itself, as large as a layer's weight, is formed only of factors that are wider than it.
//
// Pure functions, one thread each, for any finite input (of any rank, also zero). The same input gives the same bits on
// every machine of one architecture: no instruction sets are chosen at run time and blocks do not follow the caches.
// All may throw std::bad_alloc. Eigen does the work, inside linear_algebra.cc only: its headers take long to compile.
#pragma once

#include <vector>

#include "aggregation/low_rank/matrix.h"

namespace heddle::aggregation::low_rank {

// u * diag(s) * transpose(v): columns of u [d, n] and v [k, n] orthonormal, s descending and not negative. Signs are
// fixed: the largest element of each column of v (the first of equals) is positive.
struct Svd {
  Matrix u, v;
  std::vector<double> s;
};

// The `keep` largest singular values and their vectors, fewer when the product's rank() or a side is smaller. By
// Eckart and Young the best approximation of that rank. The truncation's error is that of a double relative to the
// largest singular value; vectors that belong to values below 1e-8 of the largest are orthonormal but of no meaning.
Svd TopSingular(const Product& product, size_t keep);

// The same matrix with as few columns as it needs: singular values up to `tolerance` times the largest are dropped, and
// at most `max_rank` are kept. A matrix of rank 0 becomes factors without columns. The scale is shared evenly: both
// factors have columns of length sqrt(s).
Product Compressed(const Product& product, double tolerance, size_t max_rank);

// The Frobenius norm of the product.
double FrobeniusNorm(const Product& product);

// transpose(a) * b. a.rows() == b.rows().
Matrix TransposedTimes(const Matrix& a, const Matrix& b);
// a * b. a.cols() == b.rows().
Matrix Times(const Matrix& a, const Matrix& b);

// *sum += factor * a * transpose(b). The sizes fit (asserted).
void AddProduct(const Matrix& a, const Matrix& b, double factor, Matrix* sum);

// The X that minimises |target - X g|^2 in the sense of the normal equations X (g + ridge I) = target, for a symmetric
// positive semidefinite g [r, r] and target [d, r]; where g + ridge I is singular, the X of least norm. ridge >= 0.
Matrix SolveRidge(const Matrix& target, const Matrix& g, double ridge);

}  // namespace heddle::aggregation::low_rank
