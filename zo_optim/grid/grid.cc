#include "zo_optim/grid/grid.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "common/assert.h"
#include "common/digest.h"
#include "zo_optim/direction/kernels.h"
#include "zo_optim/direction/pieces.h"

namespace heddle::zo {
namespace {

float Rounded(float scale, float z, float unit) {
  const float magic = unit * 0x1.8p23F;
  return (scale * z + magic) - magic;
}

// R(to, z) - R(from, z) of z = 1; for signs, R(a, -1) = -R(a, 1).
float SignStep(std::span<const Move> moves, float unit) {
  float step = 0;
  for (const Move& move : moves) step += Rounded(move.to, 1, unit) - Rounded(move.from, 1, unit);
  return step;
}

}  // namespace

Result<Grid> Grid::For(std::span<const float> values, double largest_scale) {
  if (!(largest_scale >= 0 && largest_scale <= 0x1p40)) {
    return InvalidArgument("the size of a perturbation must be in 0 .. 2^40");
  }
  float largest = 0;
  for (const float value : values) {
    if (!(std::abs(value) < 0x1p60F)) return InvalidArgument("a weight is not finite or too large to be perturbed");
    largest = std::max(largest, std::abs(value));
  }
  const double reach = std::max({2.0, 4.0 * largest, 32 * largest_scale});
  return Grid{static_cast<float>(std::exp2(std::ceil(std::log2(reach)) - 24))};
}

void SnapToGrid(Grid grid, std::span<float> values) {
  // Powers of two: both products are exact, for values within range.
  const float inverse = 1 / grid.unit;
  for (float& value : values) value = std::nearbyint(value * inverse) * grid.unit;
}

float MaxAbs(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

void MoveOnGrid(const Direction& direction, uint64_t first, std::span<const Move> moves, Grid grid,
                std::span<float> weights, Path path) {
  HEDDLE_ASSERT(moves.size() <= kMaxMoves, "too many moves along one direction");
  const Kernels& kernels = KernelsOf(path);
  if (direction.distribution == Distribution::kRademacher) {
    const float step = SignStep(moves, grid.unit);
    if (step != 0) AddDirection(direction, first, step, weights, path);
    return;
  }
  std::array<float, kMaxMoves> from{}, to{};
  for (size_t i = 0; i < moves.size(); ++i) {
    from[i] = moves[i].from;
    to[i] = moves[i].to;
  }
  const float magic = grid.unit * 0x1.8p23F;
  ForEachPiece(
      kernels, direction, first, weights.size(),
      [&](const uint32_t* words, size_t offset, size_t n) {
        kernels.move_normal(words, n, from.data(), to.data(), moves.size(), magic, weights.data() + offset);
      },
      [&](size_t i) {
        const float z = DirectionAt(direction, first + i);
        for (const Move& move : moves) {
          weights[i] += Rounded(move.to, z, grid.unit) - Rounded(move.from, z, grid.unit);
        }
      });
}

void MoveManyOnGrid(Distribution distribution, uint64_t stream, std::span<const SeedMove> moves, uint64_t first,
                    Grid grid, std::span<float> weights, Path path) {
  // The first block ends where a block of the direction does, so that none of the others is taken apart.
  for (size_t done = 0; done < weights.size();) {
    const uint64_t index = first + done;
    const size_t n = std::min<size_t>(weights.size() - done, kPiece - index % kPiece);
    const std::span<float> block = weights.subspan(done, n);
    for (const SeedMove& one : moves) {
      MoveOnGrid({distribution, one.seed, stream}, index, std::span(&one.move, 1), grid, block, path);
    }
    done += n;
  }
}

Status CheckDirections(Path path) {
  // By tests/data/zo/make_direction_values.py.
  constexpr std::string_view kKnown = "ae31adec6aa8b239df38b5f92e0c85e7b12f564e604e3c2a439fdad600ddc44b";
  constexpr Grid kGrid{0x1p-12F};
  constexpr std::array<Move, 2> kMoves{Move{0, 0.37F}, Move{0.11F, -0.21F}};
  const uint64_t stream = ParameterStream("model.layers.0.self_attn.q_proj.weight");
  Sha256Hasher hasher;
  for (const Distribution distribution : {Distribution::kRademacher, Distribution::kNormal}) {
    std::vector<float> weights(5000);
    for (size_t k = 0; k < weights.size(); ++k) weights[k] = (static_cast<float>(k % 100) - 50) * kGrid.unit;
    MoveOnGrid({distribution, 0x0123456789abcdef, stream}, 37, kMoves, kGrid, weights, path);
    hasher.Update(std::as_bytes(std::span(weights)));
  }
  if (hasher.Finish().ToHex() == kKnown) return OkStatus();
  return Internal("the " + std::string(PathName(path)) +
                  " instructions of this machine do not give the directions of " +
                  "their definition; it cannot take part in runs with shared seeds");
}

}  // namespace heddle::zo
