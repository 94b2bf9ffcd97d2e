// Updates that wait to be added in one pass: what is kept of them, for how long, and that the sum does not know.
#include "aggregation/weighted_sums.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// An update of one tensor whose memory tells who holds it.
struct Watched {
  explicit Watched(size_t bytes, float value) : memory(std::make_shared<std::vector<float>>(bytes / 4, value)) {
    update.emplace(
        "x", Tensor({DType::kF32, {static_cast<int64_t>(memory->size())}}, std::as_bytes(std::span(*memory)), memory));
  }
  bool kept() {
    update.clear();
    return memory.use_count() > 1;
  }
  std::shared_ptr<std::vector<float>> memory;
  StateDict update;
};

WeightedSums SumsOf(size_t bytes, unsigned threads = 1) {
  AggregatorOptions options;
  options.threads = threads;
  auto sums = WeightedSums::Make({{"x", {DType::kF32, {static_cast<int64_t>(bytes / 4)}}}}, options);
  EXPECT_TRUE(sums.ok()) << sums.status();
  return *std::move(sums);
}

TEST(WeightedSums, AtMostEightUpdatesWait) {
  WeightedSums sums = SumsOf(64);
  std::vector<Watched> sent;
  for (int i = 0; i < 8; ++i) {
    sent.emplace_back(64, static_cast<float>(i));
    ASSERT_TRUE(sums.Add(sent.back().update, 1).ok());
    EXPECT_EQ(sent.front().memory.use_count() > 2, i < 7) << i;  // the tensor of `sent` is one, the sum's another
  }
  for (Watched& one : sent) EXPECT_FALSE(one.kept());
}

TEST(WeightedSums, WhatWaitsStaysBelowItsBound) {
  for (const size_t bytes : {25 * kMiB, 16 * kMiB}) {
    WeightedSums sums = SumsOf(bytes);
    size_t waiting = 0, most = 0;
    std::vector<Watched> sent;
    for (int i = 0; i < 4; ++i) {
      sent.emplace_back(bytes, 1.0F);
      ASSERT_TRUE(sums.Add(sent.back().update, 1).ok());
      waiting = 0;
      for (const Watched& one : sent) waiting += one.memory.use_count() > 2 ? bytes : 0;
      most = std::max(most, waiting);
    }
    EXPECT_LE(most, 48 * kMiB);
    EXPECT_EQ(most > 0, bytes == 16 * kMiB);  // two of 25 MiB would be too much: such an update is added at once
  }
}

TEST(WeightedSums, SettleLetsGoAndTheMeanIsThatOfEachAddedAlone) {
  constexpr size_t kElements = 10'007;  // more than a block, and no whole number of them
  for (const unsigned threads : {1U, 4U}) {
    WeightedSums together = SumsOf(4 * kElements, threads), alone = SumsOf(4 * kElements, threads);
    std::vector<long double> expected(kElements);
    long double total = 0;
    for (uint64_t k = 0; k < 13; ++k) {
      const StateDict update = RandomUpdate({{"x", {kElements}}}, k + 1);
      const double factor = k % 3 == 0 ? 0.5 : 1;
      ASSERT_TRUE(together.Add(update, k + 1, factor).ok());
      ASSERT_TRUE(alone.Add(update, k + 1, factor).ok());
      alone.Settle();
      total += static_cast<long double>(k + 1);
      const auto values = update.at("x").values<float>();
      for (size_t i = 0; i < kElements; ++i) {
        expected[i] += static_cast<long double>(values[i]) * static_cast<long double>(k + 1) * factor;
      }
    }
    together.Settle();
    together.Settle();  // nothing waits: nothing happens
    std::vector<double> a(kElements), b(kElements);
    together.Mean("x", 0, a);
    alone.Mean("x", 0, b);
    EXPECT_EQ(a, b);
    for (size_t i = 0; i < kElements; ++i) ASSERT_NEAR(a[i], static_cast<double>(expected[i] / total), 1e-9) << i;
  }
}

TEST(WeightedSums, WhatWaitsIsAddedBeforeASpill) {
  AggregatorOptions options;
  options.max_num_examples = uint64_t{1} << 29;
  options.max_updates = 1 << 20;
  auto sums = WeightedSums::Make({{"x", {DType::kF32, {3}}}}, options);
  ASSERT_TRUE(sums.ok()) << sums.status();
  const StateDict update = Single({16.0F, -16.0F, 0.5F});
  Watched last(12, 0.5F);
  (*last.memory)[0] = 16;
  (*last.memory)[1] = -16;
  // The limb takes 256 of these weights, and every eighth update is added with those that wait: two of half a weight
  // let the 257th of all wait when the limb is full.
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(sums->Add(update, options.max_num_examples / 2).ok());
  for (int i = 0; i < 1003; ++i) {
    ASSERT_TRUE(sums->Add(i == 254 ? last.update : update, options.max_num_examples).ok());
    if (i == 254) {
      EXPECT_GT(last.memory.use_count(), 2) << "it does not wait";
    } else if (i == 255) {
      EXPECT_EQ(last.memory.use_count(), 2) << "the limb spilled without it";
    }
  }
  sums->Settle();
  std::vector<double> mean(3);
  sums->Mean("x", 0, mean);
  EXPECT_EQ(mean, (std::vector<double>{16, -16, 0.5}));
}

}  // namespace
}  // namespace heddle::aggregation
