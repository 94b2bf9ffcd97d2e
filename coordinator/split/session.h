// One device's part in one round, on the server: its place in the order of requests, those that wait, and the
// computation between two of its frames, alone or in one pass with other sessions'. Internal to coordinator/split; the
// interface is server.h.
//
// A pass with others computes all matrix products of the base once for all rows, and each session's factors with its
// own rows, so that each has its own gradients. What a session gets differs from what it would get alone by rounding:
// the products' sums may be taken in another order. Alone, its bits do not depend on anybody.
//
// One thread at a time. Include only from translation units of targets with TORCH. LibTorch's exceptions pass through.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "peft/split/half.h"
#include "protocol/split/schedule.h"

namespace heddle::coordinator {

// A request that waits for its turn.
struct WaitingRequest {
  uint64_t ticket = 0;  // of the frame: SplitServer::Submit
  protocol::TensorFrame frame;
  Duration since{};
};

class SplitSession {
 public:
  // `half`: the session's own. `shared`: whose parameters it computes with and whose optimizer steps; null: its own.
  // `held`: at a step's end the gradient stays where it is until TakeContribution.
  SplitSession(const protocol::SplitPlan& plan, uint64_t id, uint64_t seed, std::unique_ptr<peft::SplitHalf> half,
               peft::SplitHalf* shared, bool held)
      : plan_(plan),
        id_(id),
        seed_(seed),
        half_(std::move(half)),
        shared_(shared),
        held_(held),
        log_(plan.schedule()) {}

  // The answer of the next request, which the log has admitted, without `durable`. Errors: those of the frame's values
  // and of the step. Unless the session is then broken, the same request may come again with other values.
  Result<protocol::TensorFrame> Answer(const protocol::TensorFrame& request);

  // The same for several sessions in one pass of `network`, which has no adapter of its own: all activations, of the
  // same length and with the same lists, or all tail gradients. An answer or an error for each; an error of one is not
  // the others'. On an exception any of them may be broken.
  struct Turn {
    SplitSession* session = nullptr;
    const protocol::TensorFrame* request = nullptr;
  };
  static std::vector<Result<protocol::TensorFrame>> AnswerTogether(model::Transformer& network,
                                                                   const std::vector<Turn>& turns);

  uint64_t id() const { return id_; }
  uint64_t seed() const { return seed_; }
  protocol::AnswerLog& log() { return log_; }
  const protocol::AnswerLog& log() const { return log_; }
  peft::SplitHalf& half() { return *half_; }
  const peft::SplitHalf& half() const { return *half_; }
  // An error came too late to be undone: the session must end.
  bool broken() const { return broken_; }
  // Which sessions' activations went through the server in one pass with those of this micro-batch, whose gradient is
  // still to come; null when none did, or when their graph is used up.
  const void* Pass(uint32_t micro) const;

  // With `held`: a step is over whose gradient nobody has used. TakeContribution adds it to `shared`, weighted.
  bool contributed() const { return contributed_; }
  // The next move is the server's: nobody may call the device silent or slow.
  bool waits() const { return !queue.empty() || contributed_; }
  uint64_t counted() const { return counted_; }
  // Whether the step's gradient is one that the server's part, which is everybody's, can step with: finite, its squares
  // too, and without clipping no longer a step of plain SGD than the plan's max_abs.
  bool GradientFits() const;
  void TakeContribution(double weight);

  std::deque<WaitingRequest> queue;  // in the order of the session; admitted
  // Rows of the activations that were answered, in all and up to the boundary: the examples that its update weighs.
  uint64_t rows = 0, boundary_rows = 0;
  uint32_t durable = 0;  // the boundary that is on disk
  Duration seen{};       // when the last frame of the device came
  Duration contributed_at{};
  // A pass waited for it in vain: until something comes from it, no other does.
  bool missed = false;
  bool late = false;      // parallel: a step went on without it, and the next does not wait for it
  bool restored = false;  // from a checkpoint, and the device may not know that yet: it must say hello

 private:
  // The graph of one pass over several sessions' activations: good for one backward pass.
  struct Joint {
    bool spent = false;
  };
  // A micro-batch between its activations and its gradient.
  struct Micro {
    torch::Tensor x, hidden;
    model::ModelInput input;
    std::shared_ptr<Joint> joint;  // null: alone
  };

  Result<Micro> Open(const protocol::TensorFrame& request) const;
  Result<torch::Tensor> OpenGradient(const protocol::TensorFrame& request) const;
  Status CheckTargets(const protocol::TensorFrame& request) const;
  void BeginMicro(uint32_t step, uint32_t micro);
  Result<torch::Tensor> HeadLoss(const protocol::TensorFrame& request, const Micro& micro, double* value);
  Result<protocol::TensorFrame> Gradient(const torch::Tensor& x, double loss) const;
  Result<protocol::TensorFrame> Forward(const protocol::TensorFrame& request);
  Result<protocol::TensorFrame> Backward(const protocol::TensorFrame& request);
  Result<protocol::TensorFrame> Finish(const protocol::TensorFrame& request, Result<protocol::TensorFrame> answer);
  Status EndStep();

  static void RunTogether(model::Transformer& network, const std::vector<SplitSession*>& sessions,
                          const std::vector<Micro*>& micros);
  static void ForwardTogether(model::Transformer& network, const std::vector<Turn>& turns,
                              std::vector<Result<protocol::TensorFrame>>* answers);
  static void BackwardTogether(model::Transformer& network, const std::vector<Turn>& turns,
                               std::vector<Result<protocol::TensorFrame>>* answers);

  const protocol::SplitPlan& plan_;
  const uint64_t id_, seed_;
  std::unique_ptr<peft::SplitHalf> half_;
  peft::SplitHalf* const shared_;
  const bool held_;
  protocol::AnswerLog log_;

  std::map<uint32_t, Micro> micros_;  // u_shaped: those that wait for their tail's gradient
  uint64_t counted_ = 0;              // targets of the step in hand
  bool broken_ = false, contributed_ = false;
};

}  // namespace heddle::coordinator
