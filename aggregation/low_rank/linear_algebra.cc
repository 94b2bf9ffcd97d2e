#include "aggregation/low_rank/linear_algebra.h"

#define EIGEN_MPL2_ONLY
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <Eigen/Householder>
#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/assert.h"
#include "common/random.h"

namespace heddle::aggregation::low_rank {
namespace {

using Eigen::Index;
using Dense = Eigen::MatrixXd;
using ConstMap = Eigen::Map<const Dense>;

// Eigen cuts products into blocks by the sizes of the caches that it finds, and with the blocks goes the order of the
// additions. Fixed sizes give every machine the same bits.
void FixBlocks() {
  static const bool fixed = [] {
    Eigen::setCpuCacheSizes(32 << 10, 512 << 10, 4 << 20);
    return true;
  }();
  static_cast<void>(fixed);
}

ConstMap View(const Matrix& m) { return {m.data(), static_cast<Index>(m.rows()), static_cast<Index>(m.cols())}; }

Matrix ToMatrix(const Dense& dense) {
  Matrix out(static_cast<size_t>(dense.rows()), static_cast<size_t>(dense.cols()));
  std::copy(dense.data(), dense.data() + dense.size(), out.data());
  return out;
}

// A factor as Q times a small matrix. A factor that is wider than high is its own small matrix, and Q the identity.
class Reduced {
 public:
  explicit Reduced(const Matrix& factor) {
    if (factor.rows() <= factor.cols()) {
      small_ = View(factor);
      return;
    }
    qr_.compute(View(factor));
    small_ = qr_.matrixQR().topRows(qr_.cols()).triangularView<Eigen::Upper>();
    has_q_ = true;
  }

  const Dense& small() const { return small_; }

  // Q * x for x with small().rows() rows.
  Dense Lift(const Dense& x) const {
    if (!has_q_) return x;
    Dense out = Dense::Zero(qr_.rows(), x.cols());
    out.topRows(x.rows()) = x;
    out.applyOnTheLeft(qr_.householderQ());
    return out;
  }

 private:
  bool has_q_ = false;
  Eigen::HouseholderQR<Dense> qr_;
  Dense small_;
};

struct SmallSvd {
  Dense u, v;
  Eigen::VectorXd s;
};

SmallSvd FullSvd(const Dense& m) {
  if (m.size() == 0) return {Dense(m.rows(), 0), Dense(m.cols(), 0), Eigen::VectorXd(0)};
  // The rotations of Jacobi for what is small, divide and conquer for the rest.
  if (std::min(m.rows(), m.cols()) <= 32) {
    const Eigen::JacobiSVD<Dense> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
    return {svd.matrixU(), svd.matrixV(), svd.singularValues()};
  }
  const Eigen::BDCSVD<Dense> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU(), svd.matrixV(), svd.singularValues()};
}

// The `keep` largest pairs of m [p, q], q <= p, without the others: the eigenvectors of transpose(m) m span the
// subspace, and an SVD of m restricted to it gives the pairs their full precision back.
SmallSvd TopOfTall(const Dense& m, Index keep) {
  Dense gram = Dense::Zero(m.cols(), m.cols());
  gram.selfadjointView<Eigen::Lower>().rankUpdate(m.transpose());
  const Eigen::SelfAdjointEigenSolver<Dense> eigen(gram);
  const Dense basis = eigen.eigenvectors().rightCols(keep).rowwise().reverse();
  const SmallSvd within = FullSvd(m * basis);
  return {within.u, basis * within.v, within.s};
}

SmallSvd TopOf(const Dense& m, Index keep) {
  const Index side = std::min(m.rows(), m.cols());
  if (keep * 4 >= side) {
    SmallSvd svd = FullSvd(m);
    keep = std::min(keep, side);
    return {svd.u.leftCols(keep), svd.v.leftCols(keep), svd.s.head(keep)};
  }
  if (m.cols() <= m.rows()) return TopOfTall(m, keep);
  SmallSvd swapped = TopOfTall(m.transpose(), keep);
  return {std::move(swapped.v), std::move(swapped.u), std::move(swapped.s)};
}

void FixSigns(Dense* u, Dense* v) {
  for (Index j = 0; j < v->cols(); ++j) {
    Index largest = 0;
    for (Index i = 1; i < v->rows(); ++i) {
      if (std::abs((*v)(i, j)) > std::abs((*v)(largest, j))) largest = i;
    }
    if (v->rows() == 0 || (*v)(largest, j) >= 0) continue;
    u->col(j) = -u->col(j);
    v->col(j) = -v->col(j);
  }
}

// Vectors for the largest `keep` singular values of the product.
SmallSvd ProductSvd(const Product& product, Index keep) {
  HEDDLE_ASSERT(product.left.cols() == product.right.cols(), "factors of one product have as many columns");
  FixBlocks();
  const Reduced left(product.left), right(product.right);
  SmallSvd core = TopOf(left.small() * right.small().transpose(), keep);
  SmallSvd out{left.Lift(core.u), right.Lift(core.v), std::move(core.s)};
  FixSigns(&out.u, &out.v);
  return out;
}

}  // namespace

