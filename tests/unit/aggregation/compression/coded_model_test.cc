// Models in adaptive levels as devices download them.
#include "aggregation/compression/coded_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/random.h"
#include "common/safetensors.h"

namespace heddle::compression {
namespace {

using testing::HasSubstr;

constexpr uint32_t kWeight = 1000;  // 0.001

Tensor Drawn(const Shape& shape, uint64_t seed, float middle, float half) {
  std::vector<float> values(static_cast<size_t>(*NumElements(shape)));
  const PhiloxStream random(seed);
  for (size_t i = 0; i < values.size(); ++i) values[i] = middle + (2 * random.UniformAt(i) - 1) * half;
  return Tensor::FromFloats(shape, values);
}

Tensor Bytes(const std::string& text) {
  std::span<std::byte> room;
  Tensor out = Tensor::Allocate({DType::kU8, {static_cast<int64_t>(text.size())}}, &room);
  std::memcpy(room.data(), text.data(), text.size());
  return out;
}

std::string TextOf(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size()};
}

// FedOBD's formulas in double: levels on either side of the middle of the range, each value on the nearest.
void ExpectNearestLevels(const Tensor& before, const Tensor& after, double weight) {
  ASSERT_EQ(after.spec(), before.spec());
  const auto values = before.values<float>(), got = after.values<float>();
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const double half = (double{*most} - *least) / 2, middle = (double{*most} + *least) / 2;
  const double levels = std::max(1.0, std::floor(std::sqrt(half * 32 * std::log(4.0) / weight)));
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = middle + std::round((values[i] - middle) / half * levels) * half / levels;
    // A value half way between two levels may go to either.
    ASSERT_NEAR(got[i], values[i], half / levels / 2 * 1.001 + 1e-6 * (std::abs(middle) + half));
    const double off = std::abs(got[i] - expected);
    ASSERT_TRUE(off < 1e-6 * (std::abs(middle) + half) || std::abs(off - half / levels) < 1e-3 * half / levels)
        << i << ": " << got[i] << ", not " << expected;
  }
}

TEST(CodedModel, HasTheNearestLevelsOfEachTensorAndTheRestAsItWas) {
  const float most = std::numeric_limits<float>::max();
  const StateDict model = {{"a.lora_A.weight", Drawn({40, 50}, 1, 0, 0.2F)},
                           {"all negative", Drawn({7, 3, 5}, 2, -3, 1)},
                           {"wide", Drawn({300}, 3, 10, 2000)},
                           {"narrow", Drawn({9}, 4, 0, 1e-6F)},
                           {"equal", Tensor::FromFloats({4}, std::vector<float>(4, 0.25F))},
                           {"empty", Tensor::FromFloats({0, 3}, {})},
                           {"one", Tensor::FromFloats({}, std::vector<float>{2})},
                           {"not finite", Tensor::FromFloats({2}, std::vector<float>{1, INFINITY})},
                           {"largest", Tensor::FromFloats({3}, std::vector<float>{most, -most, 0})},
                           {"digest", Bytes("of a state")}};
  const StateDict coded = CodedModel(model, kWeight);
  ASSERT_EQ(coded.size(), model.size());
  for (const char* same : {"equal", "empty", "one", "not finite", "digest"}) {
    ASSERT_TRUE(coded.contains(same)) << same;
    EXPECT_EQ(coded.find(same)->second.bytes().data(), model.find(same)->second.bytes().data()) << "shared";
  }
  // Through a file, as it travels.
  const auto text = std::make_shared<const std::string>(SerializeSafetensors(coded));
  const auto file = ParseSafetensors(std::as_bytes(std::span(*text)), text);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto decoded = DecodedModel(file->tensors);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(SpecOf(*decoded), SpecOf(model));
  for (const char* key : {"a.lora_A.weight", "all negative", "wide", "narrow"}) {
    ASSERT_TRUE(coded.contains(std::string(key) + ".nnadq"));
    ExpectNearestLevels(model.find(key)->second, decoded->find(key)->second, 0.001);
  }
  const auto largest = decoded->find("largest")->second.values<float>();
  for (const float value : largest) EXPECT_TRUE(std::isfinite(value));
  // 32 · 0.2 · ln 4 / 0.001 = 94² levels: 8 bits a value of 32.
  EXPECT_LT(coded.find("a.lora_A.weight.nnadq")->second.bytes().size(), size_t{2000 + 40});
}

TEST(CodedModel, TheSameModelGivesTheSameBytesAndAModelWithoutCodesIsItself) {
  const StateDict model = {{"a", Drawn({40, 50}, 1, 0, 0.2F)}};
  EXPECT_EQ(SerializeSafetensors(CodedModel(model, kWeight)), SerializeSafetensors(CodedModel(model, kWeight)));
  EXPECT_NE(SerializeSafetensors(CodedModel(model, kWeight)), SerializeSafetensors(CodedModel(model, 2 * kWeight)));
  const auto same = DecodedModel(model);
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(same->at("a").bytes().data(), model.at("a").bytes().data());
}

TEST(CodedModel, WhatCannotHaveBeenWrittenIsRefusedInASentence) {
  const StateDict model = {{"a", Drawn({3, 5}, 1, 0, 0.2F)}};
  const std::string good = TextOf(CodedModel(model, kWeight).at("a.nnadq"));
  const auto refused = [](StateDict given, const char* said) {
    const auto decoded = DecodedModel(given);
    EXPECT_EQ(decoded.status().code(), Code::kInvalidArgument) << said;
    EXPECT_THAT(decoded.status().message(), HasSubstr(said));
  };
  for (size_t size = 0; size < good.size(); ++size) refused({{"a.nnadq", Bytes(good.substr(0, size))}}, "cut off");
  refused({{"a.nnadq", Bytes(good + '\0')}}, "behind its last value");
  refused({{"a.nnadq", Bytes(good)}, {"a", model.at("a")}}, "twice");
  refused({{"a.nnadq", model.at("a")}}, "not bytes in a row");
  refused({{"a.nnadq.nnadq", Bytes(good)}}, "coded twice");
  const auto with = [&good](size_t at, uint64_t value, size_t bytes) {
    std::string changed = good;
    std::memcpy(changed.data() + at, &value, bytes);
    return StateDict{{"a.nnadq", Bytes(changed)}};
  };
  refused(with(0, 0, 4), "weight");
  refused(with(0, 1'000'001, 4), "weight");
  refused(with(4, 17, 4), "dimensions");
  refused(with(8, uint64_t{1} << 40, 8), "cut off");  // before anything is allocated
  refused(with(8, ~uint64_t{0}, 8), "negative");
  refused(with(8, 0, 8), "no values");
  refused(with(24, 0x7f800000, 4), "not finite");    // the middle
  refused(with(28, 0, 4), "behind its last value");  // equal values have no codes, and are not coded
}

}  // namespace
}  // namespace heddle::compression
