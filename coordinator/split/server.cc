#include "coordinator/split/server.h"

#include <charconv>
#include <set>
#include <sstream>

#include "common/file.h"
#include "common/ids.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/split/session.h"

namespace heddle::coordinator {

namespace fs = std::filesystem;
using protocol::ControlFrame;
using protocol::FrameKind;
using protocol::TensorFrame;

namespace {

constexpr char kStateFile[] = "state.safetensors";
constexpr uint64_t kControlBytes = uint64_t{1} << 30;

void AddPrefixed(const StateDict& from, const std::string& prefix, StateDict* to) {
  for (const auto& [name, tensor] : from) to->emplace(prefix + name, tensor);
}

StateDict WithPrefix(const StateDict& from, const std::string& prefix) {
  StateDict out;
  for (auto it = from.lower_bound(prefix); it != from.end() && it->first.starts_with(prefix); ++it) {
    out.emplace(it->first.substr(prefix.size()), it->second);
  }
  return out;
}

Tensor BytesTensor(std::string_view text) {
  std::span<std::byte> bytes;
  Tensor tensor = Tensor::Allocate({DType::kU8, {static_cast<int64_t>(text.size())}}, &bytes);
  std::copy_n(reinterpret_cast<const std::byte*>(text.data()), text.size(), bytes.data());
  return tensor;
}

std::string TextOf(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size()};
}

Result<std::vector<uint64_t>> NumbersOf(const std::map<std::string, std::string>& metadata, const std::string& key,
                                        size_t count) {
  std::vector<uint64_t> numbers;
  if (const auto found = metadata.find(key); found != metadata.end()) {
    std::istringstream words(found->second);
    for (std::string word; words >> word;) {
      uint64_t number = 0;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
      if (error != std::errc() || end != word.data() + word.size()) break;
      numbers.push_back(number);
    }
  }
  if (numbers.size() == count) return numbers;
  return DataLoss("the split server's state lacks its " + key);
}

}  // namespace

// What a device has sent for the round that is not merged yet.
struct CountedUpdate {
  uint64_t session = 0, examples = 0;
  StateDict device, server;  // server: of a copy of its own
};

struct SplitServer::Impl {
  explicit Impl(SplitServerOptions o) : options(std::move(o)), plan(options.plan), schedule(plan.schedule()) {}

  Status Begin();
  Status Load(const SafetensorsFile& file);
  Status Save();
  Status Reload();
  Status NotWritten(const Status& why);
  Status StartRound();
  Status FinishRound();
  Status WriteRound() const;
  Result<std::unique_ptr<aggregation::Aggregator>> MakeAggregator(const StateDict& parent) const;
  Result<std::unique_ptr<SplitSession>> MakeSession(const std::string& device, uint64_t id);
  protocol::FrameLimits Limits(FrameKind kind) const;

  Result<std::string> HandleThrowing(const std::string& device, std::string_view frame);
  Result<std::string> Hello(const std::string& device, const ControlFrame& hello);
  void DropSilent();
  std::string Welcome(const SplitSession& session, bool fresh) const;
  Result<std::string> Step(const std::string& device, const TensorFrame& request);
  Result<std::string> Update(const std::string& device, const ControlFrame& update);
  std::string Counted(uint64_t session) const;
  bool per_device() const { return plan.server_mode == "per_device"; }
  bool over() const { return round > plan.rounds; }

  const SplitServerOptions options;
  const protocol::SplitPlan& plan;
  const protocol::SplitSchedule schedule;

  uint32_t round = 1;
  uint64_t starts = 0;                       // of this server on this state: part of new sessions' numbers
  uint64_t attempts = 0;                     // sessions since the start
  StateDict device_adapter, server_adapter;  // that the round starts from
  std::unique_ptr<peft::SplitHalf> shared;   // with one part for all
  std::map<std::string, std::unique_ptr<SplitSession>> sessions;  // by device
  std::map<std::string, CountedUpdate> counted;                   // of this round, by device
  uint32_t steps_since_save = 0;
  Duration now{};
  std::set<std::string> told;  // that the run is over
  bool stored = false;         // the state file has been written
  bool must_reload = false;    // what is in memory is not what is on disk
};

Result<std::unique_ptr<SplitServer>> SplitServer::Make(SplitServerOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(impl->options.folder));
  try {
    HEDDLE_RETURN_IF_ERROR(impl->Reload());
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  }
  return std::unique_ptr<SplitServer>(new SplitServer(std::move(impl)));
}

