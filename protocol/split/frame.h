// The binary frames of split learning: what a device and the split server say to each other, whatever carries them (a
// WebSocket, a test, the simulator). docs/formats.md has the bytes. Free of LibTorch.
//
// A device asks, the server answers. Frames of a step carry a tensor at the cut and belong to a session: a device's
// part in one round. Each request of a session has a sequence number, from 1 on without a gap, which its answer
// repeats; so either side can tell a frame that came twice from one that is out of order (session.h).
//
//   device                      server
//   kActivations          ->                           the residual stream after the front
//                         <-    kHidden                u_shaped: after the server's blocks
//   kTailGradient         ->                           u_shaped: d loss / d hidden
//                         <-    kGradient              d loss / d activations; label_sharing: at once, with the loss
//
// Around the steps of a round: kHello -> kWelcome, kUpdate -> kCounted. kRefusal answers anything.
//
// Thread-safety: plain values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "protocol/limits.h"
#include "protocol/split/tensor_code.h"

namespace heddle::protocol {

// The numbers are those on the wire.
enum class FrameKind : uint8_t {
  kActivations = 1,
  kHidden = 2,
  kTailGradient = 3,
  kGradient = 4,
  kHello = 5,
  kWelcome = 6,
  kUpdate = 7,
  kCounted = 8,
  kRefusal = 9
};
bool FromDevice(FrameKind kind);
std::string_view FrameKindName(FrameKind kind);

// What a receiver lets a frame have; from the plan that both sides follow.
struct FrameLimits {
  uint32_t rows = kMaxSplitRows;
  uint32_t length = 1U << 20;            // tokens
  uint32_t width = 0;                    // exactly; 0: any
  uint64_t bytes = kMaxSplitFrameBytes;  // of the whole frame
  CutEncoding encoding = CutEncoding::kFloat32;
  bool any_encoding = true;  // false: `encoding` only
};

// The bytes of the largest frame of a step of this kind that keeps to rows, length, width and encoding of `limits`,
// with every list that it may have. limits.width is not 0, any_encoding is off (asserted).
uint64_t LargestTensorFrame(FrameKind kind, const FrameLimits& limits);

// A frame of a step.
struct TensorFrame {
  FrameKind kind = FrameKind::kActivations;
  CutEncoding encoding = CutEncoding::kFloat32;
  uint64_t session = 0;
  uint32_t sequence = 0;           // of the request, from 1
  uint32_t step = 0;               // from 1
  uint32_t micro = 0, micros = 1;  // of the step, from 0, and how many it has
  uint32_t counted = 0;            // targets that count in the micro-batch: its weight in the step
  uint32_t durable = 0;            // of answers: the last sequence that a restart of the server would remember
  double loss = 0;                 // of kGradient with a head on the server, of kTailGradient: the micro-batch's mean
  uint32_t rows = 0, length = 0, width = 0;
  // Of kActivations; empty where there is none. One for each token.
  std::vector<uint8_t> mask;       // 0 or 1
  std::vector<uint16_t> segments;  // of packed rows
  // Of kActivations with a head on the server: one for each token, or for each row.
  std::vector<int32_t> targets;
  std::vector<float> grades;
  std::string tensor;  // [rows * length, width], encoded

  uint64_t tokens() const { return uint64_t{rows} * length; }
  friend bool operator==(const TensorFrame&, const TensorFrame&) = default;
};

// Every other frame; what it does not use is left as made.
struct ControlFrame {
  FrameKind kind = FrameKind::kHello;
  uint64_t session = 0;   // kHello: to be gone on with, 0 for a new one; kWelcome: the device's; kUpdate: its own
  uint32_t round = 0;     // kWelcome, kCounted: from 1; 0 when there is none: the run is over
  uint32_t last = 0;      // kHello: the last sequence whose answer the device has used; kWelcome: the last answered
  uint32_t retry_ms = 0;  // kWelcome: there is no session for the device yet, ask again after this; kRefusal likewise
  uint64_t seed = 0;      // kWelcome: of the session
  uint64_t examples = 0;  // kUpdate: trained on; the weight of the update
  int32_t code = 0;       // kRefusal: a canonical heddle::Code, not 0
  std::string text;       // kHello: PlanDigest of what the device was set up with; kRefusal: why, one sentence
  StateDict tensors;      // kWelcome: the device's part of the adapter; kUpdate: trained minus that, F32
};

// Asserts that the frame keeps to what ParseTensorFrame asks.
std::string Serialize(const TensorFrame& frame);
std::string Serialize(const ControlFrame& frame);

// The kind of a frame, by its first bytes. Errors: kInvalidArgument when they are none of a frame's.
Result<FrameKind> KindOf(std::string_view bytes);

// Errors: kInvalidArgument when the bytes are no frame of this kind: sizes that contradict each other, a mask that is
// not 0 or 1, a loss that is not finite, bytes left over; kResourceExhausted when it is larger than `limits`. The
// tensor's values are looked at by DecodeTensor.
Result<TensorFrame> ParseTensorFrame(std::string_view bytes, const FrameLimits& limits = {});
Result<ControlFrame> ParseControlFrame(std::string_view bytes, uint64_t max_bytes = kMaxSplitFrameBytes);

// A refusal in bytes, and back: the status of a parsed kRefusal.
std::string RefusalFrame(const Status& status, uint32_t retry_ms = 0);
Status StatusOf(const ControlFrame& refusal);

}  // namespace heddle::protocol
