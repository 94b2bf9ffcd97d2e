// Any bytes as a frame of split learning: refused with a typed status, or read, decoded into finite numbers, and
// written again as the same bytes; and as a request to a session, whose order it cannot break.
#include "protocol/split/frame.h"

#include <cmath>

#include "protocol/split/schedule.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle::protocol;

namespace {

void CheckRefusal(const heddle::Status& status) {
  Require(status.code() == heddle::Code::kInvalidArgument || status.code() == heddle::Code::kResourceExhausted,
          "a refusal is typed", status.message());
}

void CheckTensor(const TensorFrame& frame, std::string_view bytes) {
  Require(Serialize(frame) == bytes, "a frame has one form");
  Require(frame.tokens() * frame.width <= kMaxSplitElements, "a tensor within the limits");
  const FrameLimits own{.rows = frame.rows,
                        .length = frame.length,
                        .width = frame.width,
                        .encoding = frame.encoding,
                        .any_encoding = false};
  Require(bytes.size() <= LargestTensorFrame(frame.kind, own), "no frame is larger than its shape lets it be");
  std::vector<float> values(frame.tokens() * frame.width);
  const heddle::Status decoded = DecodeTensor(frame.encoding, frame.tensor, frame.width, values);
  if (!decoded.ok()) return CheckRefusal(decoded);
  for (const float value : values) Require(std::isfinite(value), "what is decoded is finite");
  std::string again;
  Require(EncodeTensor(frame.encoding, values, frame.width, &again).ok(), "what was decoded can be encoded");
  Require(again.size() == frame.tensor.size(), "in as many bytes");

  // However many answers there are, a request is the next, one that was answered, or refused.
  for (const bool u_shaped : {true, false}) {
    AnswerLog log({.u_shaped = u_shaped, .micros = frame.micros, .steps = 3});
    for (uint32_t answered = 0; answered < 5 && !log.complete(); ++answered) {
      const auto admitted = log.Admit(frame);
      Require(!admitted.ok() || *admitted != nullptr || frame.sequence == log.last() + 1, "only the next is computed");
      Require(!admitted.ok() || *admitted == nullptr || frame.sequence <= log.last(), "only what was answered is sent");
      log.Add("answer");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto tensor = ParseTensorFrame(bytes);
  const auto control = ParseControlFrame(bytes);
  Require(!tensor.ok() || !control.ok(), "a frame is of one kind");
  if (tensor.ok()) {
    CheckTensor(*tensor, bytes);
  } else if (control.ok()) {
    const std::string written = Serialize(*control);
    const auto again = ParseControlFrame(written);
    Require(again.ok(), "what is written can be read");
    Require(Serialize(*again) == written, "and is written as the same");
    Require(StatusOf(*control).ok() == (control->kind != FrameKind::kRefusal),
            "a refusal, and nothing else, has a code");
  } else {
    CheckRefusal(tensor.status());
    CheckRefusal(control.status());
  }
  return 0;
}
