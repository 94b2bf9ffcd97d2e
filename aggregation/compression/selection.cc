#include "aggregation/compression/selection.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

namespace heddle::compression {
namespace {

uint32_t SizeBits(float value) { return std::bit_cast<uint32_t>(value) & 0x7FFFFFFFU; }

// The kept-th largest of the sizes' bit patterns, found digit by digit (11, 10 and 10 bits), and how many values of
// just this size are among the kept.
struct Threshold {
  uint32_t bits = 0;
  uint64_t equal = 0;
};

Threshold FindThreshold(std::span<const float> values, uint64_t kept) {
  constexpr std::array<unsigned, 3> kShifts = {20, 10, 0};
  Threshold found;
  found.equal = kept;
  uint32_t known = 0;  // mask of the digits that are found
  for (const unsigned shift : kShifts) {
    const uint32_t digit_mask = shift == 20 ? 0x7FFU : 0x3FFU;
    std::array<uint64_t, 2048> count{};
    for (const float value : values) {
      const uint32_t bits = SizeBits(value);
      if ((bits & known) == found.bits) ++count[bits >> shift & digit_mask];
    }
    uint32_t digit = digit_mask;
    while (count[digit] < found.equal) found.equal -= count[digit--];
    found.bits |= digit << shift;
    known |= digit_mask << shift;
  }
  return found;
}

size_t GapBytes(uint32_t gap) { return gap == 0 ? 1 : (static_cast<size_t>(std::bit_width(gap)) + 6) / 7; }

uint64_t BitmapBytes(uint64_t count) { return (count + 7) / 8; }

Result<std::vector<uint32_t>> ReadBitmap(uint64_t count, uint64_t kept, std::span<const std::byte>* in) {
  const uint64_t bytes = BitmapBytes(count);
  if (in->size() < bytes) return InvalidArgument("the bitmap of places is cut off");
  const std::span<const std::byte> bitmap = in->first(bytes);
  *in = in->subspan(bytes);
  uint64_t set = 0;
  for (const std::byte byte : bitmap) set += static_cast<uint64_t>(std::popcount(static_cast<unsigned>(byte)));
  if (set != kept) {
    return InvalidArgument("the bitmap has " + std::to_string(set) + " places, not " + std::to_string(kept));
  }
  if (const uint64_t used = count % 8; used != 0 && static_cast<unsigned>(bitmap.back()) >> used != 0) {
    return InvalidArgument("the bitmap has a place behind the last value");
  }
  std::vector<uint32_t> places;
  places.reserve(kept);
  for (size_t i = 0; i < bitmap.size(); ++i) {
    for (auto rest = static_cast<unsigned>(bitmap[i]); rest != 0; rest &= rest - 1) {
      places.push_back(static_cast<uint32_t>(i * 8 + static_cast<size_t>(std::countr_zero(rest))));
    }
  }
  return places;
}

Result<std::vector<uint32_t>> ReadGaps(uint64_t count, uint64_t kept, std::span<const std::byte>* in) {
  if (in->size() < kept) return InvalidArgument("the gaps between places are cut off");
  std::vector<uint32_t> places;
  places.reserve(kept);
  size_t at = 0;
  uint64_t next = 0;  // the first place that may come
  for (uint64_t i = 0; i < kept; ++i) {
    uint64_t gap = 0;
    for (unsigned shift = 0;; shift += 7) {
      if (at == in->size()) return InvalidArgument("the gaps between places are cut off");
      if (shift > 28) return InvalidArgument("a gap between places has more than five bytes");
      const auto byte = static_cast<unsigned>((*in)[at++]);
      gap |= uint64_t{byte & 0x7FU} << shift;
      if ((byte & 0x80U) != 0) continue;
      if (byte == 0 && shift > 0) return InvalidArgument("a gap between places is written with more bytes than needed");
      break;
    }
    if (gap >= count - next) {
      return InvalidArgument("place " + std::to_string(next + gap) + " is behind the last value");
    }
    next += gap;
    places.push_back(static_cast<uint32_t>(next));
    ++next;
  }
  *in = in->subspan(at);
  return places;
}

}  // namespace

std::vector<uint32_t> LargestPlaces(std::span<const float> values, uint64_t kept) {
  const Threshold threshold = FindThreshold(values, kept);
  std::vector<uint32_t> places;
  places.reserve(kept);
  uint64_t equal = threshold.equal;
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t bits = SizeBits(values[i]);
    if (bits < threshold.bits || (bits == threshold.bits && equal == 0)) continue;
    if (bits == threshold.bits) --equal;
    places.push_back(static_cast<uint32_t>(i));
  }
  return places;
}

PlaceBytes AppendPlaces(std::span<const uint32_t> places, uint64_t count, std::string* out) {
  if (places.size() == count) return {};
  uint64_t gaps = 0;
  uint32_t next = 0;
  for (const uint32_t place : places) {
    gaps += GapBytes(place - next);
    next = place + 1;
  }
  const uint64_t bitmap = BitmapBytes(count);
  if (bitmap <= gaps) {
    out->push_back(static_cast<char>(PlaceForm::kBitmap));
    const size_t begin = out->size();
    out->append(bitmap, '\0');
    for (const uint32_t place : places) {
      char& byte = (*out)[begin + place / 8];
      byte = static_cast<char>(static_cast<unsigned char>(byte) | 1U << place % 8);
    }
    return {PlaceForm::kBitmap, 1 + bitmap};
  }
  out->push_back(static_cast<char>(PlaceForm::kGaps));
  next = 0;
  for (const uint32_t place : places) {
    uint32_t gap = place - next;
    for (; gap >= 0x80U; gap >>= 7) out->push_back(static_cast<char>(gap | 0x80U));
    out->push_back(static_cast<char>(gap));
    next = place + 1;
  }
  return {PlaceForm::kGaps, 1 + gaps};
}

uint64_t MinPlaceBytes(uint64_t count, uint64_t kept) {
  return kept == count ? 0 : 1 + std::min(BitmapBytes(count), kept);
}

uint64_t MaxPlaceBytes(uint64_t count, uint64_t kept) {
  if (kept == count) return 0;
  // All gaps together are at most count - kept, and a gap's second byte needs 2^7 of them, its third 2^14, and so on.
  const uint64_t free = count - kept;
  uint64_t gaps = kept;
  for (unsigned bits = 7; bits < 35; bits += 7) gaps += std::min(kept, free >> bits);
  return 1 + std::min(BitmapBytes(count), gaps);
}

Result<std::vector<uint32_t>> ReadPlaces(uint64_t count, uint64_t kept, std::span<const std::byte>* in) {
  if (kept == count) {
    std::vector<uint32_t> places(count);
    std::iota(places.begin(), places.end(), 0U);
    return places;
  }
  if (in->empty()) return InvalidArgument("the places are missing");
  const auto form = static_cast<PlaceForm>(in->front());
  *in = in->subspan(1);
  if (form == PlaceForm::kBitmap) return ReadBitmap(count, kept, in);
  if (form == PlaceForm::kGaps) return ReadGaps(count, kept, in);
  return InvalidArgument("places have no form " + std::to_string(static_cast<unsigned>(form)));
}

}  // namespace heddle::compression
