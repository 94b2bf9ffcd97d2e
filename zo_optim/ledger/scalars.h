// What a device sends after a task with shared seeds: which directions it tried and the scalar of each, a few bytes a
// step whatever the model's size; and the digest of the weights it had rebuilt, as proof that it trained the model of
// its round (DigestOfWeights).
//
// Free of LibTorch; thread-safe as values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/state_dict.h"
#include "common/status.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::zo {

inline constexpr uint8_t kScalarsVersion = 1;
inline constexpr size_t kMaxScalars = size_t{1} << 20;  // in one update

enum class ScalarFormat : uint8_t { kFloat32 = 0, kBfloat16 = 1 };

struct Scalar {
  uint64_t ref = 0;
  float gradient = 0;  // projected on the direction: (L(w + e z) - L(w - e z)) / 2 e; finite
  friend bool operator==(const Scalar&, const Scalar&) = default;
};

struct Scalars {
  std::vector<Scalar> steps;  // refs do not fall; one may stand there more than once
  Sha256Digest weights;       // of the model that the device started from
  uint32_t skipped = 0;       // steps whose loss was not finite: counted, not sent
  friend bool operator==(const Scalars&, const Scalars&) = default;
};

// The value that travels in that format, which the device must step with itself: cut to [-bound, bound] (bound > 0),
// then rounded to nearest, or towards zero where the nearest is beyond the bound. Not NaN.
float TravellingScalar(double gradient, double bound, ScalarFormat format);

// The whole number that a step of this size adds to its direction's entry: rint(-rate * gradient * 2^bits) in float64.
// Errors: kInvalidArgument: beyond 2^39 in size or not finite.
Result<int64_t> StepOf(double rate, float gradient, uint8_t resolution_bits);

// The packed form. Refs must not fall and gradients be finite and representable in the format (asserted).
std::string EncodeScalars(const Scalars& scalars, ScalarFormat format);
// Errors, one sentence each: kInvalidArgument: bytes that EncodeScalars did not write, another version of the format or
// of the directions; kFailedPrecondition: more than `max_steps` steps, a ref above `max_ref`; kOutOfRange: a value that
// is not finite.
Result<Scalars> DecodeScalars(std::span<const std::byte> bytes, size_t max_steps, uint64_t max_ref);

// ---- as an update ----

inline constexpr std::string_view kScalarsName = "heddle.scalars";  // the update's one tensor, U8

// The tensor that holds these bytes.
Tensor ByteTensor(std::string_view bytes);
// The update that holds packed scalars and nothing else, as a safetensors file.
std::string UpdateOfScalars(std::string_view packed);
// The packed scalars of an update that UpdateOfScalars makes, byte by byte; empty for any other.
std::string ScalarsOfUpdate(std::string_view update);

}  // namespace heddle::zo
