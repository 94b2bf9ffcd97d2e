// CMA-ES: one generation against the formulas of the tutorial written out in loops, and searches of known functions.
#include "zo_optim/cma/cma.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace heddle::zo {
namespace {

using Vector = std::vector<double>;

double Norm(const Vector& v) { return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0)); }

// A textbook CMA-ES without a line in common with cma.cc: plain loops, and C^(-1/2) by Newton's iteration (Denman and
// Beavers), no eigenvectors.
struct Textbook {
  size_t n, lambda;
  double sigma;
  Vector mean, ps, pc, C;
  int g = 0;
  Textbook(Vector start, double s, size_t candidates)
      : n(start.size()), lambda(candidates), sigma(s), mean(std::move(start)), ps(n), pc(n), C(n * n) {
    for (size_t i = 0; i < n; ++i) C[i * n + i] = 1;
  }
  // Gauss-Jordan, which positive definite matrices need no pivots for.
  static Vector Inverse(Vector a, size_t n) {
    Vector b(n * n);
    for (size_t i = 0; i < n; ++i) b[i * n + i] = 1;
    for (size_t i = 0; i < n; ++i) {
      const double p = a[i * n + i];
      for (size_t j = 0; j < n; ++j) {
        a[i * n + j] /= p;
        b[i * n + j] /= p;
      }
      for (size_t r = 0; r < n; ++r) {
        if (r == i) continue;
        const double f = a[r * n + i];
        for (size_t j = 0; j < n; ++j) {
          a[r * n + j] -= f * a[i * n + j];
          b[r * n + j] -= f * b[i * n + j];
        }
      }
    }
    return b;
  }
  Vector InverseRoot() const {
    Vector y = C, z(n * n);
    for (size_t i = 0; i < n; ++i) z[i * n + i] = 1;
    for (int step = 0; step < 40; ++step) {
      const Vector yi = Inverse(y, n), zi = Inverse(z, n);
      for (size_t k = 0; k < n * n; ++k) {
        const double next = (y[k] + zi[k]) / 2;
        z[k] = (z[k] + yi[k]) / 2;
        y[k] = next;
      }
    }
    return z;
  }
  void Tell(const std::vector<Vector>& x, const Vector& loss) {
    ++g;
    const auto N = static_cast<double>(n), L = static_cast<double>(lambda);
    const size_t mu = lambda / 2;
    Vector w;
    for (size_t i = 1; i <= mu; ++i) w.push_back(std::log((L + 1) / 2) - std::log(static_cast<double>(i)));
    const double total = std::accumulate(w.begin(), w.end(), 0.0);
    double squares = 0;
    for (double& one : w) {
      one /= total;
      squares += one * one;
    }
    const double m = 1 / squares, cs = (m + 2) / (N + m + 5), cc = (4 + m / N) / (N + 4 + 2 * m / N);
    const double ds = 1 + 2 * std::max(0.0, std::sqrt((m - 1) / (N + 1)) - 1) + cs;
    const double c1 = 2 / ((N + 1.3) * (N + 1.3) + m);
    const double cmu = std::min(1 - c1, 2 * (m - 2 + 1 / m) / ((N + 2) * (N + 2) + m));
    const double E = std::sqrt(N) * (1 - 1 / (4 * N) + 1 / (21 * N * N));
    std::vector<size_t> order(lambda);
    std::iota(order.begin(), order.end(), 0U);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return loss[a] < loss[b]; });
    std::vector<Vector> ys;
    Vector y(n);
    for (size_t i = 0; i < mu; ++i) {
      ys.emplace_back(n);
      for (size_t k = 0; k < n; ++k) {
        ys[i][k] = (x[order[i]][k] - mean[k]) / sigma;
        y[k] += w[i] * ys[i][k];
      }
    }
    const Vector root = InverseRoot();
    for (size_t k = 0; k < n; ++k) {
      double white = 0;
      for (size_t j = 0; j < n; ++j) white += root[k * n + j] * y[j];
      ps[k] = (1 - cs) * ps[k] + std::sqrt(cs * (2 - cs) * m) * white;
      mean[k] += sigma * y[k];
    }
    const bool h = Norm(ps) / std::sqrt(1 - std::pow(1 - cs, 2.0 * g)) < (1.4 + 2 / (N + 1)) * E;
    for (size_t k = 0; k < n; ++k) pc[k] = (1 - cc) * pc[k] + (h ? std::sqrt(cc * (2 - cc) * m) * y[k] : 0);
    for (size_t a = 0; a < n; ++a) {
      for (size_t b = 0; b < n; ++b) {
        double rank_mu = 0;
        for (size_t i = 0; i < mu; ++i) rank_mu += w[i] * ys[i][a] * ys[i][b];
        C[a * n + b] =
            (1 - c1 - cmu + (h ? 0 : c1 * cc * (2 - cc))) * C[a * n + b] + c1 * pc[a] * pc[b] + cmu * rank_mu;
      }
    }
    sigma *= std::exp(cs / ds * (Norm(ps) / E - 1));
  }
};

double Sphere(const Vector& x) { return std::inner_product(x.begin(), x.end(), x.begin(), 0.0); }

double Ellipsoid(const Vector& x) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += std::pow(1e4, static_cast<double>(i) / static_cast<double>(x.size() - 1)) * x[i] * x[i];
  }
  return sum;
}

double Rosenbrock(const Vector& x) {
  double sum = 0;
  for (size_t i = 0; i + 1 < x.size(); ++i) {
    sum += 100 * (x[i + 1] - x[i] * x[i]) * (x[i + 1] - x[i] * x[i]) + (1 - x[i]) * (1 - x[i]);
  }
  return sum;
}

