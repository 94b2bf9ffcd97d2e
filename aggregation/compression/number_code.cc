#include "aggregation/compression/number_code.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "common/assert.h"
#include "common/float_convert.h"

namespace heddle::compression {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

size_t BlocksOf(size_t count) { return (count + kScaleBlock - 1) / kScaleBlock; }

bool IsInteger(NumberStage stage) {
  return stage == StageKind::kInt8 || stage == StageKind::kInt4 || stage == StageKind::kInt2;
}

unsigned BitsOf(NumberStage stage) {
  if (!stage) return 32;
  switch (*stage) {
    case StageKind::kBf16:
      return 16;
    case StageKind::kInt8:
      return 8;
    case StageKind::kInt4:
      return 4;
    case StageKind::kInt2:
      return 2;
    case StageKind::kSign:
      return 1;
    default:
      HEDDLE_ASSERT(false, "a stage whose numbers have one size");
      return 0;
  }
}

void PutFloat(float value, std::byte* out) { std::memcpy(out, &value, sizeof value); }
float GetFloat(const std::byte* in) {
  float value;
  std::memcpy(&value, in, sizeof value);
  return value;
}

// kScaleBlock codes at most, of so many bits, to the bytes they fill.
template <unsigned kBits>
void Pack(const uint8_t* codes, size_t count, std::byte* out) {
  constexpr size_t kPerByte = 8 / kBits;
  const size_t whole = count / kPerByte;
  for (size_t i = 0; i < whole; ++i) {
    unsigned byte = 0;
    for (size_t j = 0; j < kPerByte; ++j) byte |= static_cast<unsigned>(codes[i * kPerByte + j]) << (j * kBits);
    out[i] = static_cast<std::byte>(byte);
  }
  if (whole * kPerByte == count) return;
  unsigned byte = 0;
  for (size_t j = 0; whole * kPerByte + j < count; ++j) {
    byte |= static_cast<unsigned>(codes[whole * kPerByte + j]) << (j * kBits);
  }
  out[whole] = static_cast<std::byte>(byte);
}

// `codes` has room for a whole last byte.
template <unsigned kBits>
void Unpack(const std::byte* in, size_t count, uint8_t* codes) {
  constexpr size_t kPerByte = 8 / kBits;
  constexpr unsigned kMask = (1U << kBits) - 1;
  const size_t bytes = (count + kPerByte - 1) / kPerByte;
  for (size_t i = 0; i < bytes; ++i) {
    const auto byte = static_cast<unsigned>(in[i]);
    for (size_t j = 0; j < kPerByte; ++j) codes[i * kPerByte + j] = static_cast<uint8_t>(byte >> (j * kBits) & kMask);
  }
}

template <unsigned kBits>
void EncodeBlocks(std::span<const float> values, uint64_t key, int levels, std::span<std::byte> out,
                  const Kernels& kernels) {
  std::byte* scales = out.data();
  std::byte* codes = out.data() + BlocksOf(values.size()) * sizeof(float);
  std::array<uint32_t, kScaleBlock> words;
  std::array<uint8_t, kScaleBlock> block;
  for (size_t first = 0; first < values.size(); first += kScaleBlock) {
    const size_t count = std::min(kScaleBlock, values.size() - first);
    const float* x = values.data() + first;
    const float scale = ScaleOf(std::bit_cast<float>(kernels.max_abs_bits(x, count)), levels);
    PutFloat(scale, scales);
    scales += sizeof scale;
    kernels.words(key, first / kGroupWords, (count + kGroupWords - 1) / kGroupWords, words.data());
    const double inverse = scale > 0 ? 1.0 / static_cast<double>(scale) : 0.0;
    kernels.quantise(x, words.data(), count, inverse, levels, block.data());
    Pack<kBits>(block.data(), count, codes);
    codes += count * kBits / 8;
  }
}

template <unsigned kBits>
Status DecodeBlocks(std::span<const std::byte> in, int levels, std::span<float> out, const Kernels& kernels) {
  const std::byte* codes = in.data() + BlocksOf(out.size()) * sizeof(float);
  const float largest_scale = ScaleOf(kLargest, levels);
  std::array<uint8_t, kScaleBlock> block;
  for (size_t first = 0; first < out.size(); first += kScaleBlock) {
    const size_t count = std::min(kScaleBlock, out.size() - first);
    const float scale = GetFloat(in.data() + first / kScaleBlock * sizeof(float));
    const auto of_block = [&] { return "the scale of block " + std::to_string(first / kScaleBlock); };
    if (!std::isfinite(scale)) return OutOfRange(of_block() + " is not finite");
    if (std::signbit(scale) || scale > largest_scale) return InvalidArgument(of_block() + " is negative or too large");
    Unpack<kBits>(codes, count, block.data());
    codes += count * kBits / 8;
    if (kernels.max_code(block.data(), count) > 2 * levels) {
      return InvalidArgument("a code of block " + std::to_string(first / kScaleBlock) + " is above " +
                             std::to_string(2 * levels));
    }
    kernels.restore(block.data(), count, scale, static_cast<float>(levels), out.data() + first);
  }
  if (const size_t used = out.size() * kBits % 8; used != 0 && static_cast<unsigned>(in.back()) >> used != 0) {
    return InvalidArgument("there are bits set behind the last value");
  }
  return OkStatus();
}

void EncodeSigns(std::span<const float> values, std::span<std::byte> out, const Kernels& kernels) {
  if (values.empty()) return;
  std::array<double, 8> lanes{};
  kernels.add_sizes(values.data(), values.size(), &lanes);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  PutFloat(static_cast<float>(sum / static_cast<double>(values.size())), out.data());
  std::byte* bits = out.data() + sizeof(float);
  const size_t whole = values.size() / 8;
  for (size_t i = 0; i < whole; ++i) {
    unsigned byte = 0;
    for (unsigned j = 0; j < 8; ++j) byte |= (values[i * 8 + j] < 0 ? 1U : 0U) << j;
    bits[i] = static_cast<std::byte>(byte);
  }
  if (whole * 8 == values.size()) return;
  unsigned byte = 0;
  for (unsigned j = 0; whole * 8 + j < values.size(); ++j) byte |= (values[whole * 8 + j] < 0 ? 1U : 0U) << j;
  bits[whole] = static_cast<std::byte>(byte);
}

Status DecodeSigns(std::span<const std::byte> in, std::span<float> out) {
  if (out.empty()) return OkStatus();
  const float scale = GetFloat(in.data());
  if (!std::isfinite(scale)) return OutOfRange("the scale is not finite");
  if (std::signbit(scale) || scale > kLargest) return InvalidArgument("the scale is negative or too large");
  if (const size_t used = out.size() % 8; used != 0 && static_cast<unsigned>(in.back()) >> used != 0) {
    return InvalidArgument("there are bits set behind the last value");
  }
  const auto size = std::bit_cast<uint32_t>(scale);
  const std::byte* bits = in.data() + sizeof scale;
  for (size_t i = 0; i < out.size(); ++i) {
    const uint32_t bit = static_cast<uint32_t>(bits[i / 8]) >> (i % 8) & 1U;
    out[i] = std::bit_cast<float>(size | (scale > 0 ? bit << 31 : 0U));
  }
  return OkStatus();
}

void EncodeBfloat16(std::span<const float> values, std::byte* out) {
  for (const float value : values) {
    uint16_t bits = FloatToBfloat16(value);
    // What rounds up to infinity stays the largest number of its sign.
    if ((bits & 0x7FFFU) == 0x7F80U) --bits;
    std::memcpy(out, &bits, sizeof bits);
    out += sizeof bits;
  }
}

Status CheckFinite(std::span<const float> values, const Kernels& kernels) {
  if (std::isfinite(std::bit_cast<float>(kernels.max_abs_bits(values.data(), values.size())))) return OkStatus();
  return OutOfRange("a value is not finite");
}

}  // namespace

