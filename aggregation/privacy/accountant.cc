#include "aggregation/privacy/accountant.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace heddle::privacy {
namespace {

// The bound at a = 1 + exp(t).
double BoundAt(double t, double rho, double delta) {
  const double less_one = std::exp(t), a = 1 + less_one;
  return a * rho + std::log(less_one / a) - (std::log(a) + std::log(delta)) / less_one;
}

Budget BudgetOf(double noise_multiplier, Neighbours neighbours, uint64_t reports, double delta) {
  Budget budget;
  budget.rho_report = RhoOfReport(noise_multiplier, neighbours);
  budget.rho_run = budget.rho_report * static_cast<double>(reports);
  budget.epsilon_report = EpsilonOf(budget.rho_report, delta);
  budget.epsilon_run = EpsilonOf(budget.rho_run, delta);
  return budget;
}

}  // namespace

double RhoOfReport(double noise_multiplier, Neighbours neighbours) {
  const double sensitivity = neighbours == Neighbours::kAnyData ? 2 : 1;  // in units of C
  return sensitivity * sensitivity / (2 * noise_multiplier * noise_multiplier);
}

double EpsilonOf(double rho, double delta) {
  if (rho <= 0) return 0;
  // The best a is near 1 + sqrt(log(1 / delta) / rho): the scan is wide enough for every rho and delta of a double.
  constexpr double kLow = -24, kStep = 0.05;
  constexpr int kSteps = 1440;
  double best = kLow;
  for (int i = 1; i <= kSteps; ++i) {
    const double t = kLow + i * kStep;
    if (BoundAt(t, rho, delta) < BoundAt(best, rho, delta)) best = t;
  }
  double low = best - kStep, high = best + kStep;
  for (int i = 0; i < 100; ++i) {
    const double left = low + (high - low) / 3, right = high - (high - low) / 3;
    if (BoundAt(left, rho, delta) <= BoundAt(right, rho, delta)) {
      high = right;
    } else {
      low = left;
    }
  }
  const double epsilon = std::min(BoundAt(best, rho, delta), BoundAt((low + high) / 2, rho, delta));
  return std::max(epsilon, 0.0);
}

RunGuarantee GuaranteeOf(double noise_multiplier, uint64_t reports, double delta) {
  return {.reports = reports,
          .delta = delta,
          .any_data = BudgetOf(noise_multiplier, Neighbours::kAnyData, reports, delta),
          .zeros = BudgetOf(noise_multiplier, Neighbours::kZeros, reports, delta)};
}

std::string RunGuarantee::ToText() const {
  std::array<char, 320> text{};
  std::snprintf(
      text.data(), text.size(),
      "of a device's data, epsilon %.4g (rho %.4g) a report, %.4g (rho %.4g) for up to %llu reports, at delta "
      "%.3g; against zeros in its place %.4g and %.4g",
      any_data.epsilon_report, any_data.rho_report, any_data.epsilon_run, any_data.rho_run,
      static_cast<unsigned long long>(reports), delta, zeros.epsilon_report, zeros.epsilon_run);
  return text.data();
}

}  // namespace heddle::privacy
