// Blocks of codes against trying every code in float64.
#include "model/quant/blockwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "common/random.h"
#include "model/quant/codes.h"

namespace heddle::model {
namespace {

std::vector<float> Weights(size_t count, uint64_t seed, float size = 1.0F) {
  const PhiloxStream random(seed);
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) {
    // A sum of uniforms: nearly normal, as weights are.
    float sum = -3;
    for (uint64_t j = 0; j < 6; ++j) sum += random.UniformAt(6 * i + j);
    out[i] = sum * size;
  }
  return out;
}

TEST(AbsMax, IsTheLargestMagnitudeAndSaysWhenOneIsNoNumber) {
  EXPECT_EQ(AbsMax({}), 0.0F);
  EXPECT_EQ(AbsMax(std::array{1.0F, -3.0F, 2.0F, -0.0F}), 3.0F);
  EXPECT_TRUE(std::isnan(AbsMax(std::array{1.0F, std::numeric_limits<float>::quiet_NaN(), 2.0F})));
  EXPECT_TRUE(std::isinf(AbsMax(std::array{1.0F, -std::numeric_limits<float>::infinity(), 2.0F})));
}

TEST(Nf4Blocks, EachWeightGetsTheCodeWhoseValueIsNearest) {
  for (const size_t count : {size_t{64}, size_t{63}, size_t{2}, size_t{1}}) {
    for (uint64_t seed = 0; seed < 50; ++seed) {
      const auto x = Weights(count, seed, 0.02F);
      // A scale that is not quite the largest magnitude, as double quantisation makes it.
      const float scale = AbsMax(x) * (0.9F + 0.004F * static_cast<float>(seed));
      std::vector<uint8_t> codes((count + 1) / 2, 0xff);
      EncodeNf4(x, scale, codes.data());
      std::vector<float> decoded(count);
      DecodeNf4(codes.data(), count, scale, decoded.data());
      for (size_t i = 0; i < count; ++i) {
        double best = std::numeric_limits<double>::infinity();
        for (const float value : Nf4Values()) {
          best = std::min(best, std::abs(static_cast<double>(value) * scale - x[i]));
        }
        const double ours = std::abs(static_cast<double>(decoded[i]) - x[i]);
        ASSERT_LE(ours, best + 1e-7 * scale) << "weight " << i << " of " << count;
        const unsigned code = i % 2 == 0 ? codes[i / 2] & 15U : codes[i / 2] >> 4;
        ASSERT_EQ(decoded[i], Nf4Values()[code] * scale);
      }
      if (count % 2 != 0) {
        EXPECT_EQ(codes.back() >> 4, 0) << "the unused half of the last byte is always the same";
      }
    }
  }
}

TEST(Int8Blocks, EachWeightIsWithinHalfAStep) {
  for (const size_t count : {size_t{128}, size_t{100}, size_t{1}}) {
    for (uint64_t seed = 0; seed < 50; ++seed) {
      const auto x = Weights(count, seed, 0.02F);
      const float scale = AbsMax(x) / 127;
      std::vector<int8_t> codes(count);
      EncodeInt8(x, scale, codes.data());
      std::vector<float> decoded(count);
      DecodeInt8(codes.data(), count, scale, decoded.data());
      for (size_t i = 0; i < count; ++i) {
        ASSERT_LE(std::abs(static_cast<double>(decoded[i]) - x[i]), 0.5 * scale * (1 + 1e-5));
        ASSERT_EQ(decoded[i], static_cast<float>(codes[i]) * scale);
      }
    }
  }
}

TEST(BlockEncoders, AllInstructionSetsGiveTheBitsOfThePlainRule) {
  ASSERT_FALSE(UsableBlockEncoders().empty());
  Nf4Limits limits;
  for (size_t i = 0; i < limits.size(); ++i) limits[i] = (Nf4Values()[i] + Nf4Values()[i + 1]) / 32;
  for (const BlockEncoders& encoders : UsableBlockEncoders()) {
    SCOPED_TRACE(encoders.name);
    for (uint64_t seed = 0; seed < 50; ++seed) {
      auto x = Weights(kInt8Block, seed, 0.02F);
      const float scale = seed % 2 == 0 ? 0x1p-10F : 0.0009F;
      for (size_t i = 0; i < 20; ++i) x[3 * i] = (static_cast<float>(i) - 9.5F) * scale;  // between two codes
      x[1] = limits[seed % limits.size()];                                                // at a border
      x[2] = 1000 * scale, x[4] = -1000 * scale;                                          // beyond the last code
      for (const size_t count : {size_t{128}, size_t{77}, size_t{1}}) {
        std::vector<int8_t> codes(count);
        encoders.int8(x.data(), count, scale, codes.data());
        float largest = 0;
        for (size_t i = 0; i < count; ++i) {
          largest = std::max(largest, std::abs(x[i]));
          ASSERT_EQ(codes[i], std::clamp(std::nearbyint(x[i] / scale), -127.0F, 127.0F)) << x[i] << " by " << scale;
        }
        ASSERT_EQ(std::bit_cast<float>(encoders.abs_max(x.data(), count)), largest);
      }
      std::array<uint8_t, kNf4Block / 2> codes{};
      encoders.nf4(x.data(), limits, codes.data());
      for (size_t i = 0; i < kNf4Block; ++i) {
        const auto above = std::count_if(limits.begin(), limits.end(), [&](float limit) { return x[i] > limit; });
        ASSERT_EQ(i % 2 == 0 ? codes[i / 2] & 15 : codes[i / 2] >> 4, above) << x[i];
      }
    }
  }
}

TEST(Blocks, ZerosStayZeros) {
  const std::vector<float> zeros(64, 0.0F);
  std::vector<uint8_t> nf4(32);
  std::vector<int8_t> int8(64);
  std::vector<float> decoded(64, 1.0F);
  for (const float scale : {0.0F, 0.5F}) {
    EncodeNf4(zeros, scale, nf4.data());
    DecodeNf4(nf4.data(), 64, scale, decoded.data());
    EXPECT_EQ(AbsMax(decoded), 0.0F);
    EncodeInt8(zeros, scale, int8.data());
    DecodeInt8(int8.data(), 64, scale, decoded.data());
    EXPECT_EQ(AbsMax(decoded), 0.0F);
  }
}

// A second reading of "to nearest, ties to even": of the two bfloat16 around x, in float64.
uint16_t RoundedByTrying(float x) {
  const auto below = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
  const auto above = static_cast<uint16_t>(below + 1);
  const auto value = [](uint16_t bits) {
    return static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
  };
  const double down = std::abs(x - value(below)), up = std::abs(x - value(above));
  if (down != up) return down < up ? below : above;
  return below % 2 == 0 ? below : above;
}

TEST(Blocks, Bfloat16IsTheFloatRounded) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto x = Weights(128, seed);
    const float scale = AbsMax(x);
    std::vector<uint8_t> nf4(64);
    std::vector<int8_t> int8(128);
    for (size_t block = 0; block < 2; ++block) {
      EncodeNf4(std::span(x).subspan(64 * block, 64), scale, nf4.data() + 32 * block);
    }
    EncodeInt8(x, scale / 127, int8.data());
    for (const size_t count : {size_t{64}, size_t{61}, size_t{128}}) {
      std::vector<float> wide(count);
      std::vector<uint16_t> narrow(count);
      if (count <= 64) {
        DecodeNf4(nf4.data(), count, scale, wide.data());
        DecodeNf4(nf4.data(), count, scale, narrow.data());
        for (size_t i = 0; i < count; ++i) ASSERT_EQ(narrow[i], RoundedByTrying(wide[i]));
      }
      DecodeInt8(int8.data(), count, scale / 127, wide.data());
      DecodeInt8(int8.data(), count, scale / 127, narrow.data());
      for (size_t i = 0; i < count; ++i) ASSERT_EQ(narrow[i], RoundedByTrying(wide[i]));
    }
  }
}

