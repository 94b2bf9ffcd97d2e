// The factors' algebra against dense brute force, over shapes where a side, a rank or neither is the smaller.
#include "aggregation/low_rank/linear_algebra.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "tests/unit/aggregation/low_rank/brute_force.h"

namespace heddle::aggregation::low_rank {
namespace {

struct ShapeCase {
  size_t d, k, rank;
};

class Factored : public testing::TestWithParam<ShapeCase> {};

Matrix Transposed(const Matrix& m) {
  Matrix out(m.cols(), m.rows());
  for (size_t i = 0; i < m.rows(); ++i) {
    for (size_t j = 0; j < m.cols(); ++j) out(j, i) = m(i, j);
  }
  return out;
}

Product FromSvd(const Svd& svd) {
  Product out{svd.u, svd.v};
  for (size_t j = 0; j < svd.s.size(); ++j) {
    for (double& x : out.left.column(j)) x *= svd.s[j];
  }
  return out;
}

void ExpectOrthonormal(const Matrix& m) {
  const Matrix gram = TransposedTimes(m, m);
  for (size_t i = 0; i < gram.rows(); ++i) {
    for (size_t j = 0; j < gram.cols(); ++j) ASSERT_NEAR(gram(i, j), i == j ? 1 : 0, 1e-12) << i << ", " << j;
  }
}

TEST_P(Factored, TopSingularVectorsAreTheBestApproximationOfEveryRank) {
  const ShapeCase c = GetParam();
  const Product product = RandomProduct(c.d, c.k, c.rank, 5);
  const Matrix dense = Dense(product);
  const std::vector<double> values = SingularValues(dense);
  const size_t most = std::min({c.d, c.k, c.rank});
  for (size_t keep = 1; keep <= c.rank + 2; keep += keep < 8 ? 1 : 7) {
    const Svd svd = TopSingular(product, keep);
    ASSERT_EQ(svd.s.size(), std::min(keep, most));
    ExpectOrthonormal(svd.u);
    ExpectOrthonormal(svd.v);
    for (size_t j = 0; j < svd.s.size(); ++j) ASSERT_NEAR(svd.s[j], values[j], 1e-10 * values[0]) << keep;
    EXPECT_NEAR(Distance(dense, Dense(FromSvd(svd))), Tail(values, keep), 1e-10 * Norm(dense)) << keep;
  }
}

TEST_P(Factored, CompressionWithoutToleranceChangesNothing) {
  const ShapeCase c = GetParam();
  const Product product = RandomProduct(c.d, c.k, c.rank, 6);
  const Product small = Compressed(product, 1e-12, c.rank);
  EXPECT_LE(small.rank(), std::min({c.d, c.k, c.rank}));
  EXPECT_LE(Distance(Dense(product), Dense(small)), 1e-11 * Norm(Dense(product)));
}

TEST_P(Factored, NormIsThatOfTheDenseProduct) {
  const ShapeCase c = GetParam();
  const Product product = RandomProduct(c.d, c.k, c.rank, 7);
  EXPECT_NEAR(FrobeniusNorm(product), Norm(Dense(product)), 1e-12 * Norm(Dense(product)));
}

TEST_P(Factored, TheSameInputGivesTheSameBitsWithFixedSigns) {
  const ShapeCase c = GetParam();
  const Product product = RandomProduct(c.d, c.k, c.rank, 8);
  const Svd once = TopSingular(product, c.rank), again = TopSingular(product, c.rank);
  EXPECT_EQ(0, std::memcmp(once.u.data(), again.u.data(), once.u.rows() * once.u.cols() * sizeof(double)));
  EXPECT_EQ(0, std::memcmp(once.v.data(), again.v.data(), once.v.rows() * once.v.cols() * sizeof(double)));
  for (size_t j = 0; j < once.v.cols(); ++j) {
    const auto column = once.v.column(j);
    const auto largest =
        std::max_element(column.begin(), column.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
    EXPECT_GT(*largest, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Factored,
                         testing::Values(ShapeCase{20, 13, 4}, ShapeCase{13, 20, 4}, ShapeCase{6, 6, 6},
                                         ShapeCase{9, 17, 9}, ShapeCase{17, 9, 9}, ShapeCase{5, 30, 12},
                                         ShapeCase{30, 5, 12}, ShapeCase{7, 8, 40}, ShapeCase{1, 9, 3},
                                         ShapeCase{9, 1, 3}, ShapeCase{11, 12, 1}, ShapeCase{90, 70, 50},
                                         ShapeCase{64, 100, 80}, ShapeCase{100, 64, 80}));

TEST(LowRankAlgebra, AProductOfLesserRankIsCompressedToIt) {
  // Rank 3 written with 40 columns: every column is a mixture of three.
  const Product three = RandomProduct(50, 60, 3, 1);
  const Product wide{Times(three.left, RandomMatrix(3, 40, 2)), Times(three.right, RandomMatrix(3, 40, 3))};
  const Product small = Compressed(wide, 0x1p-25, 40);
  EXPECT_EQ(small.rank(), 3U);
  EXPECT_LE(Distance(Dense(wide), Dense(small)), 1e-12 * Norm(Dense(wide)));
}

TEST(LowRankAlgebra, ALimitBelowTheRankKeepsTheLargestSingularValues) {
  const Product product = RandomProduct(40, 50, 45, 9);
  const std::vector<double> values = SingularValues(Dense(product));
  const Product small = Compressed(product, 0, 10);
  EXPECT_EQ(small.rank(), 10U);
  EXPECT_NEAR(Distance(Dense(product), Dense(small)), Tail(values, 10), 1e-10 * values[0]);
}

TEST(LowRankAlgebra, EqualSingularValuesAreAllFound) {
  // An orthogonal matrix has nothing but ones, so every truncation leaves the square root of what is missing.
  const Svd orthogonal = TopSingular(RandomProduct(96, 96, 96, 4), 96);
  const Product product{orthogonal.u, orthogonal.v};
  for (const size_t keep : {1, 5, 16, 23}) {
    const Svd top = TopSingular(product, keep);
    ExpectOrthonormal(top.u);
    ExpectOrthonormal(top.v);
    for (const double s : top.s) EXPECT_NEAR(s, 1, 1e-12);
    EXPECT_NEAR(Distance(Dense(product), Dense(FromSvd(top))), std::sqrt(96.0 - static_cast<double>(keep)), 1e-10);
  }
}

TEST(LowRankAlgebra, TheTopOfASteepSpectrumIsPrecise) {
  // Singular values 1, 10^-1, ... 10^-9: the small ones of the top, too, to a double's precision of the largest.
  Svd svd = TopSingular(RandomProduct(80, 70, 60, 11), 60);
  for (size_t j = 0; j < svd.s.size(); ++j) svd.s[j] = std::pow(10.0, -0.5 * static_cast<double>(j));
  const Product product = FromSvd(svd);
  const Svd top = TopSingular(product, 12);
  for (size_t j = 0; j < 12; ++j) EXPECT_NEAR(top.s[j], svd.s[j], 1e-12) << j;
  EXPECT_NEAR(Distance(Dense(product), Dense(FromSvd(top))), Tail(svd.s, 12), 1e-12);
}

TEST(LowRankAlgebra, ZeroAndEmptyProductsAreOfRankZero) {
  for (const Product& zero : {Product{Matrix(20, 50), RandomMatrix(30, 50, 1)}, Product{Matrix(20, 8), Matrix(30, 8)},
                              Product{Matrix(20, 0), Matrix(30, 0)}}) {
    EXPECT_EQ(Compressed(zero, 0, 100).rank(), 0U);
    EXPECT_EQ(FrobeniusNorm(zero), 0);
    const Svd svd = TopSingular(zero, 4);
    EXPECT_EQ(svd.s.size(), std::min<size_t>(4, zero.rank()));
    ExpectOrthonormal(svd.u);
    ExpectOrthonormal(svd.v);
    for (const double s : svd.s) EXPECT_EQ(s, 0);
  }
}

TEST(LowRankAlgebra, RidgeSolutionsSatisfyTheNormalEquations) {
  const Matrix factor = RandomMatrix(6, 30, 3), target = RandomMatrix(9, 6, 4);
  const Matrix gram = TransposedTimes(Transposed(factor), Transposed(factor));
  for (const double ridge : {0.0, 0.01, 3.0}) {
    const Matrix x = SolveRidge(target, gram, ridge);
    Matrix with_ridge = gram;
    for (size_t i = 0; i < 6; ++i) with_ridge(i, i) += ridge;
    EXPECT_LE(Distance(Times(x, with_ridge), target), 1e-10) << ridge;
  }
}

TEST(LowRankAlgebra, ARidgeOfZeroOnASingularMatrixGivesTheLeastSolution) {
  Matrix gram(2, 2);
  gram(0, 0) = 4;  // the second direction is not there
  Matrix target(1, 2);
  target(0, 0) = 8;
  const Matrix x = SolveRidge(target, gram, 0);
  EXPECT_DOUBLE_EQ(x(0, 0), 2);
  EXPECT_DOUBLE_EQ(x(0, 1), 0);
  EXPECT_EQ(Norm(SolveRidge(target, Matrix(2, 2), 0)), 0);
}

}  // namespace
}  // namespace heddle::aggregation::low_rank
