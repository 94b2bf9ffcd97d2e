#include "zo_optim/cma/cma.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/random.h"
#include "zo_optim/direction/direction.h"

namespace heddle::zo {

using Eigen::MatrixXd;
using Eigen::VectorXd;

struct Cma::State {
  // Constants of the header, by its names.
  uint32_t lambda = 0, mu = 0;
  VectorXd w;
  double m = 0, c_s = 0, d_s = 0, c_c = 0, c_1 = 0, c_mu = 0, expected = 0;
  uint64_t seed = 0, stream = 0, axes_every = 1;

  std::vector<double> mean;
  double sigma = 0;
  uint64_t generation = 0, axes_at = 0;
  MatrixXd covariance, axes;  // C = axes diag(lengths^2) axes^T as of axes_at
  VectorXd lengths, step_path, covariance_path;
  MatrixXd steps;  // y of the candidates, by columns; empty until Ask

  void SetConstants(size_t dimensions);
  void FindAxes();
  void Update(const std::vector<size_t>& order);
};

void Cma::State::SetConstants(size_t dimensions) {
  const auto n = static_cast<double>(dimensions);
  mu = lambda / 2;
  w.resize(mu);
  for (uint32_t i = 0; i < mu; ++i) w[i] = std::log((lambda + 1) / 2.0) - std::log(i + 1.0);
  w /= w.sum();
  m = 1 / w.squaredNorm();
  c_s = (m + 2) / (n + m + 5);
  d_s = 1 + 2 * std::max(0.0, std::sqrt((m - 1) / (n + 1)) - 1) + c_s;
  c_c = (4 + m / n) / (n + 4 + 2 * m / n);
  c_1 = 2 / ((n + 1.3) * (n + 1.3) + m);
  c_mu = std::min(1 - c_1, 2 * (m - 2 + 1 / m) / ((n + 2) * (n + 2) + m));
  expected = std::sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n));
  axes_every = static_cast<uint64_t>(std::max(1.0, std::floor(1 / (10 * n * (c_1 + c_mu)))));
}

void Cma::State::FindAxes() {
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(covariance);
  if (solver.info() != Eigen::Success) return;  // the axes of before still span the space
  axes = solver.eigenvectors();
  // Rounding may leave a tiny negative one.
  const double largest = solver.eigenvalues().maxCoeff();
  lengths = solver.eigenvalues().cwiseMax(largest * 1e-14).cwiseSqrt();
  axes_at = generation;
}

void Cma::State::Update(const std::vector<size_t>& order) {
  ++generation;
  VectorXd y = VectorXd::Zero(steps.rows());
  for (uint32_t i = 0; i < mu; ++i) y += w[i] * steps.col(static_cast<Eigen::Index>(order[i]));
  for (size_t k = 0; k < mean.size(); ++k) mean[k] += sigma * y[static_cast<Eigen::Index>(k)];
  const VectorXd whitened = axes * (axes.transpose() * y).cwiseQuotient(lengths);
  step_path = (1 - c_s) * step_path + std::sqrt(c_s * (2 - c_s) * m) * whitened;
  const double n = static_cast<double>(mean.size()), length = step_path.norm();
  const double grown = std::sqrt(1 - std::pow(1 - c_s, 2 * static_cast<double>(generation)));
  const double h = length / grown < (1.4 + 2 / (n + 1)) * expected ? 1 : 0;
  covariance_path = (1 - c_c) * covariance_path + h * std::sqrt(c_c * (2 - c_c) * m) * y;
  covariance *= 1 - c_1 - c_mu + (1 - h) * c_1 * c_c * (2 - c_c);
  covariance += c_1 * covariance_path * covariance_path.transpose();
  for (uint32_t i = 0; i < mu; ++i) {
    const auto& one = steps.col(static_cast<Eigen::Index>(order[i]));
    covariance += c_mu * w[i] * one * one.transpose();
  }
  // Far beyond any use, but still numbers.
  sigma = std::clamp(sigma * std::exp(c_s / d_s * (length / expected - 1)), 1e-150, 1e150);
  if (generation - axes_at >= axes_every) FindAxes();
}

