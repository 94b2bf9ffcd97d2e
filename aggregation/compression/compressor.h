// Makes updates smaller and reads them again: a device encodes "trained minus start", the coordinator decodes before it
// looks at values. Both make a Compressor from the same pipeline and seed. The encoded form is a file format of its
// own, docs/formats.md has it with a worked example.
//
// Names and shapes do not travel: both sides know the adapter. Random choices of tensor p depend on the seed, p and the
// value's place only, so the same update, residual and seed give the same bytes on every machine.
//
// Error feedback (Seide et al., 1-Bit SGD, 2014): what was asked for is update + residual, in float32; what is left,
// the next residual, is that minus what the other side decodes.
//
// Immutable after Make; thread-safe. Free of LibTorch and Protobuf. A call takes memory for a few copies of the largest
// tensor and for its result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "aggregation/compression/pipeline.h"
#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::compression {

inline constexpr uint8_t kFormatVersion = 1;

// Where the bytes of an encoded update went.
struct ByteCount {
  uint64_t header = 0, places = 0, scales = 0, values = 0;
  uint64_t bitmaps = 0, gap_lists = 0;  // tensors whose places were written in the one form or the other
  uint64_t sent_values = 0;             // numbers that travel
  uint64_t total() const { return header + places + scales + values; }
};

struct Encoded {
  std::string bytes;
  ByteCount count;  // total() == bytes.size()
};

// What an encoded update of a spec takes. `min` and `max` are equal unless places travel (top_k).
struct EncodedSize {
  uint64_t min = 0, max = 0;
  uint64_t sent_values = 0, all_values = 0;
};

class Compressor {
 public:
  explicit Compressor(Pipeline pipeline, uint64_t seed) : pipeline_(std::move(pipeline)), seed_(seed) {}

  const Pipeline& pipeline() const { return pipeline_; }

  // With `residual` there is error feedback: it holds what earlier updates left (empty: nothing yet) and gets what this
  // one leaves; after an error it is as before. Without, what random_mask lets through is divided by its chance to be
  // let through, so that the mean of what is sent is the update.
  // Errors: kInvalidArgument: a tensor that is not F32, has 2^32 values or more, or a value that is not finite (also
  // after the residual was added); a residual of other tensors. kResourceExhausted: memory.
  Result<Encoded> Encode(const StateDict& update, StateDict* residual) const;

  // F32 tensors of `expected`'s names and shapes, zero where nothing was sent, all finite. Memory: `expected`'s, which
  // may be `max_decoded_bytes` at most. Errors: kInvalidArgument, one sentence with the tensor: bytes that Encode
  // cannot have written for this pipeline, seed and spec; an expected tensor that is not F32. kOutOfRange: likewise, a
  // number or a scale of numbers that is not finite. kResourceExhausted: too large.
  Result<StateDict> Decode(std::span<const std::byte> bytes, const StateDictSpec& expected,
                           uint64_t max_decoded_bytes) const;

  // The 8 bytes that stand for names and shapes in the header of an update of that spec, and those that an encoded
  // update has (empty when it is too short): for who expects one of several shapes.
  static std::string Fingerprint(const StateDictSpec& spec);
  std::string FingerprintIn(std::span<const std::byte> bytes) const;

  // Errors: kInvalidArgument for a spec that Encode refuses.
  Result<EncodedSize> SizeOf(const StateDictSpec& spec) const;

  // One line for logs: "top_k:0.01, int4: 6554 of 655360 values, at most 10567 bytes instead of 2621440". Errors: as
  // SizeOf.
  Result<std::string> Describe(const StateDictSpec& spec) const;

 private:
  std::string Header(const StateDictSpec& spec) const;
  Status CheckHeader(std::span<const std::byte> bytes, const std::string& header) const;

  Pipeline pipeline_;
  uint64_t seed_;
};

}  // namespace heddle::compression
