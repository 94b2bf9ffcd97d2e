// The split server's half: the blocks that devices do not have, what is trained of them, and the rounds of a run, as a
// machine without sockets: a device's frame in, the answer out. Whoever drives it (pump.h, the simulator, a test)
// carries the frames and says whose they are.
//
// A run is `rounds` rounds. In each, devices_per_round devices get a session: they start from the same device's part,
// take local_steps steps against the server's part, and send what they have changed, which any aggregator merges. The
// server's part is one for all, which steps with every device's step (SplitFed v2), or each session has a copy of its
// own that starts and is merged like the devices' (v1). With one for all, a step computes with the parameters of its
// beginning and its gradient is applied at its end, so that steps of several devices may overlap. In parallel the
// server's part steps once with the gradients of all devices' steps; in sequence one device follows the other, with
// what the one before it has made of the device's part (SplitPlan::server_mode).
//
// Requests wait in a queue of each session, in the order of the session; whoever has waited longest goes first. With
// server_batch > 1 micro-batches of several devices go through the server in one pass (session.h): the longest waiting
// waits for others that may still join at most server_wait_ms. Of a device that does not come, nobody waits for more.
//
// Everything that a restart must remember is one file, written before what depends on it is answered: at every
// checkpoint_every-th step, when an update is counted, and when a round ends. What comes after it is lost together: the
// devices go back with the server (AnswerLog, SplitDevice), and the outcome is the same. A round whose updates cannot
// be merged is abandoned and begins anew, with the parts as they were but for the steps that a part of all has taken;
// abandoned kMaxAbandonedAttempts times in a row, it ends the run, which has failed: devices are told that it is over.
// How often is not in the file: a server that is started again counts from zero, and goes on with a run that had
// failed.
//
// Life cycle: Make, which goes on from the file when there is one; Submit for each frame, and Advance until it says
// when to call it again, with TakeReplies after either; or Handle for one frame after the other. One thread at a time.
// Include only from translation units of targets with TORCH, never beside protobuf code. LibTorch's exceptions are
// caught here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aggregation/aggregator.h"
#include "common/clock.h"
#include "common/status.h"
#include "coordinator/split/memory.h"
#include "peft/split/half.h"
#include "protocol/split/frame.h"
#include "protocol/split/plan.h"
#include "protocol/split/schedule.h"

namespace heddle::coordinator {

// Attempts of one round in a row whose updates cannot be merged before the run fails. What was of those updates, as a
// state that was damaged on disk, is gone with the first; a cause that is still there at the third would have devices
// train for nothing for ever.
inline constexpr uint32_t kMaxAbandonedAttempts = 3;

struct SplitServerOptions {
  protocol::SplitPlan plan;
  std::string plan_digest;
  std::shared_ptr<const model::BaseWeights> part;  // ServerPart of the base model
  model::ComputeOptions compute;
  // The adapter of the device's part that the first round starts from (peft::InitialSide of the device's part).
  StateDict device_start;
  std::filesystem::path folder;  // of the run: state.safetensors, and round-<n>/ with both parts after each round
  uint32_t retry_ms = 200;       // what a device that has to wait is told
};

class SplitServer {
 public:
  // Errors: kInvalidArgument when plan, part and adapter do not fit together, or not into the memory limit or a frame;
  // kDataLoss for a state file that is damaged, kFailedPrecondition for one of another plan; those of the disk.
  static Result<std::unique_ptr<SplitServer>> Make(SplitServerOptions options);
  ~SplitServer();

  // A device's frame that came `now`, by a clock that only goes forward. Its answer, one for each ticket, comes out of
  // TakeReplies at once or after an Advance; it may be a refusal: kInvalidArgument for a frame that is none, is not the
  // device's turn, holds a value that is not finite or makes a gradient that the part of all cannot step with, for
  // segments without a causal model, and for an update of other examples than came, beyond max_abs, or whose copy of
  // the server's part is (this one ends the session); kResourceExhausted for one that is larger than the plan, when
  // more of a device's requests wait than the plan lets it have on the way, or when there are max_sessions devices or
  // another would go beyond memory_limit_mb (both with the time to come back);
  // kFailedPrecondition for a device with another plan or base model, and for a frame out of order; kAborted for one of
  // a session that is not (the device starts over); kUnavailable when the disk does not take the state (as if the
  // server had been restarted), or when the device has come on another connection meanwhile. A refusal changes nothing
  // for the other devices.
  void Submit(uint64_t ticket, const std::string& device, std::string_view frame, Duration now);

  struct Turn {
    bool computed = false;         // a pass; there may be another
    std::optional<Duration> wake;  // when something that waits for others is due, if nothing else comes
  };
  // Computes at most one pass, of what is due. `hurry`: nobody else will come, so nothing waits for others.
  Turn Advance(Duration now, bool hurry = false);

  struct Reply {
    uint64_t ticket = 0;
    std::string frame;
  };
  std::vector<Reply> TakeReplies();

  // The answer to a frame, as if no other would come before it is there.
  std::string Handle(const std::string& device, std::string_view frame, Duration now = {});

  bool done() const;  // all rounds are merged
  // Why the run has failed, in one sentence; empty unless it has.
  const std::string& failure() const;
  // After the end, of either kind: devices that have heard of it.
  size_t told() const;
  uint32_t round() const;  // in hand, from 1; rounds + 1 when all are done
  size_t sessions() const;
  size_t passes() const;  // computed since the start, for reports
  const SplitMemory& memory() const;
  // The largest frame that a device may send by the plan, in bytes: of a step, or its update. What is larger need not
  // be read.
  uint64_t max_frame_bytes() const;
  // After the last finished round.
  const StateDict& device_adapter() const;
  StateDict server_adapter() const;

 private:
  struct Impl;
  explicit SplitServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace heddle::coordinator