Cma::Cma(std::unique_ptr<State> state) : state_(std::move(state)) {}
Cma::Cma(Cma&&) noexcept = default;
Cma& Cma::operator=(Cma&&) noexcept = default;
Cma::~Cma() = default;

Result<Cma> Cma::Make(std::span<const double> mean, double sigma, const CmaOptions& options) {
  const size_t n = mean.size();
  if (n == 0 || n > kMostDimensions) {
    return InvalidArgument("CMA-ES searches 1 to " + std::to_string(kMostDimensions) + " dimensions, not " +
                           std::to_string(n));
  }
  if (!std::all_of(mean.begin(), mean.end(), [](double x) { return std::isfinite(x); })) {
    return InvalidArgument("the mean that CMA-ES starts from has a value that is not finite");
  }
  if (!(std::isfinite(sigma) && sigma > 0)) return InvalidArgument("sigma must be a finite number above 0");
  if (options.population != 0 && options.population < 4) return InvalidArgument("a population has at least 4 members");
  auto state = std::make_unique<State>();
  state->lambda = options.population != 0 ? options.population
                                          : 4 + static_cast<uint32_t>(std::floor(3 * std::log(static_cast<double>(n))));
  state->SetConstants(n);
  state->seed = options.seed;
  state->stream = ParameterStream("cma");
  state->mean.assign(mean.begin(), mean.end());
  state->sigma = sigma;
  const auto size = static_cast<Eigen::Index>(n);
  state->covariance = state->axes = MatrixXd::Identity(size, size);
  state->lengths = VectorXd::Ones(size);
  state->step_path = state->covariance_path = VectorXd::Zero(size);
  return Cma(std::move(state));
}

std::vector<std::vector<double>> Cma::Ask() {
  State& s = *state_;
  const size_t n = s.mean.size();
  if (s.steps.size() == 0) {
    std::vector<float> drawn(n * s.lambda);
    FillDirection({Distribution::kNormal, DeriveSeed(s.seed, "cma generation", std::to_string(s.generation)), s.stream},
                  0, drawn);
    const Eigen::Map<const Eigen::MatrixXf> z(drawn.data(), static_cast<Eigen::Index>(n),
                                              static_cast<Eigen::Index>(s.lambda));
    s.steps = s.axes * s.lengths.asDiagonal() * z.cast<double>();
  }
  std::vector<std::vector<double>> out(s.lambda, s.mean);
  for (size_t i = 0; i < out.size(); ++i) {
    for (size_t k = 0; k < n; ++k) {
      out[i][k] += s.sigma * s.steps(static_cast<Eigen::Index>(k), static_cast<Eigen::Index>(i));
    }
  }
  return out;
}

Status Cma::Tell(std::span<const double> losses) {
  State& s = *state_;
  if (s.steps.size() == 0) return FailedPrecondition("Tell follows Ask");
  if (losses.size() != s.lambda) {
    return InvalidArgument("there are " + std::to_string(losses.size()) + " losses for " + std::to_string(s.lambda) +
                           " candidates");
  }
  if (std::none_of(losses.begin(), losses.end(), [](double x) { return std::isfinite(x); })) {
    return FailedPrecondition("no candidate of the generation has a finite loss");
  }
  std::vector<size_t> order(losses.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto value = [&](size_t i) { return std::isfinite(losses[i]) ? losses[i] : HUGE_VAL; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return value(a) < value(b); });
  s.Update(order);
  s.steps.resize(0, 0);
  return OkStatus();
}

const std::vector<double>& Cma::mean() const { return state_->mean; }
double Cma::sigma() const { return state_->sigma; }
uint64_t Cma::generation() const { return state_->generation; }
uint32_t Cma::population() const { return state_->lambda; }

std::vector<double> Cma::Covariance() const {
  const MatrixXd& c = state_->covariance;
  return {c.data(), c.data() + c.size()};  // symmetric
}

std::vector<double> Cma::StepPath() const {
  const VectorXd& path = state_->step_path;
  return {path.data(), path.data() + path.size()};
}

}  // namespace heddle::zo
