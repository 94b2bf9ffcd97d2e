#include "protocol/split/tensor_code.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/assert.h"
#include "common/config.h"
#include "common/float_convert.h"

namespace heddle::protocol {
namespace {

constexpr float kLargestCode = 127;
constexpr float kSmallestChannel = 0x1p-120F;

Status NotFinite() { return InvalidArgument("a tensor at the cut has a value that is not finite"); }

void EncodeInt8(std::span<const float> values, uint64_t width, char* out) {
  std::vector<float> scales(width, 0), inverse(width, 0);
  for (size_t begin = 0; begin < values.size(); begin += width) {
    for (size_t c = 0; c < width; ++c) scales[c] = std::max(scales[c], std::abs(values[begin + c]));
  }
  for (size_t c = 0; c < width; ++c) {
    // The inverse of a scale below this could overflow, and the scale would have few bits left.
    scales[c] = scales[c] > kSmallestChannel ? scales[c] / kLargestCode : 0;
    inverse[c] = scales[c] > 0 ? 1 / scales[c] : 0;
  }
  std::memcpy(out, scales.data(), width * sizeof(float));
  auto* codes = reinterpret_cast<int8_t*>(out + width * sizeof(float));
  for (size_t begin = 0; begin < values.size(); begin += width) {
    for (size_t c = 0; c < width; ++c) {
      const float code = std::nearbyint(values[begin + c] * inverse[c]);
      codes[begin + c] = static_cast<int8_t>(std::clamp(code, -kLargestCode, kLargestCode));
    }
  }
}

Status DecodeInt8(std::string_view bytes, uint64_t width, std::span<float> values) {
  std::vector<float> scales(width);
  if (width > 0) std::memcpy(scales.data(), bytes.data(), width * sizeof(float));
  for (const float scale : scales) {
    if (!std::isfinite(scale) || scale < 0 || !std::isfinite(scale * kLargestCode)) {
      return InvalidArgument("a tensor at the cut has a scale that is negative or not finite");
    }
  }
  const auto* codes = reinterpret_cast<const int8_t*>(bytes.data() + width * sizeof(float));
  int lowest = 0;
  for (size_t begin = 0; begin < values.size(); begin += width) {
    for (size_t c = 0; c < width; ++c) {
      const int code = codes[begin + c];
      lowest = std::min(lowest, code);
      values[begin + c] = static_cast<float>(code) * scales[c];
    }
  }
  return lowest >= -127 ? OkStatus() : InvalidArgument("a tensor at the cut has a code of -128");
}

}  // namespace

std::string_view CutEncodingName(CutEncoding encoding) {
  switch (encoding) {
    case CutEncoding::kBfloat16:
      return "bf16";
    case CutEncoding::kInt8:
      return "int8";
    case CutEncoding::kFloat32:
      break;
  }
  return "f32";
}

Result<CutEncoding> CutEncodingFromName(std::string_view name) {
  for (const CutEncoding one : {CutEncoding::kFloat32, CutEncoding::kBfloat16, CutEncoding::kInt8}) {
    if (name == CutEncodingName(one)) return one;
  }
  const auto nearest = NearestName(name, {"f32", "bf16", "int8"});
  return InvalidArgument("'" + std::string(name) + "' is no encoding of what crosses the cut: f32, bf16 or int8" +
                         (nearest ? "; did you mean '" + *nearest + "'?" : ""));
}

uint64_t EncodedBytes(CutEncoding encoding, uint64_t rows, uint64_t width) {
  switch (encoding) {
    case CutEncoding::kBfloat16:
      return 2 * rows * width;
    case CutEncoding::kInt8:
      return rows * width + sizeof(float) * width;
    case CutEncoding::kFloat32:
      break;
  }
  return sizeof(float) * rows * width;
}

Status EncodeTensor(CutEncoding encoding, std::span<const float> values, uint64_t width, std::string* out) {
  HEDDLE_ASSERT(width > 0 && values.size() % width == 0, "whole rows");
  if (!AllFinite(values)) return NotFinite();
  const size_t begin = out->size();
  out->resize(begin + EncodedBytes(encoding, values.size() / width, width));
  char* to = out->data() + begin;
  switch (encoding) {
    case CutEncoding::kFloat32:
      if (!values.empty()) std::memcpy(to, values.data(), values.size_bytes());
      break;
    case CutEncoding::kBfloat16: {
      // The largest finite numbers would round to infinity: they become the largest of bfloat16.
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t bits = FloatToBfloat16(values[i]);
        if ((bits & 0x7f80U) == 0x7f80U) bits = static_cast<uint16_t>((bits & 0x8000U) | 0x7f7fU);
        std::memcpy(to + 2 * i, &bits, 2);
      }
      break;
    }
    case CutEncoding::kInt8:
      EncodeInt8(values, width, to);
      break;
  }
  return OkStatus();
}

Status DecodeTensor(CutEncoding encoding, std::string_view bytes, uint64_t width, std::span<float> values) {
  if (width == 0 || values.size() % width != 0 ||
      bytes.size() != EncodedBytes(encoding, values.size() / width, width)) {
    return InvalidArgument("a tensor at the cut has " + std::to_string(bytes.size()) +
                           " bytes, which are not those of " + std::to_string(values.size()) + " elements in " +
                           std::string(CutEncodingName(encoding)));
  }
  switch (encoding) {
    case CutEncoding::kFloat32:
      if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
      break;
    case CutEncoding::kBfloat16:
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t bits = 0;
        std::memcpy(&bits, bytes.data() + 2 * i, 2);
        values[i] = Bfloat16ToFloat(bits);
      }
      break;
    case CutEncoding::kInt8:
      return DecodeInt8(bytes, width, values);
  }
  return AllFinite(values) ? OkStatus() : NotFinite();
}

}  // namespace heddle::protocol
