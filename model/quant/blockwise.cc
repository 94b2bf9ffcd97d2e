#include "model/quant/blockwise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/float_convert.h"
#include "common/instruction_sets.h"
#include "model/quant/codes.h"

namespace heddle::model {
namespace {

// Without their sign floats are ordered as their bits are, NaN above all.
HEDDLE_INLINE int32_t AbsMaxLoop(const float* x, size_t count) {
  int32_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  return largest;
}

// A whole block. Above limit i the code is above i. kBytes: of a vector of the instruction set.
template <size_t kBytes>
HEDDLE_INLINE void EncodeNf4Loop(const float* x, const Nf4Limits& limits, uint8_t* out) {
  typedef float Floats __attribute__((vector_size(kBytes)));
  typedef int32_t Ints __attribute__((vector_size(kBytes)));
  std::array<int32_t, kNf4Block> codes;
  for (size_t i = 0; i < kNf4Block; i += kBytes / sizeof(float)) {
    Floats values;
    Ints above = {};
    std::memcpy(&values, x + i, kBytes);
    for (const float limit : limits) above -= values > limit;  // a comparison that holds is -1
    std::memcpy(codes.data() + i, &above, kBytes);
  }
  for (size_t i = 0; i < kNf4Block / 2; ++i) out[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
}

// Adding 1.5 * 2^23 to |y| <= 2^22 rounds y to an integer, half to even, which then stands in the low bits of the
// float.
HEDDLE_INLINE void EncodeInt8Loop(const float* x, size_t count, float scale, int8_t* out) {
  for (size_t i = 0; i < count; ++i) {
    const float steps = std::min(std::max(x[i] / scale, -127.0F), 127.0F);
    out[i] = static_cast<int8_t>(std::bit_cast<uint32_t>(steps + 0x1.8p23F));
  }
}

void Store(float x, float* out) { *out = x; }
void Store(float x, uint16_t* out) { *out = FloatToBfloat16(x); }

// Both values of a byte of NF4 codes.
struct Pair {
  float low, high;
};
std::array<Pair, 256> MakePairs() {
  std::array<Pair, 256> pairs;
  const auto values = Nf4Values();
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {values[i & 15], values[i >> 4]};
  return pairs;
}
const std::array<Pair, 256> kPairs = MakePairs();

template <typename Out>
void DecodeNf4To(const uint8_t* codes, size_t count, float scale, Out* out) {
  for (size_t i = 0; i < count / 2; ++i) {
    const Pair& pair = kPairs[codes[i]];
    Store(pair.low * scale, out + 2 * i);
    Store(pair.high * scale, out + 2 * i + 1);
  }
  if (count % 2 != 0) Store(kPairs[codes[count / 2]].low * scale, out + count - 1);
}

template <typename Out>
void DecodeInt8To(const int8_t* codes, size_t count, float scale, Out* out) {
  if (count == kInt8Block) {  // a known count: the compiler's vectors
    for (size_t i = 0; i < kInt8Block; ++i) Store(static_cast<float>(codes[i]) * scale, out + i);
    return;
  }
  for (size_t i = 0; i < count; ++i) Store(static_cast<float>(codes[i]) * scale, out + i);
}

int32_t AbsMaxPortable(const float* x, size_t count) { return AbsMaxLoop(x, count); }
void Nf4Portable(const float* x, const Nf4Limits& limits, uint8_t* out) { EncodeNf4Loop<16>(x, limits, out); }
void Int8Portable(const float* x, size_t count, float scale, int8_t* out) { EncodeInt8Loop(x, count, scale, out); }

#if HEDDLE_X86
HEDDLE_AVX2 int32_t AbsMaxAvx2(const float* x, size_t count) { return AbsMaxLoop(x, count); }
HEDDLE_AVX2 void Nf4Avx2(const float* x, const Nf4Limits& limits, uint8_t* out) { EncodeNf4Loop<32>(x, limits, out); }
HEDDLE_AVX2 void Int8Avx2(const float* x, size_t count, float scale, int8_t* out) {
  EncodeInt8Loop(x, count, scale, out);
}
HEDDLE_AVX512 int32_t AbsMaxAvx512(const float* x, size_t count) { return AbsMaxLoop(x, count); }
HEDDLE_AVX512 void Nf4Avx512(const float* x, const Nf4Limits& limits, uint8_t* out) {
  EncodeNf4Loop<64>(x, limits, out);
}
HEDDLE_AVX512 void Int8Avx512(const float* x, size_t count, float scale, int8_t* out) {
  EncodeInt8Loop(x, count, scale, out);
}
#endif

constexpr BlockEncoders kPortable = {"portable", AbsMaxPortable, Nf4Portable, Int8Portable};

const BlockEncoders& Fastest() {
  static const BlockEncoders encoders = UsableBlockEncoders().front();
  return encoders;
}

}  // namespace

std::span<const BlockEncoders> UsableBlockEncoders() {
#if HEDDLE_X86
  static const std::vector<BlockEncoders> encoders = Usable<BlockEncoders>(
      {"avx512", AbsMaxAvx512, Nf4Avx512, Int8Avx512}, {"avx2", AbsMaxAvx2, Nf4Avx2, Int8Avx2}, kPortable);
#else
  static const std::vector<BlockEncoders> encoders = {kPortable};
#endif
  return encoders;
}

float AbsMax(std::span<const float> x) { return std::bit_cast<float>(Fastest().abs_max(x.data(), x.size())); }

float MeanOf(std::span<const float> scales) {
  double sum = 0;
  for (const float scale : scales) sum += static_cast<double>(scale);
  return scales.empty() ? 0.0F : static_cast<float>(sum / static_cast<double>(scales.size()));
}

void EncodeScales(std::span<const float> scales, float mean, std::span<int8_t> codes, std::span<float> units) {
  for (size_t group = 0; group < units.size(); ++group) {
    const size_t begin = group * kScaleGroup;
    const auto part = scales.subspan(begin, std::min(kScaleGroup, scales.size() - begin));
    float farthest = 0;
    for (const float scale : part) farthest = std::max(farthest, std::abs(scale - mean));
    units[group] = farthest / 127;
    for (size_t i = 0; i < part.size(); ++i) {
      const float steps = units[group] > 0 ? std::nearbyint((part[i] - mean) / units[group]) : 0.0F;
      codes[begin + i] = static_cast<int8_t>(std::clamp(steps, -127.0F, 127.0F));
    }
  }
}

void EncodeNf4(std::span<const float> x, float scale, uint8_t* out) {
  const auto values = Nf4Values();
  Nf4Limits limits;
  for (size_t i = 0; i < limits.size(); ++i) limits[i] = (values[i] * scale + values[i + 1] * scale) / 2;
  if (x.size() == kNf4Block) return Fastest().nf4(x.data(), limits, out);
  std::array<float, kNf4Block> padded{};
  std::array<uint8_t, kNf4Block / 2> codes;
  std::copy(x.begin(), x.end(), padded.begin());
  Fastest().nf4(padded.data(), limits, codes.data());
  if (x.size() % 2 != 0) codes[x.size() / 2] &= 0x0f;  // the half byte after an odd end
  std::copy_n(codes.begin(), (x.size() + 1) / 2, out);
}

void EncodeInt8(std::span<const float> x, float scale, int8_t* out) {
  if (scale > 0) return Fastest().int8(x.data(), x.size(), scale, out);
  std::fill_n(out, x.size(), int8_t{0});
}

void DecodeNf4(const uint8_t* codes, size_t count, float scale, float* out) { DecodeNf4To(codes, count, scale, out); }
void DecodeNf4(const uint8_t* codes, size_t count, float scale, uint16_t* out) {
  DecodeNf4To(codes, count, scale, out);
}
void DecodeInt8(const int8_t* codes, size_t count, float scale, float* out) { DecodeInt8To(codes, count, scale, out); }
void DecodeInt8(const int8_t* codes, size_t count, float scale, uint16_t* out) {
  DecodeInt8To(codes, count, scale, out);
}

}  // namespace heddle::model
