// Random directions for zeroth-order methods, the same bits on every device: element i of parameter p under seed s
// depends on (s, p, i) only, so a direction is never stored or sent, and any slice of it is made alone, in any order,
// by any number of threads. docs/formats.md has the definition with worked values; kDirectionVersion names it.
//
//   Words. W(n) is word floor((n mod 64) / 16) of the Philox4x32-10 block 16 floor(n / 64) + n mod 16 (Salmon et al.,
//     SC 2011) with key s and the stream of p in the upper half of the counter.
//   kRademacher. z_i = +1 when bit i mod 32 of W(floor(i / 32)) is 0, else -1.
//   kNormal. z_i = (t(W, 0) + t(W, 6) + t(W, 16) + t(W, 22)) / 2^13 with W = W(i), where t(W, k) is the entry of
//     normal_table.inc that bits k to k + 4 of W name, negative when bit k + 5 is 1: mean 0, variance 1 and fourth
//     moment 3 (each within 1e-3; the distribution function within 5e-4), at most 5.12 in size. Sums of whole numbers,
//     so exact. Tables of this size fit into a vector register.
//
// Adding a direction rounds twice, in this order: w_i <- fl(w_i + fl(scale * z_i)), never fused. All paths (scalar,
// AVX2, AVX-512, NEON) give these bits.
//
// Pure functions; thread-safe. Free of LibTorch.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace heddle::zo {

inline constexpr uint32_t kDirectionVersion = 1;

enum class Distribution : uint8_t { kRademacher = 1, kNormal = 2 };

// The stream of a parameter: the first 8 bytes (little-endian) of SHA-256("heddle" 0 "direction" 0 name).
uint64_t ParameterStream(std::string_view name);

// One parameter under one seed.
struct Direction {
  Distribution distribution = Distribution::kRademacher;
  uint64_t seed = 0;
  uint64_t stream = 0;  // ParameterStream
};

// The definition, one element at a time: what the others are held to.
float DirectionAt(const Direction& direction, uint64_t index);

// How the machine computes. Each gives the same bits.
enum class Path : uint8_t { kScalar, kAvx2, kAvx512, kNeon };
std::vector<Path> SupportedPaths();  // the best last; kScalar is always there
Path BestPath();                     // looked up once
std::string_view PathName(Path path);

// out[k] = element first + k. `path` must be supported.
void FillDirection(const Direction& direction, uint64_t first, std::span<float> out, Path path = BestPath());
// weights[k] += scale * element first + k, rounded as above.
void AddDirection(const Direction& direction, uint64_t first, float scale, std::span<float> weights,
                  Path path = BestPath());

// A step of a run that is replayed: a seed and what its direction is multiplied with.
struct Step {
  uint64_t seed = 0;
  float scale = 0;
};
// AddDirection for each step, in their order and with the same bits, in one pass over the weights: block by block of a
// size that stays in the cache.
void AddDirections(Distribution distribution, uint64_t stream, std::span<const Step> steps, uint64_t first,
                   std::span<float> weights, Path path = BestPath());

}  // namespace heddle::zo
