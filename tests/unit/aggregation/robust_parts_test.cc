// The parts of the robust rules: loops that give the same bits on every instruction set, columns, and the file of a
// round's updates on a disk that fails.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <csignal>

#include "aggregation/robust/columns.h"
#include "aggregation/robust/row_kernels.h"
#include "aggregation/robust/update_spool.h"
#include "tests/unit/aggregation/rounds.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::aggregation {
namespace {

std::vector<float> RandomValues(size_t count, uint64_t seed) {
  const PhiloxStream random(seed);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    // Ties and zeros of both signs among them.
    values[i] = i % 3 == 0 ? static_cast<float>(random.U32At(i) % 4) - 1.5F : 2 * random.UniformAt(i) - 1;
    if (i % 7 == 0) values[i] = random.U32At(i) % 2 == 0 ? 0.0F : -0.0F;
  }
  return values;
}

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

TEST(RowKernels, EveryNumberOfRowsIsSortedAndNothingIsLost) {
  for (size_t rows = 0; rows <= 70; ++rows) {
    const auto start = RandomValues(rows * kTileColumns, rows + 1);
    std::vector<uint32_t> first;
    for (const RowKernels& kernels : UsableRowKernels()) {
      std::vector<float> tile = start;
      kernels.sort_columns(tile.data(), rows);
      for (size_t j = 0; j < kTileColumns; ++j) {
        std::vector<float> before, after;
        for (size_t k = 0; k < rows; ++k) {
          before.push_back(start[k * kTileColumns + j]);
          after.push_back(tile[k * kTileColumns + j]);
        }
        EXPECT_TRUE(std::is_sorted(after.begin(), after.end())) << kernels.name << ", " << rows << " rows";
        auto bits_before = Bits(before), bits_after = Bits(after);
        std::sort(bits_before.begin(), bits_before.end());
        std::sort(bits_after.begin(), bits_after.end());
        EXPECT_EQ(bits_before, bits_after) << kernels.name << ", " << rows << " rows";
      }
      if (first.empty()) first = Bits(tile);
      EXPECT_EQ(Bits(tile), first) << kernels.name;
    }
  }
}

TEST(RowKernels, SumsAreTheSameBitsOnEveryInstructionSet) {
  for (const size_t count : {0, 3, 8, 21, 1000, 1003}) {
    const auto a = RandomValues(count, 1), b = RandomValues(count, 2);
    const std::vector<double> wide(a.begin(), a.end());
    std::array<double, 8> expected{};
    std::vector<double> expected_sum(count, 0.25);
    for (size_t i = 0; i < count; ++i) {
      const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      expected[i % 8] += difference * difference;
      expected_sum[i] += static_cast<double>(a[i]) * 0.3;
    }
    for (const RowKernels& kernels : UsableRowKernels()) {
      std::array<double, 8> lanes{}, wide_lanes{};
      kernels.add_squared_differences(a.data(), b.data(), count, &lanes);
      kernels.add_squared_differences_to(wide.data(), b.data(), count, &wide_lanes);
      EXPECT_EQ(lanes, expected) << kernels.name << ", " << count;
      EXPECT_EQ(wide_lanes, expected) << kernels.name << ", " << count;
      std::vector<double> sum(count, 0.25);
      kernels.add_scaled(a.data(), 0.3, sum.data(), count);
      EXPECT_EQ(sum, expected_sum) << kernels.name << ", " << count;
    }
  }
}

TEST(ReduceColumns, TheMeanNearTheMedianPrefersTheSmallerOfTwoEquallyNear) {
  const std::vector<float> column = {0, 1, 2, 3, 4};
  std::vector<double> out(1);
  ReduceColumns(ColumnRule::kNearestMedian, 0, column.data(), 5, 1, out);
  EXPECT_EQ(out[0], 2.0);
  const std::vector<float> four = {4, 3, 1, 0};  // the median is 2: 1 and 3 are nearest, then 0 before 4
  ReduceColumns(ColumnRule::kNearestMedian, 1, four.data(), 4, 1, out);
  EXPECT_EQ(out[0], 2.0);
}

TEST(UpdateSpool, GivesBackWhatItWasGiven) {
  const Shapes shapes = {{"a", {3, 5}}, {"b", {300'001}}, {"empty", {0}}, {"z", {}}};
  std::vector<StateDict> updates;
  for (uint64_t seed = 0; seed < 3; ++seed) updates.push_back(RandomUpdate(shapes, seed));
  auto spool = UpdateSpool::Make({}, SpecOf(updates[0]));
  ASSERT_TRUE(spool.ok()) << spool.status();
  for (const StateDict& update : updates) ASSERT_TRUE(spool->Append(update).ok());
  EXPECT_EQ(spool->rows(), 3U);
  ASSERT_EQ(spool->columns(), 300'017U);
  const std::vector<size_t> rows = {2, 0};
  for (const auto& [begin, count] : {std::pair<size_t, size_t>{0, 300'017}, {14, 3}, {300'016, 1}, {7, 0}}) {
    std::vector<float> out(2 * count);
    ASSERT_TRUE(spool->Read(rows, begin, count, out).ok());
    for (size_t k = 0; k < 2; ++k) {
      const auto flat = Flat(updates[rows[k]]);
      for (size_t j = 0; j < count; ++j) ASSERT_EQ(out[k * count + j], flat[begin + j]) << k << ", " << j;
    }
  }
}

TEST(UpdateSpool, LivesInTheFolderItIsGivenAndLeavesNoNameThere) {
  const TempDir folder;
  auto spool = UpdateSpool::Make(folder.path(), SpecOf(Single({1})));
  ASSERT_TRUE(spool.ok()) << spool.status();
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  const auto none = UpdateSpool::Make(folder.path() / "not-there", SpecOf(Single({1})));
  EXPECT_EQ(none.status().code(), Code::kNotFound);
  AggregatorOptions options;
  options.scratch = folder.path() / "not-there";
  EXPECT_EQ(MakeAggregator("CoordinateMedian", Single({1}), options).status().code(), Code::kNotFound);
}

// The size that a file may have, for as long as the object lives; beyond it writes fail as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_{};
  void (*handler_)(int);
};

TEST(UpdateSpool, ADiskThatTakesNoMoreIsAStatusAndTheRoundGoesOnAfterwards) {
  const Shapes shapes = {{"a", {2000}}, {"b", {3000}}};
  const StateDict parent = RandomUpdate(shapes, 1);
  const auto sent = RandomSent(shapes, 3, 2);
  auto aggregator = MakeMethod("CoordinateMedian", parent);
  ASSERT_TRUE(aggregator->Fold(sent[0].update, sent[0].info).ok());
  {
    const FileSizeLimit full(30'000);
    const Status status = aggregator->Fold(sent[1].update, sent[1].info);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("file of a round's updates"), std::string::npos) << status;
    EXPECT_EQ(aggregator->num_folded(), 1U);
    EXPECT_EQ(aggregator->total_examples(), sent[0].info.num_examples);
  }
  for (const size_t k : {1, 2}) ASSERT_TRUE(aggregator->Fold(sent[k].update, sent[k].info).ok());
  const auto made = std::move(*aggregator).Finish();
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(BytesOf(*made), BytesOf(RunRound("CoordinateMedian", parent, sent)));
}

}  // namespace
}  // namespace heddle::aggregation
