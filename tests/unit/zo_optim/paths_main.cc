// Prints, for each path of this machine, values and a hash of what it makes, and ends with 1 where one differs from the
// scalar path: what check_neon.sh compares with another kind of processor. Free of libraries.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "zo_optim/direction/direction.h"
#include "zo_optim/grid/grid.h"

namespace heddle::zo {
namespace {

constexpr uint64_t kSeed = 0x0123456789abcdef, kStream = 0xbb34fda58a0be596;  // the example of docs/formats.md

uint64_t HashOf(const std::vector<float>& values) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, of words
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    hash = (hash ^ bits) * 0x100000001b3;
  }
  return hash;
}

std::vector<float> Filled(const Direction& direction, Path path) {
  std::vector<float> z(1'000'003);
  FillDirection(direction, 0, z, path);
  return z;
}
std::vector<float> Added(const Direction& direction, Path path) {
  std::vector<float> w(100'001);
  for (size_t i = 0; i < w.size(); ++i) w[i] = 0.001F * static_cast<float>(i % 997) - 0.3F;
  AddDirection(direction, 5, 1.7e-3F, w, path);
  return w;
}
std::vector<float> Moved(const Direction& direction, Path path) {
  std::vector<float> w(50'021);
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = 0x1p-20F * static_cast<float>(static_cast<int>(i * 7919 % 200'001) - 100'000);
  const Grid grid{0x1p-20F};
  const Move moves[] = {{-1e-3F, 0}, {0.25F, 0.250001F}};
  MoveOnGrid(direction, 3, moves, grid, w, path);
  const SeedMove many[] = {{5, {0, 1e-3F}}, {6, {0, -2e-3F}}};
  MoveManyOnGrid(direction.distribution, kStream, many, 9, grid, w, path);
  return w;
}

int Run() {
  bool same = true;
  for (const Distribution distribution : {Distribution::kRademacher, Distribution::kNormal}) {
    const Direction direction{distribution, kSeed, kStream};
    const auto hashes = [&](Path path) {
      return std::vector{HashOf(Filled(direction, path)), HashOf(Added(direction, path)),
                         HashOf(Moved(direction, path))};
    };
    const auto expected = hashes(Path::kScalar);
    for (const Path path : SupportedPaths()) {
      const auto found = hashes(path);
      same = same && found == expected;
      std::printf("%s %s", distribution == Distribution::kNormal ? "normal" : "rademacher",
                  std::string(PathName(path)).c_str());
      const std::vector<float> z = Filled(direction, path);
      for (const size_t i : {0, 1, 31, 32, 63}) std::printf(" %g", static_cast<double>(z[i]) * 8192);
      for (const uint64_t hash : found) std::printf(" %016llx", static_cast<unsigned long long>(hash));
      std::printf("\n");
    }
  }
  return same ? 0 : 1;
}

}  // namespace
}  // namespace heddle::zo

int main() { return heddle::zo::Run(); }
