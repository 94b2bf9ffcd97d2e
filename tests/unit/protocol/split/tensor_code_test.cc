// What crosses a cut: sizes, stated errors, refusals.
#include "protocol/split/tensor_code.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/random.h"

namespace heddle::protocol {
namespace {

// Rows whose channels have magnitudes from tiny to huge, as a transformer's do.
std::vector<float> Values(size_t rows, size_t width) {
  const PhiloxStream random(7);
  std::vector<float> values(rows * width);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = (2 * random.UniformAt(i) - 1) * std::pow(10.0F, static_cast<float>(i % width % 9) - 4);
  }
  return values;
}

std::vector<float> RoundTrip(CutEncoding encoding, const std::vector<float>& values, size_t width) {
  std::string bytes = "before";
  EXPECT_TRUE(EncodeTensor(encoding, values, width, &bytes).ok());
  EXPECT_EQ(bytes.size(), 6 + EncodedBytes(encoding, values.size() / width, width));
  std::vector<float> out(values.size());
  const Status status = DecodeTensor(encoding, std::string_view(bytes).substr(6), width, out);
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

TEST(TensorCode, Float32IsExact) {
  const auto values = Values(5, 33);
  EXPECT_EQ(RoundTrip(CutEncoding::kFloat32, values, 33), values);
}

TEST(TensorCode, Bfloat16IsWithinItsStatedError) {
  auto values = Values(16, 37);
  values[0] = std::numeric_limits<float>::max();
  values[1] = std::numeric_limits<float>::lowest();
  values[2] = 0x1p-126F;
  const auto out = RoundTrip(CutEncoding::kBfloat16, values, 37);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_LE(std::abs(double{values[i]} - out[i]), std::abs(double{values[i]}) * 0x1p-8) << values[i];
  }
}

TEST(TensorCode, Int8IsWithinHalfAStepOfEachChannelsScale) {
  for (const size_t rows : {1, 2, 64}) {
    const size_t width = 37;
    const auto values = Values(rows, width);
    const auto out = RoundTrip(CutEncoding::kInt8, values, width);
    double largest_error = 0;
    for (size_t c = 0; c < width; ++c) {
      double scale = 0;
      for (size_t r = 0; r < rows; ++r) scale = std::max(scale, std::abs(double{values[r * width + c]}) / 127);
      for (size_t r = 0; r < rows; ++r) {
        const double error = std::abs(double{values[r * width + c]} - out[r * width + c]);
        EXPECT_LE(error, (0.5 + 0x1p-15) * scale);
        largest_error = std::max(largest_error, error / scale);
      }
    }
    if (rows == 64) {
      EXPECT_GT(largest_error, 0.4);  // the bound is not idle
    }
  }
}

TEST(TensorCode, ZerosAndNumbersNearThemStayFinite) {
  const std::vector<float> values = {0, 1e-45F, -1e-40F, 0x1p-121F, 0, 0, 0, 0};
  for (const CutEncoding encoding : {CutEncoding::kFloat32, CutEncoding::kBfloat16, CutEncoding::kInt8}) {
    for (const float value : RoundTrip(encoding, values, 4)) EXPECT_LE(std::abs(value), 0x1p-120F);
  }
}

TEST(TensorCode, WhatIsNotFiniteIsNotSent) {
  for (const CutEncoding encoding : {CutEncoding::kFloat32, CutEncoding::kBfloat16, CutEncoding::kInt8}) {
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
      std::string out = "as it was";
      const std::vector<float> values = {1, 2, bad, 4};
      EXPECT_EQ(EncodeTensor(encoding, values, 2, &out).code(), Code::kInvalidArgument);
      EXPECT_EQ(out, "as it was");
    }
  }
}

TEST(TensorCode, WhatNobodyCanHaveWrittenIsRefused) {
  std::vector<float> out(2);
  const auto bytes_of = [](const auto&... numbers) {
    std::string bytes;
    (bytes.append(reinterpret_cast<const char*>(&numbers), sizeof numbers), ...);
    return bytes;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN(), huge = std::numeric_limits<float>::max();
  const auto refused = [&out](CutEncoding encoding, const std::string& bytes, uint64_t width) {
    return DecodeTensor(encoding, bytes, width, out).code() == Code::kInvalidArgument;
  };
  EXPECT_TRUE(refused(CutEncoding::kFloat32, bytes_of(1.0F, nan), 2));
  EXPECT_TRUE(refused(CutEncoding::kFloat32, bytes_of(1.0F), 2));
  EXPECT_TRUE(refused(CutEncoding::kFloat32, bytes_of(1.0F, 1.0F, 1.0F), 2));
  EXPECT_TRUE(refused(CutEncoding::kFloat32, bytes_of(1.0F, 1.0F), 0));
  EXPECT_TRUE(refused(CutEncoding::kBfloat16, bytes_of(uint16_t{0x7f80}, uint16_t{0}), 2));
  EXPECT_TRUE(refused(CutEncoding::kInt8, bytes_of(nan, int8_t{1}, int8_t{1}), 1));
  EXPECT_TRUE(refused(CutEncoding::kInt8, bytes_of(-1.0F, int8_t{1}, int8_t{1}), 1));
  EXPECT_TRUE(refused(CutEncoding::kInt8, bytes_of(huge, int8_t{1}, int8_t{1}), 1));
  EXPECT_TRUE(refused(CutEncoding::kInt8, bytes_of(1.0F, int8_t{-128}, int8_t{1}), 1));
  EXPECT_FALSE(refused(CutEncoding::kInt8, bytes_of(1.0F, int8_t{-127}, int8_t{1}), 1));
  EXPECT_EQ(out, (std::vector<float>{-127, 1}));
}

TEST(TensorCode, NamesAreReadAsTheyAreWritten) {
  for (const CutEncoding encoding : {CutEncoding::kFloat32, CutEncoding::kBfloat16, CutEncoding::kInt8}) {
    EXPECT_EQ(*CutEncodingFromName(CutEncodingName(encoding)), encoding);
  }
  EXPECT_NE(CutEncodingFromName("fp32").status().message().find("did you mean 'f32'"), std::string::npos);
}

}  // namespace
}  // namespace heddle::protocol
