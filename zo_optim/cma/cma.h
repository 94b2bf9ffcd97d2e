// CMA-ES: minimises a function of which only values are known (Hansen, "The CMA Evolution Strategy: A Tutorial",
// 1604.00772): full covariance, rank-one and rank-mu updates with positive weights, cumulative step-size adaptation,
// and the constants that the tutorial gives for n dimensions and lambda candidates:
//
//   mu = lambda / 2; w_i ~ ln((lambda + 1) / 2) - ln i, sum 1; m = 1 / sum w_i^2
//   c_s = (m + 2) / (n + m + 5); d_s = 1 + 2 max(0, sqrt((m - 1) / (n + 1)) - 1) + c_s; c_c = (4 + m / n) / (n + 4 + 2
//   m / n); c_1 = 2 / ((n + 1.3)^2 + m); c_mu = min(1 - c_1, 2 (m - 2 + 1 / m) / ((n + 2)^2 + m)) y_i = (x_i - mean) /
//   sigma of the i-th best, y = sum w_i y_i; mean += sigma y p_s = (1 - c_s) p_s + sqrt(c_s (2 - c_s) m) C^(-1/2) y;  h
//   = |p_s| / sqrt(1 - (1 - c_s)^(2 g)) < (1.4 + 2 / (n + 1)) E p_c = (1 - c_c) p_c + h sqrt(c_c (2 - c_c) m) y C = (1
//   - c_1 - c_mu + (1 - h) c_1 c_c (2 - c_c)) C + c_1 p_c p_c^T + c_mu sum w_i y_i y_i^T sigma *= exp(c_s / d_s (|p_s|
//   / E - 1)), E = sqrt(n) (1 - 1 / (4 n) + 1 / (21 n^2)); g the generation, from 1
//
// The axes of C are computed anew every 1 / (10 n (c_1 + c_mu)) generations, at least every one. Candidates are drawn
// from the directions of direction.h by (seed, generation), so the same seed gives the same search.
//
// Life cycle: Make; Ask and Tell in turns. One thread at a time. Memory: 3 n^2 doubles. Free of LibTorch.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"

namespace heddle::zo {

struct CmaOptions {
  uint32_t population = 0;  // lambda, at least 4; 0: 4 + floor(3 ln n)
  uint64_t seed = 0;
};

class Cma {
 public:
  static constexpr size_t kMostDimensions = 8192;
  // Errors: kInvalidArgument: no dimension or more than kMostDimensions, a mean that is not finite, a sigma that is not
  // a finite number above 0, a population of 1, 2 or 3.
  static Result<Cma> Make(std::span<const double> mean, double sigma, const CmaOptions& options = {});
  Cma(Cma&&) noexcept;
  Cma& operator=(Cma&&) noexcept;
  ~Cma();

  // The candidates of this generation, the same until Tell.
  std::vector<std::vector<double>> Ask();
  // Their losses in that order. What is not finite is worse than all that is. Errors: kInvalidArgument when there are
  // not as many as candidates; kFailedPrecondition when none is finite or Ask was not called: nothing has changed.
  Status Tell(std::span<const double> losses);

  const std::vector<double>& mean() const;
  double sigma() const;
  uint64_t generation() const;  // that have been told
  uint32_t population() const;
  std::vector<double> Covariance() const;  // C, row by row
  std::vector<double> StepPath() const;    // p_s

 private:
  struct State;
  explicit Cma(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace heddle::zo
