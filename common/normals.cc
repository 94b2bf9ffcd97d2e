#include "common/normals.h"

#include <cmath>
#include <numbers>

namespace heddle {

std::array<double, 2> NormalPairAt(const PhiloxStream& random, uint64_t index) {
  // The radius has u in (0, 1], so that its logarithm is finite.
  const double u = (static_cast<double>(random.U64At(2 * index) >> 11U) + 1) * 0x1p-53;
  const double angle = 2 * std::numbers::pi * (static_cast<double>(random.U64At(2 * index + 1) >> 11U) * 0x1p-53);
  const double radius = std::sqrt(-2 * std::log(u));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace heddle
