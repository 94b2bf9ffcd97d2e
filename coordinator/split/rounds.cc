// Updates of devices, the step of all of them together, and the end of a round.
#include <exception>
#include <utility>

#include "aggregation/fixed_point.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/passing.h"
#include "coordinator/split/server_impl.h"

namespace heddle::coordinator {
namespace {

// What memory that runs out throws while a state is merged or written is a Status too, so that what was counted is
// kept.
template <typename Function>
Status Caught(const Function& function) {
  try {
    return function();
  } catch (const std::exception& error) {
    return ResourceExhausted(std::string("the split server cannot finish: ") + error.what());
  }
}

// The disk's as well, but perhaps for good.
bool MayBeTheDisk(Code code) { return code == Code::kDataLoss || code == Code::kNotFound || code == Code::kInternal; }

// A sum without room for its bounds names them as a recipe does; only one of them is a setting of a plan.
Status InThePlansWords(const Status& why, const aggregation::AggregatorOptions& options) {
  const auto grid = aggregation::FixedPointGrid::Make(options.max_abs, options.max_num_examples, options.max_updates);
  if (grid.status() != why) return why;
  return InvalidArgument("strategy.max_abs leaves too few bits of precision to a sum of " +
                         std::to_string(options.max_updates) + " updates; make it smaller");
}

}  // namespace

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
  if (update.examples != session.rows) {  // its weight is not for the device to say
    return InvalidArgument("an update says that it was trained on " + std::to_string(update.examples) +
                           " examples, and " + std::to_string(session.rows) + " came in its session");
  }
  CountedUpdate one{update.session, update.examples, update.tensors, {}};
  const aggregation::UpdateInfo info{.num_examples = update.examples, .device = device};
  HEDDLE_RETURN_IF_ERROR(CheckUpdate(false, update.tensors, info));
  if (per_device() && plan.server.trains()) {
    one.server = peft::Difference(session.half().Adapter(), server_adapter);
    if (Status fits = CheckUpdate(true, one.server, info); !fits.ok()) {
      if (fits.code() == Code::kInvalidArgument) sessions.erase(found);  // no other update can make it good
      return fits;
    }
  }
  if (in_sequence()) {  // the next device goes on from here
    HEDDLE_RETURN_IF_ERROR(Merge({{device, one}}, false, &device_adapter, &device_state));
    one.device.clear();
  }
  last_sign = now;
  const uint64_t id = session.id();
  sessions.erase(found);
  counted.emplace(device, std::move(one));
  const std::string answer = Counted(id);
  Status status = Caught([&] { return Save(); });
  if (status.ok() && counted.size() >= plan.devices_per_round) status = FinishRound();
  return status.ok() ? Result<std::string>(answer) : Result<std::string>(NotWritten(status));
}

// The server's copy too is what a device has made of it, with gradients that nobody has bounded.
Status SplitServer::Impl::CheckUpdate(bool server_side, const StateDict& update,
                                      const aggregation::UpdateInfo& info) const {
  const StateDict& adapter = server_side ? server_adapter : device_adapter;
  if (adapter.empty()) {
    if (update.empty()) return OkStatus();
    return InvalidArgument("an update has tensors, but nothing is trained on devices");
  }
  const auto aggregator = MakeAggregator(server_side, adapter, server_side ? server_state : device_state);
  if (!aggregator.ok()) {  // which is none of the device's doing: no memory, no room for a file
    return Unavailable("the split server cannot check an update now: " + aggregator.status().message());
  }
  const aggregation::Validity validity = (*aggregator)->Validate(update, info);
  if (validity.ok()) return OkStatus();
  return InvalidArgument((server_side
                              ? "what the device's steps have made of its copy of the server's part is refused: "
                              : "the device's update is refused: ") +
                         validity.message);
}

