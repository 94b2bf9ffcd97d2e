// A device's half of split learning: the front of the model (and, u_shaped, its tail with the labels), what is trained
// of it, and the conversation with the split server as a machine without sockets: frames in, frames out. Whoever drives
// it (pipe.h and relay.h, the simulator, a test) carries the frames.
//
// Life cycle: Make; send Hello() first on every connection, also a new one after the old broke; give each frame that
// comes to Take and do what it says; after each kSend ask Next for more until it says kListen (with
// split.pipeline = 1 it always does). While what was sent travels, Next computes the next micro-batch. A step that was
// answered is never lost: what a broken connection, a restarted server or a restarted device has to do again is the
// same computation, bit for bit (see SplitPlan, schedule.h).
//
// One thread at a time. Include only from translation units of targets with TORCH, never beside protobuf code.
// LibTorch's exceptions are caught here.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/worker/head_data.h"
#include "common/status.h"
#include "peft/split/half.h"
#include "protocol/split/frame.h"
#include "protocol/split/plan.h"

namespace heddle::client {

struct SplitDeviceOptions {
  protocol::SplitPlan plan;
  std::string plan_digest;                         // SplitPlan::Digest: what the server must have too
  std::shared_ptr<const model::BaseWeights> part;  // DevicePart of the base model
  model::ComputeOptions compute;
  // The device's training data in the order of a seed, from the beginning; called for each round, and again after a
  // restart.
  std::function<Result<std::unique_ptr<HeadBatches>>(uint64_t seed)> batches;
  // What the noise and the labels' randomness come from, where the plan has them: known to nobody but the device, and
  // the same after a restart.
  std::string secret;
  // What a restarted device goes on from, written at each step's boundary; empty: a restart begins the round anew.
  std::filesystem::path state_file;
};

class SplitDevice {
 public:
  // Reads the state file when there is one; a damaged or foreign one is dropped with a warning. Errors:
  // kInvalidArgument when plan and part do not fit together, or the plan's privacy asks for a secret or for a head with
  // labels that is not there.
  static Result<std::unique_ptr<SplitDevice>> Make(SplitDeviceOptions options);

  // What to say first on a connection.
  std::string Hello();

  struct Action {
    // kListen: nothing to send before the next answer.
    enum class Kind { kSend, kWait, kDone, kListen } kind = Kind::kSend;
    std::string frame;      // kSend: this
    uint32_t retry_ms = 0;  // kWait: for so long, then Hello(); nothing is on the way any more
  };
  // Errors: the server's refusal, when trying again cannot help; kInvalidArgument for a frame that is none, or not the
  // answer to what was sent, kResourceExhausted for one that is larger than the plan: what was sent still waits for its
  // answer then, and nothing of the device's has changed; kInternal for a loss that is not finite; those of the data
  // and of the disk.
  Result<Action> Take(std::string_view frame);
  // kSend or kListen. Errors: kInternal, those of the data.
  Result<Action> Next();

  // For reports.
  struct Stats {
    uint32_t round = 0, step = 0;  // in hand
    uint64_t steps = 0, examples = 0;
    uint64_t bytes_up = 0, bytes_down = 0;  // of frames of steps
    uint64_t tensor_bytes = 0;              // of these, the tensors
    double first_loss = 0, last_loss = 0;   // of the last round's steps
    // Where the plan asks for it, of the last round's first batch: between the base's embeddings and what was sent, by
    // tokens.
    double distance_correlation = 0;
  };
  const Stats& stats() const { return stats_; }
  // The device's part of the adapter now.
  StateDict Adapter() const { return half_ ? half_->Adapter() : StateDict(); }

 private:
  explicit SplitDevice(SplitDeviceOptions options) : options_(std::move(options)) {}

  struct Snapshot {
    uint32_t sequence = 0;  // the boundary
    StateDict half;
    uint64_t examples = 0;
  };

  // A micro-batch between its activations and its gradient.
  struct Micro {
    HeadBatch batch;
    torch::Tensor front, tail_gradient;
    double loss = 0;
  };

  template <typename Work>
  Result<Action> Guarded(Work work);
  Result<Action> TakeThrowing(std::string_view frame);
  Result<Action> Welcomed(protocol::ControlFrame welcome);
  Result<Action> Refused(const protocol::ControlFrame& refusal);
  Action WaitOnce(uint32_t retry_ms);
  Result<Action> Answered(const protocol::TensorFrame& answer);
  Status Begin(const protocol::ControlFrame& welcome);
  Status GoBackTo(uint32_t sequence);
  Status OpenData(uint64_t micro_batches_used);
  Status UseAnswer(const protocol::TensorFrame& answer);
  Status EndStep(uint32_t durable);
  Result<Action> SendNext();
  Result<protocol::TensorFrame> MakeRequest(uint32_t sequence);
  Status Forward(protocol::TensorFrame* frame);
  torch::Tensor Protected(const torch::Tensor& front, const HeadBatch& batch, const protocol::TensorFrame& frame) const;
  torch::Tensor SentTargets(const HeadBatch& batch) const;
  Status TailBackward(const protocol::TensorFrame& hidden, Micro* micro);
  Action SendUpdate();
  Status SaveState() const;
  Status LoadState();
  void DropMicros();
  void Forget();

  const SplitDeviceOptions options_;
  protocol::SplitSchedule schedule_;
  model::Transformer embeddings_{nullptr};  // of the base, for the report; null without
  std::unique_ptr<peft::SplitHalf> half_;   // of the session; null without one
  std::unique_ptr<HeadBatches> batches_;
  StateDict start_;  // of the round
  uint64_t session_ = 0, seed_ = 0;
  uint32_t used_ = 0;               // the last answer that was used
  uint32_t sent_ = 0;               // the last request that was sent on this connection
  uint32_t owed_ = 0;               // answers to what was sent on it since the last Hello()
  uint32_t retry_ms_ = 0;           // the longest that a refusal asked for, until all owed answers are there
  std::deque<std::string> made_;    // requests after used_
  std::deque<Snapshot> snapshots_;  // boundaries that the server may go back to, oldest first
  uint64_t examples_ = 0;           // of the session
  Stats stats_;

  std::map<uint32_t, Micro> micros_;  // on the way
  // Of the step in hand. The tail's gradients are added among themselves first: the order in which answers come does
  // not change what a parameter that is used at both ends gets.
  std::vector<torch::Tensor> tail_sums_;
  double step_loss_ = 0;
  uint64_t step_counted_ = 0;
};

}  // namespace heddle::client
