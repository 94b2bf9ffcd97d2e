// Updates of devices, the step of all of them together, and the end of a round.
#include <utility>

#include "common/file.h"
#include "common/logging.h"
#include "coordinator/split/server_impl.h"

namespace heddle::coordinator {

namespace fs = std::filesystem;
using protocol::ControlFrame;
using protocol::FrameKind;

std::string SplitServer::Impl::Counted(uint64_t session) const {
  ControlFrame frame;
  frame.kind = FrameKind::kCounted;
  frame.session = session;
  frame.round = round;
  return Serialize(frame);
}

Result<std::string> SplitServer::Impl::Update(const std::string& device, const ControlFrame& update) {
  if (const auto before = counted.find(device); before != counted.end() && before->second.session == update.session) {
    return Counted(update.session);
  }
  const auto found = sessions.find(device);
  if (found == sessions.end() || found->second->id() != update.session) {
    return Aborted("the split server has no such session of this device");
  }
  SplitSession& session = *found->second;
  if (session.restored) return Unavailable("the split server went back to its last checkpoint: say hello again");
  if (!session.log().complete()) return FailedPrecondition("an update came before the last step of its session");
  CountedUpdate one{update.session, update.examples, update.tensors, {}};
  if (!device_adapter.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(const auto aggregator, MakeAggregator(device_adapter));
    const aggregation::Validity validity =
        aggregator->Validate(update.tensors, {.num_examples = update.examples, .device = device});
    if (!validity.ok()) return InvalidArgument("the device's update is refused: " + validity.message);
  } else if (!update.tensors.empty()) {
    return InvalidArgument("an update has tensors, but nothing is trained on devices");
  }
  if (per_device() && plan.server.trains()) one.server = peft::Difference(session.half().Adapter(), server_adapter);
  if (in_sequence()) {  // the next device goes on from here
    HEDDLE_RETURN_IF_ERROR(Merge({{device, one}}, false, &device_adapter));
    one.device.clear();
  }
  const uint64_t id = session.id();
  sessions.erase(found);
  counted.emplace(device, std::move(one));
  const std::string answer = Counted(id);
  Status status = Save();
  if (status.ok() && counted.size() >= plan.devices_per_round) status = FinishRound();
  return status.ok() ? Result<std::string>(answer) : Result<std::string>(NotWritten(status));
}

Result<std::unique_ptr<aggregation::Aggregator>> SplitServer::Impl::MakeAggregator(const StateDict& parent) const {
  aggregation::AggregatorOptions aggregator;
  aggregator.max_abs = plan.max_abs;
  aggregator.max_updates = plan.devices_per_round;
  aggregator.max_num_examples = uint64_t{1} << 29;
  aggregator.seed = plan.seed;
  aggregator.round = round;
  aggregator.cohort = plan.devices_per_round;
  return aggregation::MakeAggregator(plan.strategy, parent, aggregator);
}

Status SplitServer::Impl::Merge(const std::map<std::string, CountedUpdate>& updates, bool server_side,
                                StateDict* adapter) const {
  if (adapter->empty()) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(auto aggregator, MakeAggregator(*adapter));
  for (const auto& [device, update] : updates) {
    HEDDLE_RETURN_IF_ERROR(aggregator->Fold(server_side ? update.server : update.device,
                                            {.num_examples = update.examples, .device = device}));
  }
  HEDDLE_ASSIGN_OR_RETURN(aggregation::RoundModel merged, std::move(*aggregator).Finish());
  *adapter = std::move(merged.model);
  return OkStatus();
}

Status SplitServer::Impl::FinishRound() {
  if (!in_sequence()) HEDDLE_RETURN_IF_ERROR(Merge(counted, false, &device_adapter));
  if (per_device()) {
    HEDDLE_RETURN_IF_ERROR(Merge(counted, true, &server_adapter));
  } else {
    server_adapter = shared->Adapter();
  }
  HEDDLE_RETURN_IF_ERROR(WriteRound());
  counted.clear();
  round_begun = false;
  ++round;
  return Save();
}

// Both parts after the round, beside each other; written before the state says that the round is over.
Status SplitServer::Impl::WriteRound() const {
  const fs::path folder = options.folder / ("round-" + std::to_string(round));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  for (const auto& [name, adapter] : {std::pair{"device", &device_adapter}, {"server", &server_adapter}}) {
    if (!adapter->empty()) {
      HEDDLE_RETURN_IF_ERROR(WriteSafetensors(folder / (std::string(name) + ".safetensors"), *adapter));
    }
  }
  return OkStatus();
}

// ---- parallel: one step for all devices together ----

// When the gradients that are there are used: at once, when everybody's are; nothing when there is none.
std::optional<Duration> SplitServer::Impl::StepOfAllIsDue() const {
  std::optional<Duration> first;
  bool all = round_begun || sessions.size() + counted.size() >= plan.devices_per_round;
  for (const auto& [device, session] : sessions) {
    if (session->contributed()) {
      first = std::min(first.value_or(session->contributed_at), session->contributed_at);
    } else if (!session->late) {
      all = false;
    }
  }
  if (!first || all) return first;
  return *first + Seconds(plan.step_timeout_s);
}

// The mean over all targets, in the order of the devices' names: not in that of their frames.
Status SplitServer::Impl::StepOfAll() {
  double targets = 0;
  for (auto& [device, session] : sessions) {
    if (!session->contributed()) {
      session->late = true;
    } else if (session->half().GradientsAreFinite()) {
      targets += static_cast<double>(session->counted());
    } else {
      Log(Severity::kWarning, "a device's gradient is not finite and is left out", {{"device", device}});
      session->half().DropGradients();
    }
  }
  shared->DropGradients();
  for (auto& [device, session] : sessions) {
    if (!session->contributed()) continue;
    // Of one micro-batch the gradient is a mean, of several a sum.
    const double own = schedule.micros > 1 ? 1 : static_cast<double>(session->counted());
    session->TakeContribution(targets > 0 ? own / targets : 0);
  }
  round_begun = true;
  HEDDLE_RETURN_IF_ERROR(shared->FinishStep(1, 1));
  if (++steps_since_save >= plan.checkpoint_every) {
    if (Status status = Save(); !status.ok()) return NotWritten(status);
  }
  for (auto& [device, one] : std::exchange(later, {})) {
    const auto answer = Update(device, one.update);
    Say(one.ticket, answer.ok() ? *answer : Refusal(answer.status()));
  }
  return OkStatus();
}

}  // namespace heddle::coordinator
