#include "common/mask.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace heddle {
namespace {

using Places = std::vector<uint32_t>;

TEST(RandomMask, HasOnePlaceOfEachStratum) {
  for (const uint64_t count : {1U, 10U, 1000U, 1001U}) {
    for (const uint64_t kept : {uint64_t{1}, (count + 2) / 3, count}) {
      const Places places = MaskPlaces(9, count, kept);
      ASSERT_EQ(places.size(), kept);
      uint64_t next = 0;
      for (uint64_t j = 0; j < kept; ++j) {
        const Stratum stratum = StratumOf(count, kept, j);
        EXPECT_EQ(stratum.first, next);
        EXPECT_GE(places[j], stratum.first);
        EXPECT_LT(places[j], stratum.first + stratum.size);
        next += stratum.size;
      }
      EXPECT_EQ(next, count);
    }
  }
  const Stratum last = StratumOf(0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD);
  EXPECT_EQ(uint64_t{last.first} + last.size, 0xFFFFFFFFU);
}

TEST(RandomMask, EveryPlaceComesAsOftenAsItsStratumIsSmall) {
  constexpr int kKeys = 6000;
  std::vector<int> times(10);
  for (uint64_t key = 0; key < kKeys; ++key) {
    for (const uint32_t place : MaskPlaces(key, 10, 3)) ++times[place];
  }
  for (size_t i = 0; i < times.size(); ++i) {
    const double chance = i < 6 ? 1.0 / 3 : 1.0 / 4;  // strata of 3, 3 and 4
    EXPECT_NEAR(times[i], kKeys * chance, 5 * std::sqrt(kKeys * chance * (1 - chance))) << i;
  }
}

}  // namespace
}  // namespace heddle