Vector LossesOf(const std::vector<Vector>& candidates, const std::function<double(const Vector&)>& f) {
  Vector losses;
  for (const Vector& one : candidates) losses.push_back(f(one));
  return losses;
}

TEST(Cma, UpdatesAsTheTutorialSays) {
  for (const auto& f : {Ellipsoid, Rosenbrock, Sphere}) {
    const Vector start = {1.0, -0.5, 0.3, 2.0};
    Cma cma = *Cma::Make(start, 0.7, {.population = 8, .seed = 3});
    Textbook textbook(start, 0.7, 8);
    for (int g = 0; g < 25; ++g) {
      const auto candidates = cma.Ask();
      EXPECT_EQ(cma.Ask(), candidates);
      const Vector losses = LossesOf(candidates, f);
      ASSERT_TRUE(cma.Tell(losses).ok());
      textbook.Tell(candidates, losses);
      ASSERT_NEAR(cma.sigma(), textbook.sigma, 1e-8 * textbook.sigma) << g;
      for (size_t k = 0; k < start.size(); ++k) {
        ASSERT_NEAR(cma.mean()[k], textbook.mean[k], 1e-8) << g;
        ASSERT_NEAR(cma.StepPath()[k], textbook.ps[k], 1e-7) << g;
      }
      const Vector covariance = cma.Covariance();
      for (size_t k = 0; k < covariance.size(); ++k) ASSERT_NEAR(covariance[k], textbook.C[k], 1e-8) << g;
    }
  }
}

TEST(Cma, FindsTheMinimaOfKnownFunctions) {
  struct Case {
    const char* name;
    double (*f)(const Vector&);
    size_t n;
    double start, at;
    size_t evaluations;  // about three times what is needed
  };
  for (const Case& one : {Case{"sphere", Sphere, 10, 3, 0, 6000}, Case{"ellipsoid", Ellipsoid, 10, 3, 0, 15000},
                          Case{"rosenbrock", Rosenbrock, 6, -1, 1, 15000}}) {
    Cma cma = *Cma::Make(Vector(one.n, one.start), 0.5, {.seed = 7});
    size_t evaluations = 0;
    while (one.f(cma.mean()) > 1e-10 && evaluations < one.evaluations) {
      ASSERT_TRUE(cma.Tell(LossesOf(cma.Ask(), one.f)).ok());
      evaluations += cma.population();
    }
    EXPECT_LE(one.f(cma.mean()), 1e-10) << one.name << " after " << evaluations;
    for (const double x : cma.mean()) EXPECT_NEAR(x, one.at, 1e-3) << one.name;
  }
}

TEST(Cma, DrawsFromItsMeanSigmaAndSeed) {
  constexpr size_t kDimensions = 40;
  const Vector start(kDimensions, 5.0);
  Cma cma = *Cma::Make(start, 2.0, {.population = 500, .seed = 1});
  const auto candidates = cma.Ask();
  double sum = 0, squares = 0;
  for (const Vector& x : candidates) {
    for (const double v : x) {
      sum += v - 5;
      squares += (v - 5) * (v - 5);
    }
  }
  const double count = 500.0 * kDimensions;
  EXPECT_NEAR(sum / count, 0, 4 * 2 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 4, 4 * 4 * std::sqrt(2 / count));
  EXPECT_EQ(Cma::Make(start, 2.0, {.population = 500, .seed = 1})->Ask(), candidates);
  EXPECT_NE(Cma::Make(start, 2.0, {.population = 500, .seed = 2})->Ask(), candidates);
  EXPECT_EQ(Cma::Make(Vector(500), 1)->population(), 4U + 18U);
}

TEST(Cma, WithstandsLossesThatAreNotFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Cma cma = *Cma::Make(Vector{4, 4, 4}, 1, {.population = 12, .seed = 5});
  EXPECT_EQ(cma.Tell(Vector(12)).code(), Code::kFailedPrecondition) << "nothing was asked";
  // A third of the space has no loss.
  const auto holes = [&](const Vector& x) { return x[0] > 4.4 ? (x[1] > 4 ? nan : HUGE_VAL) : Sphere(x); };
  for (int g = 0; g < 150; ++g) ASSERT_TRUE(cma.Tell(LossesOf(cma.Ask(), holes)).ok());
  EXPECT_LT(Sphere(cma.mean()), 1e-6);
  const Vector mean = cma.mean();
  const auto candidates = cma.Ask();
  EXPECT_EQ(cma.Tell(Vector(12, nan)).code(), Code::kFailedPrecondition);
  EXPECT_EQ(cma.Tell(Vector(11)).code(), Code::kInvalidArgument);
  EXPECT_EQ(cma.mean(), mean);
  EXPECT_EQ(cma.Ask(), candidates);
}

TEST(Cma, RefusesWhatCannotBeSearched) {
  const auto code = [](const Result<Cma>& made) { return made.status().code(); };
  EXPECT_EQ(code(Cma::Make(Vector{}, 1)), Code::kInvalidArgument);
  EXPECT_EQ(code(Cma::Make(Vector(Cma::kMostDimensions + 1), 1)), Code::kInvalidArgument);
  EXPECT_EQ(code(Cma::Make(Vector{NAN}, 1)), Code::kInvalidArgument);
  EXPECT_EQ(code(Cma::Make(Vector{1}, 0)), Code::kInvalidArgument);
  EXPECT_EQ(code(Cma::Make(Vector{1}, HUGE_VAL)), Code::kInvalidArgument);
  EXPECT_EQ(code(Cma::Make(Vector{1}, 1, {.population = 3})), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::zo
