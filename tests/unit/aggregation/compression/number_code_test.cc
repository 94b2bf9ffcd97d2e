// Quantised values: the mean of stochastic rounding in whole numbers, scales, the same bits on every instruction set,
// and bytes that no encoder wrote.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "aggregation/compression/number_code.h"
#include "common/random.h"

namespace heddle::compression {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr StageKind kIntegers[] = {StageKind::kInt8, StageKind::kInt4, StageKind::kInt2};

std::vector<std::byte> Encode(NumberStage stage, const std::vector<float>& values, uint64_t key = 1,
                              const Kernels& kernels = BestKernels()) {
  std::vector<std::byte> out(ScaleBytes(stage, values.size()) + CodeBytes(stage, values.size()));
  EncodeValues(stage, values, key, out, kernels);
  return out;
}

std::vector<float> Decode(NumberStage stage, const std::vector<std::byte>& in, size_t count,
                          const Kernels& kernels = BestKernels()) {
  std::vector<float> out(count);
  const Status status = DecodeValues(stage, in, out, kernels);
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

std::string WhyNot(NumberStage stage, const std::vector<std::byte>& in, size_t count) {
  std::vector<float> out(count);
  return DecodeValues(stage, in, out).message();
}

std::vector<float> Random(size_t count, uint64_t seed, float size = 1.0F) {
  const PhiloxStream random(seed);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = (2 * random.UniformAt(i) - 1) * size;
  return values;
}

TEST(Quantisation, RoundsUpExactlyAsOftenAsTheFractionSays) {
  // Over 256 words that divide their range evenly, a fraction of a/256 is rounded up a times: the sum of the codes is
  // 256 times the value, in whole numbers.
  std::vector<uint32_t> words(256);
  for (uint32_t j = 0; j < 256; ++j) words[j] = j << 24;
  for (const Kernels& kernels : UsableKernels()) {
    for (const int levels : {127, 7, 1}) {
      for (int units = -256 * levels; units <= 256 * levels; units += levels > 7 ? 13 : 1) {
        const std::vector<float> x(256, static_cast<float>(units) / 256);
        std::vector<uint8_t> codes(256);
        kernels.quantise(x.data(), words.data(), 256, 1.0, levels, codes.data());
        ASSERT_EQ(std::accumulate(codes.begin(), codes.end(), 0), 256 * levels + units)
            << kernels.name << " " << levels << " levels";
      }
    }
  }
}

TEST(Quantisation, ItsMeanOverManyKeysIsTheValue) {
  const std::vector<float> values = {1.0F, -0.7F, 0.003F, 0.5F, -0.02F, 0.0F, 1e-9F, -1.0F};
  constexpr int kKeys = 4000;
  for (const StageKind stage : kIntegers) {
    std::vector<double> sum(values.size());
    for (uint64_t key = 0; key < kKeys; ++key) {
      const std::vector<float> back = Decode(stage, Encode(stage, values, key), values.size());
      for (size_t i = 0; i < back.size(); ++i) sum[i] += static_cast<double>(back[i]);
    }
    const double step = 1.0 / LevelsOf(stage);
    for (size_t i = 0; i < values.size(); ++i) {
      // A rounding has at most the variance step^2 / 4; five deviations of the mean.
      EXPECT_NEAR(sum[i] / kKeys, static_cast<double>(values[i]), 5 * step / 2 / std::sqrt(kKeys)) << i;
    }
  }
}

TEST(Quantisation, NoValueIsOffByAWholeStep) {
  const std::vector<float> values = Random(1000, 3, 0.01F);
  for (const StageKind stage : kIntegers) {
    const std::vector<float> back = Decode(stage, Encode(stage, values), values.size());
    for (size_t first = 0; first < values.size(); first += kScaleBlock) {
      const size_t end = std::min(values.size(), first + kScaleBlock);
      float largest = 0;
      for (size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
      for (size_t i = first; i < end; ++i) {
        EXPECT_LT(std::abs(back[i] - values[i]), ScaleOf(largest, LevelsOf(stage)) * 1.000001F) << i;
      }
    }
  }
}

TEST(Quantisation, AScaleIsTheSmallestThatReachesTheLargestValue) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  for (const int levels : {127, 7, 1}) {
    for (const float largest : {1.0F, 0.3F, 127.0F, kLargest, denormal, 128 * denormal, 1e-38F, 3e38F}) {
      const float scale = ScaleOf(largest, levels);
      EXPECT_GE(static_cast<double>(scale) * levels, static_cast<double>(largest));
      const float smaller = std::nextafter(scale, 0.0F);
      EXPECT_LT(static_cast<double>(smaller) * levels, static_cast<double>(largest));
    }
    EXPECT_EQ(ScaleOf(0, levels), 0.0F);
  }
}

TEST(Quantisation, TheLargestNumbersStayFinite) {
  const std::vector<float> values = {kLargest, -kLargest, 1.0F, -kLargest / 2};
  for (const NumberStage stage :
       {NumberStage(StageKind::kInt8), NumberStage(StageKind::kInt4), NumberStage(StageKind::kInt2),
        NumberStage(StageKind::kBf16), NumberStage(StageKind::kSign), NumberStage()}) {
    const std::vector<float> back = Decode(stage, Encode(stage, values), values.size());
    for (size_t i = 0; i < back.size(); ++i) EXPECT_TRUE(std::isfinite(back[i])) << i;
    EXPECT_GT(back[0], 0.5F * kLargest);
    EXPECT_LT(back[1], -0.5F * kLargest);
  }
}

TEST(Quantisation, EveryInstructionSetGivesTheSameBits) {
  for (const size_t count : {1U, 63U, 255U, 256U, 257U, 5000U}) {
    const std::vector<float> values = Random(count, count);
    for (const NumberStage stage : {NumberStage(StageKind::kInt8), NumberStage(StageKind::kInt4),
                                    NumberStage(StageKind::kInt2), NumberStage(StageKind::kSign)}) {
      const auto bytes = Encode(stage, values, 77);
      const auto back = Decode(stage, bytes, count);
      for (const Kernels& kernels : UsableKernels()) {
        EXPECT_EQ(Encode(stage, values, 77, kernels), bytes) << kernels.name;
        EXPECT_EQ(Decode(stage, bytes, count, kernels), back) << kernels.name;
      }
    }
  }
}

TEST(Quantisation, ItsWordsAreThoseOfPhilox) {
  for (const Kernels& kernels : UsableKernels()) {
    std::vector<uint32_t> words(2 * kGroupWords);
    const uint64_t group = (uint64_t{1} << 28) - 1;  // its second group begins at block 2^32
    kernels.words(0x0123456789ABCDEF, group, 2, words.data());
    for (const uint64_t n : {0U, 1U, 17U, 63U, 64U, 100U, 127U}) {
      const uint64_t block = 16 * (group + n / 64) + n % 16;
      const auto expected = Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0},
                                       {0x89ABCDEF, 0x01234567});
      EXPECT_EQ(words[n], expected[n % 64 / 16]) << kernels.name << " " << n;
    }
  }
}

