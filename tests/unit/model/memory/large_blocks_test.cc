#include "model/memory/large_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace heddle::model {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST(LargeBlocks, GivesTheSameBlockToTheNextArrayOfItsSize) {
  LargeBlocks blocks;
  const auto first = blocks.Take(3 * kMiB);
  ASSERT_NE(first.data, nullptr);
  EXPECT_GE(first.bytes, 3 * kMiB);
  blocks.Give(first);
  const auto second = blocks.Take(3 * kMiB - 100'000);  // a little smaller serves too
  EXPECT_EQ(second.data, first.data);
  EXPECT_EQ(second.bytes, first.bytes);
  EXPECT_EQ(blocks.usage().mapped, 1U);
  blocks.Give(second);
}

TEST(LargeBlocks, DoesNotSpendALargeBlockOnASmallArray) {
  LargeBlocks blocks;
  const auto first = blocks.Take(16 * kMiB);
  blocks.Give(first);
  const auto second = blocks.Take(12 * kMiB);
  EXPECT_LT(second.bytes, 13 * kMiB);
  EXPECT_EQ(blocks.usage().kept, 0U);  // 12 and 16 would be more than ever were live
  blocks.Give(second);
}

TEST(LargeBlocks, GivesBackTheLongestUnusedFirst) {
  LargeBlocks blocks;
  const auto a = blocks.Take(4 * kMiB), b = blocks.Take(5 * kMiB);
  blocks.Give(b);
  blocks.Give(a);
  const auto c = blocks.Take(2 * kMiB);  // does not fit beside both
  EXPECT_EQ(blocks.usage().kept, a.bytes);
  const auto again = blocks.Take(4 * kMiB);
  EXPECT_EQ(again.data, a.data);
  blocks.Give(c);
  blocks.Give(again);
}

TEST(LargeBlocks, KeepsASparePartWhenItMay) {
  // A step that uses 4 and 4 MiB and then, without them, 2 and 6: with as much to spare all four stay.
  for (const double spare : {0.0, 1.0}) {
    LargeBlocks blocks(spare);
    for (int step = 0; step < 3; ++step) {
      for (const auto& [one, other] : {std::pair{4, 4}, {2, 6}}) {
        const auto a = blocks.Take(static_cast<size_t>(one) * kMiB), b = blocks.Take(static_cast<size_t>(other) * kMiB);
        blocks.Give(a);
        blocks.Give(b);
        EXPECT_LE(blocks.usage().kept, static_cast<size_t>((1 + spare) * 8) * kMiB);
      }
    }
    EXPECT_EQ(blocks.usage().mapped, spare > 0 ? 4U : 12U);
  }
}

TEST(LargeBlocks, ReleasesAllAndCountsThePeakAnew) {
  LargeBlocks blocks;
  const auto a = blocks.Take(4 * kMiB), b = blocks.Take(5 * kMiB);
  blocks.Give(b);
  blocks.Release();
  EXPECT_EQ(blocks.usage().kept, 0U);
  EXPECT_EQ(blocks.usage().peak_live, a.bytes);
  blocks.Give(a);
}

TEST(LargeBlocks, SaysWhenThereIsNoMemory) {
  LargeBlocks blocks;
  EXPECT_EQ(blocks.Take(SIZE_MAX - 5).data, nullptr);
  EXPECT_EQ(blocks.Take(size_t{1} << 60).data, nullptr);
  EXPECT_EQ(blocks.usage().live, 0U);
}

// Random arrays, each filled with its own byte: nobody writes into another's, and what is kept never adds to the peak.
TEST(LargeBlocks, KeepsArraysApartAndNeverPassesThePeak) {
  LargeBlocks blocks;
  std::mt19937 random(7);
  struct Array {
    LargeBlocks::Block block;
    size_t bytes;
    unsigned char value;
  };
  std::vector<Array> arrays;
  const auto holds = [](const Array& array) {
    const auto* data = static_cast<const unsigned char*>(array.block.data);
    return data[0] == array.value && data[array.bytes / 2] == array.value && data[array.bytes - 1] == array.value;
  };
  size_t most = 0;
  for (int i = 0; i < 4000; ++i) {
    if (arrays.empty() || (arrays.size() < 24 && random() % 2 == 0)) {
      const size_t bytes = 1 + random() % (kMiB / 2);
      Array array{blocks.Take(bytes), bytes, static_cast<unsigned char>(random())};
      ASSERT_NE(array.block.data, nullptr);
      ASSERT_GE(array.block.bytes, bytes);
      std::memset(array.block.data, array.value, bytes);
      arrays.push_back(array);
    } else {
      const size_t at = random() % arrays.size();
      ASSERT_TRUE(holds(arrays[at])) << "step " << i;
      blocks.Give(arrays[at].block);
      arrays.erase(arrays.begin() + static_cast<std::ptrdiff_t>(at));
    }
    size_t live = 0;
    for (const Array& array : arrays) live += array.block.bytes;
    most = std::max(most, live);
    const auto usage = blocks.usage();
    ASSERT_EQ(usage.live, live);
    ASSERT_EQ(usage.peak_live, most);
    ASSERT_LE(usage.live + usage.kept, most);
  }
  EXPECT_LT(blocks.usage().mapped, 2000U);  // of some 2 000 arrays, others were served by what was kept
  for (const Array& array : arrays) blocks.Give(array.block);
}

TEST(LargeBlocks, ServesManyThreads) {
  LargeBlocks blocks;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&blocks, &wrong, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      for (int i = 0; i < 500; ++i) {
        const size_t bytes = 1 + random() % kMiB;
        const auto block = blocks.Take(bytes);
        auto* data = static_cast<int*>(block.data);
        data[0] = t;
        std::this_thread::yield();
        if (data[0] != t) ++wrong;
        blocks.Give(block);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(blocks.usage().live, 0U);
}

}  // namespace
}  // namespace heddle::model
