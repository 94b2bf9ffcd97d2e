#include "zo_optim/ledger/scalars.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/assert.h"
#include "common/float_convert.h"
#include "common/safetensors.h"
#include "zo_optim/ledger/bits.h"

namespace heddle::zo {
namespace {

constexpr std::string_view kMagic = "HDZS";

size_t BytesOf(ScalarFormat format) { return format == ScalarFormat::kBfloat16 ? 2 : 4; }

}  // namespace

float TravellingScalar(double gradient, double bound, ScalarFormat format) {
  const double cut = std::clamp(gradient, -bound, bound);
  float rounded = static_cast<float>(cut);
  if (format == ScalarFormat::kBfloat16) rounded = Bfloat16ToFloat(FloatToBfloat16(rounded));
  if (std::abs(static_cast<double>(rounded)) <= bound) return rounded;
  // Rounding led past the bound, and whoever checks it would refuse the honest: the next value towards zero.
  const uint32_t step = format == ScalarFormat::kBfloat16 ? 0x10000 : 1;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(rounded) - step);
}

Result<int64_t> StepOf(double rate, float gradient, uint8_t resolution_bits) {
  const double step = std::nearbyint(std::ldexp(-rate * static_cast<double>(gradient), resolution_bits));
  if (!(std::abs(step) <= 0x1p39)) {
    return InvalidArgument("a step of " + std::to_string(gradient) + " is too large for the ledger");
  }
  return static_cast<int64_t>(step);
}

std::string EncodeScalars(const Scalars& scalars, ScalarFormat format) {
  std::string out(kMagic);
  PutFixed(kScalarsVersion, 1, &out);
  PutFixed(kDirectionVersion, 1, &out);
  PutFixed(static_cast<uint8_t>(format), 1, &out);
  out += scalars.weights.raw();
  PutVarint(scalars.skipped, &out);
  PutVarint(scalars.steps.size(), &out);
  std::vector<uint64_t> gaps;
  uint64_t before = 0;
  for (const Scalar& step : scalars.steps) {
    HEDDLE_ASSERT(step.ref >= before && std::isfinite(step.gradient), "scalars that are not in order");
    gaps.push_back(step.ref - before);
    before = step.ref;
  }
  PutNumbers(gaps, &out);
  for (const Scalar& step : scalars.steps) {
    const auto bits = std::bit_cast<uint32_t>(step.gradient);
    const bool half = format == ScalarFormat::kBfloat16;
    HEDDLE_ASSERT(!half || (bits & 0xffffU) == 0, "a scalar that its format does not have");
    PutFixed(half ? bits >> 16 : bits, BytesOf(format), &out);
  }
  return out;
}

Result<Scalars> DecodeScalars(std::span<const std::byte> bytes, size_t max_steps, uint64_t max_ref) {
  ByteReader reader(bytes);
  HEDDLE_ASSIGN_OR_RETURN(const auto magic, reader.Bytes(kMagic.size()));
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
    return InvalidArgument("these bytes are no scalars of directions");
  }
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t version, reader.Fixed(1));
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t directions, reader.Fixed(1));
  if (version != kScalarsVersion || directions != kDirectionVersion) {
    return InvalidArgument("the scalars are of version " + std::to_string(version) + ", of directions of version " +
                           std::to_string(directions) + "; this program knows " + std::to_string(kScalarsVersion) +
                           " and " + std::to_string(kDirectionVersion));
  }
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t format, reader.Fixed(1));
  if (format > 1) return InvalidArgument("the scalars' number format is unknown");
  Scalars out;
  HEDDLE_ASSIGN_OR_RETURN(const auto digest, reader.Bytes(Sha256Digest::kSize));
  HEDDLE_ASSIGN_OR_RETURN(out.weights,
                          Sha256Digest::FromBytes({reinterpret_cast<const char*>(digest.data()), digest.size()}));
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t skipped, reader.Varint());
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t count, reader.Varint());
  if (skipped > kMaxScalars || count > std::min(max_steps, kMaxScalars)) {
    return FailedPrecondition("there are " + std::to_string(count) + " scalars; at most " + std::to_string(max_steps) +
                              " were asked for");
  }
  out.skipped = static_cast<uint32_t>(skipped);
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<uint64_t> gaps, GetNumbers(reader, count));
  const size_t size = BytesOf(static_cast<ScalarFormat>(format));
  uint64_t ref = 0;
  for (const uint64_t gap : gaps) {
    if (gap > max_ref || ref + gap > max_ref) {
      return FailedPrecondition("a scalar is of direction " + std::to_string(gap > max_ref ? gap : ref + gap) +
                                ", which is none of the round's; the last is " + std::to_string(max_ref));
    }
    ref += gap;
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t bits, reader.Fixed(size));
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(size == 2 ? bits << 16 : bits));
    if (!std::isfinite(value)) {
      return OutOfRange("the scalar of direction " + std::to_string(ref) + " is not finite");
    }
    out.steps.push_back({ref, value});
  }
  if (!reader.AtEnd()) return InvalidArgument("there are bytes behind the scalars");
  return out;
}

Tensor ByteTensor(std::string_view bytes) {
  std::span<std::byte> place;
  Tensor tensor = Tensor::Allocate({DType::kU8, {static_cast<int64_t>(bytes.size())}}, &place);
  if (!bytes.empty()) std::memcpy(place.data(), bytes.data(), bytes.size());
  return tensor;
}

std::string UpdateOfScalars(std::string_view packed) {
  return SerializeSafetensors({{std::string(kScalarsName), ByteTensor(packed)}});
}

std::string ScalarsOfUpdate(std::string_view update) {
  const auto file = ParseSafetensors(std::as_bytes(std::span(update)), nullptr);
  if (!file.ok() || file->tensors.size() != 1 || file->tensors.begin()->first != kScalarsName) return {};
  const std::span<const std::byte> bytes = file->tensors.begin()->second.bytes();
  std::string packed(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return UpdateOfScalars(packed) == update ? packed : std::string();
}

}  // namespace heddle::zo
