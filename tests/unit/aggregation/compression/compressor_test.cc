// Whole updates: error feedback, what is refused, sizes, and the worked example of docs/formats.md.
#include "aggregation/compression/compressor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/file.h"
#include "common/random.h"

namespace heddle::compression {
namespace {

using testing::HasSubstr;
using Words = std::vector<std::string>;

constexpr uint64_t kNoLimit = uint64_t{1} << 40;

Compressor Make(const Words& words, uint64_t seed = 7) {
  auto pipeline = Pipeline::Parse(words);
  EXPECT_TRUE(pipeline.ok()) << pipeline.status();
  return Compressor(*std::move(pipeline), seed);
}

StateDict Random(uint64_t seed, float size = 1.0F) {
  const PhiloxStream random(seed);
  StateDict update;
  uint64_t next = 0;
  for (const auto& [name, shape] : {std::pair<const char*, Shape>{"a", {40, 16}}, {"b", {16, 3}}, {"c", {}}}) {
    std::vector<float> values(static_cast<size_t>(*NumElements(shape)));
    for (float& value : values) value = (2 * random.UniformAt(next++) - 1) * size;
    update.emplace(name, Tensor::FromFloats(shape, values));
  }
  return update;
}

StateDict Single(const std::vector<float>& values) {
  return {{"x", Tensor::FromFloats({static_cast<int64_t>(values.size())}, values)}};
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

Encoded MustEncode(const Compressor& compressor, const StateDict& update, StateDict* residual = nullptr) {
  auto encoded = compressor.Encode(update, residual);
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  return encoded.ok() ? *std::move(encoded) : Encoded();
}

StateDict MustDecode(const Compressor& compressor, const std::string& bytes, const StateDict& like) {
  auto decoded = compressor.Decode(Bytes(bytes), SpecOf(like), kNoLimit);
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  return decoded.ok() ? *std::move(decoded) : StateDict();
}

std::string WhyNot(const Compressor& compressor, const std::string& bytes, const StateDictSpec& spec) {
  const auto decoded = compressor.Decode(Bytes(bytes), spec, kNoLimit);
  EXPECT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.status().code(), Code::kInvalidArgument);
  return decoded.status().message();
}

const std::vector<Words> kPipelines = {{"bf16"},
                                       {"int8"},
                                       {"int4"},
                                       {"int2"},
                                       {"sign"},
                                       {"top_k:0.05"},
                                       {"random_mask:0.1"},
                                       {"top_k:0.1", "int4"},
                                       {"top_k:0.1", "sign"},
                                       {"random_mask:0.3", "top_k:0.2", "int8"},
                                       {"top_k:0.5", "random_mask:0.5", "bf16"}};

TEST(Compressor, TheSameSeedGivesTheSameBytesAndAnotherGivesOthers) {
  for (const Words& words : kPipelines) {
    const StateDict update = Random(1);
    EXPECT_EQ(MustEncode(Make(words, 5), update).bytes, MustEncode(Make(words, 5), update).bytes);
    EXPECT_NE(MustEncode(Make(words, 5), update).bytes, MustEncode(Make(words, 6), update).bytes);
  }
}

TEST(Compressor, ATensorsBytesDoNotDependOnTheOthers) {
  const Compressor compressor = Make({"random_mask:0.5", "int4"});
  StateDict alone = Random(3);
  const StateDict all = alone;
  alone.erase("a");
  alone.erase("c");
  const StateDict one = MustDecode(compressor, MustEncode(compressor, alone).bytes, alone);
  const StateDict three = MustDecode(compressor, MustEncode(compressor, all).bytes, all);
  const auto left = one.at("b").bytes(), right = three.at("b").bytes();
  EXPECT_TRUE(std::equal(left.begin(), left.end(), right.begin(), right.end()));
}

TEST(ErrorFeedback, WhatIsSentAndWhatIsLeftIsWhatWasAskedForToTheBit) {
  // Without rounding of values every number is either sent or left.
  for (const Words& words : {Words{"top_k:0.05"}, Words{"random_mask:0.1"}, Words{"random_mask:0.5", "top_k:0.1"}}) {
    StateDict residual;
    for (uint64_t round = 1; round <= 20; ++round) {
      const Compressor compressor = Make(words, round);
      const StateDict update = Random(round);
      const StateDict before = residual;
      const StateDict sent = MustDecode(compressor, MustEncode(compressor, update, &residual).bytes, update);
      for (const auto& [name, tensor] : update) {
        const auto asked = tensor.values<float>(), out = sent.at(name).values<float>();
        const auto left = residual.at(name).values<float>();
        for (size_t i = 0; i < asked.size(); ++i) {
          const float want = before.empty() ? asked[i] : asked[i] + before.at(name).values<float>()[i];
          ASSERT_EQ(out[i] + left[i], want);
          ASSERT_TRUE(out[i] == 0 || left[i] == 0);
        }
      }
    }
  }
}

TEST(ErrorFeedback, OverManyRoundsNothingOfWholeNumbersIsLost) {
  // Updates on a grid of 2^-10 with a scale that is a power of two: all sums are exact, whatever the rounding.
  const Compressor first = Make({"int8"});
  StateDict residual;
  std::vector<double> asked(64), sent(64);
  for (uint64_t round = 1; round <= 50; ++round) {
    std::vector<float> values(64);
    const PhiloxStream random(round);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.U32At(i) % 512) * 0x1p-10F - 0.25F;
    // What is asked for has the largest value 127/128, so that the scale is 2^-7.
    const float earlier = residual.empty() ? 0.0F : residual.at("x").values<float>()[0];
    values[0] = 127.0F / 128 - earlier;
    const StateDict update = Single(values);
    const Compressor compressor = Make({"int8"}, round);
    const StateDict out = MustDecode(compressor, MustEncode(compressor, update, &residual).bytes, update);
    for (size_t i = 0; i < values.size(); ++i) {
      asked[i] += static_cast<double>(values[i]);
      sent[i] += static_cast<double>(out.at("x").values<float>()[i]);
    }
  }
  for (size_t i = 0; i < asked.size(); ++i) {
    EXPECT_EQ(sent[i] + static_cast<double>(residual.at("x").values<float>()[i]), asked[i]) << i;
  }
}

TEST(ErrorFeedback, ASmallValueIsSentInTheEnd) {
  StateDict residual;
  float sent = 0;
  const StateDict update = Single({0.1F, 1.0F, 0.9F, 0.8F});
  for (uint64_t round = 1; round <= 40; ++round) {
    const Compressor compressor = Make({"top_k:0.25"}, round);
    sent += MustDecode(compressor, MustEncode(compressor, update, &residual).bytes, update).at("x").values<float>()[0];
  }
  EXPECT_GT(sent, 40 * 0.1F - 3.0F);
  StateDict none;
  const Compressor compressor = Make({"top_k:0.25"});
  EXPECT_EQ(MustDecode(compressor, MustEncode(compressor, update).bytes, update).at("x").values<float>()[0], 0.0F);
}

TEST(RandomMask, WithoutErrorFeedbackItsMeanIsTheUpdate) {
  const StateDict update = Random(2);
  constexpr int kSeeds = 3000;
  std::map<std::string, std::vector<double>> sum;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Compressor compressor = Make({"random_mask:0.25", "int8"}, seed);
    for (const auto& [name, tensor] : MustDecode(compressor, MustEncode(compressor, update).bytes, update)) {
      auto& total = sum[name];
      total.resize(static_cast<size_t>(tensor.numel()));
      const auto values = tensor.values<float>();
      for (size_t i = 0; i < values.size(); ++i) total[i] += static_cast<double>(values[i]);
    }
  }
  for (const auto& [name, tensor] : update) {
    for (size_t i = 0; i < sum[name].size(); ++i) {
      // Of 4 x with chance 1/4: a variance of 3 x^2, and rounding on a step of at most 4 / 127.
      EXPECT_NEAR(sum[name][i] / kSeeds, static_cast<double>(tensor.values<float>()[i]), 5 * 1.75 / std::sqrt(kSeeds));
    }
  }
}

