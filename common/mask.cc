#include "common/mask.h"

#include <array>

#include "common/random.h"

namespace heddle {
namespace {

constexpr uint64_t kBlocks = 16;  // of four words, which make a group

// Words 64 group to 64 group + 63: first the first words of sixteen blocks, then the second ones, and so on.
std::array<uint32_t, 4 * kBlocks> GroupOf(uint64_t key, uint64_t group) {
  std::array<uint32_t, 4 * kBlocks> out{};
  for (uint64_t i = 0; i < kBlocks; ++i) {
    const uint64_t block = group * kBlocks + i;
    const auto words = Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0},
                                  {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)});
    for (size_t k = 0; k < words.size(); ++k) out[k * kBlocks + i] = words[k];
  }
  return out;
}

}  // namespace

Stratum StratumOf(uint64_t count, uint64_t kept, uint64_t j) {
  const uint64_t first = j * count / kept;
  return {static_cast<uint32_t>(first), static_cast<uint32_t>((j + 1) * count / kept - first)};
}

std::vector<uint32_t> MaskPlaces(uint64_t key, uint64_t count, uint64_t kept) {
  std::vector<uint32_t> places(kept);
  std::array<uint32_t, 4 * kBlocks> words{};
  for (uint64_t j = 0; j < kept; ++j) {
    if (j % words.size() == 0) words = GroupOf(key, j / words.size());
    const Stratum stratum = StratumOf(count, kept, j);
    places[j] = stratum.first + static_cast<uint32_t>(uint64_t{words[j % words.size()]} * stratum.size >> 32);
  }
  return places;
}

}  // namespace heddle
