// The grid's arithmetic: every instruction set gives the same integers, and spilling changes no value.
#include "aggregation/fixed_point.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <mutex>
#include <set>

#include "aggregation/parallel.h"
#include "common/random.h"

namespace heddle::aggregation {
namespace {

// Floats of every magnitude up to `max_abs`, halves and neighbours of halves among them.
std::vector<float> Values(size_t count, float max_abs, uint64_t seed) {
  std::vector<float> values(count);
  const PhiloxStream random(seed);
  for (size_t i = 0; i < count; ++i) {
    const int exponent = -static_cast<int>(random.U32At(2 * i) % 60);
    values[i] = std::ldexp((2 * random.UniformAt(2 * i + 1) - 1) * max_abs, exponent);
    if (i % 5 == 0) values[i] = std::ldexp(static_cast<float>(random.U32At(2 * i) % 64) + 0.5F, -20);
  }
  return values;
}

TEST(Kernels, AddRoundsEachProductToTheNearestEvenInteger) {
  struct Case {
    float max_abs;
    double scale;
  };
  for (const Kernels& kernels : UsableKernels()) {
    for (const Case& c : {Case{1.0F, 0x1p20}, Case{16.0F, 0x1p50}, Case{1.0F, 12345 * 0x1p20}, Case{16.0F, 0x1p58},
                          Case{3.0F, 536870911 * 0x1p31}}) {
      for (const size_t count : {0, 1, 7, 8, 15, 16, 17, 1000}) {
        const auto x = Values(count, c.max_abs, count + 1);
        std::vector<int64_t> sum(count, 1000), expected(count, 1000);
        kernels.add(x.data(), c.scale, sum.data(), count);
        for (size_t i = 0; i < count; ++i) {
          // llrint rounds half to even, and the product is exact in a long double.
          expected[i] += llrintl(static_cast<long double>(x[i]) * static_cast<long double>(c.scale));
        }
        EXPECT_EQ(sum, expected) << kernels.name << ", scale " << c.scale << ", " << count << " values";
      }
    }
  }
}

TEST(Kernels, MaxAbsBitsFindsTheLargestWhereverItStands) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const Kernels& kernels : UsableKernels()) {
    for (const size_t count : {1, 5, 8, 17, 64, 100}) {
      for (size_t at = 0; at < count; ++at) {
        std::vector<float> x(count, 0.5F);
        x[at] = -2.0F;
        EXPECT_EQ(std::bit_cast<float>(kernels.max_abs_bits(x.data(), count)), 2.0F) << kernels.name;
        x[at] = -inf;
        EXPECT_EQ(std::bit_cast<float>(kernels.max_abs_bits(x.data(), count)), inf) << kernels.name;
        x[at] = nan;
        EXPECT_TRUE(std::isnan(std::bit_cast<float>(kernels.max_abs_bits(x.data(), count)))) << kernels.name;
      }
    }
    EXPECT_EQ(kernels.max_abs_bits(nullptr, 0), 0U);
  }
}

TEST(Kernels, SumsOfSquaresAreTheSameBitsOnEveryInstructionSet) {
  for (const size_t count : {0, 3, 8, 21, 4096, 4099}) {
    const auto x = Values(count, 3.0F, count);
    std::array<double, 8> expected{};
    for (size_t i = 0; i < count; ++i) expected[i % 8] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    for (const Kernels& kernels : UsableKernels()) {
      std::array<double, 8> lanes{};
      kernels.add_squares(x.data(), count, &lanes);
      EXPECT_EQ(lanes, expected) << kernels.name << ", " << count << " values";
    }
  }
}

TEST(FixedPointGrid, SaysWhichBoundIsOutOfRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const double max_abs : {0.0, -1.0, nan, inf, 0x1p41}) {
    const auto grid = FixedPointGrid::Make(max_abs, 100, 100);
    EXPECT_EQ(grid.status().code(), Code::kInvalidArgument) << max_abs;
    EXPECT_NE(grid.status().message().find("max_abs"), std::string::npos);
  }
  for (const uint64_t weight : {uint64_t{0}, (uint64_t{1} << 29) + 1, ~uint64_t{0}}) {
    EXPECT_NE(FixedPointGrid::Make(1, weight, 1).status().message().find("max_num_examples"), std::string::npos);
  }
  for (const uint64_t updates : {uint64_t{0}, (uint64_t{1} << 24) + 1, ~uint64_t{0}}) {
    EXPECT_NE(FixedPointGrid::Make(1, 1, updates).status().message().find("updates"), std::string::npos);
  }
  const auto coarse = FixedPointGrid::Make(0x1p40, 1 << 29, 1 << 24);
  EXPECT_NE(coarse.status().message().find("bits of precision"), std::string::npos);
}

TEST(FixedPointGrid, DefaultsLeaveThirtyBits) {
  EXPECT_EQ(FixedPointGrid::Make(16.0, 1'000'000, 65'536)->fraction_bits(), 30);
}

TEST(FixedPointGrid, OneLowLimbHoldsWhatItsCapacitySays) {
  for (const auto& [max_abs, weight, updates] : {std::tuple<double, uint64_t, uint64_t>{16.0, 1'000'000, 65'536},
                                                 {0.7, 1, 1},
                                                 {100.0, 1 << 29, 1 << 24},
                                                 {1e-30, 5, 300}}) {
    const auto grid = *FixedPointGrid::Make(max_abs, weight, updates);
    EXPECT_GE(grid.low_capacity(), weight);
    const long double largest = std::ldexp(
        static_cast<long double>(max_abs) * static_cast<long double>(grid.low_capacity()), grid.fraction_bits());
    EXPECT_LE(largest, 0x1p62L);
  }
}

TEST(FixedPointSum, SpillingAtAnyTimeChangesNoValue) {
  const auto grid = *FixedPointGrid::Make(4.0, 1000, 1000);
  const size_t count = 257;
  FixedPointSum plain(grid, count), spilled(grid, count);
  spilled.ReserveSpill();
  uint64_t weight = 0;
  for (uint64_t k = 0; k < 200; ++k) {
    const auto x = Values(count, 4.0F, k);
    plain.Add(x, 1 + k * 4, 0);
    spilled.Add(x, 1 + k * 4, 0);
    weight += 1 + k * 4;
    if (k % 3 == 0) spilled.Spill(0, count);
    if (k % 5 == 0) spilled.Spill(10, 20);
  }
  const auto parent = Values(count, 1.0F, 1000);
  std::vector<float> a(count), b(count);
  plain.MeanOnto(parent, weight, 0, a);
  spilled.MeanOnto(parent, weight, 0, b);
  EXPECT_EQ(a, b);
}

TEST(ParallelRanges, CoverEveryElementOnce) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{1} << 18, (size_t{1} << 19) + 5, size_t{3'000'017}}) {
    for (const unsigned threads : {0U, 1U, 2U, 3U, 7U}) {
      std::mutex mutex;
      std::set<std::pair<size_t, size_t>> ranges;
      ParallelRanges(count, threads, [&](size_t begin, size_t end) {
        std::lock_guard lock(mutex);
        ranges.emplace(begin, end);
      });
      size_t next = 0;
      for (const auto& [begin, end] : ranges) {
        EXPECT_EQ(begin, next);
        next = end;
      }
      EXPECT_EQ(next, count);
      EXPECT_LE(ranges.size(), std::max(1U, threads));
    }
  }
}

}  // namespace
}  // namespace heddle::aggregation
