// The guarantee against independent computations: Renyi divergences by numeric integration, the inverse of the
// conversion, and the exact trade-off of the Gaussian mechanism.
#include "aggregation/privacy/accountant.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace heddle::privacy {
namespace {

using ::testing::HasSubstr;

// D_a(N(distance, deviation^2) || N(0, deviation^2)), by the trapezoid rule far beyond both.
double RenyiDivergence(double a, double distance, double deviation) {
  const double low = -40 * deviation, step = deviation / 400;
  double sum = 0;
  for (int i = 0; i <= 80 * 400 + static_cast<int>(a * distance / step); ++i) {
    const double x = low + i * step;
    const double p = -0.5 * std::pow((x - distance) / deviation, 2), q = -0.5 * std::pow(x / deviation, 2);
    sum += std::exp(a * p + (1 - a) * q) * step;
  }
  return std::log(sum / (deviation * std::sqrt(2 * std::numbers::pi))) / (a - 1);
}

TEST(RhoOfReport, IsThatOfUpdatesAsFarApartAsTheirNeighboursCanBe) {
  const double clip = 0.7;
  for (const double z : {0.5, 1.0, 4.0}) {
    for (const double a : {1.5, 2.0, 3.0}) {
      // Two data sets: one update at C, the other at -C. Zeros in its place: at C, and at 0.
      EXPECT_NEAR(RenyiDivergence(a, 2 * clip, z * clip), a * RhoOfReport(z, Neighbours::kAnyData), 1e-6) << z << a;
      EXPECT_NEAR(RenyiDivergence(a, clip, z * clip), a * RhoOfReport(z, Neighbours::kZeros), 1e-6) << z << a;
    }
  }
}

// min over a of the delta that a rho and an epsilon imply, on a fine grid of orders.
double LogDeltaOf(double rho, double epsilon) {
  double best = INFINITY;
  for (double more = 1e-6; more < 1e7; more *= 1.0005) {
    const double a = 1 + more;
    best = std::min(best, more * (a * rho - epsilon) - std::log(more) + a * std::log1p(-1 / a));
  }
  return best;
}

TEST(EpsilonOf, IsTheOneWhoseDeltaIsAskedFor) {
  for (const double rho : {1e-6, 1e-3, 0.05, 0.5, 2.0, 24.0, 1e3}) {
    for (const double delta : {1e-3, 1e-5, 1e-12}) {
      const double epsilon = EpsilonOf(rho, delta), implied = LogDeltaOf(rho, epsilon);
      if (epsilon == 0) {
        EXPECT_LE(implied, std::log(delta)) << "nothing needs to be promised";
      } else {
        EXPECT_NEAR(implied, std::log(delta), 2e-4) << rho << " " << delta;
      }
    }
  }
  EXPECT_EQ(EpsilonOf(0, 1e-5), 0);
  EXPECT_EQ(EpsilonOf(1e-9, 0.5), 0) << "so much may go wrong";
}

double Normal(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

// The smallest epsilon at which Gaussian noise of that rho has delta (Balle and Wang, 2018), by bisection.
double ExactEpsilon(double rho, double delta) {
  const double mu = std::sqrt(2 * rho);
  double low = 0, high = 500;
  for (int i = 0; i < 100; ++i) {
    const double e = (low + high) / 2;
    const double seen = Normal(-e / mu + mu / 2) - std::exp(e) * Normal(-e / mu - mu / 2);
    (seen > delta ? low : high) = e;
  }
  return high;
}

TEST(EpsilonOf, IsNeverBelowWhatGaussianNoiseHasAndNotFarAbove) {
  for (const double rho : {1e-3, 0.05, 0.5, 2.0, 8.0, 24.0}) {
    for (const double delta : {1e-5, 1e-9}) {
      const double exact = ExactEpsilon(rho, delta), bound = EpsilonOf(rho, delta);
      EXPECT_GE(bound, exact) << rho;
      EXPECT_LT(bound, 1.12 * exact) << rho;
      EXPECT_LT(bound, rho + 2 * std::sqrt(rho * std::log(1 / delta))) << "tighter than the first known conversion";
    }
  }
}

TEST(Guarantee, AddsUpOverTheReportsOfADevice) {
  const RunGuarantee all = GuaranteeOf(2, 12, 1e-5);
  EXPECT_DOUBLE_EQ(all.any_data.rho_report, 0.5);
  EXPECT_DOUBLE_EQ(all.any_data.rho_run, 6);
  EXPECT_DOUBLE_EQ(all.zeros.rho_run, 1.5);
  // Computed by other code, over 72 000 orders.
  EXPECT_NEAR(all.any_data.epsilon_report, 4.728387, 1e-5);
  EXPECT_NEAR(all.any_data.epsilon_run, 21.439605, 1e-5);
  EXPECT_NEAR(all.zeros.epsilon_run, 9.009882, 1e-5);
  EXPECT_THAT(all.ToText(), HasSubstr("21.44 (rho 6) for up to 12 reports, at delta 1e-05"));
  EXPECT_LT(all.any_data.epsilon_run, 12 * all.any_data.epsilon_report) << "less than if each stood alone";
}

}  // namespace
}  // namespace heddle::privacy
