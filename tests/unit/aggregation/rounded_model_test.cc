// Models in bfloat16 as devices download them.
#include "aggregation/rounded_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "aggregation/device_rules.h"
#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation {
namespace {

// The nearest of the numbers with 8 significant bits, without looking at the float's own bits.
float NearestOfEightBits(float value) {
  if (value == 0) return value;
  const int exponent = std::max(std::ilogb(value), -126);  // below that numbers lie 2^-133 apart
  const double step = std::ldexp(1.0, exponent - 7);
  return static_cast<float>(std::nearbyint(static_cast<double>(value) / step) * step);  // to even by default
}

TEST(RoundedModel, HasTheNearestValuesOfEachFloatTensorAndTheRestAsItWas) {
  StateDict model = RandomUpdate({{"a", {40, 50}}, {"heddle.control.x", {7}}}, 5, 3.0F);
  // Two neighbours and the ties between them to either side, numbers without a normal form, and the largest of all.
  const std::vector<float> edges = {0.0F,   1.0F,    1.00390625F, 1.01171875F, -1.00390625F, 1.0039063F,
                                    1e-40F, -3e-41F, 65504.0F,    -1e30F,      0x1.fep127F,  -3.3e38F};
  model.emplace("edges", Tensor::FromFloats({static_cast<int64_t>(edges.size())}, edges));
  const float most = std::numeric_limits<float>::max();
  model.emplace("too large", Tensor::FromFloats({2}, std::array<float, 2>{most, -most}));
  std::span<std::byte> digest;
  model.emplace(std::string(kStateDigestName), Tensor::Allocate({DType::kU8, {32}}, &digest));
  digest[3] = std::byte{7};
  const StateDict rounded = RoundedToBfloat16(model);
  ASSERT_EQ(rounded.size(), model.size());
  EXPECT_EQ(rounded.find(kStateDigestName)->second.bytes().data(), digest.data()) << "shared, not copied";
  for (const auto& [key, tensor] : model) {
    if (tensor.dtype() != DType::kF32 || key == "too large") continue;
    const Tensor& small = rounded.find(key)->second;
    EXPECT_EQ(small.spec(), (TensorSpec{DType::kBF16, tensor.shape()})) << key;
    const auto values = tensor.values<float>();
    const auto got = small.ToFloats();
    ASSERT_TRUE(got.ok()) << got.status();
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ((*got)[i], NearestOfEightBits(values[i])) << key << " " << i;
  }
  const float largest = 0x1.fep127F;
  EXPECT_EQ(*rounded.find("too large")->second.ToFloats(), (std::vector<float>{largest, -largest})) << "never infinite";
}

}  // namespace
}  // namespace heddle::aggregation