aggregation::AggregatorOptions SplitServer::Impl::AggregatorOptionsOf(bool server_side) const {
  const protocol::SplitSide& side = server_side ? plan.server : plan.device;
  aggregation::AggregatorOptions options;
  options.max_abs = plan.max_abs;
  options.method.insert(plan.strategy_settings.begin(), plan.strategy_settings.end());
  options.max_updates = plan.devices_per_round;
  options.max_num_examples = uint64_t{1} << 29;
  options.seed = plan.seed;
  options.round = round;
  options.cohort = plan.devices_per_round;
  if (side.peft_type == "LORA") options.scaling = side.lora_alpha / static_cast<double>(side.r);
  return options;
}

Result<std::unique_ptr<aggregation::Aggregator>> SplitServer::Impl::MakeAggregator(bool server_side,
                                                                                   const StateDict& parent,
                                                                                   const StateDict& state) const {
  return aggregation::MakeAggregator(plan.strategy, parent, AggregatorOptionsOf(server_side), state);
}

// Two rounds of updates that change nothing, the second with as few as may be: a strategy that asks devices for more
// than their part's change, or makes a model of other tensors, is refused before a device comes.
Status SplitServer::Impl::CheckStrategy() const {
  // Also where there is nothing to merge: a name or a setting that no method has is a mistake.
  HEDDLE_RETURN_IF_ERROR(aggregation::RulesOf(plan.strategy, AggregatorOptionsOf(false)).status());
  for (const auto& [server_side, adapter] : {std::pair{false, &device_adapter}, {true, &server_adapter}}) {
    if (adapter->empty() || (server_side && !per_device())) continue;
    HEDDLE_ASSIGN_OR_RETURN(aggregation::DeviceRules rules,
                            aggregation::RulesOf(plan.strategy, AggregatorOptionsOf(server_side)));
    const Status unfit = InvalidArgument("strategy.name: split learning cannot merge by " + plan.strategy +
                                         ", which asks more of devices than what they have changed");
    rules.mixed_ranks = false;  // they may have different ones, and have not
    if (!(rules == aggregation::DeviceRules())) return unfit;
    StateDict model = *adapter, state;
    const StateDict nothing = peft::Difference(model, model);
    for (const uint32_t updates : {plan.devices_per_round, plan.min_devices}) {
      const auto aggregator = MakeAggregator(server_side, model, state);
      if (!aggregator.ok()) return InThePlansWords(aggregator.status(), AggregatorOptionsOf(server_side));
      for (uint32_t device = 0; device < updates; ++device) {
        HEDDLE_RETURN_IF_ERROR((*aggregator)->Fold(nothing, {.num_examples = 1, .device = std::to_string(device)}));
      }
      auto made = std::move(**aggregator).Finish();
      if (!made.ok()) {
        return InvalidArgument("strategy.name: " + plan.strategy + " cannot merge " + std::to_string(updates) +
                               " updates of split learning: " + made.status().message());
      }
      if (SpecOf(made->model) != SpecOf(*adapter)) return unfit;
      model = std::move(made->model);
      state = std::move(made->state);
    }
  }
  return OkStatus();
}

Status SplitServer::Impl::Merge(const std::map<std::string, CountedUpdate>& updates, bool server_side,
                                StateDict* adapter, StateDict* state) const {
  if (adapter->empty()) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(auto aggregator, MakeAggregator(server_side, *adapter, *state));
  for (const auto& [device, update] : updates) {
    HEDDLE_RETURN_IF_ERROR(aggregator->Fold(server_side ? update.server : update.device,
                                            {.num_examples = update.examples, .device = device}));
  }
  HEDDLE_ASSIGN_OR_RETURN(aggregation::RoundModel merged, std::move(*aggregator).Finish());
  *adapter = std::move(merged.model);
  *state = std::move(merged.state);
  return OkStatus();
}

// Both parts, or neither.
Status SplitServer::Impl::MergeRound() {
  StateDict device = device_adapter, device_next = device_state, server = server_adapter, server_next = server_state;
  if (!in_sequence()) HEDDLE_RETURN_IF_ERROR(Merge(counted, false, &device, &device_next));
  if (per_device()) {
    HEDDLE_RETURN_IF_ERROR(Merge(counted, true, &server, &server_next));
  } else {
    server = shared->Adapter();
  }
  device_adapter = std::move(device);
  device_state = std::move(device_next);
  server_adapter = std::move(server);
  server_state = std::move(server_next);
  return OkStatus();
}

