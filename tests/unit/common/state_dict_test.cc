#include "common/state_dict.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace heddle {
namespace {

template <typename T>
Tensor Of(DType dtype, const std::vector<T>& values) {
  std::span<std::byte> bytes;
  Tensor tensor = Tensor::Allocate({dtype, {static_cast<int64_t>(values.size())}}, &bytes);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return tensor;
}

TEST(DType, NamesAndSizesAreThoseOfSafetensors) {
  struct Row {
    DType dtype;
    const char* name;
    size_t size;
  };
  for (const Row& row :
       {Row{DType::kBool, "BOOL", 1}, Row{DType::kU8, "U8", 1}, Row{DType::kI8, "I8", 1}, Row{DType::kI16, "I16", 2},
        Row{DType::kI32, "I32", 4}, Row{DType::kI64, "I64", 8}, Row{DType::kF16, "F16", 2},
        Row{DType::kBF16, "BF16", 2}, Row{DType::kF32, "F32", 4}, Row{DType::kF64, "F64", 8}}) {
    EXPECT_EQ(DTypeName(row.dtype), row.name);
    EXPECT_EQ(DTypeSize(row.dtype), row.size);
    EXPECT_EQ(DTypeFromName(row.name), row.dtype);
  }
  EXPECT_EQ(DTypeFromName("f32"), std::nullopt);
  EXPECT_EQ(DTypeFromName("F8_E4M3"), std::nullopt);
  EXPECT_EQ(DTypeFromName(""), std::nullopt);
}

TEST(NumElements, MultipliesTheDimensions) {
  EXPECT_EQ(NumElements({}).value(), 1) << "a scalar";
  EXPECT_EQ(NumElements({3, 5, 7}).value(), 105);
  EXPECT_EQ(NumElements({3, 0, 7}).value(), 0);
  EXPECT_EQ(NumElements({int64_t{1} << 31, int64_t{1} << 31}).value(), int64_t{1} << 62);
}

TEST(NumElements, RefusesOverflowAlsoBesideAZero) {
  int64_t big = int64_t{1} << 32;
  for (const Shape& shape : {Shape{big, big}, Shape{big, big, 0}, Shape{0, big, big}, Shape{int64_t{1} << 62, 2},
                             Shape{std::numeric_limits<int64_t>::max()}, Shape{-1}, Shape{0, -1}, Shape{-2, -2}}) {
    EXPECT_EQ(NumElements(shape).status().code(), Code::kInvalidArgument) << ShapeToString(shape);
  }
}

TEST(Tensor, TheDefaultIsAnEmptyVector) {
  Tensor tensor;
  EXPECT_EQ(tensor.spec(), (TensorSpec{DType::kF32, {0}}));
  EXPECT_EQ(tensor.numel(), 0);
  EXPECT_TRUE(tensor.ToFloats().value().empty());
}

TEST(Tensor, CopiesShareBytesThatOutliveTheOriginal) {
  Tensor copy;
  {
    std::vector<float> values = {1, 2, 3, 4};
    Tensor original = Tensor::FromFloats({2, 2}, values);
    values[0] = 99;
    copy = original;
    EXPECT_EQ(copy.bytes().data(), original.bytes().data());
  }
  EXPECT_EQ(copy.ToFloats().value(), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(copy.spec().ToString(), "F32 [2, 2]");
}

TEST(Tensor, AllocatedMemoryIsZeroAndAlignedForAnyType) {
  for (int64_t n : {0, 1, 3, 17}) {
    std::span<std::byte> bytes;
    Tensor tensor = Tensor::Allocate({DType::kI16, {n}}, &bytes);
    EXPECT_EQ(bytes.size(), static_cast<size_t>(2 * n));
    for (std::byte b : tensor.bytes()) EXPECT_EQ(b, std::byte{0});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes().data()) % 8, 0U);
  }
}

// Every half there is, against its definition: (-1)^s 2^(e-15) (1 + m/1024), and 2^-14 m/1024 when e is 0.
TEST(Tensor, AllHalvesBecomeTheFloatsOfTheirDefinition) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats = Of(DType::kF16, halves).ToFloats().value();
  for (int i = 0; i < 65536; ++i) {
    int exponent = i >> 10 & 31;
    int mantissa = i & 1023;
    double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(floats[i])) << i;
      continue;
    }
    if (exponent == 31) magnitude = std::numeric_limits<double>::infinity();
    ASSERT_EQ(floats[i], static_cast<float>(i >> 15 ? -magnitude : magnitude)) << i;
    ASSERT_EQ(std::signbit(floats[i]), i >> 15 == 1) << i;
  }
}