Svd TopSingular(const Product& product, size_t keep) {
  const SmallSvd svd = ProductSvd(product, static_cast<Index>(std::min(keep, product.rank())));
  return {ToMatrix(svd.u), ToMatrix(svd.v), {svd.s.data(), svd.s.data() + svd.s.size()}};
}

Product Compressed(const Product& product, double tolerance, size_t max_rank) {
  SmallSvd svd = ProductSvd(product, static_cast<Index>(product.rank()));
  Index kept = 0;
  const auto most = static_cast<Index>(std::min(max_rank, static_cast<size_t>(svd.s.size())));
  while (kept < most && svd.s(kept) > 0 && svd.s(kept) > tolerance * svd.s(0)) ++kept;
  const Eigen::VectorXd root = svd.s.head(kept).cwiseSqrt();
  return {ToMatrix(svd.u.leftCols(kept) * root.asDiagonal()), ToMatrix(svd.v.leftCols(kept) * root.asDiagonal())};
}

double FrobeniusNorm(const Product& product) {
  FixBlocks();
  const Reduced left(product.left), right(product.right);
  return (left.small() * right.small().transpose()).norm();
}

Matrix TransposedTimes(const Matrix& a, const Matrix& b) {
  HEDDLE_ASSERT(a.rows() == b.rows(), "factors of a product fit");
  FixBlocks();
  return ToMatrix(View(a).transpose() * View(b));
}

Matrix Times(const Matrix& a, const Matrix& b) {
  HEDDLE_ASSERT(a.cols() == b.rows(), "factors of a product fit");
  FixBlocks();
  return ToMatrix(View(a) * View(b));
}

void AddProduct(const Matrix& a, const Matrix& b, double factor, Matrix* sum) {
  HEDDLE_ASSERT(a.cols() == b.cols() && sum->rows() == a.rows() && sum->cols() == b.rows(), "factors of a product fit");
  FixBlocks();
  Eigen::Map<Dense> to(sum->data(), static_cast<Index>(sum->rows()), static_cast<Index>(sum->cols()));
  to.noalias() += factor * View(a) * View(b).transpose();
}

Matrix SolveRidge(const Matrix& target, const Matrix& g, double ridge) {
  HEDDLE_ASSERT(g.rows() == g.cols() && target.cols() == g.rows(), "the normal equations are square");
  FixBlocks();
  const Eigen::SelfAdjointEigenSolver<Dense> eigen(View(g));
  const Eigen::VectorXd values = eigen.eigenvalues().array() + ridge;
  const double largest = values.size() == 0 ? 0 : values.cwiseAbs().maxCoeff();
  const double floor = largest * static_cast<double>(g.rows()) * std::numeric_limits<double>::epsilon();
  const Eigen::VectorXd inverse = values.unaryExpr([&](double x) { return x > floor ? 1 / x : 0.0; });
  return ToMatrix(View(target) * eigen.eigenvectors() * inverse.asDiagonal() * eigen.eigenvectors().transpose());
}

}  // namespace heddle::aggregation::low_rank