TEST(Compressor, WhatIsNotFiniteIsRefusedAndTheResidualStays) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    for (const Words& words : kPipelines) {
      StateDict residual = Single({1, 2, 3});
      const auto encoded = Make(words).Encode(Single({0, bad, 1}), &residual);
      ASSERT_FALSE(encoded.ok());
      EXPECT_EQ(encoded.status().code(), Code::kInvalidArgument);
      EXPECT_THAT(encoded.status().message(), HasSubstr("tensor 'x': a value is not finite"));
      EXPECT_EQ(residual.at("x").values<float>()[2], 3.0F);
    }
  }
  const float largest = std::numeric_limits<float>::max();
  StateDict residual = Single({largest});
  EXPECT_FALSE(Make({"int8"}).Encode(Single({largest}), &residual).ok());
  EXPECT_THAT(Make({"random_mask:0.5"}).Encode(Single({largest, largest}), nullptr).status().message(),
              HasSubstr("not finite after random_mask has scaled it"));
}

TEST(Compressor, TensorsThatItDoesNotTakeAreRefused) {
  std::span<std::byte> room;
  const StateDict wide = {{"w", Tensor::Allocate({DType::kF64, {2}}, &room)}};
  EXPECT_EQ(Make({"int8"}).Encode(wide, nullptr).status().message(), "tensor 'w' is F64 [2]; updates are F32");
  const StateDictSpec large = {{"w", {DType::kF32, {1 << 20, 1 << 13}}}};
  EXPECT_THAT(Make({"int8"}).SizeOf(large).status().message(), HasSubstr("more than 2^32 - 1 values"));
  StateDict residual = Single({1, 2});
  EXPECT_THAT(Make({"int8"}).Encode(Single({1, 2, 3}), &residual).status().message(),
              HasSubstr("what earlier updates left does not belong to this update"));
}

