// A random choice of places that both ends of a line can make for themselves: from a key, the same on every machine.
// Pure functions.
#pragma once

#include <cstdint>
#include <vector>

namespace heddle {

// 0 .. count is cut into `kept` strata of nearly equal size, [j count / kept, (j + 1) count / kept) rounded down; one
// place is drawn from each, by word W(j) of the key (docs/formats.md, Encoded updates). 1 <= kept <= count < 2^32.
struct Stratum {
  uint32_t first = 0, size = 0;
};
Stratum StratumOf(uint64_t count, uint64_t kept, uint64_t j);
// In ascending order.
std::vector<uint32_t> MaskPlaces(uint64_t key, uint64_t count, uint64_t kept);

}  // namespace heddle
