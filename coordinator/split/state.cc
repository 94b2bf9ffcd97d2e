// What a restart goes on from: one file, written whole.
#include <algorithm>
#include <charconv>
#include <sstream>

#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "coordinator/split/server_impl.h"

namespace heddle::coordinator {

namespace fs = std::filesystem;

namespace {

constexpr char kStateFile[] = "state.safetensors";

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

// A run whose last device could never be let in is refused before the first comes.
Status SplitServer::Impl::CheckMemory() {
  memory = EstimateSplitMemory(plan, options.part->spec, TotalBytes(device_adapter), TotalBytes(server_adapter),
                               options.compute.checkpoint_layers);
  // The last of a round come when the others' updates are there.
  uint32_t places = 1;
  const auto fits = [this](uint32_t sessions) {
    return MemoryLimit() == 0 || memory.With(sessions, plan.devices_per_round - sessions) <= MemoryLimit();
  };
  while (places < std::min(plan.max_sessions, plan.devices_per_round) && fits(places + 1)) ++places;
  turns = plan.turns(places);
  const uint64_t needed = memory.With(1, plan.devices_per_round - 1);
  if (MemoryLimit() == 0 || needed <= MemoryLimit()) return OkStatus();
  return InvalidArgument("split.memory_limit_mb is " + std::to_string(MemoryLimit() >> 20) + ", but one device at a " +
                         "time, with the others' updates, needs about " + std::to_string((needed >> 20) + 1) +
                         " MiB; allow more, or choose a smaller batch, pipeline or adapter");
}

Status SplitServer::Impl::Begin() {
  device_adapter = options.device_start;
  HEDDLE_ASSIGN_OR_RETURN(server_adapter, peft::InitialSide(*options.part, plan.server, plan.seed));
  HEDDLE_RETURN_IF_ERROR(CheckMemory());
  HEDDLE_RETURN_IF_ERROR(CheckFrames());
  if (!per_device()) {
    HEDDLE_ASSIGN_OR_RETURN(shared, peft::SplitHalf::Make(options.part, plan.server, server_adapter, options.compute));
  }
  if (plan.server_batch > 1) {
    if (options.part->spec.rotary.scaling == model::RotaryScaling::kDynamic) {
      return InvalidArgument(
          "split.server_batch > 1 is not for a model with dynamic rotary scaling, whose angles depend "
          "on the longest row of a pass");
    }
    if (options.compute.checkpoint_layers) {
      return InvalidArgument("split.server_batch > 1 is not for a server that computes layers again");
    }
    together = model::Transformer(options.part, options.compute);
    together->train();
  }
  // Finds what does not fit before a device comes.
  HEDDLE_RETURN_IF_ERROR(CheckStrategy());
  return peft::SplitHalf::Make(options.part, plan.server, server_adapter, options.compute).status();
}

// From what is on disk, as after a crash.
Status SplitServer::Impl::Reload() {
  round = 1;
  attempts = 0;
  round_begun = false;
  steps_since_save = 0;
  for (const auto& [device, session] : sessions) DropQueue(*session, Unavailable("the split server went back"));
  for (const auto& [device, one] : later) Say(one.ticket, Refusal(Unavailable("the split server went back")));
  later.clear();
  sessions.clear();
  counted.clear();
  round_since.reset();
  place_since.clear();
  device_state.clear();
  server_state.clear();
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
  AddPrefixed(device_state, "method/device/", &tensors);
  AddPrefixed(server_state, "method/server/", &tensors);
  if (shared) AddPrefixed(shared->Save(), "shared/", &tensors);
  for (const auto& [device, update] : counted) {
    metadata["counted/" + device] = std::to_string(update.session) + " " + std::to_string(update.examples);
    AddPrefixed(update.device, "update/" + device + "/", &tensors);
    AddPrefixed(update.server, "copy/" + device + "/", &tensors);
  }
  for (const auto& [device, session] : sessions) {
    metadata["session/" + device] = std::to_string(session->id()) + " " + std::to_string(session->log().boundary()) +
                                    " " + std::to_string(session->boundary_rows);
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
  device_state = WithPrefix(file.tensors, "method/device/");
  server_state = WithPrefix(file.tensors, "method/server/");
  last_sign = now;
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
    HEDDLE_ASSIGN_OR_RETURN(const auto numbers, NumbersOf(file.metadata, key, 3));
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
    session->rows = session->boundary_rows = numbers[2];
    session->seen = now;
    place_since[device] = now;
    round_begun = round_begun || session->log().boundary() > 0;
    session->restored = true;
    sessions.emplace(device, std::move(session));
  }
  if (!sessions.empty() || !counted.empty()) round_since = now;
  return OkStatus();
}

Result<std::unique_ptr<SplitSession>> SplitServer::Impl::MakeSession(const std::string& device, uint64_t id) {
  HEDDLE_ASSIGN_OR_RETURN(auto half, peft::SplitHalf::Make(options.part, plan.server, server_adapter, options.compute));
  const uint64_t seed = DeriveSeed(plan.seed, "split session", std::to_string(round) + "/" + device);
  return std::make_unique<SplitSession>(plan, id, seed, std::move(half), shared.get(), in_parallel());
}

// What was computed is not on disk and was never answered: as if the server had been restarted before it.
Status SplitServer::Impl::NotWritten(const Status& why) {
  Log(Severity::kError, "the split server's state cannot be written", {{"error", why.message()}});
  must_reload = true;
  return Unavailable("the split server cannot write its state: " + why.message());
}

}  // namespace heddle::coordinator