SplitServer::SplitServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SplitServer::~SplitServer() = default;
bool SplitServer::done() const { return impl_->over(); }
uint32_t SplitServer::round() const { return impl_->round; }
size_t SplitServer::told() const { return impl_->told.size(); }
size_t SplitServer::sessions() const { return impl_->sessions.size(); }
const StateDict& SplitServer::device_adapter() const { return impl_->device_adapter; }
StateDict SplitServer::server_adapter() const {
  return impl_->shared ? impl_->shared->Adapter() : impl_->server_adapter;
}

std::string SplitServer::Handle(const std::string& device, std::string_view frame, Duration now) {
  Status failed;
  impl_->now = now;
  try {
    auto answer = impl_->HandleThrowing(device, frame);
    if (answer.ok()) return *std::move(answer);
    failed = answer.status();
  } catch (const c10::Error& error) {
    failed = Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    failed = ResourceExhausted("the split server has not enough memory");
  } catch (const std::exception& error) {
    failed = Internal(std::string("a split step failed: ") + error.what());
  }
  const auto found = impl_->sessions.find(device);
  if (found != impl_->sessions.end() && found->second->broken()) impl_->sessions.erase(found);
  const bool later = failed.code() == Code::kUnavailable || failed.code() == Code::kAborted ||
                     (failed.code() == Code::kResourceExhausted && impl_->sessions.size() >= impl_->plan.max_sessions);
  return protocol::RefusalFrame(failed, later ? impl_->options.retry_ms : 0);
}

// ---- state ----

Status SplitServer::Impl::Begin() {
  device_adapter = options.device_start;
  HEDDLE_ASSIGN_OR_RETURN(server_adapter, peft::InitialSide(*options.part, plan.server, plan.seed));
  if (!per_device()) {
    HEDDLE_ASSIGN_OR_RETURN(shared, peft::SplitHalf::Make(options.part, plan.server, server_adapter, options.compute));
  }
  // Finds what does not fit before a device comes.
  if (!device_adapter.empty()) HEDDLE_RETURN_IF_ERROR(MakeAggregator(device_adapter).status());
  return peft::SplitHalf::Make(options.part, plan.server, server_adapter, options.compute).status();
}

// From what is on disk, as after a crash.
Status SplitServer::Impl::Reload() {
  round = 1;
  attempts = 0;
  steps_since_save = 0;
  sessions.clear();
  counted.clear();
  shared.reset();
  HEDDLE_RETURN_IF_ERROR(Begin());
  const fs::path path = options.folder / kStateFile;
  if (stored && !fs::exists(path)) return DataLoss(path.string() + ", which held the state of the run, is gone");
  if (fs::exists(path)) {
    HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadSafetensors(path));
    HEDDLE_RETURN_IF_ERROR(Load(file).Annotate(path.string()));
  }
  // A crash may have come between the last update of a round and its end.
  if (counted.size() >= plan.devices_per_round) HEDDLE_RETURN_IF_ERROR(FinishRound());
  ++starts;
  return Save();
}

Status SplitServer::Impl::Save() {
  StateDict tensors;
  std::map<std::string, std::string> metadata = {
      {"plan", options.plan_digest}, {"round", std::to_string(round)}, {"starts", std::to_string(starts)}};
  AddPrefixed(device_adapter, "device/", &tensors);
  AddPrefixed(server_adapter, "server/", &tensors);
  if (shared) AddPrefixed(shared->Save(), "shared/", &tensors);
  for (const auto& [device, update] : counted) {
    metadata["counted/" + device] = std::to_string(update.session) + " " + std::to_string(update.examples);
    AddPrefixed(update.device, "update/" + device + "/", &tensors);
    AddPrefixed(update.server, "copy/" + device + "/", &tensors);
  }
  for (const auto& [device, session] : sessions) {
    metadata["session/" + device] = std::to_string(session->id()) + " " + std::to_string(session->log().boundary());
    if (per_device()) AddPrefixed(session->half().Save(), "half/" + device + "/", &tensors);
    size_t i = 0;
    for (const std::string& answer : session->log().AtBoundary()) {
      tensors.emplace("answer/" + device + "/" + std::to_string(i++), BytesTensor(answer));
    }
  }
  HEDDLE_RETURN_IF_ERROR(WriteSafetensors(options.folder / kStateFile, tensors, metadata));
  for (auto& [device, session] : sessions) session->durable = session->log().boundary();
  steps_since_save = 0;
  stored = true;
  return OkStatus();
}