TEST(Sign, SendsTheMeanSizeWithEachSign) {
  const std::vector<float> values = {3.0F, -1.0F, 0.0F, -4.0F};
  const auto bytes = Encode(StageKind::kSign, values);
  EXPECT_EQ(bytes.size(), 5U);
  EXPECT_EQ(Decode(StageKind::kSign, bytes, 4), (std::vector<float>{2, -2, 2, -2}));
  EXPECT_EQ(Decode(StageKind::kSign, Encode(StageKind::kSign, {-5.0F, -7.0F}), 2), (std::vector<float>{-6, -6}));
}

TEST(Bfloat16, RoundsToTheNearestEven) {
  const std::vector<float> values = {1.0F, 1.00390625F, 1.01171875F, -1.0040F, kLargest, -kLargest};
  const std::vector<float> back = Decode(StageKind::kBf16, Encode(StageKind::kBf16, values), values.size());
  EXPECT_EQ(back, (std::vector<float>{1.0F, 1.0F, 1.015625F, -1.0078125F, 0x1.FEp127F, -0x1.FEp127F}));
}

TEST(BadNumbers, CodesOutOfRangeAndBitsBehindTheEndAreRefused) {
  const std::vector<float> values = {1.0F, -1.0F, 0.5F};
  for (const StageKind stage : {StageKind::kInt4, StageKind::kInt2, StageKind::kSign}) {
    auto bytes = Encode(stage, values);
    bytes.back() |= std::byte{0x80};
    EXPECT_EQ(WhyNot(stage, bytes, 3), "there are bits set behind the last value");
  }
  for (const StageKind stage : kIntegers) {
    auto bytes = Encode(stage, values);
    bytes[4] = std::byte{0xFF};
    EXPECT_EQ(WhyNot(stage, bytes, 3), "a code of block 0 is above " + std::to_string(2 * LevelsOf(stage)));
  }
}

TEST(BadNumbers, AScaleThatIsNoneIsRefused) {
  for (const StageKind stage : {StageKind::kInt8, StageKind::kInt4, StageKind::kInt2, StageKind::kSign}) {
    for (const float scale :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), -1.0F, -0.0F}) {
      auto bytes = Encode(stage, {1.0F, -1.0F, 0.5F});
      std::memcpy(bytes.data(), &scale, sizeof scale);
      std::vector<float> out(3);
      const Status status = DecodeValues(stage, bytes, out);
      EXPECT_EQ(status.code(), std::isfinite(scale) ? Code::kInvalidArgument : Code::kOutOfRange) << scale;
      EXPECT_NE(status.message().find("scale"), std::string::npos) << status;
    }
  }
  auto bytes = Encode(StageKind::kInt8, {1.0F});
  const float large = kLargest / 100;
  std::memcpy(bytes.data(), &large, sizeof large);
  EXPECT_EQ(WhyNot(StageKind::kInt8, bytes, 1), "the scale of block 0 is negative or too large");
}

TEST(BadNumbers, FloatsThatAreNotFiniteAreRefused) {
  for (const NumberStage stage : {NumberStage(), NumberStage(StageKind::kBf16)}) {
    std::vector<std::byte> bytes = Encode(stage, {1.0F, 2.0F});
    bytes.back() = std::byte{0x7F};
    bytes[bytes.size() - 2] = std::byte{0x80};
    EXPECT_EQ(WhyNot(stage, bytes, 2), "a value is not finite");
  }
}

}  // namespace
}  // namespace heddle::compression
