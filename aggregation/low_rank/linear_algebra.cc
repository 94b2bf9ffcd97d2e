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

// A symmetric tridiagonal matrix.
struct Tridiagonal {
  Eigen::VectorXd diagonal, beside;
  double Norm() const {
    return diagonal.size() == 0
               ? 0
               : diagonal.cwiseAbs().maxCoeff() + (beside.size() == 0 ? 0 : 2 * beside.cwiseAbs().maxCoeff());
  }
  Eigen::VectorXd Times(const Eigen::VectorXd& x) const {
    Eigen::VectorXd out = diagonal.cwiseProduct(x);
    const Index n = beside.size();
    out.head(n) += beside.cwiseProduct(x.tail(n));
    out.tail(n) += beside.cwiseProduct(x.head(n));
    return out;
  }
};

// T - shift I as L U with rows exchanged where that is needed; pivots of zero become tiny, which is what inverse
// iteration wants of a singular matrix.
class ShiftedLu {
 public:
  ShiftedLu(const Tridiagonal& t, double shift, double tiny)
      : main_(t.diagonal.array() - shift),
        above_(t.beside),
        above2_(Eigen::VectorXd::Zero(main_.size())),
        factor_(t.beside),
        exchanged_(static_cast<size_t>(main_.size())) {
    const Index n = main_.size();
    for (Index i = 0; i + 1 < n; ++i) {
      const double below = t.beside(i);
      if (std::abs(main_(i)) >= std::abs(below)) {
        if (std::abs(main_(i)) < tiny) main_(i) = tiny;
        factor_(i) = below / main_(i);
        main_(i + 1) -= factor_(i) * above_(i);
        continue;
      }
      exchanged_[static_cast<size_t>(i)] = true;
      factor_(i) = main_(i) / below;
      const double next = main_(i + 1), over = above_(i);
      main_(i) = below;
      above_(i) = next;
      main_(i + 1) = over - factor_(i) * next;
      if (i + 2 < n) {
        above2_(i) = above_(i + 1);
        above_(i + 1) = -factor_(i) * above2_(i);
      }
    }
    if (n > 0 && std::abs(main_(n - 1)) < tiny) main_(n - 1) = tiny;
  }

  void Solve(Eigen::VectorXd* x) const {
    const Index n = main_.size();
    Eigen::VectorXd& y = *x;
    for (Index i = 0; i + 1 < n; ++i) {
      if (exchanged_[static_cast<size_t>(i)]) std::swap(y(i), y(i + 1));
      y(i + 1) -= factor_(i) * y(i);
    }
    for (Index i = n - 1; i >= 0; --i) {
      if (i + 1 < n) y(i) -= above_(i) * y(i + 1);
      if (i + 2 < n) y(i) -= above2_(i) * y(i + 2);
      y(i) /= main_(i);
    }
  }

 private:
  Eigen::VectorXd main_, above_, above2_, factor_;
  std::vector<bool> exchanged_;
};

// Eigenvectors for the given eigenvalues (descending) of t by inverse iteration; each is kept orthogonal to those
// before it, so that equal eigenvalues get different vectors. False when one did not converge.
bool InverseIteration(const Tridiagonal& t, const Eigen::VectorXd& values, Dense* vectors) {
  const double norm = t.Norm(), tiny = std::max(norm, std::numeric_limits<double>::min()) * 0x1p-52;
  const PhiloxStream random(0x4c6f5241);
  double last = std::numeric_limits<double>::infinity();
  for (Index j = 0; j < values.size(); ++j) {
    const double shift = std::min(values(j), last - 8 * tiny);  // equal ones apart, so that each has its own L U
    last = shift;
    const ShiftedLu lu(t, shift, tiny);
    Eigen::VectorXd x(t.diagonal.size());
    for (Index i = 0; i < x.size(); ++i) {
      x(i) = static_cast<double>(random.UniformAt(static_cast<uint64_t>(j * x.size() + i))) - 0.5;
    }
    for (int step = 0; step < 4; ++step) {
      x /= x.norm();
      lu.Solve(&x);
      x /= x.norm();
      for (int twice = 0; twice < 2; ++twice) x -= vectors->leftCols(j) * (vectors->leftCols(j).transpose() * x);
    }
    x /= x.norm();
    if (!((t.Times(x) - values(j) * x).norm() <= 1e-12 * norm)) return false;
    vectors->col(j) = x;
  }
  return true;
}

// Orthonormal eigenvectors for the `keep` largest eigenvalues of a symmetric matrix, of which the lower half is read.
Dense TopEigenvectors(const Dense& m, Index keep) {
  const Eigen::Tridiagonalization<Dense> reduced(m);
  const Tridiagonal t{reduced.diagonal(), reduced.subDiagonal()};
  Eigen::SelfAdjointEigenSolver<Dense> eigen;
  eigen.computeFromTridiagonal(t.diagonal, t.beside, Eigen::EigenvaluesOnly);
  const Eigen::VectorXd values = eigen.eigenvalues().tail(keep).reverse();
  Dense vectors = Dense::Zero(m.rows(), keep);
  if (eigen.info() == Eigen::Success && InverseIteration(t, values, &vectors)) {
    vectors.applyOnTheLeft(reduced.matrixQ());
    return vectors;
  }
  eigen.compute(m);  // all of them, by rotations: several times the work
  return eigen.eigenvectors().rightCols(keep).rowwise().reverse();
}

// The `keep` largest singular values of short * transpose(long), where the first factor has no more rows than the
// second, without the others. The short factor goes through QR, S; of the long one L its transpose(L) L is enough to
// find the subspace, the top eigenvectors of S transpose(L) L transpose(S). An SVD of the product restricted to it then
// gives its values and vectors the precision that squaring cost.
struct Sides {
  Dense of_short, of_long;
  Eigen::VectorXd s;
};
Sides TopOfFactors(const Matrix& short_side, const Matrix& long_side, Index keep) {
  const Reduced reduced(short_side);
  const Dense& small = reduced.small();
  const ConstMap tall = View(long_side);
  Dense gram = Dense::Zero(tall.cols(), tall.cols());
  gram.selfadjointView<Eigen::Lower>().rankUpdate(tall.transpose());
  gram.triangularView<Eigen::StrictlyUpper>() = gram.transpose();
  const Dense half = small * gram;
  gram = half * small.transpose();
  const Dense basis = TopEigenvectors(gram, keep);
  const SmallSvd within = FullSvd(tall * (small.transpose() * basis));
  return {reduced.Lift(basis * within.v), within.u, within.s};
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
  const auto side = static_cast<Index>(std::min({product.left.rows(), product.right.rows(), product.rank()}));
  keep = std::min(keep, side);
  SmallSvd out;
  if (keep * 4 < side) {
    const bool by_left = product.left.rows() <= product.right.rows();
    Sides sides = TopOfFactors(by_left ? product.left : product.right, by_left ? product.right : product.left, keep);
    if (!by_left) std::swap(sides.of_short, sides.of_long);
    out = {std::move(sides.of_short), std::move(sides.of_long), std::move(sides.s)};
  } else {
    const Reduced left(product.left), right(product.right);
    const SmallSvd core = FullSvd(left.small() * right.small().transpose());
    out = {left.Lift(core.u.leftCols(keep)), right.Lift(core.v.leftCols(keep)), core.s.head(keep)};
  }
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
