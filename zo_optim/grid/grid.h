// Exact arithmetic on trained weights in place. Each tensor lives on a grid: its float32 values are whole multiples,
// at most 2^24 of them, of a power of two, so float additions of grid values are exact, and moving along directions
// and back again gives the bits of before, in any order (what loses bits in MeZO and its followers is exactly this:
// perturb, flip and restore round each time).
//
//   Contribution of a direction z with scale a: R(a, z_i) = unit * rint(fl(a z_i) / unit), the product rounded to
//     float32, then to the nearest multiple of unit, of two equally near ones the even one.
//   Moving a direction from scale a to scale b: w_i <- w_i + R(b, z_i) - R(a, z_i).
//
// So weights are a function of the start and of the final scale of every direction: w = snapped(w_0) + sum R(a_k, z_k).
// Nothing depends on how they got there. docs/formats.md has this with worked values. All paths give the same bits.
//
// Pure functions on the caller's memory; thread-safe. Free of LibTorch.
#pragma once

#include <cstdint>
#include <span>

#include "common/status.h"
#include "zo_optim/direction/direction.h"

namespace heddle::zo {

struct Grid {
  float unit = 0;  // a power of two

  // The grid of a tensor that starts from these values and is moved along directions with scales up to `largest_scale`:
  // 2^24 units are the smallest power of two that is at least 2, 4 max|w| and 32 largest_scale. Errors:
  // kInvalidArgument: a value that is not finite or 2^60 or more; a scale that is not in 0 .. 2^40.
  static Result<Grid> For(std::span<const float> values, double largest_scale);

  float range() const { return unit * 0x1p24F; }      // what |w| may be
  float max_scale() const { return unit * 0x1p20F; }  // what |a| may be
};

// Rounds each value to its nearest multiple of the unit (even ones win).
void SnapToGrid(Grid grid, std::span<float> values);

// max |w|; for the check that it is within range(), which no sum of moves can make up for.
float MaxAbs(std::span<const float> values);

// The scale of a direction before and after.
struct Move {
  float from = 0, to = 0;  // at most max_scale in size
};
inline constexpr size_t kMaxMoves = 4;

// weights[k] moves along element first + k by all of the moves, at most kMaxMoves (asserted), in one pass: a flip is
// {+e, -e}; a restore with an update {-e, 0} and {a, a + step}.
void MoveOnGrid(const Direction& direction, uint64_t first, std::span<const Move> moves, Grid grid,
                std::span<float> weights, Path path = BestPath());

// A direction's move among those of many seeds.
struct SeedMove {
  uint64_t seed = 0;
  Move move;
};
// All of them in one pass over the weights, block by block of a size that stays in the cache.
void MoveManyOnGrid(Distribution distribution, uint64_t stream, std::span<const SeedMove> moves, uint64_t first,
                    Grid grid, std::span<float> weights, Path path = BestPath());

// A known answer: that this path moves weights along directions of both kinds to the bits of the definition. Some 0.1
// ms. Errors: kInternal.
Status CheckDirections(Path path = BestPath());

}  // namespace heddle::zo
