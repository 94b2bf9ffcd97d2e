// Compiled without fused multiply-add: see CMakeLists.txt.
#include "simulator/partition/draws.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/assert.h"

namespace heddle::simulator {
namespace {

constexpr double kLn2 = 0.693147180559945309417232121458;
constexpr double kSmallestConcentration = 1e-9;

// One of a pair that the polar method gives; the other is thrown away, so that a draw depends on the stream alone.
double DrawNormal(PhiloxStream& stream) {
  for (;;) {
    const double u = 2 * OpenUniform(stream) - 1, v = 2 * OpenUniform(stream) - 1;
    const double s = u * u + v * v;
    if (s > 0 && s < 1) return u * std::sqrt(-2 * PortableLog(s) / s);
  }
}

// The logarithm of a gamma variate of shape a > 0 and scale 1.
double DrawLogGamma(double a, PhiloxStream& stream) {
  if (a < 1) {  // of shape a + 1, times the a-th root of a uniform number
    const double larger = DrawLogGamma(a + 1, stream);
    return larger + PortableLog(OpenUniform(stream)) / a;
  }
  const double d = a - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = DrawNormal(stream), root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root, log_v = PortableLog(v);
    if (PortableLog(OpenUniform(stream)) < 0.5 * x * x + d - d * v + d * log_v) return PortableLog(d) + log_v;
  }
}

}  // namespace

double PortableLog(double x) {
  HEDDLE_ASSERT(x > 0, "the logarithm is of positive numbers");
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // [0.5, 1), exact
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  // log m = 2 artanh s, with |s| at most 0.1716: thirteen terms are enough for all bits.
  const double s = (m - 1) / (m + 1), square = s * s;
  double sum = 0;
  for (int k = 25; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return exponent * kLn2 + 2 * s * sum;
}

double PortableExp(double x) {
  HEDDLE_ASSERT(x <= 0, "only what cannot overflow");
  if (x < -700) return 0;
  const double k = std::floor(x / kLn2 + 0.5), r = x - k * kLn2;
  double sum = 1;
  for (int term = 18; term >= 1; --term) sum = 1 + sum * r / term;
  return std::ldexp(sum, static_cast<int>(k));
}

double OpenUniform(PhiloxStream& stream) {
  const uint64_t high = stream.NextU32() >> 5, low = stream.NextU32() >> 6;  // 27 and 26 bits
  return (static_cast<double>(high << 26 | low) + 0.5) * 0x1p-53;
}

std::vector<double> DrawDirichlet(const std::vector<double>& concentrations, PhiloxStream& stream) {
  HEDDLE_ASSERT(!concentrations.empty(), "there is nothing to share");
  std::vector<double> shares;
  for (const double a : concentrations) shares.push_back(DrawLogGamma(std::max(a, kSmallestConcentration), stream));
  const double largest = *std::max_element(shares.begin(), shares.end());
  double sum = 0;
  for (double& share : shares) sum += share = PortableExp(share - largest);
  for (double& share : shares) share /= sum;
  return shares;
}

std::vector<int64_t> DrawOrder(int64_t size, PhiloxStream& stream) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[stream.NextBelow(static_cast<uint32_t>(i))]);
  }
  return order;
}

std::vector<int64_t> Apportion(int64_t total, const std::vector<double>& shares) {
  std::vector<int64_t> out;
  std::vector<std::pair<double, size_t>> remainders;
  int64_t given = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    const double exact = static_cast<double>(total) * shares[i];
    // The last bits of shares may let their sum pass 1.
    out.push_back(std::min(static_cast<int64_t>(std::floor(exact)), total - given));
    given += out.back();
    remainders.emplace_back(exact - static_cast<double>(out.back()), i);
  }
  std::stable_sort(remainders.begin(), remainders.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (size_t i = 0; given < total; i = (i + 1) % remainders.size(), ++given) ++out[remainders[i].second];
  return out;
}

}  // namespace heddle::simulator