TEST(Compressor, SizesAreExactWhenNoPlacesTravel) {
  const StateDict update = Random(1);  // 640, 48 and 1 values
  const auto bytes = [&](const Words& words) { return MustEncode(Make(words), update).bytes.size(); };
  const size_t header = 22;  // and 5 a stage
  EXPECT_EQ(bytes({}), header + 4 * 689);
  EXPECT_EQ(bytes({"bf16"}), header + 5 + 2 * 689);
  EXPECT_EQ(bytes({"int8"}), header + 5 + 4 * (3 + 1 + 1) + 689);
  EXPECT_EQ(bytes({"int4"}), header + 5 + 4 * 5 + 320 + 24 + 1);
  EXPECT_EQ(bytes({"int2"}), header + 5 + 4 * 5 + 160 + 12 + 1);
  EXPECT_EQ(bytes({"sign"}), header + 5 + 4 * 3 + 80 + 6 + 1);
  EXPECT_EQ(bytes({"random_mask:0.1", "int4"}), header + 10 + 4 * 3 + 32 + 3 + 1);
  EXPECT_EQ(*Make({"int4"}).Describe(SpecOf(update)), "int4: 689 of 689 values, 392 bytes instead of 2756");
  EXPECT_EQ(*Make({"top_k:0.01", "int4"}).Describe(SpecOf(update)),
            "top_k:0.01, int4: 9 of 689 values, at most 64 bytes instead of 2756");
}

TEST(Compressor, CountsWhereItsBytesWent) {
  const ByteCount count = MustEncode(Make({"top_k:0.5", "int4"}), Random(1)).count;
  EXPECT_EQ(count.header, 32U);
  EXPECT_EQ(count.places, 1 + 80 + 1 + 6U);  // bitmaps of 640 and 48; the scalar needs none
  EXPECT_EQ(count.scales, 4 * (2 + 1 + 1U));
  EXPECT_EQ(count.values, 160 + 12 + 1U);
  EXPECT_EQ(count.bitmaps, 2U);
  EXPECT_EQ(count.gap_lists, 0U);
  EXPECT_EQ(MustEncode(Make({"top_k:0.01"}), Random(1)).count.gap_lists, 2U);
}

TEST(Decode, EveryTruncationAndEveryByteMoreIsRefused) {
  for (const Words& words : kPipelines) {
    const Compressor compressor = Make(words);
    const StateDict update = Random(4);
    const std::string bytes = MustEncode(compressor, update).bytes;
    for (size_t size = 0; size < bytes.size(); ++size) {
      ASSERT_FALSE(compressor.Decode(Bytes(bytes).first(size), SpecOf(update), kNoLimit).ok()) << size;
    }
    EXPECT_FALSE(compressor.Decode(Bytes(bytes + '\0'), SpecOf(update), kNoLimit).ok());
  }
}

