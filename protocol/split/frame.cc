#include "protocol/split/frame.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>

#include "common/assert.h"
#include "common/safetensors.h"

namespace heddle::protocol {
namespace {

constexpr uint32_t kMagic = 0x31465348;  // "HSF1"
constexpr uint8_t kHasMask = 1, kHasSegments = 2, kHasTargets = 4, kHasGrades = 8, kAllFlags = 15;
constexpr uint64_t kTensorHeadBytes = 64;

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    out.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  template <typename T>
  void List(const std::vector<T>& values) {
    if (!values.empty()) out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  void Bits(const std::vector<uint8_t>& values) {
    std::string bits((values.size() + 7) / 8, '\0');
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] != 0) bits[i / 8] = static_cast<char>(static_cast<unsigned char>(bits[i / 8]) | (1U << (i % 8)));
    }
    out += bits;
  }
  std::string out;
};

// Reads off the front; what is not there makes it bad, and the rest zero.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  template <typename T>
  T Number() {
    T value = 0;
    const std::string_view bytes = Take(sizeof(T));
    if (good_) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string_view Take(uint64_t count) {
    if (count > rest_.size()) {
      good_ = false;
      rest_ = {};
      return {};
    }
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  template <typename T>
  std::vector<T> List(uint64_t count) {
    const std::string_view bytes = Take(count * sizeof(T));
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  std::vector<uint8_t> Bits(uint64_t count) {
    const std::string_view bytes = Take((count + 7) / 8);
    if (bytes.empty()) return {};
    std::vector<uint8_t> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = (static_cast<unsigned char>(bytes[i / 8]) >> (i % 8)) & 1U;
    // Bits behind the last must be zero, so that a frame has one form.
    if (count % 8 != 0 && (static_cast<unsigned char>(bytes.back()) >> (count % 8)) != 0) good_ = false;
    return values;
  }
  bool good() const { return good_; }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
  bool good_ = true;
};

bool IsTensorKind(FrameKind kind) { return kind <= FrameKind::kGradient; }

Status Malformed(const std::string& what) { return InvalidArgument("a split frame is malformed: " + what); }

Status CheckShape(const TensorFrame& frame, const FrameLimits& limits) {
  if (frame.rows == 0 || frame.length == 0 || frame.width == 0) return Malformed("its tensor is empty");
  if (frame.rows > limits.rows || frame.length > limits.length || frame.tokens() > kMaxSplitElements / frame.width) {
    return ResourceExhausted("a split frame of " + std::to_string(frame.rows) + " rows of " +
                             std::to_string(frame.length) + " tokens is larger than the plan's " +
                             std::to_string(limits.rows) + " of " + std::to_string(limits.length));
  }
  if (limits.width > 0 && frame.width != limits.width) {
    return InvalidArgument("a split frame is " + std::to_string(frame.width) + " wide, and the model " +
                           std::to_string(limits.width));
  }
  if (!limits.any_encoding && frame.encoding != limits.encoding) {
    return InvalidArgument("a split frame is in " + std::string(CutEncodingName(frame.encoding)) +
                           ", and the plan says " + std::string(CutEncodingName(limits.encoding)));
  }
  return OkStatus();
}

Status CheckNumbers(const TensorFrame& frame) {
  if (frame.sequence == 0 || frame.step == 0) return Malformed("sequence and step count from 1");
  if (frame.micros == 0 || frame.micros > kMaxSplitMicroBatches || frame.micro >= frame.micros) {
    return Malformed("micro-batch " + std::to_string(frame.micro) + " of " + std::to_string(frame.micros));
  }
  if (!std::isfinite(frame.loss)) return InvalidArgument("a split frame's loss is not finite");
  if (FromDevice(frame.kind) && frame.durable != 0) return Malformed("only the server says what is durable");
  return OkStatus();
}

// Whole numbers of 4 bytes that fit; those of a frame's lists.
uint64_t TargetsOf(const TensorFrame& frame, bool by_row) { return by_row ? frame.rows : frame.tokens(); }

}  // namespace

bool FromDevice(FrameKind kind) {
  return kind == FrameKind::kActivations || kind == FrameKind::kTailGradient || kind == FrameKind::kHello ||
         kind == FrameKind::kUpdate;
}

std::string_view FrameKindName(FrameKind kind) {
  switch (kind) {
    case FrameKind::kActivations:
      return "activations";
    case FrameKind::kHidden:
      return "hidden states";
    case FrameKind::kTailGradient:
      return "tail gradient";
    case FrameKind::kGradient:
      return "gradient";
    case FrameKind::kHello:
      return "hello";
    case FrameKind::kWelcome:
      return "welcome";
    case FrameKind::kUpdate:
      return "update";
    case FrameKind::kCounted:
      return "counted";
    case FrameKind::kRefusal:
      break;
  }
  return "refusal";
}

uint64_t LargestTensorFrame(FrameKind kind, const FrameLimits& limits) {
  HEDDLE_ASSERT(IsTensorKind(kind) && limits.width > 0 && !limits.any_encoding, "a tensor of a known shape");
  const uint64_t tokens = uint64_t{limits.rows} * limits.length;
  // Mask, segments, and a target for each token; grades, of which there is one a row, take their place.
  const uint64_t lists =
      kind == FrameKind::kActivations ? (tokens + 7) / 8 + tokens * (sizeof(uint16_t) + sizeof(int32_t)) : 0;
  return kTensorHeadBytes + lists + EncodedBytes(limits.encoding, tokens, limits.width);
}

std::string Serialize(const TensorFrame& frame) {
  HEDDLE_ASSERT(IsTensorKind(frame.kind), "a frame of a step");
  HEDDLE_ASSERT(frame.mask.empty() || frame.mask.size() == frame.tokens(), "a mask of all tokens");
  HEDDLE_ASSERT(frame.segments.empty() || frame.segments.size() == frame.tokens(), "segments of all tokens");
  const auto fits = [&frame](size_t size) { return size == 0 || size == frame.rows || size == frame.tokens(); };
  HEDDLE_ASSERT(fits(frame.targets.size()) && (frame.grades.empty() || frame.grades.size() == frame.rows),
                "a target for each row or token");
  Writer writer;
  writer.out.reserve(80 + frame.tensor.size() + 3 * frame.tokens() + 4 * frame.targets.size());
  writer.Number(kMagic);
  writer.Number(static_cast<uint8_t>(frame.kind));
  writer.Number(static_cast<uint8_t>(frame.encoding));
  const bool by_row = frame.targets.size() == frame.rows;
  writer.Number(static_cast<uint8_t>((frame.mask.empty() ? 0 : kHasMask) | (frame.segments.empty() ? 0 : kHasSegments) |
                                     (frame.targets.empty() ? 0 : kHasTargets) |
                                     (frame.grades.empty() ? 0 : kHasGrades)));
  writer.Number(static_cast<uint8_t>(!frame.targets.empty() && by_row ? 1 : 0));
  writer.Number(frame.session);
  for (const uint32_t number : {frame.sequence, frame.step, frame.micro, frame.micros, frame.counted, frame.durable,
                                frame.rows, frame.length, frame.width}) {
    writer.Number(number);
  }
  writer.Number(uint32_t{0});
  writer.Number(frame.loss);
  writer.Bits(frame.mask);
  writer.List(frame.segments);
  writer.List(frame.targets);
  writer.List(frame.grades);
  writer.out += frame.tensor;
  return std::move(writer.out);
}

std::string Serialize(const ControlFrame& frame) {
  HEDDLE_ASSERT(!IsTensorKind(frame.kind), "a frame around the steps");
  Writer writer;
  writer.Number(kMagic);
  writer.Number(static_cast<uint8_t>(frame.kind));
  for (int i = 0; i < 3; ++i) writer.Number(uint8_t{0});
  writer.Number(frame.session);
  writer.Number(frame.round);
  writer.Number(frame.last);
  writer.Number(frame.retry_ms);
  writer.Number(frame.code);
  writer.Number(frame.seed);
  writer.Number(frame.examples);
  const std::string text = frame.text.substr(0, kMaxSplitTextBytes);
  writer.Number(static_cast<uint32_t>(text.size()));
  writer.out += text;
  if (!frame.tensors.empty()) writer.out += SerializeSafetensors(frame.tensors, {});
  return std::move(writer.out);
}

Result<FrameKind> KindOf(std::string_view bytes) {
  Reader reader(bytes);
  const auto magic = reader.Number<uint32_t>();
  const auto kind = reader.Number<uint8_t>();
  if (!reader.good() || magic != kMagic) return Malformed("it does not begin as one");
  if (kind < 1 || kind > static_cast<uint8_t>(FrameKind::kRefusal)) {
    return Malformed("there is no kind " + std::to_string(kind));
  }
  return static_cast<FrameKind>(kind);
}

Result<TensorFrame> ParseTensorFrame(std::string_view bytes, const FrameLimits& limits) {
  HEDDLE_ASSIGN_OR_RETURN(const FrameKind kind, KindOf(bytes));
  if (!IsTensorKind(kind)) return Malformed("a " + std::string(FrameKindName(kind)) + " is none of a step");
  if (bytes.size() > limits.bytes) return ResourceExhausted("a split frame has more bytes than the plan lets it have");
  Reader reader(bytes.substr(5));
  TensorFrame frame;
  frame.kind = kind;
  const auto encoding = reader.Number<uint8_t>();
  const auto flags = reader.Number<uint8_t>();
  const auto by_row = reader.Number<uint8_t>();
  if (encoding < 1 || encoding > 3) return Malformed("there is no encoding " + std::to_string(encoding));
  if ((flags & ~kAllFlags) != 0 || by_row > 1) return Malformed("unknown flags");
  if (by_row == 1 && (flags & kHasTargets) == 0) return Malformed("targets by row that are not there");
  if (flags != 0 && kind != FrameKind::kActivations) return Malformed("lists beside a tensor that has none");
  if ((flags & kHasTargets) != 0 && (flags & kHasGrades) != 0) return Malformed("targets of two kinds");
  frame.encoding = static_cast<CutEncoding>(encoding);
  frame.session = reader.Number<uint64_t>();
  for (uint32_t* number : {&frame.sequence, &frame.step, &frame.micro, &frame.micros, &frame.counted, &frame.durable,
                           &frame.rows, &frame.length, &frame.width}) {
    *number = reader.Number<uint32_t>();
  }
  const auto zero = reader.Number<uint32_t>();
  frame.loss = reader.Number<double>();
  if (!reader.good() || zero != 0) return Malformed("its head is cut off or has bytes that must be zero");
  HEDDLE_RETURN_IF_ERROR(CheckNumbers(frame));
  HEDDLE_RETURN_IF_ERROR(CheckShape(frame, limits));
  if (by_row == 0 && (flags & kHasTargets) != 0 && frame.rows == frame.tokens()) {
    return Malformed("targets of rows of one token are by row");
  }
  if ((flags & kHasMask) != 0) frame.mask = reader.Bits(frame.tokens());
  if ((flags & kHasSegments) != 0) frame.segments = reader.List<uint16_t>(frame.tokens());
  if ((flags & kHasTargets) != 0) frame.targets = reader.List<int32_t>(TargetsOf(frame, by_row == 1));
  if ((flags & kHasGrades) != 0) frame.grades = reader.List<float>(frame.rows);
  for (const float grade : frame.grades) {
    if (!std::isfinite(grade)) return InvalidArgument("a split frame has a target that is not finite");
  }
  const uint64_t expected = EncodedBytes(frame.encoding, frame.tokens(), frame.width);
  if (!reader.good() || reader.rest().size() != expected) {
    return Malformed("its lists and its tensor do not have the bytes that its shape says");
  }
  frame.tensor = reader.rest();
  return frame;
}

Result<ControlFrame> ParseControlFrame(std::string_view bytes, uint64_t max_bytes) {
  HEDDLE_ASSIGN_OR_RETURN(const FrameKind kind, KindOf(bytes));
  if (IsTensorKind(kind)) return Malformed("a " + std::string(FrameKindName(kind)) + " belongs to a step");
  if (bytes.size() > max_bytes) return ResourceExhausted("a split frame has more bytes than the plan lets it have");
  Reader reader(bytes.substr(5));
  ControlFrame frame;
  frame.kind = kind;
  uint32_t zeros = 0;
  for (int i = 0; i < 3; ++i) zeros |= reader.Number<uint8_t>();
  frame.session = reader.Number<uint64_t>();
  frame.round = reader.Number<uint32_t>();
  frame.last = reader.Number<uint32_t>();
  frame.retry_ms = reader.Number<uint32_t>();
  frame.code = reader.Number<int32_t>();
  frame.seed = reader.Number<uint64_t>();
  frame.examples = reader.Number<uint64_t>();
  const auto text = reader.Number<uint32_t>();
  if (text > kMaxSplitTextBytes) return Malformed("its text is too long");
  frame.text = reader.Take(text);
  if (!reader.good() || zeros != 0) return Malformed("its head is cut off or has bytes that must be zero");
  const bool refused = kind == FrameKind::kRefusal;
  if (refused != (frame.code != 0) || frame.code < 0 || frame.code > static_cast<int32_t>(Code::kUnauthenticated)) {
    return Malformed("a refusal, and nothing else, has a code");
  }
  if (reader.rest().empty()) return frame;
  if (kind != FrameKind::kWelcome && kind != FrameKind::kUpdate) return Malformed("bytes are left over");
  auto owner = std::make_shared<std::string>(reader.rest());
  auto parsed = ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
  if (!parsed.ok()) return parsed.status().Annotate("a split frame's tensors");
  if (parsed->tensors.empty() || !parsed->metadata.empty()) return Malformed("its tensors are none");
  frame.tensors = std::move(parsed->tensors);
  return frame;
}

std::string RefusalFrame(const Status& status, uint32_t retry_ms) {
  HEDDLE_ASSERT(!status.ok(), "a refusal has a reason");
  ControlFrame frame;
  frame.kind = FrameKind::kRefusal;
  frame.code = static_cast<int32_t>(status.code());
  frame.text = status.message();
  frame.retry_ms = retry_ms;
  return Serialize(frame);
}

Status StatusOf(const ControlFrame& refusal) {
  if (refusal.kind != FrameKind::kRefusal) return OkStatus();
  return {static_cast<Code>(refusal.code), "the split server refuses: " + refusal.text};
}

}  // namespace heddle::protocol
