// One device's part in one round, on the server: its place in the order of requests, and the computation between two
// of its frames. Internal to coordinator/split; the interface is server.h.
//
// One thread at a time. Include only from translation units of targets with TORCH. LibTorch's exceptions pass through.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/status.h"
#include "peft/split/half.h"
#include "protocol/split/schedule.h"

namespace heddle::coordinator {

class SplitSession {
 public:
  // `half`: the session's own. `shared`: whose parameters it computes with and whose optimizer steps; null: its own.
  SplitSession(const protocol::SplitPlan& plan, uint64_t id, uint64_t seed, std::unique_ptr<peft::SplitHalf> half,
               peft::SplitHalf* shared)
      : plan_(plan), id_(id), seed_(seed), half_(std::move(half)), shared_(shared), log_(plan.schedule()) {}

  // The answer of the next request, which the log has admitted, without `durable`. Errors: those of the frame's values
  // and of the step. Unless the session is then broken, the same request may come again with other values.
  Result<protocol::TensorFrame> Answer(const protocol::TensorFrame& request);

  uint64_t id() const { return id_; }
  uint64_t seed() const { return seed_; }
  protocol::AnswerLog& log() { return log_; }
  const protocol::AnswerLog& log() const { return log_; }
  peft::SplitHalf& half() { return *half_; }
  const peft::SplitHalf& half() const { return *half_; }
  // An error came too late to be undone: the session must end.
  bool broken() const { return broken_; }
  uint32_t durable = 0;   // the boundary that is on disk
  Duration seen{};        // when the last frame of the device came
  bool restored = false;  // from a checkpoint, and the device may not know that yet: it must say hello

 private:
  Result<protocol::TensorFrame> Forward(const protocol::TensorFrame& request);
  Result<protocol::TensorFrame> Backward(const protocol::TensorFrame& request);
  Result<protocol::TensorFrame> HeadLoss(const protocol::TensorFrame& request, const torch::Tensor& x,
                                         const torch::Tensor& hidden, const model::ModelInput& input);
  Status EndStep();

  const protocol::SplitPlan& plan_;
  const uint64_t id_, seed_;
  std::unique_ptr<peft::SplitHalf> half_;
  peft::SplitHalf* const shared_;
  protocol::AnswerLog log_;

  torch::Tensor activations_, hidden_;  // of the micro-batch in hand
  uint64_t counted_ = 0;                // targets of the step in hand
  bool broken_ = false;
};

}  // namespace heddle::coordinator
