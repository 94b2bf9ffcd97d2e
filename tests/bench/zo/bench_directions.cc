// heddle_bench_directions: making a direction and adding it to weights in memory, beside memcpy of as many bytes, in
// turns on one thread. Prints [{id, value, unit}]: "rademacher", "normal" (of AddDirection), "rademacher_grid",
// "normal_grid" (of a flip on the grid), each the share of memcpy's rate that is kept; and "rademacher_rebuild",
// "normal_rebuild": how many times faster the scales of 4 096 seeds (normal: 256, whose making takes minutes for more)
// are applied in one pass over 100 M weights than seed by seed.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include "zo_optim/direction/direction.h"
#include "zo_optim/grid/grid.h"

namespace heddle::bench {
namespace {

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// How many times longer seed by seed takes than all seeds in one pass: `seeds` of them at once, and 64 one after the
// other, which take that much less time.
double Rebuild(zo::Distribution distribution, uint64_t seeds, zo::Grid grid, std::span<float> weights) {
  constexpr uint64_t kInTurn = 64;
  std::vector<zo::SeedMove> moves;
  for (uint64_t seed = 0; seed < seeds; ++seed) moves.push_back({seed, {0, 1e-8F * static_cast<float>(seed + 1)}});
  zo::SnapToGrid(grid, weights);
  const std::span<const zo::SeedMove> first = std::span(moves).first(kInTurn);
  const double at_once = Seconds([&] { zo::MoveManyOnGrid(distribution, 7, moves, 0, grid, weights); });
  std::vector<double> in_turn;
  for (int round = 0; round < 3; ++round) {
    in_turn.push_back(Seconds([&] {
      for (const zo::SeedMove& one : first) {
        const zo::Move back{one.move.to, one.move.from};
        zo::MoveOnGrid({distribution, one.seed, 7}, 0, {&back, 1}, grid, weights);
      }
    }));
  }
  return Median(in_turn) * static_cast<double>(seeds) / (kInTurn * at_once);
}

}  // namespace

int Main(int argc, char** argv) {
  size_t millions = 64, rounds = 7, rebuilt = 100;
  CLI::App app("Directions beside memcpy");
  app.add_option("--millions", millions, "weights")->check(CLI::Range(1, 4096));
  app.add_option("--rebuilt-millions", rebuilt, "weights that are rebuilt")->check(CLI::Range(1, 4096));
  app.add_option("--rounds", rounds, "of each, in turns")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  std::vector<float> weights(millions * 1'000'000, 0.125F), other(weights.size(), 0.25F);
  const auto copy = [&] { std::memcpy(other.data(), weights.data(), weights.size() * sizeof(float)); };
  const zo::Grid grid{0x1p-23F};
  std::printf("[");
  const char* separator = "";
  for (const auto& [name, distribution] :
       {std::pair{"rademacher", zo::Distribution::kRademacher}, {"normal", zo::Distribution::kNormal}}) {
    std::vector<double> plain, on_grid;
    for (size_t round = 0; round < rounds; ++round) {
      const zo::Direction direction{distribution, round, 7};
      const double memory = Seconds(copy);
      plain.push_back(memory / Seconds([&] { zo::AddDirection(direction, 0, 1e-6F, weights); }));
      zo::SnapToGrid(grid, weights);
      const zo::Move flip{1e-3F, -1e-3F};
      on_grid.push_back(Seconds(copy) / Seconds([&] { zo::MoveOnGrid(direction, 0, {&flip, 1}, grid, weights); }));
    }
    std::printf(
        "%s{\"id\":\"%s\",\"value\":%.4f,\"unit\":\"ratio\"},\n {\"id\":\"%s_grid\",\"value\":%.4f,\"unit\":\"ratio\"}",
        separator, name, Median(plain), name, Median(on_grid));
    separator = ",\n ";
  }
  weights.resize(rebuilt * 1'000'000);
  std::printf(",\n {\"id\":\"rademacher_rebuild\",\"value\":%.4f,\"unit\":\"ratio\"}",
              Rebuild(zo::Distribution::kRademacher, 4096, grid, weights));
  std::printf(",\n {\"id\":\"normal_rebuild\",\"value\":%.4f,\"unit\":\"ratio\"}",
              Rebuild(zo::Distribution::kNormal, 256, grid, weights));
  std::printf("]\n");
  return weights[5] == other[3] ? 1 : 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) { return heddle::bench::Main(argc, argv); }
