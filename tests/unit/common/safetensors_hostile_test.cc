// Files that somebody made to hurt the reader, or that a broken disk or network made. Each must be refused with
// kInvalidArgument and a sentence about what is wrong; none may crash, hang or eat memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>

#include "common/random.h"
#include "common/safetensors.h"

namespace heddle {
namespace {

using ::testing::HasSubstr;

std::string WithHeader(const std::string& header, size_t data_bytes) {
  uint64_t size = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  return out + header + std::string(data_bytes, '\1');
}

Status StatusOf(const std::string& file) {
  return ParseSafetensors(std::as_bytes(std::span(file)), std::make_shared<int>(0)).status();
}

std::string Entry(const std::string& name, const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "F32") {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

struct Hostile {
  const char* name;
  std::string header;
  size_t data_bytes;
  const char* sentence;  // part of the message
};

void PrintTo(const Hostile& h, std::ostream* out) { *out << h.name; }

class HostileHeader : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileHeader, IsRefusedWithASentence) {
  Status status = StatusOf(WithHeader(GetParam().header, GetParam().data_bytes));
  EXPECT_EQ(status.code(), Code::kInvalidArgument) << status;
  EXPECT_THAT(status.message(), HasSubstr(GetParam().sentence));
}

INSTANTIATE_TEST_SUITE_P(
    Grammar, HostileHeader,
    ::testing::Values(
        Hostile{"Empty", "", 0, "does not start with '{'"}, Hostile{"Array", "[]", 0, "does not start with '{'"},
        Hostile{"SpaceFirst", " {}", 0, "does not start with '{'"}, Hostile{"CutOff", "{\"a\":{", 0, "not valid"},
        Hostile{"TextAfterTheEnd", "{}x", 0, "text after its end"},
        Hostile{"TwoDocuments", "{}{}", 0, "text after its end"},
        Hostile{"NulAfterTheEnd", std::string("{}\0", 3), 0, "text after its end"},
        Hostile{"Comment", "{/**/}", 0, "not valid"}, Hostile{"TrailingComma", "{},", 0, "text after its end"},
        Hostile{"BadUtf8", "{\"\xFF\":{}}", 0, "not valid"},
        Hostile{"LoneSurrogate", R"({"\ud800":{}})", 0, "not valid"},
        Hostile{"TensorIsANumber", R"({"a":1})", 0, "a number where none belongs"},
        Hostile{"TensorIsNull", R"({"a":null})", 0, "a null where none belongs"},
        Hostile{"TensorIsText", R"({"a":"x"})", 0, "a string where none belongs"},
        Hostile{"TensorIsAList", R"({"a":[]})", 0, "an array where none belongs"},
        Hostile{"DtypeIsANumber", R"({"a":{"dtype":1}})", 0, "a number where none belongs"},
        Hostile{"ShapeIsText", R"({"a":{"shape":"4"}})", 0, "a string where none belongs"},
        Hostile{"ShapeHoldsText", R"({"a":{"shape":["4"]}})", 0, "a string where none belongs"},
        Hostile{"ShapeHoldsABoolean", R"({"a":{"shape":[true]}})", 0, "a boolean where none belongs"},
        Hostile{"OffsetsAreAnObject", R"({"a":{"data_offsets":{}}})", 0, "an object where none belongs"},
        Hostile{"MetadataIsAList", R"({"__metadata__":[]})", 0, "an array where none belongs"},
        Hostile{"MetadataHoldsANumber", R"({"__metadata__":{"a":1}})", 0, "a number where none belongs"},
        Hostile{"MetadataHoldsAnObject", R"({"__metadata__":{"a":{}}})", 0, "an object where none belongs"},
        Hostile{"UnknownField", R"({"a":{"strides":[1]}})", 0, "unknown field 'strides'"},
        Hostile{"EmptyEntry", R"({"a":{}})", 0, "lacks dtype, shape or data_offsets"},
        Hostile{"NoOffsets", R"({"a":{"dtype":"F32","shape":[0]}})", 0, "lacks dtype, shape or data_offsets"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Duplicates, HostileHeader,
    ::testing::Values(Hostile{"Tensor", "{" + Entry("a", "[1]", "[0,4]") + "," + Entry("a", "[1]", "[4,8]") + "}", 8,
                              "'a' stands twice"},
                      Hostile{"TensorEscaped",
                              "{" + Entry("a", "[1]", "[0,4]") + "," + Entry("\\u0061", "[1]", "[4,8]") + "}", 8,
                              "'a' stands twice"},
                      Hostile{"Metadata", R"({"__metadata__":{},"__metadata__":{}})", 0, "stands twice"},
                      Hostile{"MetadataKey", R"({"__metadata__":{"k":"1","k":"2"}})", 0, "'k' stands twice"},
                      Hostile{"Field", R"({"a":{"dtype":"F32","dtype":"F32"}})", 0, "'dtype' stands twice"},
                      Hostile{"ShapeField", R"({"a":{"shape":[1],"shape":[1]}})", 0, "'shape' stands twice"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Shapes, HostileHeader,
    ::testing::Values(
        Hostile{"Negative", "{" + Entry("a", "[-1]", "[0,4]") + "}", 4, "a negative number"},
        Hostile{"Fraction", "{" + Entry("a", "[1.0]", "[0,4]") + "}", 4, "not whole"},
        Hostile{"Exponent", "{" + Entry("a", "[1e0]", "[0,4]") + "}", 4, "not whole"},
        Hostile{"BeyondSixtyFourBits", "{" + Entry("a", "[18446744073709551617]", "[0,4]") + "}", 4, "not whole"},
        Hostile{"TooLargeADimension", "{" + Entry("a", "[18446744073709551615]", "[0,4]") + "}", 4, "too large"},
        Hostile{"ProductWrapsToOne", "{" + Entry("a", "[4294967296,4294967296]", "[0,4]") + "}", 4,
                "too many elements"},
        Hostile{"BytesWrapToZero", "{" + Entry("a", "[4611686018427387904]", "[0,0]") + "}", 0, "does not fill"},
        Hostile{"ZeroHidesAnOverflow", "{" + Entry("a", "[0,4294967296,4294967296]", "[0,0]") + "}", 0,
                "too many elements"},
        Hostile{"TooManyDimensions", "{" + Entry("a", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]") + "}", 4,
                "more than 16"},
        Hostile{"SmallerThanItsBytes", "{" + Entry("a", "[1]", "[0,8]") + "}", 8, "does not fill its 8 bytes"},
        Hostile{"LargerThanItsBytes", "{" + Entry("a", "[3]", "[0,8]") + "}", 8, "does not fill its 8 bytes"},
        Hostile{"UnknownDtype", "{" + Entry("a", "[1]", "[0,4]", "Q4") + "}", 4, "'Q4'"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Offsets, HostileHeader,
    ::testing::Values(
        Hostile{"None", "{" + Entry("a", "[1]", "[]") + "}", 4, "two data_offsets"},
        Hostile{"One", "{" + Entry("a", "[1]", "[0]") + "}", 4, "two data_offsets"},
        Hostile{"Three", "{" + Entry("a", "[1]", "[0,4,8]") + "}", 8, "more than two data_offsets"},
        Hostile{"Backwards", "{" + Entry("a", "[1]", "[4,0]") + "}", 4, "outside the file's"},
        Hostile{"PastTheEnd", "{" + Entry("a", "[2]", "[0,8]") + "}", 4, "outside the file's 4 bytes"},
        Hostile{"FarPastTheEnd", "{" + Entry("a", "[1]", "[18446744073709551612,18446744073709551615]") + "}", 4,
                "outside the file's"},
        Hostile{"Hole", "{" + Entry("a", "[1]", "[0,4]") + "," + Entry("b", "[1]", "[8,12]") + "}", 12, "hole"},
        Hostile{"HoleAtTheStart", "{" + Entry("a", "[1]", "[4,8]") + "}", 8, "hole"},
        Hostile{"Overlap", "{" + Entry("a", "[2]", "[0,8]") + "," + Entry("b", "[2]", "[4,12]") + "}", 12, "overlap"},
        Hostile{"Same", "{" + Entry("a", "[1]", "[0,4]") + "," + Entry("b", "[1]", "[0,4]") + "}", 4, "overlap"},
        Hostile{"BytesLeftOver", "{" + Entry("a", "[1]", "[0,4]") + "}", 5, "1 bytes after its last tensor"},
        Hostile{"DataWithoutTensors", "{}", 1, "1 bytes after its last tensor"}),
    [](const auto& info) { return info.param.name; });

TEST(HostileSafetensors, EveryTruncationOfAGoodFileIsRefused) {
  StateDict dict;
  dict["w"] = Tensor::FromFloats({3}, std::vector<float>{1, 2, 3});
  std::string good = SerializeSafetensors(dict);
  ASSERT_TRUE(StatusOf(good).ok());
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(StatusOf(good.substr(0, size)).code(), Code::kInvalidArgument) << size;
  }
  EXPECT_FALSE(StatusOf(good + "x").ok());
}

TEST(HostileSafetensors, ALengthThatLiesIsRefusedBeforeItIsBelieved) {
  auto with_length = [](uint64_t length) {
    std::string file = WithHeader("{}", 0);
    std::memcpy(file.data(), &length, 8);
    return StatusOf(file);
  };
  EXPECT_THAT(with_length(3).message(), HasSubstr("cut off"));
  EXPECT_THAT(with_length(kMaxSafetensorsHeaderBytes).message(), HasSubstr("cut off"));
  EXPECT_THAT(with_length(kMaxSafetensorsHeaderBytes + 1).message(), HasSubstr("the limit is 16777216"));
  EXPECT_THAT(with_length(~uint64_t{0}).message(), HasSubstr("the limit is"));
  EXPECT_THAT(with_length(~uint64_t{0} - 7).message(), HasSubstr("the limit is")) << "8 more would wrap";
  EXPECT_THAT(with_length(1).message(), HasSubstr("not valid"));
}

TEST(HostileSafetensors, AHeaderLargerThanTheLimitIsRefusedThoughItIsThere) {
  EXPECT_THAT(StatusOf(WithHeader("{}" + std::string(kMaxSafetensorsHeaderBytes, ' '), 0)).message(),
              HasSubstr("the limit is"));
}

TEST(HostileSafetensors, DeepNestingDoesNotUseTheStack) {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string deep = "{\"a\":{\"shape\":";
    while (deep.size() < 8'000'000) deep += open;
    EXPECT_EQ(StatusOf(WithHeader(deep, 0)).code(), Code::kInvalidArgument);
  }
}

TEST(HostileSafetensors, AVeryLongNameIsRefused) {
  EXPECT_EQ(StatusOf(WithHeader("{" + Entry(std::string(5000, 'n'), "[1]", "[0,4]") + "}", 4)).code(),
            Code::kInvalidArgument);
}

// Misaligned tensors are copied; if they were before the overlap is seen, 3000 times 4 MB would be 12 GB.
TEST(HostileSafetensors, OverlappingMisalignedTensorsDoNotMultiplyTheFile) {
  constexpr size_t kData = 4'000'000;
  std::string header = "{";
  for (int i = 0; i < 3000; ++i) {
    header += (i ? "," : "") + Entry("t" + std::to_string(i), "[1000000]", "[0,4000000]");
  }
  header += "}";
  while (header.size() % 4 != 1) header += ' ';
  std::string file = WithHeader(header, kData);
  rusage before{};
  ::getrusage(RUSAGE_SELF, &before);
  EXPECT_THAT(StatusOf(file).message(), HasSubstr("overlap"));
  rusage after{};
  ::getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 500'000) << "KiB";
}

// One wrong byte anywhere in the header: refused, or a file whose tensors still lie inside the data.
TEST(HostileSafetensors, AChangedByteIsRefusedOrHarmless) {
  StateDict dict;
  dict["a"] = Tensor::FromFloats({2, 2}, std::vector<float>{1, 2, 3, 4});
  dict["b"] = Tensor::FromFloats({1}, std::vector<float>{5});
  const std::string good = SerializeSafetensors(dict);
  PhiloxStream random(1);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    auto file = std::make_shared<std::string>(good);
    (*file)[random.NextBelow(static_cast<uint32_t>(good.size() - 20))] = static_cast<char>(random.NextBelow(256));
    auto parsed = ParseSafetensors(std::as_bytes(std::span(*file)), file);
    if (!parsed.ok()) {
      ++refused;
      ASSERT_EQ(parsed.status().code(), Code::kInvalidArgument);
      continue;
    }
    ASSERT_EQ(TotalBytes(parsed->tensors), 20U);
    for (const auto& [name, tensor] : parsed->tensors) {
      auto* begin = reinterpret_cast<const std::byte*>(file->data());
      bool inside =
          tensor.bytes().data() >= begin && tensor.bytes().data() + tensor.bytes().size() <= begin + file->size();
      ASSERT_TRUE(inside || tensor.owner() != file) << name;
    }
  }
  EXPECT_GT(refused, 10'000);
}

}  // namespace
}  // namespace heddle