Status SplitServer::Impl::Load(const SafetensorsFile& file) {
  const auto found = file.metadata.find("plan");
  if (found == file.metadata.end() || found->second != options.plan_digest) {
    return FailedPrecondition("the state is that of another plan or base model; give the run another folder");
  }
  HEDDLE_ASSIGN_OR_RETURN(const auto rounds, NumbersOf(file.metadata, "round", 1));
  HEDDLE_ASSIGN_OR_RETURN(const auto started, NumbersOf(file.metadata, "starts", 1));
  if (rounds[0] < 1 || rounds[0] > uint64_t{plan.rounds} + 1) return DataLoss("the state's round is none of the run");
  round = static_cast<uint32_t>(rounds[0]);
  starts = started[0];
  StateDict device_part = WithPrefix(file.tensors, "device/"), server_part = WithPrefix(file.tensors, "server/");
  HEDDLE_RETURN_IF_ERROR(CheckSameSpec(SpecOf(device_adapter), SpecOf(device_part)));
  HEDDLE_RETURN_IF_ERROR(CheckSameSpec(SpecOf(server_adapter), SpecOf(server_part)));
  device_adapter = std::move(device_part);
  server_adapter = std::move(server_part);
  if (shared) HEDDLE_RETURN_IF_ERROR(shared->Restore(WithPrefix(file.tensors, "shared/")));
  for (const auto& [key, value] : file.metadata) {
    if (key.starts_with("counted/")) {
      const std::string device = key.substr(8);
      HEDDLE_ASSIGN_OR_RETURN(const auto numbers, NumbersOf(file.metadata, key, 2));
      counted[device] = {numbers[0], numbers[1], WithPrefix(file.tensors, "update/" + device + "/"),
                         WithPrefix(file.tensors, "copy/" + device + "/")};
    }
    if (!key.starts_with("session/")) continue;
    const std::string device = key.substr(8);
    HEDDLE_ASSIGN_OR_RETURN(const auto numbers, NumbersOf(file.metadata, key, 2));
    HEDDLE_ASSIGN_OR_RETURN(auto session, MakeSession(device, numbers[0]));
    if (per_device()) HEDDLE_RETURN_IF_ERROR(session->half().Restore(WithPrefix(file.tensors, "half/" + device + "/")));
    std::deque<std::string> answers;
    for (size_t i = 0;; ++i) {
      const auto answer = file.tensors.find("answer/" + device + "/" + std::to_string(i));
      if (answer == file.tensors.end()) break;
      answers.push_back(TextOf(answer->second));
    }
    HEDDLE_RETURN_IF_ERROR(session->log().Restore(static_cast<uint32_t>(numbers[1]), std::move(answers)));
    session->durable = session->log().boundary();
    session->seen = now;
    session->restored = true;
    sessions.emplace(device, std::move(session));
  }
  return OkStatus();
}

Result<std::unique_ptr<SplitSession>> SplitServer::Impl::MakeSession(const std::string& device, uint64_t id) {
  HEDDLE_ASSIGN_OR_RETURN(auto half, peft::SplitHalf::Make(options.part, plan.server, server_adapter, options.compute));
  const uint64_t seed = DeriveSeed(plan.seed, "split session", std::to_string(round) + "/" + device);
  return std::make_unique<SplitSession>(plan, id, seed, std::move(half), shared.get());
}

// ---- frames ----

protocol::FrameLimits SplitServer::Impl::Limits(FrameKind kind) const {
  protocol::FrameLimits limits;
  limits.rows = plan.batch_size;
  limits.length = static_cast<uint32_t>(options.part->spec.MaxLength());
  limits.width = static_cast<uint32_t>(options.part->spec.hidden_size);
  limits.encoding = kind == FrameKind::kActivations ? plan.encoding : plan.gradient_encoding;
  limits.any_encoding = false;
  return limits;
}

Result<std::string> SplitServer::Impl::HandleThrowing(const std::string& device, std::string_view bytes) {
  if (must_reload) {
    const Status loaded = Reload();
    if (!loaded.ok()) return Unavailable("the split server's state cannot be read or written: " + loaded.message());
    must_reload = false;
  }
  if (!IsValidDeviceName(device)) return InvalidArgument("'" + device + "' is no name of a device");
  HEDDLE_ASSIGN_OR_RETURN(const FrameKind kind, protocol::KindOf(bytes));
  if (!protocol::FromDevice(kind)) {
    return InvalidArgument("a " + std::string(FrameKindName(kind)) + " comes from the split server, not to it");
  }
  if (kind == FrameKind::kActivations || kind == FrameKind::kTailGradient) {
    HEDDLE_ASSIGN_OR_RETURN(const TensorFrame request, protocol::ParseTensorFrame(bytes, Limits(kind)));
    return Step(device, request);
  }
  HEDDLE_ASSIGN_OR_RETURN(const ControlFrame control, protocol::ParseControlFrame(bytes, kControlBytes));
  return kind == FrameKind::kHello ? Hello(device, control) : Update(device, control);
}

