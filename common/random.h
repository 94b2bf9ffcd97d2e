// Counter-based random numbers (Philox4x32-10; Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// The i-th value of a stream depends on (key, stream, i) only: the same on every device, thread count and order of use.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace heddle {

// The bijection itself: known-answer tested against the published vectors.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A 64-bit key for a named purpose: the first 8 bytes (little-endian) of SHA-256("heddle" 0 purpose 0
// seed-as-8-bytes-LE 0 detail). Example: DeriveSeed(run_seed, "train", "round=3 device=phone-7").
uint64_t DeriveSeed(uint64_t seed, std::string_view purpose, std::string_view detail);

// Random access and sequential access to one stream. A value; not thread-safe while drawing sequentially.
class PhiloxStream {
 public:
  explicit PhiloxStream(uint64_t key, uint64_t stream = 0) : key_(key), stream_(stream) {}

  uint32_t U32At(uint64_t index) const;
  uint64_t U64At(uint64_t index) const;  // words 2*index and 2*index+1, low first
  // Uniform on [0, 1): the top 24 bits of U32At(index) times 2^-24, so exact in float.
  float UniformAt(uint64_t index) const { return static_cast<float>(U32At(index) >> 8) * 0x1p-24F; }

  uint32_t NextU32() { return U32At(next_++); }
  float NextUniform() { return UniformAt(next_++); }
  // Uniform on [0, bound), unbiased (rejection). bound > 0.
  uint32_t NextBelow(uint32_t bound);

 private:
  uint64_t key_;
  uint64_t stream_;
  uint64_t next_ = 0;
};

}  // namespace heddle