TEST(DoubleQuantisation, ScalesComeBackWithinHalfAStepOfTheirGroup) {
  std::vector<float> scales;
  for (const float x : Weights(1000, 3, 0.01F)) scales.push_back(0.1F + x);
  scales[300] = 5.0F;  // an outlier spoils its own group only
  const float mean = MeanOf(scales);
  std::vector<int8_t> codes(scales.size());
  std::vector<float> units(4);
  EncodeScales(scales, mean, codes, units);
  for (size_t i = 0; i < scales.size(); ++i) {
    const float unit = units[i / kScaleGroup];
    const float decoded = DecodeScale(codes[i], mean, unit);
    EXPECT_LE(std::abs(static_cast<double>(decoded) - scales[i]), 0.5 * unit * 1.0001) << i;
    if (i / kScaleGroup != 1) {
      EXPECT_LT(unit, 0.001F);
    }
  }
  EXPECT_NEAR(units[1], (5.0 - mean) / 127, 1e-6);
}

TEST(DoubleQuantisation, ScalesAreNeverNegative) {
  // A tiny scale beside a huge one: its nearest step may lie below zero.
  const std::vector<float> scales = {0.0F, 1e-9F, 100.0F, 0.3F};
  std::vector<int8_t> codes(scales.size());
  std::vector<float> units(1);
  const float mean = MeanOf(scales);
  EncodeScales(scales, mean, codes, units);
  for (size_t i = 0; i < scales.size(); ++i) EXPECT_GE(DecodeScale(codes[i], mean, units[0]), 0.0F);
  // And of equal scales nothing is lost.
  const std::vector<float> equal(10, 0.25F);
  std::vector<int8_t> none(10);
  EncodeScales(equal, MeanOf(equal), none, units);
  for (const int8_t code : none) EXPECT_EQ(DecodeScale(code, MeanOf(equal), units[0]), 0.25F);
}

}  // namespace
}  // namespace heddle::model
