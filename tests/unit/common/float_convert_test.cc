// Every half and bfloat16, and floats at and around their boundaries, against readings in float64.
#include "common/float_convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/random.h"

namespace heddle {
namespace {

// IEEE 754 binary16 by its definition.
double HalfByDefinition(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const double mantissa = bits & 0x3ff;
  double value =
      exponent == 0 ? mantissa / 1024 * std::pow(2, -14) : (1 + mantissa / 1024) * std::pow(2, exponent - 15);
  if (exponent == 31) value = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
  return (bits >> 15) != 0 ? -value : value;
}

template <typename T>
std::vector<std::byte> Bytes(const std::vector<T>& values, size_t offset = 0) {
  std::vector<std::byte> out(offset + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(out.data() + offset, values.data(), values.size() * sizeof(T));
  return out;
}

void ExpectSame(float actual, double expected, unsigned which) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << which;
    return;
  }
  EXPECT_EQ(static_cast<double>(actual), expected) << which;
  EXPECT_EQ(std::signbit(actual), std::signbit(expected)) << which;
}

TEST(ConvertToFloat, EveryHalfAndEveryBfloat16IsExact) {
  std::vector<uint16_t> all(65536);
  for (unsigned i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> halves(all.size()), bfloats(all.size());
  ConvertToFloat(DType::kF16, Bytes(all).data(), all.size(), halves.data());
  ConvertToFloat(DType::kBF16, Bytes(all).data(), all.size(), bfloats.data());
  for (unsigned i = 0; i < all.size(); ++i) {
    ExpectSame(halves[i], HalfByDefinition(i), i);
    EXPECT_EQ(std::bit_cast<uint32_t>(halves[i]), std::bit_cast<uint32_t>(HalfToFloat(all[i]))) << i;
    EXPECT_EQ(std::bit_cast<uint32_t>(bfloats[i]), i << 16);
  }
}

TEST(ConvertToFloat, AnyCountFromAnyAddress) {
  const std::vector<uint16_t> values = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x3555, 0x8000, 0x1234, 0x4321, 0x5555,
                                        0x3c01, 0xbc00, 0x2e66, 0x0400, 0x03ff, 0x4000, 0x4200, 0x4400};
  for (const DType type : {DType::kF16, DType::kBF16}) {
    for (size_t offset = 0; offset < 3; ++offset) {
      const auto bytes = Bytes(values, offset);
      for (size_t count = 0; count <= values.size(); ++count) {
        std::vector<float> out(values.size() + 1, -77.0F);
        ConvertToFloat(type, bytes.data() + offset, count, out.data());
        for (size_t i = 0; i < count; ++i) {
          EXPECT_EQ(out[i], type == DType::kF16 ? HalfToFloat(values[i]) : Bfloat16ToFloat(values[i]));
        }
        EXPECT_EQ(out[count], -77.0F) << "wrote past the end";
      }
    }
  }
}

TEST(ConvertToFloat, Float64IsRoundedAndFloat32IsKept) {
  const std::vector<double> doubles = {0.1, -1e300, 1e-60, 3.0};
  std::vector<float> out(4);
  ConvertToFloat(DType::kF64, Bytes(doubles, 3).data() + 3, 4, out.data());
  EXPECT_EQ(out, (std::vector<float>{0.1F, -std::numeric_limits<float>::infinity(), 0.0F, 3.0F}));
  const std::vector<float> floats = {0.1F, -2, 1e-45F};
  std::vector<float> same(3);
  ConvertToFloat(DType::kF32, Bytes(floats, 1).data() + 1, 3, same.data());
  EXPECT_EQ(same, floats);
}

// Of the two bfloat16 around x the nearer one, by distances in float64.
uint16_t NearestByTrying(float x) {
  const auto below = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
  const auto above = static_cast<uint16_t>(below + 1);
  if ((below & 0x7fffU) == 0x7f80) return below;
  const double up_to = (above & 0x7fffU) == 0x7f80 ? std::pow(2, 128) : std::abs(Bfloat16ToFloat(above));
  const double down = std::abs(static_cast<double>(x)) - std::abs(static_cast<double>(Bfloat16ToFloat(below)));
  const double up = up_to - std::abs(static_cast<double>(x));
  return down < up || (down == up && below % 2 == 0) ? below : above;
}

TEST(ConvertToBfloat16, RoundsToTheNearestAndTiesToEven) {
  std::vector<float> values = {0.0F, -0.0F, 1.0F, 3.4e38F, -3.4e38F, 1e-45F, 1e-39F};
  values.push_back(std::numeric_limits<float>::infinity());
  const PhiloxStream random(1);
  for (uint64_t i = 0; i < 5000; ++i) {
    const auto bits = static_cast<uint32_t>(random.UniformAt(i) * 0x1p24F) << 8;
    for (const uint32_t near : {bits & 0xffff0000U, (bits & 0xffff0000U) | 0x8000U, bits | 0x7fffU, bits}) {
      const auto value = std::bit_cast<float>(near);
      if (!std::isnan(value)) values.push_back(value);
    }
  }
  std::vector<uint16_t> out(values.size());
  ConvertToBfloat16(DType::kF32, Bytes(values).data(), values.size(), out.data());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(out[i], NearestByTrying(values[i])) << values[i];
    ASSERT_EQ(out[i], FloatToBfloat16(values[i])) << values[i];
  }
}

TEST(ConvertToBfloat16, NanStaysNanAndOtherTypesGoByWayOfFloat32) {
  std::vector<float> nans(9, std::numeric_limits<float>::quiet_NaN());
  nans[3] = std::bit_cast<float>(0x7f800001U);  // whose upper half alone would be infinite
  nans[8] = std::bit_cast<float>(0xffffffffU);  // whose rounding would overflow
  std::vector<uint16_t> out(nans.size());
  ConvertToBfloat16(DType::kF32, Bytes(nans).data(), nans.size(), out.data());
  EXPECT_EQ(out, std::vector<uint16_t>(9, 0x7fc0));
  const std::vector<uint16_t> halves = {0x3c00, 0x3555, 0xfbff};
  ConvertToBfloat16(DType::kF16, Bytes(halves).data(), 3, out.data());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(out[i], FloatToBfloat16(HalfToFloat(halves[i])));
  ConvertToBfloat16(DType::kBF16, Bytes(halves).data(), 3, out.data());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(out[i], halves[i]);
  ConvertToBfloat16(DType::kF64, Bytes(std::vector<double>{1.5}).data(), 1, out.data());
  EXPECT_EQ(out[0], 0x3fc0);
}

TEST(AllFinite, FindsOneAmongManyWhereverItStands) {
  constexpr float kInfinite = std::numeric_limits<float>::infinity(), kLargest = std::numeric_limits<float>::max();
  std::vector<float> values(67, kLargest);
  values[0] = -kLargest;
  values[1] = std::numeric_limits<float>::denorm_min();
  EXPECT_TRUE(AllFinite(values));
  EXPECT_TRUE(AllFinite({}));
  for (const float bad : {kInfinite, -kInfinite, std::nanf(""), -std::nanf(""), std::bit_cast<float>(0x7f800001U)}) {
    for (size_t i = 0; i < values.size(); ++i) {
      std::vector<float> spoilt = values;
      spoilt[i] = bad;
      EXPECT_FALSE(AllFinite(spoilt)) << i;
    }
  }
}

}  // namespace
}  // namespace heddle
