// In which order the requests of a session come, and what of them a server still has the answers of. Pure; free of
// LibTorch and sockets. Plain values; one thread at a time.
//
// A step of n micro-batches is n requests (the head on the server) or 2 n (on the device: activations and the tail's
// gradient). After its last request the optimizers step: a step's boundary, from which either side can go on anew.
//
// With `ahead` = p > 1 a device computes up to p micro-batches before the first is answered; the order of requests
// stays a fixed one, and of answers the same: A is a micro-batch's activations, T its tail's gradient,
//   u_shaped        A0 .. A(p-1)  T0 Ap  T1 A(p+1)  ..  T(n-1)     Ti once Ai is answered
//   label_sharing   A0 A1 .. A(n-1)                                Ai once A(i-p) is answered
// Gradients are added in the order of micro-batches whatever p is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <string>

#include "common/status.h"
#include "protocol/split/frame.h"

namespace heddle::protocol {

struct SplitSchedule {
  bool u_shaped = true;
  uint32_t micros = 1;  // 1 to kMaxSplitMicroBatches
  uint32_t steps = 1;   // of a session; the product of all three below 2^31
  uint32_t ahead = 1;   // micro-batches on the way at a time, at least 1

  struct Place {
    FrameKind request = FrameKind::kActivations, answer = FrameKind::kGradient;
    uint32_t step = 1, micro = 0;
    bool ends_step = false;
  };
  uint32_t RequestsOfStep() const { return micros * (u_shaped ? 2 : 1); }
  uint32_t Requests() const { return steps * RequestsOfStep(); }
  // Of sequence 1 to Requests() (asserted).
  Place At(uint32_t sequence) const;
  // The last request whose answer a device has used before it can make this one; 0: none.
  uint32_t Needs(uint32_t sequence) const;
  // Requests that may wait for their answers at a time.
  uint32_t MaxInFlight() const;

 private:
  uint32_t Window() const { return std::min(ahead, micros); }
};

// The server's half of a session's order: which request may come, and the answers that a device may ask for again. Kept
// are those since the last step's beginning, so that a device that was cut off, or that starts anew from the boundary
// it has on disk, gets the very bytes it would have got.
class AnswerLog {
 public:
  explicit AnswerLog(const SplitSchedule& schedule) : schedule_(schedule) {}

  // What to do with a request: compute it (nullptr), or send this answer again. Errors: kInvalidArgument when kind,
  // step or micro-batch are not those of its sequence; kOutOfRange when the session has no such request;
  // kFailedPrecondition when it is not the next and its answer is not kept. `waiting`: requests after the last answered
  // that have been admitted already.
  Result<const std::string*> Admit(const TensorFrame& request, uint32_t waiting = 0) const;
  // The answer of the next request.
  void Add(std::string answer);
  // Whether the device can go on after having used the answer `used`: not further than what is answered, and the next
  // answers are kept.
  bool CanGoOn(uint32_t used) const { return used <= last_ && used >= first_kept_ - 1; }

  uint32_t last() const { return last_; }          // answered
  uint32_t boundary() const { return boundary_; }  // the last sequence that ended a step; 0 before the first
  bool complete() const { return last_ == schedule_.Requests(); }

  // For a checkpoint, which is written at boundaries only: the answers of the last step. Restore: of a session whose
  // boundary this was; they must be as many as a step has, or none at boundary 0. Errors: kDataLoss.
  const std::deque<std::string>& kept() const { return kept_; }
  // What of the kept belongs to the step that ended at the boundary.
  std::deque<std::string> AtBoundary() const;
  Status Restore(uint32_t boundary, std::deque<std::string> kept);

 private:
  SplitSchedule schedule_;
  uint32_t last_ = 0, boundary_ = 0, first_kept_ = 1;
  std::deque<std::string> kept_;  // of first_kept_ to last_
};

}  // namespace heddle::protocol
