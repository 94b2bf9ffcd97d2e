// The tables against the papers' definitions, and the search in them against trying every value.
#include "model/quant/codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/random.h"

namespace heddle::model {
namespace {

// The point below which a standard normal variable falls with the probability, by bisection.
double NormalQuantile(double probability) {
  double low = -10, high = 10;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

TEST(Nf4, ValuesAreTheQuantilesOfThePaper) {
  // Both halves evenly in probability, 8 values below and 9 from zero on, out to the same tail; divided by the largest.
  const double tail = (1.0 / 32 + 1.0 / 30) / 2;
  std::vector<double> expected;
  for (int i = 0; i < 8; ++i) expected.push_back(NormalQuantile(tail + (0.5 - tail) * i / 7));
  for (int i = 1; i < 9; ++i) expected.push_back(NormalQuantile(0.5 + (0.5 - tail) * i / 8));
  const auto values = Nf4Values();
  ASSERT_EQ(expected.size(), values.size());
  for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(values[i], expected[i] / expected.back(), 1e-6) << i;
  EXPECT_EQ(values[7], 0.0F);
}

TEST(DynamicCodes, ValuesAreThoseOfThePaper) {
  for (const bool with_sign : {true, false}) {
    const auto values = (with_sign ? DynamicCodes::Signed() : DynamicCodes::Unsigned()).values();
    EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
    EXPECT_EQ(std::adjacent_find(values.begin(), values.end()), values.end()) << "no two codes of one value";
    EXPECT_EQ(values[255], 1.0F);
    EXPECT_EQ(std::count(values.begin(), values.end(), 0.0F), 1);
    // Each decade has half as many values as the one above, in its middle steps.
    for (int decade = 0; decade < 7; ++decade) {
      const double top = std::pow(10.0, -decade);
      const auto in =
          std::count_if(values.begin(), values.end(), [&](float v) { return v > 0.1 * top && v < top && v != 1.0F; });
      EXPECT_EQ(in, (with_sign ? 64 : 128) >> decade) << decade;
    }
    EXPECT_EQ(std::count_if(values.begin(), values.end(), [](float v) { return v < 0; }), with_sign ? 127 : 0);
  }
  EXPECT_FLOAT_EQ(
      *std::upper_bound(DynamicCodes::Unsigned().values().begin(), DynamicCodes::Unsigned().values().end(), 0.0F),
      3.25e-7F);
  EXPECT_FLOAT_EQ(DynamicCodes::Unsigned().values()[254], 0.99648437F);
  EXPECT_FLOAT_EQ(DynamicCodes::Signed().values()[0], -0.99296875F);
}

size_t NearestByTrying(std::span<const float, 256> values, float x) {
  size_t best = 0;
  double distance = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < values.size(); ++i) {
    const double here = std::abs(static_cast<double>(values[i]) - static_cast<double>(x));
    if (here < distance) {
      distance = here;
      best = i;
    }
  }
  return best;
}

TEST(DynamicCodes, NearestIsWhatTryingAllValuesFinds) {
  const PhiloxStream random(1);
  for (const auto* codes : {&DynamicCodes::Signed(), &DynamicCodes::Unsigned()}) {
    std::vector<float> probes = {0.0F, -0.0F, 1.0F, -1.0F, 2.0F, -2.0F, 1e-30F, -1e-30F, 1e-45F};
    for (const float b : codes->boundaries()) {
      for (const float x : {b, std::nextafter(b, 2.0F), std::nextafter(b, -2.0F)}) probes.push_back(x);
    }
    for (const float v : codes->values()) {
      for (const float x : {v, std::nextafter(v, 2.0F), std::nextafter(v, -2.0F)}) probes.push_back(x);
    }
    for (uint64_t i = 0; i < 20'000; ++i) {
      const double exponent = -9.0 * static_cast<double>(random.UniformAt(2 * i));
      probes.push_back(static_cast<float>(std::pow(10.0, exponent)) * (2 * random.UniformAt(2 * i + 1) - 1));
    }
    for (const float x : probes) {
      ASSERT_EQ(codes->Nearest(x), NearestByTrying(codes->values(), x)) << x;
    }
  }
}

TEST(DynamicCodes, WhatIsNotANumberHasSomeCode) {
  // The value is stored by nobody (gradients are checked before), but it must not be read outside the table.
  for (const float x : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
                        std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    EXPECT_GE(DynamicCodes::Signed().Nearest(x), 0);
  }
  EXPECT_EQ(DynamicCodes::Signed().Nearest(std::numeric_limits<float>::infinity()), 255);
  EXPECT_EQ(DynamicCodes::Signed().Nearest(-std::numeric_limits<float>::infinity()), 0);
}

}  // namespace
}  // namespace heddle::model