TEST(Decode, SaysWhatIsWrong) {
  const StateDict update = Random(4);
  const StateDictSpec spec = SpecOf(update);
  const Compressor compressor = Make({"top_k:0.1", "int4"});
  const std::string good = MustEncode(compressor, update).bytes;
  EXPECT_EQ(WhyNot(compressor, "", spec), "encoded update: it does not begin with 'HDCU'");
  EXPECT_EQ(WhyNot(compressor, good.substr(0, 5), spec), "encoded update: its header is cut off");
  EXPECT_EQ(WhyNot(compressor, good.substr(0, 31), spec), "encoded update: its header is cut off");
  std::string bad = good;
  bad[4] = 9;
  EXPECT_EQ(WhyNot(compressor, bad, spec), "encoded update: its format is version 9; this program reads version 1");
  EXPECT_EQ(WhyNot(Make({"top_k:0.2", "int4"}), good, spec),
            "encoded update: it was not made by this run's stages: top_k:0.2, int4");
  EXPECT_EQ(WhyNot(Make({"top_k:0.1", "int4"}, 8), good, spec),
            "encoded update: it was made with the seed of another task");
  StateDictSpec other = spec;
  other["a"].shape = {16, 40};
  EXPECT_EQ(WhyNot(compressor, good, other), "encoded update: it was made for tensors of other names or shapes");
  EXPECT_THAT(WhyNot(compressor, good.substr(0, 40), spec), HasSubstr("it has 40 bytes; "));
  EXPECT_EQ(WhyNot(compressor, good + 'x', spec), "encoded update: 1 bytes are left over behind the last tensor");
  EXPECT_EQ(WhyNot(compressor, good.substr(0, 150), spec), "encoded update: it has 150 bytes; 151 to 155 are possible");
  // Of an update whose places took more bytes than others do, one that is missing is only seen in the last tensor.
  std::string longer = good;
  for (uint64_t seed = 5; longer.size() == 151; ++seed) longer = MustEncode(compressor, Random(seed)).bytes;
  EXPECT_EQ(WhyNot(compressor, longer.substr(0, longer.size() - 1), spec),
            "encoded update: tensor 'c': the values are cut off: 5 bytes are due, 4 are there");
  bad = good;
  bad[32] = 7;
  EXPECT_EQ(WhyNot(compressor, bad, spec), "encoded update: tensor 'a': places have no form 7");
}

TEST(Decode, ABoundOnItsMemoryHolds) {
  const Compressor compressor = Make({"top_k:0.000001", "sign"});
  // A gigabyte would come out of a few bytes; nothing is allocated before the bound was looked at.
  const StateDictSpec spec = {{"w", {DType::kF32, {1 << 14, 1 << 14}}}};
  const auto decoded = compressor.Decode({}, spec, 1 << 20);
  EXPECT_EQ(decoded.status().code(), Code::kResourceExhausted);
  EXPECT_THAT(decoded.status().message(), HasSubstr("would have 1073741824 bytes; at most 1048576 are allowed"));
}

TEST(Decode, ThePageHasTheWorkedExample) {
  const StateDict update = {{"w", Tensor::FromFloats({3, 4}, std::vector<float>{0, 0.5F, -1, 0.25F, 2, -0.125F, 0,
                                                                                0.75F, -1.5F, 0.0625F, 0, 1})}};
  StateDict residual;
  const Compressor compressor = Make({"top_k:0.4", "int4"}, 7);
  const std::string bytes = MustEncode(compressor, update, &residual).bytes;
  std::string hex;
  for (const char byte : bytes) {
    char text[4];
    std::snprintf(text, sizeof text, "%02x ", static_cast<unsigned char>(byte));
    hex += text;
  }
  const auto page = ReadFile(HEDDLE_SOURCE_DIR "/docs/formats.md");
  ASSERT_TRUE(page.ok());
  std::string joined = *page;
  for (size_t at = 0; (at = joined.find('\n', at)) != std::string::npos;) joined[at] = ' ';
  EXPECT_THAT(joined, HasSubstr(hex.substr(0, 47)));           // magic, version, stages
  EXPECT_THAT(joined, HasSubstr(hex.substr(48, 47)));          // seed and digest
  EXPECT_THAT(joined, HasSubstr(hex.substr(96, 3 * 10 - 1)));  // places, scale, codes
  EXPECT_EQ(bytes.size(), 42U);
  const StateDict decoded = MustDecode(compressor, bytes, update);
  const float s = 2.0F / 7;
  const std::vector<float> expected = {0, 0, -4 * s, 0, 7 * s, 0, 0, 2 * s, -5 * s, 0, 0, 3 * s};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(decoded.at("w").values<float>()[i], expected[i], 1e-6F) << i;
}

}  // namespace
}  // namespace heddle::compression
