#include "model/quant/blockwise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "common/float_convert.h"
#include "model/quant/codes.h"

namespace heddle::model {
namespace {

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

}  // namespace

float AbsMax(std::span<const float> x) {
  // Without their sign floats are ordered as their bits are, NaN above all.
  int32_t largest = 0;
  for (const float value : x) largest = std::max(largest, std::bit_cast<int32_t>(value) & 0x7fffffff);
  return std::bit_cast<float>(largest);
}

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
  std::array<float, 15> limits;  // above limit i the code is above i
  for (size_t i = 0; i < limits.size(); ++i) limits[i] = (values[i] * scale + values[i + 1] * scale) / 2;
  std::array<int32_t, kNf4Block + 1> codes{};
  std::array<float, kNf4Block> padded{};
  std::copy(x.begin(), x.end(), padded.begin());
  for (const float limit : limits) {
    for (size_t i = 0; i < kNf4Block; ++i) codes[i] += padded[i] > limit ? 1 : 0;
  }
  codes[x.size()] = 0;  // the half byte after an odd end
  for (size_t i = 0; i < (x.size() + 1) / 2; ++i) {
    out[i] = static_cast<uint8_t>(codes[2 * i] | (codes[2 * i + 1] << 4));
  }
}

void EncodeInt8(std::span<const float> x, float scale, int8_t* out) {
  for (size_t i = 0; i < x.size(); ++i) {
    const float steps = scale > 0 ? std::nearbyint(x[i] / scale) : 0.0F;
    out[i] = static_cast<int8_t>(std::clamp(steps, -127.0F, 127.0F));
  }
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
