// What SplitServer is made of. Internal to coordinator/split: server.cc has the frames and whose turn it is, state.cc
// what is on disk, rounds.cc updates and merges.
//
// One thread at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "aggregation/device_rules.h"
#include "common/safetensors.h"
#include "coordinator/split/memory.h"
#include "coordinator/split/server.h"
#include "coordinator/split/session.h"

namespace heddle::coordinator {

// What a device has sent for the round that is not merged yet.
struct CountedUpdate {
  uint64_t session = 0, examples = 0;
  StateDict device, server;  // server: of a copy of its own
};

struct SplitServer::Impl {
  explicit Impl(SplitServerOptions o) : options(std::move(o)), plan(options.plan), schedule(plan.schedule()) {}

  // state.cc
  Status Begin();
  Status CheckMemory();
  Status Load(const SafetensorsFile& file);
  Status Save();
  Status Reload();
  Status NotWritten(const Status& why);
  Result<std::unique_ptr<SplitSession>> MakeSession(const std::string& device, uint64_t id);

  // rounds.cc
  Result<std::string> Update(const std::string& device, const protocol::ControlFrame& update);
  Status CheckUpdate(bool server_side, const StateDict& update, const aggregation::UpdateInfo& info) const;
  Status Merge(const std::map<std::string, CountedUpdate>& updates, bool server_side, StateDict* adapter,
               StateDict* state) const;
  Status CheckStrategy() const;
  Status MergeRound();
  Status FinishRound();
  Status FinishRoundThrowing();
  void Abandoned(const std::string& why);
  std::optional<Duration> RoundIsDue() const;
  Status EndRoundWithout();
  Status WriteRound() const;
  aggregation::AggregatorOptions AggregatorOptionsOf(bool server_side) const;
  Result<std::unique_ptr<aggregation::Aggregator>> MakeAggregator(bool server_side, const StateDict& parent,
                                                                  const StateDict& state) const;
  std::string Counted(uint64_t session) const;
  std::optional<Duration> StepOfAllIsDue() const;
  Status StepOfAll();

  // server.cc
  Status EnsureLoaded();
  Status CheckFrames();
  protocol::FrameLimits Limits(protocol::FrameKind kind) const;
  Result<std::optional<std::string>> Take(uint64_t ticket, const std::string& device, std::string_view bytes);
  Result<std::string> Hello(const std::string& device, const protocol::ControlFrame& hello);
  std::string Welcome(const SplitSession& session, bool fresh) const;
  Result<std::optional<std::string>> Enqueue(uint64_t ticket, const std::string& device, protocol::TensorFrame request);
  void DropQueue(SplitSession& session, const Status& why);
  void MakeRoom(const std::function<bool()>& full);
  void DropIfBroken(const std::string& device);
  std::string Refusal(const Status& status) const;
  std::string Full(const std::string& why) const;
  void Say(uint64_t ticket, std::string frame) { replies.push_back({ticket, std::move(frame)}); }

  using Batch = std::vector<std::string>;  // devices
  std::optional<Batch> NextBatch(bool hurry, std::optional<Duration>* wake);
  Batch Companions(const std::vector<std::string>& waiting, const std::string& first) const;
  std::vector<SplitSession*> MayJoin(const Batch& batch) const;
  void Compute(const Batch& batch);
  std::vector<Result<protocol::TensorFrame>> Answers(const Batch& batch);

  bool per_device() const { return plan.server_mode == "per_device"; }
  bool in_parallel() const { return plan.server_mode == "parallel"; }
  bool in_sequence() const { return plan.server_mode == "sequential"; }
  bool done() const { return round > plan.rounds; }
  bool over() const { return done() || !failure.empty(); }
  // For so long that another may have its place. Without a timeout nobody ever is.
  bool IsSilent(const SplitSession& session) const {
    return plan.session_timeout_s > 0 && now - session.seen > Seconds(plan.session_timeout_s);
  }
  uint64_t MemoryLimit() const { return static_cast<uint64_t>(plan.memory_limit_mb * (1 << 20)); }
  uint64_t MemoryInUse() const { return memory.With(sessions.size(), counted.size()); }
  // So long after its first device a round ends without the others, and so long after a device got its place another
  // that asks for one may have it; in seconds, 0: never.
  double RoundTimeout() const { return plan.RoundTimeout(turns); }
  double PlaceTimeout() const { return RoundTimeout() / turns; }
  // Whether one device more goes beyond the memory limit.
  bool MemoryIsFull() const { return MemoryLimit() > 0 && MemoryInUse() + memory.session > MemoryLimit(); }

  const SplitServerOptions options;
  const protocol::SplitPlan& plan;
  const protocol::SplitSchedule schedule;

  uint32_t round = 1;
  uint32_t unread = 0;                       // merges in a row for which the disk may be to blame
  uint32_t abandoned = 0;                    // attempts of this round, in a row; not in the file, nor is the next
  std::string failure;                       // why the run has failed; empty unless it has
  uint64_t starts = 0;                       // of this server on this state: part of new sessions' numbers
  uint64_t passes = 0;                       // since the start
  uint64_t attempts = 0;                     // sessions since the start
  StateDict device_adapter, server_adapter;  // that the round starts from
  StateDict device_state, server_state;      // what the strategy remembers of either
  std::unique_ptr<peft::SplitHalf> shared;   // with one part for all
  model::Transformer together{nullptr};      // for passes over several devices; null without
  SplitMemory memory;
  uint32_t turns = 1;  // in which the devices of a round have their places, by the plan and by the memory limit
  uint64_t step_bytes = 0, update_bytes = 0;  // of a device's frames of a step and of its update, at most
  std::map<std::string, std::unique_ptr<SplitSession>> sessions;  // by device
  std::map<std::string, CountedUpdate> counted;                   // of this round, by device
  struct LaterUpdate {
    uint64_t ticket = 0;
    protocol::ControlFrame update;
  };
  std::map<std::string, LaterUpdate> later;  // parallel: updates that came before the step of all
  uint32_t steps_since_save = 0;
  bool round_begun = false;                     // parallel: there has been a step of all in this round
  std::optional<Duration> round_since;          // when the round's first device came
  std::map<std::string, Duration> place_since;  // when a device got its place in this round, be it with another session
  Duration last_sign{};                         // of a device that is not counted, or an update
  Duration now{};
  std::vector<SplitServer::Reply> replies;
  std::set<std::string> told;  // that the run is over
  bool stored = false;         // the state file has been written
  bool must_reload = false;    // what is in memory is not what is on disk
};

}  // namespace heddle::coordinator
