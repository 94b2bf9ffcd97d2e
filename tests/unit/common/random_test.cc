#include "common/random.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace heddle {
namespace {

using Block = std::array<uint32_t, 4>;

// The known answers that the paper's authors publish with their Random123 library (kat_vectors, philox4x32 10).
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// The numbers were computed with Python's integers from the definition in the header.
TEST(PhiloxStream, TheWordsAtAnIndexAreFixedForEver) {
  PhiloxStream stream(0x0123456789abcdef, 0xfedcba9876543210);
  EXPECT_EQ(stream.U32At(0), 0xaef2adf7U);
  EXPECT_EQ(stream.U32At(1), 0xf69b5950U);
  EXPECT_EQ(stream.U32At(5), 0x4671fd85U);
  EXPECT_EQ(stream.U32At(4 * (uint64_t{1} << 33) + 2), 0xed241198U) << "the counter's upper word";
  EXPECT_EQ(stream.U64At(0), 0xf69b5950aef2adf7U) << "low word first";
}

TEST(PhiloxStream, DrawingInSequenceIsReadingByIndex) {
  PhiloxStream sequence(7, 3);
  PhiloxStream random_access(7, 3);
  for (uint64_t i = 0; i < 100; i += 2) {
    EXPECT_EQ(sequence.NextU32(), random_access.U32At(i));
    EXPECT_EQ(sequence.NextUniform(), random_access.UniformAt(i + 1));
  }
}

TEST(PhiloxStream, KeysAndStreamsAreDifferentNumbers) {
  std::set<uint64_t> first;
  for (uint64_t key = 0; key < 50; ++key) {
    for (uint64_t stream = 0; stream < 50; ++stream) first.insert(PhiloxStream(key, stream).U64At(0));
  }
  first.insert(PhiloxStream(uint64_t{1} << 32, 0).U64At(0));
  first.insert(PhiloxStream(0, uint64_t{1} << 32).U64At(0));
  EXPECT_EQ(first.size(), 2502U);
}

TEST(PhiloxStream, UniformNumbersLieInTheHalfOpenUnitIntervalAndFillIt) {
  PhiloxStream stream(11);
  double sum = 0;
  double sum_of_squares = 0;
  constexpr int kDraws = 100'000;
  for (int i = 0; i < kDraws; ++i) {
    float u = stream.NextUniform();
    ASSERT_GE(u, 0.0F);
    ASSERT_LT(u, 1.0F);
    sum += u;
    sum_of_squares += double{u} * u;
  }
  // Six standard deviations; the stream is fixed, so this never flickers.
  EXPECT_NEAR(sum / kDraws, 0.5, 6 * 0.289 / 316);
  EXPECT_NEAR(sum_of_squares / kDraws, 1.0 / 3, 6 * 0.298 / 316);
}

TEST(PhiloxStream, NextBelowReachesEveryElementEquallyOften) {
  PhiloxStream stream(5);
  std::vector<int> count(7);
  for (int i = 0; i < 70'000; ++i) ++count.at(stream.NextBelow(7));
  for (int c : count) EXPECT_NEAR(c, 10'000, 6 * 93);
  EXPECT_EQ(stream.NextBelow(1), 0U);
}

// With bound 3 * 2^30 a plain remainder would give the lowest quarter of the words a double share.
TEST(PhiloxStream, NextBelowIsUnbiasedForBoundsThatDoNotDivideTheRange) {
  PhiloxStream stream(6);
  constexpr uint32_t kBound = 3U << 30;
  int low = 0;
  for (int i = 0; i < 30'000; ++i) {
    uint32_t value = stream.NextBelow(kBound);
    ASSERT_LT(value, kBound);
    low += value < (1U << 30);
  }
  EXPECT_NEAR(low, 10'000, 6 * 82);
}

TEST(PhiloxStreamDeathTest, AnEmptyRangeIsABug) {
  PhiloxStream stream(1);
  EXPECT_DEATH(stream.NextBelow(0), "empty range");
}

// Computed with Python's hashlib from the definition in the header.
TEST(DeriveSeed, GivesTheValuesOfItsDefinition) {
  EXPECT_EQ(DeriveSeed(0, "", ""), 0xba9b3bade1314f17U);
  EXPECT_EQ(DeriveSeed(1, "train", "round=3 device=phone-7"), 0x6abff553d63cd85cU);
  EXPECT_EQ(DeriveSeed(~uint64_t{0}, "shuffle", "epoch=1"), 0xc62f75db1bee249dU);
}

TEST(DeriveSeed, EveryPartCounts) {
  std::set<uint64_t> seeds = {DeriveSeed(1, "train", "a"), DeriveSeed(2, "train", "a"), DeriveSeed(1, "eval", "a"),
                              DeriveSeed(1, "train", "b"), DeriveSeed(1, "traina", "")};
  EXPECT_EQ(seeds.size(), 5U);
}

}  // namespace
}  // namespace heddle