TEST(Tensor, BrainFloatsAndDoublesBecomeFloats) {
  EXPECT_EQ(Of<uint16_t>(DType::kBF16, {0x3F80, 0xC000, 0x0001, 0x7F80}).ToFloats().value(),
            (std::vector<float>{1.0F, -2.0F, std::ldexp(1.0F, -133), std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(Of<double>(DType::kF64, {0.5, 1e-300, 1e300}).ToFloats().value(),
            (std::vector<float>{0.5F, 0.0F, std::numeric_limits<float>::infinity()}));
}

TEST(Tensor, WholeNumbersAreNotFloats) {
  Status status = Of<int32_t>(DType::kI32, {1}).ToFloats().status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("I32 [1]"), std::string::npos);
}

TEST(TensorDeathTest, BytesThatDoNotFitTheShapeAreABug) {
  std::vector<std::byte> bytes(12);
  EXPECT_DEATH(Tensor({DType::kF32, {4}}, bytes, nullptr), "must agree");
  EXPECT_DEATH(Tensor({DType::kF32, {-3}}, bytes, nullptr), "must agree");
  EXPECT_DEATH(Tensor({DType::kF64, {int64_t{1} << 61}}, {}, nullptr), "must agree") << "2^61 * 8 wraps to 0";
  std::span<std::byte> out;
  EXPECT_DEATH(Tensor::Allocate({DType::kF64, {int64_t{1} << 61}}, &out), "must be legal");
  EXPECT_DEATH(Tensor::FromFloats({2}, std::vector<float>{1}), "as many values");
}

TEST(TensorDeathTest, ReadingAsAnotherTypeIsABug) {
  Tensor tensor = Tensor::FromFloats({2}, std::vector<float>{1, 2});
  EXPECT_EQ(tensor.values<float>()[1], 2);
  EXPECT_DEATH((void)tensor.values<double>(), "another element size");
}

TEST(StateDict, IsOrderedByBytesAndSummed) {
  StateDict dict;
  dict["b"] = Tensor::FromFloats({1}, std::vector<float>{1});
  dict["B"] = Tensor::FromFloats({2}, std::vector<float>{1, 2});
  dict["a.10"] = Tensor::FromFloats({0}, {});
  dict["a.9"] = Tensor::FromFloats({}, std::vector<float>{4});
  std::string order;
  for (const auto& [name, unused] : dict) order += name + " ";
  EXPECT_EQ(order, "B a.10 a.9 b ");
  EXPECT_EQ(TotalBytes(dict), 16U);
  EXPECT_EQ(SpecOf(dict).at("B"), (TensorSpec{DType::kF32, {2}}));
  EXPECT_EQ(TotalBytes({}), 0U);
}

TEST(CheckSameSpec, NamesTheFirstDifference) {
  StateDictSpec expected = {{"a", {DType::kF32, {2}}}, {"c", {DType::kF32, {3}}}};
  EXPECT_TRUE(CheckSameSpec(expected, expected).ok());
  EXPECT_TRUE(CheckSameSpec({}, {}).ok());
  auto difference = [&](const StateDictSpec& actual) { return CheckSameSpec(expected, actual).ToString(); };
  EXPECT_EQ(difference({{"a", {DType::kF32, {2}}}}), "INVALID_ARGUMENT: the tensor 'c' is missing");
  EXPECT_EQ(difference({{"c", {DType::kF32, {3}}}}), "INVALID_ARGUMENT: the tensor 'a' is missing");
  EXPECT_EQ(difference({{"a", {DType::kF32, {2}}}, {"b", {}}, {"c", {DType::kF32, {3}}}}),
            "INVALID_ARGUMENT: the tensor 'b' is not expected");
  EXPECT_EQ(difference({{"a", {DType::kF32, {2}}}, {"c", {DType::kF32, {3}}}, {"d", {}}}),
            "INVALID_ARGUMENT: the tensor 'd' is not expected");
  EXPECT_EQ(difference({{"a", {DType::kF32, {2}}}, {"c", {DType::kF16, {3}}}}),
            "INVALID_ARGUMENT: the tensor 'c' is F16 [3] where F32 [3] is expected");
  EXPECT_EQ(difference({{"a", {DType::kF32, {2}}}, {"c", {DType::kF32, {3, 1}}}}),
            "INVALID_ARGUMENT: the tensor 'c' is F32 [3, 1] where F32 [3] is expected");
}

}  // namespace
}  // namespace heddle
