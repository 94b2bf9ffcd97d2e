#include "common/random.h"

#include "common/assert.h"
#include "common/digest.h"

namespace heddle {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMul0 = 0xD2511F53;
  constexpr uint64_t kMul1 = 0xCD9E8D57;
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = kMul0 * counter[0];
    uint64_t p1 = kMul1 * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

uint64_t DeriveSeed(uint64_t seed, std::string_view purpose, std::string_view detail) {
  std::array<char, 8> seed_bytes{};
  for (size_t i = 0; i < seed_bytes.size(); ++i) seed_bytes[i] = static_cast<char>(seed >> (8 * i));
  constexpr std::string_view kZero("\0", 1);
  Sha256Hasher hasher;
  for (std::string_view part : {std::string_view("heddle"), kZero, purpose, kZero,
                                std::string_view(seed_bytes.data(), seed_bytes.size()), kZero, detail}) {
    hasher.Update(part);
  }
  Sha256Digest digest = hasher.Finish();
  uint64_t result = 0;
  for (size_t i = 0; i < 8; ++i) result |= uint64_t{digest.bytes()[i]} << (8 * i);
  return result;
}

uint32_t PhiloxStream::U32At(uint64_t index) const {
  uint64_t block = index / 4;
  auto words = Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                           static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                          {static_cast<uint32_t>(key_), static_cast<uint32_t>(key_ >> 32)});
  return words[index % 4];
}

uint64_t PhiloxStream::U64At(uint64_t index) const {
  return uint64_t{U32At(2 * index)} | uint64_t{U32At(2 * index + 1)} << 32;
}

uint32_t PhiloxStream::NextBelow(uint32_t bound) {
  HEDDLE_ASSERT(bound > 0, "an empty range has no element");
  // Values below 2^32 mod bound are rejected, so that every residue is equally likely.
  uint32_t threshold = (0U - bound) % bound;
  while (true) {
    uint32_t value = NextU32();
    if (value >= threshold) return value % bound;
  }
}

}  // namespace heddle
