#include "zo_optim/grid/grid.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "common/random.h"

namespace heddle::zo {
namespace {

constexpr Distribution kBoth[] = {Distribution::kRademacher, Distribution::kNormal};

std::vector<float> Values(size_t count, uint64_t key, float size) {
  PhiloxStream random(key);
  std::vector<float> values(count);
  for (float& value : values) value = size * (2 * random.NextUniform() - 1);
  return values;
}

// The definition in whole numbers: how many units a direction of that scale adds.
int64_t UnitsOf(const Direction& direction, uint64_t index, float scale, Grid grid) {
  volatile float product = scale * DirectionAt(direction, index);  // rounded to float, never fused
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(product) / static_cast<double>(grid.unit)));
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Grid, HoldsFourTimesTheLargestWeightAndAtLeastTwo) {
  EXPECT_EQ(Grid::For(std::vector<float>{0, 0}, 0)->unit, 0x1p-23F);
  EXPECT_EQ(Grid::For(std::vector<float>{0.5F, -0.1F}, 1e-3)->unit, 0x1p-23F);
  EXPECT_EQ(Grid::For(std::vector<float>{0.5F, -1.01F}, 1e-3)->unit, 0x1p-21F);
  EXPECT_EQ(Grid::For(std::vector<float>{0.1F}, 0.1)->unit, 0x1p-22F);
  EXPECT_GE(Grid::For(std::vector<float>{0.1F}, 0.1)->max_scale(), 0.1F);
}

TEST(Grid, RefusesWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30F}) {
    EXPECT_EQ(Grid::For(std::vector<float>{0, bad}, 0).status().code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_EQ(Grid::For(std::vector<float>{0}, std::nan("")).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Grid::For(std::vector<float>{0}, -1).status().code(), Code::kInvalidArgument);
}

TEST(Grid, SnappingMovesAWeightByHalfAUnitAtMost) {
  const std::vector<float> before = Values(1000, 1, 0.4F);
  std::vector<float> after = before;
  const Grid grid = *Grid::For(before, 0);
  SnapToGrid(grid, after);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_LE(std::abs(after[i] - before[i]), grid.unit / 2);
    EXPECT_EQ(std::fmod(after[i], grid.unit), 0);
  }
}

class GridPath : public ::testing::TestWithParam<Path> {};
INSTANTIATE_TEST_SUITE_P(All, GridPath, ::testing::ValuesIn(SupportedPaths()), [](const auto& info) {
  std::string name(PathName(info.param));
  std::erase(name, '-');
  return name;
});

TEST_P(GridPath, MovesAreWhatWholeNumbersGive) {
  for (const Distribution distribution : kBoth) {
    const Direction direction{distribution, 77, 5};
    std::vector<float> weights = Values(3000, 2, 0.3F);
    const Grid grid = *Grid::For(weights, 1e-3);
    SnapToGrid(grid, weights);
    const std::vector<float> before = weights;
    const std::vector<Move> moves = {{-1e-3F, 0}, {0.0021F, 0.00173F}};
    MoveOnGrid(direction, 13, moves, grid, weights, GetParam());
    for (size_t i = 0; i < weights.size(); ++i) {
      int64_t units = static_cast<int64_t>(static_cast<double>(before[i]) / static_cast<double>(grid.unit));
      for (const Move& move : moves) {
        units += UnitsOf(direction, 13 + i, move.to, grid) - UnitsOf(direction, 13 + i, move.from, grid);
      }
      ASSERT_EQ(static_cast<double>(weights[i]), static_cast<double>(units) * static_cast<double>(grid.unit)) << i;
    }
  }
}

// MeZO's loop with a learning rate of zero: what drifts in float arithmetic that rounds does not move here.
TEST_P(GridPath, TwoThousandStepsOfPerturbingAndRestoringLeaveTheBitsOfTheStart) {
  for (const Distribution distribution : kBoth) {
    std::vector<float> weights = Values(2000, 3, 0.06F);
    const Grid grid = *Grid::For(weights, 1e-3);
    SnapToGrid(grid, weights);
    const std::vector<float> start = weights;
    std::vector<float> rounding = weights;  // the same loop with plain float additions
    for (uint64_t seed = 1; seed <= 2000; ++seed) {
      const Direction direction{distribution, seed, 5};
      MoveOnGrid(direction, 0, std::vector<Move>{{0, 1e-3F}}, grid, weights, GetParam());
      MoveOnGrid(direction, 0, std::vector<Move>{{1e-3F, -1e-3F}}, grid, weights, GetParam());
      MoveOnGrid(direction, 0, std::vector<Move>{{-1e-3F, 0}}, grid, weights, GetParam());
      AddDirection(direction, 0, 1e-3F, rounding, GetParam());
      AddDirection(direction, 0, -2e-3F, rounding, GetParam());
      AddDirection(direction, 0, 1e-3F, rounding, GetParam());
    }
    EXPECT_TRUE(SameBits(weights, start));
    EXPECT_FALSE(SameBits(rounding, start));  // or this test would show nothing
  }
}

TEST_P(GridPath, TheOrderOfManyMovesAndTheWayThereDoNotMatter) {
  PhiloxStream random(4);
  for (const Distribution distribution : kBoth) {
    std::vector<SeedMove> moves;
    for (int i = 0; i < 40; ++i) {
      moves.push_back({random.NextU32(), {0, 0.004F * (random.NextUniform() - 0.5F)}});
    }
    std::vector<float> at_once = Values(10'007, 5, 0.1F);
    const Grid grid = *Grid::For(at_once, 1e-3);
    SnapToGrid(grid, at_once);
    std::vector<float> in_pieces = at_once;
    MoveManyOnGrid(distribution, 6, moves, 1'000, grid, at_once, GetParam());
    // Backwards, each by way of another scale, in two slices, on the plain path.
    for (size_t i = moves.size(); i-- > 0;) {
      const auto& [seed, move] = moves[i];
      for (const auto& [from, to] : {std::pair(0.0F, -0.01F), std::pair(-0.01F, move.to)}) {
        const Move part{from, to};
        const std::span<float> all(in_pieces);
        MoveOnGrid({distribution, seed, 6}, 1'000, std::span(&part, 1), grid, all.first(4'321), Path::kScalar);
        MoveOnGrid({distribution, seed, 6}, 5'321, std::span(&part, 1), grid, all.subspan(4'321), Path::kScalar);
      }
    }
    EXPECT_TRUE(SameBits(at_once, in_pieces));
  }
}

TEST(Grid, EveryPathGivesTheKnownAnswer) {
  for (const Path path : SupportedPaths()) EXPECT_TRUE(CheckDirections(path).ok()) << PathName(path);
}

}  // namespace
}  // namespace heddle::zo
