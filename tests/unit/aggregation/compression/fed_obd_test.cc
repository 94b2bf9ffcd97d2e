// FedOBD's two halves: which blocks travel, and how their values are written. Levels, bits and errors against formulas
// computed here in long double.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "aggregation/compression/adaptive_code.h"
#include "aggregation/compression/block_selection.h"
#include "aggregation/compression/compressor.h"
#include "common/random.h"

namespace heddle::compression {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kNoLimit = uint64_t{1} << 40;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::vector<float> Uniform(size_t count, uint64_t seed, float low, float high) {
  const PhiloxStream random(seed);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = low + (high - low) * random.UniformAt(i);
  return values;
}

std::vector<float> ThereAndBack(const std::vector<float>& values, uint32_t weight, size_t* bytes = nullptr) {
  std::string written;
  AppendAdaptive(values, weight, &written);
  if (bytes != nullptr) *bytes = written.size();
  std::vector<float> read(values.size());
  std::span<const std::byte> in = Bytes(written);
  const Status status = ReadAdaptive(weight, &in, read);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(in.empty());
  return read;
}

// ---- values ----

TEST(Nnadq, LevelsBitsAndErrorAreThoseOfTheFormula) {
  for (const uint32_t weight : {1U, 100U, 1000U, 100'000U, 1'000'000U}) {
    for (const auto& [low, high] :
         {std::pair{-1.0F, 1.0F}, {-3.0F, -2.0F}, {0.0F, 1e-6F}, {-1e-3F, 4e-3F}, {5.0F, 5e4F}}) {
      const auto values = Uniform(997, weight, low, high);
      const auto [least, most] = std::minmax_element(values.begin(), values.end());
      const long double n = (static_cast<long double>(*most) - *least) / 2;
      const long double raw = std::floor(std::sqrt(n * 32 * std::log(4.0L) / (weight * 1e-6L)));
      const long double s = std::clamp(raw, 1.0L, 32767.0L);
      const auto bits = static_cast<uint64_t>(std::ceil(std::log2(2 * s + 1)));  // the sign is among the codes
      size_t bytes = 0;
      const auto read = ThereAndBack(values, weight, &bytes);
      // Where the square root is next to a whole number the two may differ by one level, and so by a bit.
      EXPECT_NEAR(static_cast<double>(bytes), 8 + static_cast<double>((values.size() * bits + 7) / 8), 126);
      const long double step = n / s;
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_LE(std::abs(static_cast<long double>(read[i]) - values[i]), step * 0.5001L + std::abs(values[i]) * 2e-7L)
            << "weight " << weight << " value " << i;
      }
    }
  }
}

// A public implementation puts the offset on the wrong side for such a tensor, so that its range is larger than it is.
TEST(Nnadq, ATensorBelowZeroIsAsExactAsItsMirrorImage) {
  const auto above = Uniform(500, 3, 2.0F, 3.0F);
  std::vector<float> below = above;
  for (float& value : below) value = -value;
  size_t bytes_above = 0, bytes_below = 0;
  const auto a = ThereAndBack(above, 1000, &bytes_above), b = ThereAndBack(below, 1000, &bytes_below);
  EXPECT_EQ(bytes_above, bytes_below);
  double worst_above = 0, worst_below = 0;
  for (size_t i = 0; i < above.size(); ++i) {
    worst_above = std::max(worst_above, std::abs(static_cast<double>(a[i]) - above[i]));
    worst_below = std::max(worst_below, std::abs(static_cast<double>(b[i]) - below[i]));
  }
  EXPECT_NEAR(worst_above, worst_below, 1e-6);
  EXPECT_LT(worst_below, 0.01) << "of a range of one, on more than a hundred levels";
}

TEST(Nnadq, EqualValuesTakeEightBytesAndComeBackToTheBit) {
  for (const float value : {0.0F, -0.25F, 1e30F, -std::numeric_limits<float>::max()}) {
    size_t bytes = 0;
    EXPECT_EQ(ThereAndBack(std::vector<float>(100, value), 1000, &bytes), std::vector<float>(100, value));
    EXPECT_EQ(bytes, 8U);
  }
  size_t bytes = 1;
  EXPECT_THAT(ThereAndBack({}, 1000, &bytes), IsEmpty());
  EXPECT_EQ(bytes, 0U);
}

TEST(Nnadq, TheLargestNumbersStayFinite) {
  const float most = std::numeric_limits<float>::max();
  for (const std::vector<float>& values : {std::vector<float>{most, -most, 0}, {most, most * 0.3F, most * 0.999F}}) {
    for (const float value : ThereAndBack(values, 1)) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(Nnadq, WhatCannotHaveBeenWrittenIsRefused) {
  std::string good;
  AppendAdaptive(std::vector<float>{-1, 0.25F, 1}, 1'000'000, &good);
  const auto why = [](const std::string& bytes, size_t count, Code code = Code::kInvalidArgument) {
    std::vector<float> out(count);
    std::span<const std::byte> in = Bytes(bytes);
    const Status status = ReadAdaptive(1'000'000, &in, out);
    EXPECT_EQ(status.code(), code);
    return std::string(status.message());
  };
  EXPECT_THAT(why(good.substr(0, 7), 3), HasSubstr("cut off"));
  EXPECT_THAT(why(good.substr(0, 8), 3), HasSubstr("cut off"));
  std::string bad = good;
  bad.back() = static_cast<char>(static_cast<unsigned char>(bad.back()) | 0x80U);
  EXPECT_THAT(why(bad, 3), HasSubstr("behind the last value"));
  bad = good;
  bad[8] = static_cast<char>(0xFF);
  EXPECT_THAT(why(bad, 3), HasSubstr("a code is above"));
  const float infinite = std::numeric_limits<float>::infinity(), negative = -1;
  bad = good;
  bad.replace(4, 4, reinterpret_cast<const char*>(&negative), 4);
  EXPECT_THAT(why(bad, 3), HasSubstr("negative"));
  bad.replace(0, 4, reinterpret_cast<const char*>(&infinite), 4);
  EXPECT_THAT(why(bad, 3, Code::kOutOfRange), HasSubstr("not finite"));
}

// ---- blocks ----

StateDict ThreeLayers() {
  StateDict update;
  update.emplace("m.0.a", Tensor::FromFloats({4}, std::vector<float>(4, 0.1F)));
  update.emplace("m.0.b", Tensor::FromFloats({2}, std::vector<float>(2, 0.1F)));
  update.emplace("m.1.a", Tensor::FromFloats({4}, std::vector<float>(4, 3.0F)));
  update.emplace("m.2.a", Tensor::FromFloats({6}, std::vector<float>(6, 1.0F)));
  update.emplace("head", Tensor::FromFloats({2}, std::vector<float>(2, 5.0F)));
  return update;
}

TEST(Blocks, AreTheTensorsOfALayerOrOneOfNone) {
  const auto blocks = BlocksOf(SpecOf(ThreeLayers()));
  ASSERT_EQ(blocks.size(), 4U);
  EXPECT_THAT(blocks[0].names, ElementsAre("head"));
  EXPECT_THAT(blocks[1].names, ElementsAre("m.0.a", "m.0.b"));
  EXPECT_EQ(blocks[1].values, 6U);
}

TEST(Blocks, TheMostImportantThatFitAreKept) {
  // Norm by number of values: head 5/sqrt(2), layer 1 3/2, layer 2 1/sqrt(6), layer 0 0.1/sqrt(6).
  const StateDict update = ThreeLayers();
  const auto blocks = BlocksOf(SpecOf(update));
  const auto kept = [&](uint32_t millionths) {
    std::string bitmap;
    const KeptNames names = AppendKeptBlocks(blocks, update, nullptr, millionths, &bitmap);
    std::span<const std::byte> in = Bytes(bitmap);
    EXPECT_EQ(ReadKeptBlocks(blocks, millionths, &in).value(), names);
    return names;
  };
  EXPECT_THAT(kept(1'000'000), testing::SizeIs(5));
  EXPECT_THAT(kept(350'000), ElementsAre("head", "m.1.a"));  // 6 of 18 values
  EXPECT_THAT(kept(300'000), ElementsAre("head")) << "5 values: layer 1 does not fit, nor does what is after it";
  EXPECT_THAT(kept(460'000), ElementsAre("head", "m.1.a")) << "8 values, and nothing more fits";
  EXPECT_THAT(kept(100'000), IsEmpty()) << "1 value: nothing fits";
}

TEST(Blocks, TheBudgetIsNeverGoneBeyondAndNoBetterBlockIsLeftOutWhereItFits) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    PhiloxStream random(seed);
    StateDict update;
    const uint32_t layers = 1 + random.NextBelow(12);
    for (uint32_t layer = 0; layer < layers; ++layer) {
      const int64_t size = 1 + random.NextBelow(40);
      update.emplace("h." + std::to_string(layer) + ".w",
                     Tensor::FromFloats({size}, Uniform(static_cast<size_t>(size), seed * 100 + layer, -1, 1)));
    }
    const uint32_t share = 1 + random.NextBelow(1'000'000);
    const auto blocks = BlocksOf(SpecOf(update));
    std::string bitmap;
    const KeptNames kept = AppendKeptBlocks(blocks, update, nullptr, share, &bitmap);
    // Independently: walk down the importances.
    std::vector<std::pair<double, size_t>> order;
    uint64_t all = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
      double squares = 0;
      for (const float v : update.at(blocks[i].names[0]).values<float>()) squares += static_cast<double>(v) * v;
      order.emplace_back(-std::sqrt(squares) / static_cast<double>(blocks[i].values), i);
      all += blocks[i].values;
    }
    std::sort(order.begin(), order.end());
    const long double budget = static_cast<long double>(all) * share / 1'000'000;
    uint64_t sent = 0;
    for (const auto& [importance, i] : order) {
      const bool fits = static_cast<long double>(sent + blocks[i].values) <= budget;
      EXPECT_EQ(kept.contains(blocks[i].names[0]), fits) << "seed " << seed;
      if (fits) sent += blocks[i].values;
    }
    EXPECT_LE(static_cast<long double>(sent), budget);
  }
}

TEST(Blocks, ListsThatCannotHaveBeenWrittenAreRefused) {
  const auto blocks = BlocksOf(SpecOf(ThreeLayers()));
  const auto why = [&](const std::string& bytes, uint32_t millionths) {
    std::span<const std::byte> in = Bytes(bytes);
    const auto read = ReadKeptBlocks(blocks, millionths, &in);
    EXPECT_EQ(read.status().code(), Code::kInvalidArgument);
    return std::string(read.status().message());
  };
  EXPECT_THAT(why("", 1'000'000), HasSubstr("cut off"));
  EXPECT_THAT(why("\x10", 1'000'000), HasSubstr("behind the last block"));
  EXPECT_THAT(why("\x0f", 500'000), HasSubstr("more values"));
}

// ---- whole updates ----

TEST(FedObd, WhatIsDroppedIsZeroWhatIsSentIsNearAndTheByteCountHoldsEverything) {
  const Compressor compressor(*Pipeline::Parse(std::vector<std::string>{"blocks:0.35", "nnadq:0.001"}), 7);
  const StateDict update = ThreeLayers();
  const auto encoded = compressor.Encode(update, nullptr);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(encoded->count.total(), encoded->bytes.size());
  // A header, a byte of blocks, and of two tensors of equal values 8 bytes each.
  EXPECT_EQ(encoded->bytes.size(), 4U + 2 + 2 * 5 + 16 + 1 + 2 * 8);
  const auto decoded = compressor.Decode(Bytes(encoded->bytes), SpecOf(update), kNoLimit);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  for (const auto& [name, tensor] : *decoded) {
    const bool sent = name == "head" || name == "m.1.a";
    for (size_t i = 0; i < tensor.values<float>().size(); ++i) {
      EXPECT_EQ(tensor.values<float>()[i], sent ? update.at(name).values<float>()[i] : 0) << name;
    }
  }
}

// With nothing that makes numbers smaller behind it, what is sent is sent to the bit.
TEST(FedObd, BlocksAloneTravelAsFloats) {
  const Compressor compressor(*Pipeline::Parse(std::vector<std::string>{"blocks:0.5"}), 7);
  StateDict update;
  for (int layer = 0; layer < 4; ++layer) {
    update.emplace("h." + std::to_string(layer) + ".w",
                   Tensor::FromFloats({37}, Uniform(37, static_cast<uint64_t>(layer), -1, 1)));
  }
  const auto encoded = compressor.Encode(update, nullptr);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  const auto decoded = compressor.Decode(Bytes(encoded->bytes), SpecOf(update), kNoLimit);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  int sent = 0;
  for (const auto& [name, tensor] : *decoded) {
    const auto got = tensor.values<float>(), had = update.at(name).values<float>();
    if (got[0] == 0) continue;
    ++sent;
    EXPECT_TRUE(std::ranges::equal(got, had)) << name;
  }
  EXPECT_GT(sent, 0);
  EXPECT_LT(sent, 4);
  EXPECT_GE(encoded->bytes.size(), static_cast<size_t>(sent) * 37 * sizeof(float));
  EXPECT_EQ(encoded->count.total(), encoded->bytes.size());
}

TEST(FedObd, ErrorFeedbackKeepsDroppedBlocksUntilTheirTurn) {
  const Compressor compressor(*Pipeline::Parse(std::vector<std::string>{"blocks:0.4", "error_feedback"}), 7);
  const StateDict update = ThreeLayers();
  StateDict residual, sum;
  for (int round = 0; round < 200; ++round) {
    const auto encoded = compressor.Encode(update, &residual);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    const auto decoded = compressor.Decode(Bytes(encoded->bytes), SpecOf(update), kNoLimit);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    for (const auto& [name, tensor] : *decoded) {
      if (tensor.values<float>()[0] != 0) sum.insert_or_assign(name, tensor);
    }
  }
  EXPECT_EQ(sum.size(), update.size()) << "every block was sent at some time";
}

TEST(FedObd, AnyPrefixOfAnUpdateAndAnyFlippedBitIsReadOrRefusedWithASentence) {
  const Compressor compressor(*Pipeline::Parse(std::vector<std::string>{"blocks:0.9", "nnadq:0.01"}), 7);
  StateDict update;
  for (int layer = 0; layer < 4; ++layer) {
    update.emplace("h." + std::to_string(layer),
                   Tensor::FromFloats({31}, Uniform(31, static_cast<uint64_t>(layer), -1, 1)));
  }
  const auto encoded = compressor.Encode(update, nullptr);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  for (size_t size = 0; size < encoded->bytes.size(); ++size) {
    const auto decoded = compressor.Decode(Bytes(encoded->bytes.substr(0, size)), SpecOf(update), kNoLimit);
    EXPECT_EQ(decoded.status().code(), Code::kInvalidArgument) << size;
  }
  for (size_t bit = 0; bit < 8 * encoded->bytes.size(); ++bit) {
    std::string other = encoded->bytes;
    other[bit / 8] = static_cast<char>(static_cast<unsigned char>(other[bit / 8]) ^ (1U << bit % 8));
    const auto decoded = compressor.Decode(Bytes(other), SpecOf(update), kNoLimit);
    if (!decoded.ok()) continue;
    for (const auto& [name, tensor] : *decoded) {
      for (const float value : tensor.values<float>()) EXPECT_TRUE(std::isfinite(value)) << bit;
    }
  }
}

TEST(FedObd, WordsAreReadAndWrittenInTheirOrder) {
  const auto pipeline = Pipeline::Parse(std::vector<std::string>{"blocks:0.70", "nnadq:0.0010"});
  ASSERT_TRUE(pipeline.ok()) << pipeline.status();
  EXPECT_EQ(pipeline->ToString(), "blocks:0.7, nnadq:0.001");
  const auto refused = [](const std::vector<std::string>& words) {
    const auto parsed = Pipeline::Parse(words);
    EXPECT_EQ(parsed.status().code(), Code::kInvalidArgument);
    return std::string(parsed.status().message());
  };
  EXPECT_THAT(refused({"top_k:0.1", "blocks:0.5"}), HasSubstr("must stand first"));
  EXPECT_THAT(refused({"int8", "blocks:0.5"}), HasSubstr("must stand before"));
  EXPECT_THAT(refused({"nnadq"}), HasSubstr("needs"));
  EXPECT_THAT(refused({"nnadq:0"}), HasSubstr("needs a weight above 0"));
  EXPECT_THAT(refused({"nnadq:0.1", "int8"}), HasSubstr("one way"));
}

}  // namespace
}  // namespace heddle::compression