// Errors: those of disk and memory, after which the round is finished another time. Updates that cannot be merged are
// dropped, and the devices begin the round anew: kept, no restart would get past them. So often in a row, and the run
// has failed.
Status SplitServer::Impl::FinishRound() {
  return Caught([&] { return FinishRoundThrowing(); });
}

Status SplitServer::Impl::FinishRoundThrowing() {
  const Status merged = MergeRound();
  if (!merged.ok() && MayPass(merged.code())) return merged;
  if (!merged.ok() && MayBeTheDisk(merged.code()) && ++unread < kMaxAbandonedAttempts) return merged;
  unread = 0;
  if (merged.ok()) {
    HEDDLE_RETURN_IF_ERROR(WriteRound());
    ++round;
  } else {
    Log(Severity::kError, "a round cannot be merged and is abandoned",
        {{"round", std::to_string(round)}, {"updates", std::to_string(counted.size())}, {"error", merged.message()}});
  }
  counted.clear();
  round_begun = false;
  round_since.reset();
  place_since.clear();
  HEDDLE_RETURN_IF_ERROR(Save());
  if (merged.ok()) {  // after it is on disk: an attempt whose end is not written is merged once more, and counts once
    abandoned = 0;
  } else {
    Abandoned(merged.message());
  }
  return OkStatus();
}

// Nobody has a session then, and who asks for one hears that the run is over.
void SplitServer::Impl::Abandoned(const std::string& why) {
  if (++abandoned < kMaxAbandonedAttempts) return;
  failure = "round " + std::to_string(round) + " was abandoned " + std::to_string(abandoned) +
            " times in a row; the last time: " + why;
  Log(Severity::kError, "run ended", {{"state", "failed"}, {"rounds", round - 1}, {"reason", failure}});
}

// When the round ends with the updates that are there: at its deadline, or when nobody is heard of any more, be it a
// device of the round or one that would take its place. What waits for this server is not silent.
std::optional<Duration> SplitServer::Impl::RoundIsDue() const {
  if (over() || counted.size() < plan.min_devices) return std::nullopt;
  std::optional<Duration> due;
  bool busy = false;
  Duration last = last_sign;
  for (const auto& [device, session] : sessions) {
    busy = busy || session->waits();
    last = std::max(last, session->seen);
  }
  if (!busy && plan.session_timeout_s > 0) due = last + Seconds(plan.session_timeout_s);
  if (RoundTimeout() > 0 && round_since) {
    const Duration deadline = *round_since + Seconds(RoundTimeout());
    due = std::min(due.value_or(deadline), deadline);
  }
  return due;
}

// The others begin anew in the next round.
Status SplitServer::Impl::EndRoundWithout() {
  Log(Severity::kWarning, "a round ends without some of its devices",
      {{"round", std::to_string(round)},
       {"updates", std::to_string(counted.size())},
       {"devices", std::to_string(plan.devices_per_round)}});
  const Status why = Aborted("the round has ended without this device");
  for (auto& [device, session] : sessions) DropQueue(*session, why);
  for (const auto& [device, one] : later) Say(one.ticket, Refusal(why));
  later.clear();
  sessions.clear();
  Status status = FinishRound();
  return status.ok() ? status : NotWritten(status);
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
    } else if (session->GradientFits()) {
      targets += static_cast<double>(session->counted());
    } else {
      Log(Severity::kWarning, "a device's gradient is not finite or too large, and is left out", {{"device", device}});
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
  // What is left out then is the whole step: nothing has changed, and updates that wait for it are due all the same.
  if (const Status stepped = shared->FinishStep(1, 1); !stepped.ok()) {
    Log(Severity::kError, "a step of all devices is left out", {{"error", stepped.message()}});
  }
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