Result<std::string> SplitServer::Impl::Hello(const std::string& device, const ControlFrame& hello) {
  if (hello.text != options.plan_digest) {
    return FailedPrecondition("the device was set up with another plan or another base model than the split server");
  }
  ControlFrame wait;
  wait.kind = FrameKind::kWelcome;
  if (over()) {
    told.insert(device);
    return Serialize(wait);
  }
  wait.retry_ms = options.retry_ms;
  wait.round = round;
  if (counted.contains(device)) return Serialize(wait);
  if (const auto found = sessions.find(device); found != sessions.end()) {
    SplitSession& session = *found->second;
    session.seen = now;
    session.restored = false;
    const bool known = hello.session == session.id();
    // A device that is further than this server's memory goes back to it.
    if (known && (hello.last > session.log().last() || session.log().CanGoOn(hello.last))) {
      return Welcome(session, false);
    }
    sessions.erase(found);  // it begins anew
  }
  if (sessions.size() + counted.size() >= plan.devices_per_round || sessions.size() >= plan.max_sessions) DropSilent();
  if (sessions.size() + counted.size() >= plan.devices_per_round) return Serialize(wait);
  if (sessions.size() >= plan.max_sessions) {
    return ResourceExhausted("the split server has " + std::to_string(sessions.size()) +
                             " devices already, as many as the plan lets it have; ask again later");
  }
  const uint64_t id = DeriveSeed(plan.seed, "split session number",
                                 std::to_string(round) + "/" + device + "/" + std::to_string(starts) + "/" +
                                     std::to_string(++attempts)) |
                      1U;
  HEDDLE_ASSIGN_OR_RETURN(auto session, MakeSession(device, id));
  session->seen = now;
  return Welcome(*sessions.emplace(device, std::move(session)).first->second, true);
}

// A device that has gone for good must not hold up the round: another may have its place.
void SplitServer::Impl::DropSilent() {
  std::erase_if(sessions, [this](const auto& one) { return now - one.second->seen > Seconds(plan.session_timeout_s); });
}

std::string SplitServer::Impl::Welcome(const SplitSession& session, bool fresh) const {
  ControlFrame welcome;
  welcome.kind = FrameKind::kWelcome;
  welcome.session = session.id();
  welcome.round = round;
  welcome.last = session.log().last();
  welcome.seed = session.seed();
  if (fresh) welcome.tensors = device_adapter;
  return Serialize(welcome);
}

Result<std::string> SplitServer::Impl::Step(const std::string& device, const TensorFrame& request) {
  const auto found = sessions.find(device);
  if (found == sessions.end() || found->second->id() != request.session) {
    return Aborted("the split server has no such session of this device");
  }
  SplitSession& session = *found->second;
  session.seen = now;
  if (session.restored) return Unavailable("the split server went back to its last checkpoint: say hello again");
  HEDDLE_ASSIGN_OR_RETURN(const std::string* kept, session.log().Admit(request));
  if (kept != nullptr) return *kept;
  HEDDLE_ASSIGN_OR_RETURN(TensorFrame answer, session.Answer(request));
  const bool ends_step = schedule.At(request.sequence).ends_step;
  const bool save = ends_step && steps_since_save + 1 >= plan.checkpoint_every;
  answer.durable = save ? request.sequence : session.durable;
  std::string bytes = Serialize(answer);
  session.log().Add(bytes);
  if (ends_step) ++steps_since_save;
  if (!save) return bytes;
  if (Status status = Save(); !status.ok()) {
    return NotWritten(status);
  }
  return bytes;
}

// What was computed is not on disk and was never answered: as if the server had been restarted before it.
Status SplitServer::Impl::NotWritten(const Status& why) {
  Log(Severity::kError, "the split server's state cannot be written", {{"error", why.message()}});
  must_reload = true;
  return Unavailable("the split server cannot write its state: " + why.message());
}

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

Status SplitServer::Impl::FinishRound() {
  const auto merge = [this](StateDict* adapter, bool server_side) -> Status {
    if (adapter->empty()) return OkStatus();
    HEDDLE_ASSIGN_OR_RETURN(auto aggregator, MakeAggregator(*adapter));
    for (const auto& [device, update] : counted) {
      HEDDLE_RETURN_IF_ERROR(aggregator->Fold(server_side ? update.server : update.device,
                                              {.num_examples = update.examples, .device = device}));
    }
    HEDDLE_ASSIGN_OR_RETURN(aggregation::RoundModel merged, std::move(*aggregator).Finish());
    *adapter = std::move(merged.model);
    return OkStatus();
  };
  HEDDLE_RETURN_IF_ERROR(merge(&device_adapter, false));
  if (per_device()) {
    HEDDLE_RETURN_IF_ERROR(merge(&server_adapter, true));
  } else {
    server_adapter = shared->Adapter();
  }
  HEDDLE_RETURN_IF_ERROR(WriteRound());
  counted.clear();
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

}  // namespace heddle::coordinator