NumberStage NumberStageOf(const Pipeline& pipeline) {
  if (pipeline.empty()) return std::nullopt;
  const StageKind last = pipeline.stages().back().kind;
  // After what only chooses, the numbers travel as they are.
  if (IsSelection(last) || last == StageKind::kBlocks) return std::nullopt;
  return last;
}

uint64_t ScaleBytes(NumberStage stage, uint64_t count) {
  if (count == 0) return 0;
  if (stage == StageKind::kSign) return sizeof(float);
  return IsInteger(stage) ? BlocksOf(count) * sizeof(float) : 0;
}

uint64_t CodeBytes(NumberStage stage, uint64_t count) { return (count * BitsOf(stage) + 7) / 8; }

int LevelsOf(StageKind stage) { return (1 << (BitsOf(stage) - 1)) - 1; }

float ScaleOf(float largest, int levels) {
  const auto scale = static_cast<float>(static_cast<double>(largest) / levels);
  // The product has at most 31 significant bits: exact in double.
  if (static_cast<double>(scale) * levels >= static_cast<double>(largest)) return scale;
  return std::nextafter(scale, std::numeric_limits<float>::infinity());
}

void EncodeValues(NumberStage stage, std::span<const float> values, uint64_t key, std::span<std::byte> out,
                  const Kernels& kernels) {
  HEDDLE_ASSERT(out.size() == ScaleBytes(stage, values.size()) + CodeBytes(stage, values.size()),
                "the room for the values has another size");
  if (!stage) {
    if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
    return;
  }
  switch (*stage) {
    case StageKind::kInt8:
      return EncodeBlocks<8>(values, key, LevelsOf(*stage), out, kernels);
    case StageKind::kInt4:
      return EncodeBlocks<4>(values, key, LevelsOf(*stage), out, kernels);
    case StageKind::kInt2:
      return EncodeBlocks<2>(values, key, LevelsOf(*stage), out, kernels);
    case StageKind::kSign:
      return EncodeSigns(values, out, kernels);
    case StageKind::kBf16:
      return EncodeBfloat16(values, out.data());
    default:
      HEDDLE_ASSERT(false, "a stage whose numbers have one size");
  }
}

Status DecodeValues(NumberStage stage, std::span<const std::byte> in, std::span<float> out, const Kernels& kernels) {
  HEDDLE_ASSERT(in.size() == ScaleBytes(stage, out.size()) + CodeBytes(stage, out.size()),
                "the values have another number of bytes");
  if (!stage) {
    if (!out.empty()) std::memcpy(out.data(), in.data(), in.size());
    return CheckFinite(out, kernels);
  }
  switch (*stage) {
    case StageKind::kInt8:
      return DecodeBlocks<8>(in, LevelsOf(*stage), out, kernels);
    case StageKind::kInt4:
      return DecodeBlocks<4>(in, LevelsOf(*stage), out, kernels);
    case StageKind::kInt2:
      return DecodeBlocks<2>(in, LevelsOf(*stage), out, kernels);
    case StageKind::kSign:
      return DecodeSigns(in, out);
    case StageKind::kBf16:
      ConvertToFloat(DType::kBF16, in.data(), out.size(), out.data());
      return CheckFinite(out, kernels);
    default:
      HEDDLE_ASSERT(false, "a stage whose numbers have one size");
      return OkStatus();
  }
}

}  // namespace heddle::compression
