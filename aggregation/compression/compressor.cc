#include "aggregation/compression/compressor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <optional>
#include <set>
#include <vector>

#include "aggregation/compression/adaptive_code.h"
#include "aggregation/compression/block_selection.h"
#include "aggregation/compression/number_code.h"
#include "aggregation/compression/selection.h"
#include "common/digest.h"
#include "common/mask.h"
#include "common/random.h"

namespace heddle::compression {
namespace {

constexpr std::string_view kMagic = "HDCU";
constexpr uint64_t kMaxValues = 0xFFFFFFFF;  // of a tensor

void AppendNumber(std::string* out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

// Two updates of the same pipeline can only be mixed up when names and shapes are the same.
std::string SpecDigest(const StateDictSpec& spec) {
  Sha256Hasher hasher;
  for (const auto& [name, tensor] : spec) {
    std::string text;
    AppendNumber(&text, name.size(), 4);
    text += name;
    AppendNumber(&text, tensor.shape.size(), 4);
    for (const int64_t size : tensor.shape) AppendNumber(&text, static_cast<uint64_t>(size), 8);
    hasher.Update(text);
  }
  return std::string(hasher.Finish().raw().substr(0, 8));
}

std::string Named(std::string_view name) { return "tensor '" + std::string(name) + "'"; }

Result<uint64_t> CountOf(std::string_view name, const TensorSpec& spec) {
  if (spec.dtype != DType::kF32) {
    return InvalidArgument(Named(name) + " is " + spec.ToString() + "; updates are F32");
  }
  HEDDLE_ASSIGN_OR_RETURN(const int64_t count, NumElements(spec.shape));
  if (static_cast<uint64_t>(count) > kMaxValues) {
    return InvalidArgument(Named(name) + " has more than 2^32 - 1 values; it cannot be made smaller");
  }
  return static_cast<uint64_t>(count);
}

// The values of a tensor that are left at some stage.
struct Values {
  std::vector<float> numbers;
  // Of each number, its place in the tensor. Not there before the first selection: all.
  std::optional<std::vector<uint32_t>> places;
  // Of each number, its place among those that the first top_k was given; from there on places must travel.
  std::optional<std::vector<uint32_t>> sent_places;
  uint64_t sent_domain = 0;
};

// Keeps the numbers at `places`.
void Keep(const std::vector<uint32_t>& places, Values* values) {
  const auto pick = [&](auto& from) {
    for (size_t i = 0; i < places.size(); ++i)
      from[i] = from[places[i]];  // ascending: never overwrites what is to come
    from.resize(places.size());
  };
  pick(values->numbers);
  if (values->places) {
    pick(*values->places);
  } else {
    values->places = places;
  }
  if (values->sent_places) pick(*values->sent_places);
}

uint64_t MaskKey(uint64_t seed, size_t stage, std::string_view tensor) {
  return DeriveSeed(seed, "compression mask " + std::to_string(stage), tensor);
}

uint64_t RoundingKey(uint64_t seed, std::string_view tensor) {
  return DeriveSeed(seed, "compression rounding", tensor);
}

void Select(const Stage& stage, uint64_t mask_key, bool scaled, Values* values) {
  const uint64_t count = values->numbers.size(), kept = KeptCount(count, stage.millionths);
  if (kept == 0) return;
  if (stage.kind == StageKind::kTopK) {
    const std::vector<uint32_t> places = LargestPlaces(values->numbers, kept);
    const bool first = !values->sent_places.has_value();
    Keep(places, values);
    if (first) {
      values->sent_places = places;
      values->sent_domain = count;
    }
    return;
  }
  Keep(MaskPlaces(mask_key, count, kept), values);
  if (!scaled) return;
  for (uint64_t j = 0; j < kept; ++j) values->numbers[j] *= static_cast<float>(StratumOf(count, kept, j).size);
}

// How many values each part of a tensor's bytes has. What both sides know before anything travels.
struct Plan {
  uint64_t all = 0, sent = 0;
  uint64_t domain = 0, listed = 0;  // places to write: `listed` of `domain`; 0 of 0: none
};

Plan PlanOf(const Pipeline& pipeline, uint64_t count) {
  Plan plan{.all = count, .sent = count};
  bool listed = false;
  for (const Stage& stage : pipeline.stages()) {
    if (!IsSelection(stage.kind)) continue;
    if (stage.kind == StageKind::kTopK && !listed) {
      listed = true;
      plan.domain = plan.sent;
    }
    plan.sent = KeptCount(plan.sent, stage.millionths);
  }
  if (listed) plan.listed = plan.sent;
  return plan;
}

bool IsAdaptive(const Pipeline& pipeline) { return NumberStageOf(pipeline) == StageKind::kAdaptive; }

// What one tensor takes. Adds to `size`.
void AddSize(const Pipeline& pipeline, uint64_t count, EncodedSize* size) {
  const Plan plan = PlanOf(pipeline, count);
  size->all_values += count;
  size->sent_values += plan.sent;
  size->min += MinPlaceBytes(plan.domain, plan.listed);
  size->max += MaxPlaceBytes(plan.domain, plan.listed);
  if (IsAdaptive(pipeline)) {
    size->min += MinAdaptiveBytes(plan.sent);
    size->max += MaxAdaptiveBytes(plan.sent);
    return;
  }
  const NumberStage number = NumberStageOf(pipeline);
  const uint64_t values = ScaleBytes(number, plan.sent) + CodeBytes(number, plan.sent);
  size->min += values;
  size->max += values;
}

void AppendNumbers(const Pipeline& pipeline, std::span<const float> numbers, uint64_t key, std::string* out,
                   ByteCount* count) {
  const size_t begin = out->size();
  if (IsAdaptive(pipeline)) {
    AppendAdaptive(numbers, pipeline.stages().back().millionths, out);
    count->scales += MinAdaptiveBytes(numbers.size());
    count->values += out->size() - begin - MinAdaptiveBytes(numbers.size());
    return;
  }
  const NumberStage number = NumberStageOf(pipeline);
  const uint64_t scales = ScaleBytes(number, numbers.size()), codes = CodeBytes(number, numbers.size());
  count->scales += scales;
  count->values += codes;
  out->resize(begin + scales + codes);
  EncodeValues(number, numbers, key, std::as_writable_bytes(std::span(*out)).subspan(begin));
}

// From the front of `in`, which is shortened by what was read.
Status ReadNumbers(const Pipeline& pipeline, std::span<const std::byte>* in, std::span<float> out) {
  if (IsAdaptive(pipeline)) return ReadAdaptive(pipeline.stages().back().millionths, in, out);
  const NumberStage number = NumberStageOf(pipeline);
  const uint64_t bytes = ScaleBytes(number, out.size()) + CodeBytes(number, out.size());
  if (in->size() < bytes) {
    return InvalidArgument("the values are cut off: " + std::to_string(bytes) + " bytes are due, " +
                           std::to_string(in->size()) + " are there");
  }
  const std::span<const std::byte> written = in->first(bytes);
  *in = in->subspan(bytes);
  return DecodeValues(number, written, out);
}

// Of a pipeline that begins with `blocks`, its share; 0 of one that does not.
uint32_t BlockShare(const Pipeline& pipeline) {
  const bool blocks = !pipeline.empty() && pipeline.stages().front().kind == StageKind::kBlocks;
  return blocks ? pipeline.stages().front().millionths : 0;
}

Status CheckFinite(std::span<const float> values, const char* when) {
  const uint32_t bits = BestKernels().max_abs_bits(values.data(), values.size());
  if (std::isfinite(std::bit_cast<float>(bits))) return OkStatus();
  return InvalidArgument(std::string("a value is not finite") + when);
}

// Appends the bytes of one tensor to `out`; `values` are afterwards those that were written, with their places.
struct TensorEncoder {
  const Pipeline& pipeline;
  uint64_t seed;
  bool feedback;

  // `numbers_begin`: where in `out` its numbers are.
  Status Run(const std::string& name, Values* values, std::string* out, ByteCount* count, size_t* numbers_begin) const {
    HEDDLE_RETURN_IF_ERROR(CheckFinite(values->numbers, feedback ? " (with what earlier updates left)" : ""));
    size_t index = 0;
    for (const Stage& stage : pipeline.stages()) {
      if (IsSelection(stage.kind)) Select(stage, MaskKey(seed, index, name), !feedback, values);
      ++index;
    }
    if (!feedback) HEDDLE_RETURN_IF_ERROR(CheckFinite(values->numbers, " after random_mask has scaled it"));
    if (values->sent_places && !values->sent_places->empty()) {
      const PlaceBytes places = AppendPlaces(*values->sent_places, values->sent_domain, out);
      count->places += places.bytes;
      if (places.bytes > 0) ++(places.form == PlaceForm::kBitmap ? count->bitmaps : count->gap_lists);
    }
    count->sent_values += values->numbers.size();
    *numbers_begin = out->size();
    AppendNumbers(pipeline, values->numbers, RoundingKey(seed, name), out, count);
    return OkStatus();
  }
};

// asked - what is decoded, at the places that were sent; the rest of what was asked for stays.
Tensor NextResidual(const Shape& shape, std::vector<float> asked, const Values& values, const Pipeline& pipeline,
                    std::span<const std::byte> written) {
  std::vector<float> sent(values.numbers.size());
  const Status decoded = ReadNumbers(pipeline, &written, sent);
  HEDDLE_ASSERT(decoded.ok(), "an encoded tensor cannot be decoded");
  for (size_t i = 0; i < sent.size(); ++i) asked[values.places ? (*values.places)[i] : i] -= sent[i];
  return Tensor::FromFloats(shape, asked);
}

// Of the values that are left by the masks before the first top_k, their places in the tensor; nothing: all.
std::optional<std::vector<uint32_t>> FreePlaces(const Pipeline& pipeline, uint64_t seed, const std::string& name,
                                                uint64_t count) {
  std::optional<std::vector<uint32_t>> places;
  size_t index = 0;
  for (const Stage& stage : pipeline.stages()) {
    if (stage.kind == StageKind::kBlocks) {
      ++index;
      continue;
    }
    if (stage.kind != StageKind::kRandomMask) break;
    const uint64_t left = places ? places->size() : count;
    std::vector<uint32_t> kept = MaskPlaces(MaskKey(seed, index++, name), left, KeptCount(left, stage.millionths));
    if (places) {
      for (uint32_t& place : kept) place = (*places)[place];
    }
    places = std::move(kept);
  }
  return places;
}

Status DecodeTensor(const Pipeline& pipeline, uint64_t seed, const std::string& name, const TensorSpec& spec,
                    std::span<const std::byte>* in, Tensor* tensor) {
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t count, CountOf(name, spec));
  std::span<std::byte> room;
  *tensor = Tensor::Allocate(spec, &room);
  if (count == 0) return OkStatus();
  const Plan plan = PlanOf(pipeline, count);
  std::optional<std::vector<uint32_t>> places = FreePlaces(pipeline, seed, name, count);
  if (plan.domain > 0) {
    HEDDLE_ASSIGN_OR_RETURN(std::vector<uint32_t> listed, ReadPlaces(plan.domain, plan.listed, in));
    if (places) {
      for (uint32_t& place : listed) place = (*places)[place];
    }
    places = std::move(listed);
  }
  auto* const out = reinterpret_cast<float*>(room.data());
  if (!places) return ReadNumbers(pipeline, in, std::span(out, count));
  std::vector<float> sent(plan.sent);
  HEDDLE_RETURN_IF_ERROR(ReadNumbers(pipeline, in, sent));
  for (size_t i = 0; i < sent.size(); ++i) out[(*places)[i]] = sent[i];
  return OkStatus();
}

Result<StateDict> DecodeTensors(const Pipeline& pipeline, uint64_t seed, std::span<const std::byte> in,
                                const StateDictSpec& expected) {
  StateDict decoded;
  std::set<std::string, std::less<>> kept;
  const uint32_t share = BlockShare(pipeline);
  if (share > 0) {
    auto read = ReadKeptBlocks(BlocksOf(expected), share, &in);
    if (!read.ok()) return read.status().Annotate("encoded update");
    kept = *std::move(read);
  }
  for (const auto& [name, spec] : expected) {
    Tensor tensor;
    if (share > 0 && !kept.contains(name)) {
      std::span<std::byte> zeros;  // as Allocate leaves them
      decoded.emplace_hint(decoded.end(), name, Tensor::Allocate(spec, &zeros));
      continue;
    }
    if (Status status = DecodeTensor(pipeline, seed, name, spec, &in, &tensor); !status.ok()) {
      return status.Annotate("encoded update: " + Named(name));
    }
    decoded.emplace_hint(decoded.end(), name, std::move(tensor));
  }
  if (!in.empty()) {
    return InvalidArgument("encoded update: " + std::to_string(in.size()) +
                           " bytes are left over behind the last tensor");
  }
  return decoded;
}

}  // namespace

std::string Compressor::Header(const StateDictSpec& spec) const {
  std::string header(kMagic);
  AppendNumber(&header, kFormatVersion, 1);
  AppendNumber(&header, pipeline_.stages().size(), 1);
  for (const Stage& stage : pipeline_.stages()) {
    AppendNumber(&header, static_cast<uint64_t>(stage.kind), 1);
    AppendNumber(&header, stage.millionths, 4);
  }
  AppendNumber(&header, seed_, 8);
  return header + SpecDigest(spec);
}

std::string Compressor::Fingerprint(const StateDictSpec& spec) { return SpecDigest(spec); }

std::string Compressor::FingerprintIn(std::span<const std::byte> bytes) const {
  const size_t end = Header({}).size(), size = SpecDigest({}).size();
  if (bytes.size() < end) return {};
  return {reinterpret_cast<const char*>(bytes.data()) + (end - size), size};
}

Result<Encoded> Compressor::Encode(const StateDict& update, StateDict* residual) const {
  const StateDictSpec spec = SpecOf(update);
  HEDDLE_ASSIGN_OR_RETURN(const EncodedSize size, SizeOf(spec));
  const bool has_residual = residual != nullptr && !residual->empty();
  if (has_residual) {
    if (Status same = CheckSameSpec(spec, SpecOf(*residual)); !same.ok()) {
      return same.Annotate("what earlier updates left does not belong to this update");
    }
  }
  try {
    Encoded encoded{.bytes = Header(spec)};
    encoded.count.header = encoded.bytes.size();
    encoded.bytes.reserve(size.max);
    StateDict left;
    const TensorEncoder encoder{pipeline_, seed_, residual != nullptr};
    std::set<std::string, std::less<>> kept;
    const uint32_t share = BlockShare(pipeline_);
    if (share > 0) {
      const size_t before = encoded.bytes.size();
      kept = AppendKeptBlocks(BlocksOf(spec), update, has_residual ? residual : nullptr, share, &encoded.bytes);
      encoded.count.places += encoded.bytes.size() - before;
    }
    for (const auto& [name, tensor] : update) {
      const auto input = tensor.values<float>();
      Values values;
      values.numbers.assign(input.begin(), input.end());
      if (has_residual) {
        const auto earlier = residual->find(name)->second.values<float>();
        for (size_t i = 0; i < earlier.size(); ++i) values.numbers[i] += earlier[i];
      }
      std::vector<float> asked;
      if (residual != nullptr) asked = values.numbers;
      if (share > 0 && !kept.contains(name)) {
        if (Status status = CheckFinite(values.numbers, ""); !status.ok()) return status.Annotate(Named(name));
        if (residual != nullptr) left.emplace_hint(left.end(), name, Tensor::FromFloats(tensor.shape(), asked));
        continue;
      }
      size_t begin = 0;
      if (Status status = encoder.Run(name, &values, &encoded.bytes, &encoded.count, &begin); !status.ok()) {
        return status.Annotate(Named(name));
      }
      if (residual == nullptr) continue;
      left.emplace_hint(left.end(), name,
                        NextResidual(tensor.shape(), std::move(asked), values, pipeline_,
                                     std::as_bytes(std::span(encoded.bytes)).subspan(begin)));
    }
    if (residual != nullptr) *residual = std::move(left);
    return encoded;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory to make the update smaller");
  }
}

Status Compressor::CheckHeader(std::span<const std::byte> bytes, const std::string& header) const {
  const auto text = std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto wrong = [](const std::string& sentence) { return InvalidArgument("encoded update: " + sentence); };
  const size_t fixed = kMagic.size() + 2, tail = 16;
  if (text.substr(0, kMagic.size()) != kMagic) return wrong("it does not begin with 'HDCU'");
  if (text.size() < fixed) return wrong("its header is cut off");
  if (const auto version = static_cast<uint8_t>(text[kMagic.size()]); version != kFormatVersion) {
    return wrong("its format is version " + std::to_string(version) + "; this program reads version " +
                 std::to_string(kFormatVersion));
  }
  const size_t stages = header.size() - tail;  // where the seed begins
  if (text[fixed - 1] == header[fixed - 1] && text.size() < header.size()) return wrong("its header is cut off");
  if (text.substr(fixed - 1, stages - fixed + 1) != std::string_view(header).substr(fixed - 1, stages - fixed + 1)) {
    return wrong("it was not made by this run's stages: " + pipeline_.ToString());
  }
  if (text.substr(stages, 8) != std::string_view(header).substr(stages, 8)) {
    return wrong("it was made with the seed of another task");
  }
  if (text.substr(stages + 8, 8) != std::string_view(header).substr(stages + 8)) {
    return wrong("it was made for tensors of other names or shapes");
  }
  return OkStatus();
}

Result<StateDict> Compressor::Decode(std::span<const std::byte> bytes, const StateDictSpec& expected,
                                     uint64_t max_decoded_bytes) const {
  HEDDLE_ASSIGN_OR_RETURN(const EncodedSize size, SizeOf(expected));
  if (size.all_values > max_decoded_bytes / sizeof(float)) {
    return ResourceExhausted("the decoded update would have " + std::to_string(size.all_values * sizeof(float)) +
                             " bytes; at most " + std::to_string(max_decoded_bytes) + " are allowed");
  }
  const std::string header = Header(expected);
  HEDDLE_RETURN_IF_ERROR(CheckHeader(bytes, header));
  if (bytes.size() < size.min || bytes.size() > size.max) {
    return InvalidArgument("encoded update: it has " + std::to_string(bytes.size()) + " bytes; " +
                           (size.min == size.max ? std::to_string(size.min)
                                                 : std::to_string(size.min) + " to " + std::to_string(size.max)) +
                           " are possible");
  }
  try {
    return DecodeTensors(pipeline_, seed_, bytes.subspan(header.size()), expected);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory to decode the update");
  }
}

Result<EncodedSize> Compressor::SizeOf(const StateDictSpec& spec) const {
  EncodedSize size;
  size.min = size.max = kMagic.size() + 2 + 5 * pipeline_.stages().size() + 16;
  for (const auto& [name, tensor] : spec) {
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t count, CountOf(name, tensor));
    AddSize(pipeline_, count, &size);
  }
  if (const uint32_t share = BlockShare(pipeline_); share > 0) {
    size.sent_values = std::min(size.sent_values, BlockBudget(size.all_values, share));
    size.max += KeptBlocksBytes(BlocksOf(spec).size());
    size.min = kMagic.size() + 2 + 5 * pipeline_.stages().size() + 16 + KeptBlocksBytes(BlocksOf(spec).size());
  }
  return size;
}

Result<std::string> Compressor::Describe(const StateDictSpec& spec) const {
  HEDDLE_ASSIGN_OR_RETURN(const EncodedSize size, SizeOf(spec));
  return pipeline_.ToString() + ": " + std::to_string(size.sent_values) + " of " + std::to_string(size.all_values) +
         " values, " + (size.min == size.max ? "" : "at most ") + std::to_string(size.max) + " bytes instead of " +
         std::to_string(size.all_values * sizeof(float));
}

}  // namespace heddle::compression
