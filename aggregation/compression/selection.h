// Which values of a tensor travel: the largest (a random mask is in common/mask.h), and how chosen places are written.
// Internal to compression and its tests. Places are whole numbers below 2^32, in ascending order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace heddle::compression {

// The places of the `kept` values that are largest in size, of equal ones the first; kept <= values.size(). Values are
// finite.
std::vector<uint32_t> LargestPlaces(std::span<const float> values, uint64_t kept);

// Places are written in the shorter of two forms, the first when they are equally long; nothing is written when all
// `count` places are kept. The first byte says which:
//   1, bitmap   ceil(count / 8) bytes, place p is bit p mod 8 of byte p / 8; bits behind the last place are zero
//   2, gaps     for each place how many places lie between it and the one before it (or the beginning), in seven bits a
//               byte, low bits first, the top bit set in all bytes but the last, no more bytes than needed
enum class PlaceForm : uint8_t { kBitmap = 1, kGaps = 2 };

struct PlaceBytes {
  PlaceForm form = PlaceForm::kBitmap;
  uint64_t bytes = 0;  // with the first byte; 0: nothing was written
};
// Appends the places, of which there is at least one, all below `count`.
PlaceBytes AppendPlaces(std::span<const uint32_t> places, uint64_t count, std::string* out);

// What AppendPlaces can take for `kept` of `count` places, at least and at most.
uint64_t MinPlaceBytes(uint64_t count, uint64_t kept);
uint64_t MaxPlaceBytes(uint64_t count, uint64_t kept);

// Reads `kept` places below `count` from the front of `in`, which is shortened by what was read. The caller bounds
// `kept`. Errors: kInvalidArgument (truncated; unknown form; places out of range, too many or too few; a gap in more
// bytes than needed).
Result<std::vector<uint32_t>> ReadPlaces(uint64_t count, uint64_t kept, std::span<const std::byte>* in);

}  // namespace heddle::compression
