// Which values travel and how their places are written, against sorting and counting.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "aggregation/compression/selection.h"
#include "common/random.h"

namespace heddle::compression {
namespace {

using testing::ElementsAre;
using Places = std::vector<uint32_t>;

Places BySorting(const std::vector<float>& values, size_t kept) {
  Places order(values.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return std::abs(values[a]) > std::abs(values[b]); });
  order.resize(kept);
  std::sort(order.begin(), order.end());
  return order;
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST(TopK, IsWhatAStableSortGives) {
  const PhiloxStream random(1);
  for (const size_t count : {1U, 2U, 100U, 3000U}) {
    for (const float grain : {1e-9F, 0.05F, 10.0F}) {  // coarse grains make ties, the last makes all zero
      std::vector<float> values(count);
      for (size_t i = 0; i < count; ++i) {
        values[i] = std::trunc((2 * random.UniformAt(i + count) - 1) / grain) * grain * (i % 3 == 0 ? 1e-30F : 1.0F);
      }
      for (const size_t kept : {size_t{1}, (count + 1) / 2, count}) {
        EXPECT_EQ(LargestPlaces(values, kept), BySorting(values, kept)) << count << " " << grain << " " << kept;
      }
    }
  }
}

TEST(TopK, OfEqualSizesTheFirstAreKept) {
  EXPECT_THAT(LargestPlaces(std::vector<float>{1, -2, 2, 0, -2, 2}, 3), ElementsAre(1, 2, 4));
  EXPECT_THAT(LargestPlaces(std::vector<float>{0, -0.0F, 0}, 2), ElementsAre(0, 1));
}

TEST(PlaceBytes, AreTheShorterOfTheTwoFormsAndReadBack) {
  const PhiloxStream random(4);
  for (const uint64_t count : {2U, 9U, 300U, 20'000U, 3'000'000U}) {
    for (const uint64_t kept : {uint64_t{1}, count / 200 + 1, count / 2, count - 1}) {
      std::vector<float> values(count);
      for (size_t i = 0; i < count; ++i) values[i] = random.UniformAt(i);
      const Places places = LargestPlaces(values, kept);
      std::string out;
      const PlaceBytes written = AppendPlaces(places, count, &out);
      EXPECT_EQ(written.bytes, out.size());
      EXPECT_LE(out.size(), 1 + (count + 7) / 8);
      EXPECT_GE(out.size(), MinPlaceBytes(count, kept));
      EXPECT_LE(out.size(), MaxPlaceBytes(count, kept)) << count << " " << kept;
      EXPECT_EQ(written.form == PlaceForm::kGaps, out.size() < 1 + (count + 7) / 8);
      std::span<const std::byte> in = Bytes(out);
      const auto read = ReadPlaces(count, kept, &in);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(*read, places);
      EXPECT_TRUE(in.empty());
    }
  }
}

TEST(PlaceBytes, TheBoundIsReachedByPlacesAtTheEnd) {
  std::string out;
  AppendPlaces(Places{4'000'000'000}, 4'000'000'001, &out);
  EXPECT_EQ(out.size(), 6U);
  EXPECT_EQ(MaxPlaceBytes(4'000'000'001, 1), 6U);
  std::span<const std::byte> in = Bytes(out);
  EXPECT_THAT(*ReadPlaces(4'000'000'001, 1, &in), ElementsAre(4'000'000'000U));
}

TEST(PlaceBytes, AreNoneWhenAllAreKept) {
  std::string out;
  EXPECT_EQ(AppendPlaces(Places{0, 1, 2}, 3, &out).bytes, 0U);
  EXPECT_TRUE(out.empty());
  std::span<const std::byte> in;
  EXPECT_THAT(*ReadPlaces(3, 3, &in), ElementsAre(0, 1, 2));
}

struct Bad {
  std::string bytes;
  const char* sentence;
};

TEST(BadPlaces, EachIsRefusedWithASentence) {
  const Bad bad[] = {
      {"", "the places are missing"},
      {std::string("\3\0\0", 3), "places have no form 3"},
      {"\1", "the bitmap of places is cut off"},
      {std::string("\1\7\0", 3), "the bitmap has 3 places, not 2"},
      {std::string("\1\1\0", 3), "the bitmap has 1 places, not 2"},
      {std::string("\1\1\4", 3), "the bitmap has a place behind the last value"},
      {std::string("\2\1", 2), "the gaps between places are cut off"},
      {std::string("\2\1\x81", 3), "the gaps between places are cut off"},
      {std::string("\2\1\x81\0", 4), "a gap between places is written with more bytes than needed"},
      {std::string("\2\xFF\xFF\xFF\xFF\xFF\1", 7), "a gap between places has more than five bytes"},
      {std::string("\2\xFF\xFF\xFF\xFF\x0F\1", 7), "place 4294967295 is behind the last value"},
      {std::string("\2\11\0", 3), "place 10 is behind the last value"},
      {std::string("\2\12\0", 3), "place 10 is behind the last value"},
  };
  for (const Bad& item : bad) {
    std::span<const std::byte> in = Bytes(item.bytes);
    const auto read = ReadPlaces(10, 2, &in);
    ASSERT_FALSE(read.ok()) << item.sentence;
    EXPECT_EQ(read.status().code(), Code::kInvalidArgument);
    EXPECT_EQ(read.status().message(), item.sentence);
  }
}

}  // namespace
}  // namespace heddle::compression
