#include "coordinator/split/server.h"

#include <algorithm>
#include <set>
#include <type_traits>

#include "common/assert.h"
#include "common/file.h"
#include "common/ids.h"
#include "common/logging.h"
#include "common/random.h"
#include "coordinator/split/server_impl.h"

namespace heddle::coordinator {

using protocol::ControlFrame;
using protocol::FrameKind;
using protocol::TensorFrame;

namespace {

constexpr uint64_t kHandled = ~uint64_t{0};  // the ticket of Handle

// The wall around LibTorch: a Status or a Result, as `work` gives it.
template <typename Work>
std::invoke_result_t<Work> Guarded(Work work) {
  try {
    return work();
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("the split server has not enough memory");
  } catch (const std::exception& error) {
    return Internal(std::string("a split step failed: ") + error.what());
  }
}

}  // namespace

Result<std::unique_ptr<SplitServer>> SplitServer::Make(SplitServerOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(impl->options.folder));
  HEDDLE_RETURN_IF_ERROR(Guarded([&] { return impl->Reload(); }));
  return std::unique_ptr<SplitServer>(new SplitServer(std::move(impl)));
}

SplitServer::SplitServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SplitServer::~SplitServer() = default;
bool SplitServer::done() const { return impl_->done(); }
const std::string& SplitServer::failure() const { return impl_->failure; }
uint32_t SplitServer::round() const { return impl_->round; }
size_t SplitServer::told() const { return impl_->told.size(); }
size_t SplitServer::sessions() const { return impl_->sessions.size(); }
size_t SplitServer::passes() const { return impl_->passes; }
const SplitMemory& SplitServer::memory() const { return impl_->memory; }
uint64_t SplitServer::max_frame_bytes() const {
  return std::max({impl_->step_bytes, impl_->update_bytes, protocol::kMaxSplitControlBytes});
}
const StateDict& SplitServer::device_adapter() const { return impl_->device_adapter; }
StateDict SplitServer::server_adapter() const {
  return impl_->shared ? impl_->shared->Adapter() : impl_->server_adapter;
}
std::vector<SplitServer::Reply> SplitServer::TakeReplies() { return std::exchange(impl_->replies, {}); }

void SplitServer::Submit(uint64_t ticket, const std::string& device, std::string_view frame, Duration now) {
  impl_->now = now;
  auto answer = Guarded([&] { return impl_->Take(ticket, device, frame); });
  if (!answer.ok()) {
    impl_->Say(ticket, impl_->Refusal(answer.status()));
  } else if (*answer) {
    impl_->Say(ticket, **std::move(answer));
  }
}

SplitServer::Turn SplitServer::Advance(Duration now, bool hurry) {
  impl_->now = now;
  Turn turn;
  if (impl_->must_reload) {
    const Status loaded = Guarded([&] { return impl_->EnsureLoaded(); });
    if (!loaded.ok()) {
      for (auto& [device, session] : impl_->sessions) impl_->DropQueue(*session, loaded);
      return turn;
    }
  }
  const auto round_due = impl_->RoundIsDue();
  const bool round_ends = round_due && *round_due <= now;
  if (const auto due = impl_->StepOfAllIsDue(); due && (*due <= now || hurry || round_ends)) {
    const Status status = Guarded([&] { return impl_->StepOfAll(); });
    if (!status.ok()) Log(Severity::kError, "a step of all devices failed", {{"error", status.message()}});
    turn.computed = true;
    return turn;
  } else {
    turn.wake = due;
  }
  if (round_ends) {
    const Status status = Guarded([&] { return impl_->EndRoundWithout(); });
    if (!status.ok()) Log(Severity::kError, "a round could not be ended", {{"error", status.message()}});
    turn.computed = true;
    return turn;
  }
  if (round_due) turn.wake = std::min(turn.wake.value_or(*round_due), *round_due);
  if (const auto batch = impl_->NextBatch(hurry, &turn.wake)) {
    impl_->Compute(*batch);
    turn.computed = true;
  }
  return turn;
}

std::string SplitServer::Handle(const std::string& device, std::string_view frame, Duration now) {
  Submit(kHandled, device, frame, now);
  for (;;) {
    auto& replies = impl_->replies;
    const auto found =
        std::find_if(replies.begin(), replies.end(), [](const Reply& reply) { return reply.ticket == kHandled; });
    if (found != replies.end()) {
      std::string answer = std::move(found->frame);
      replies.erase(found);
      return answer;
    }
    HEDDLE_ASSERT(Advance(now, true).computed, "what waits is computed when nobody else comes");
  }
}

// ---- frames ----

std::string SplitServer::Impl::Refusal(const Status& status) const {
  const bool later_on = status.code() == Code::kUnavailable || status.code() == Code::kAborted;
  return protocol::RefusalFrame(status, later_on ? options.retry_ms : 0);
}

// There may be room for the device another time.
std::string SplitServer::Impl::Full(const std::string& why) const {
  return protocol::RefusalFrame(ResourceExhausted(why + "; ask again later"), options.retry_ms);
}

protocol::FrameLimits SplitServer::Impl::Limits(FrameKind kind) const {
  protocol::FrameLimits limits;
  limits.rows = plan.batch_size;
  limits.length = static_cast<uint32_t>(options.part->spec.MaxLength());
  if (!options.part->spec.TakesImages()) limits.length = std::min(limits.length, plan.sequence_length);
  limits.width = static_cast<uint32_t>(options.part->spec.hidden_size);
  limits.encoding = kind == FrameKind::kActivations ? plan.encoding : plan.gradient_encoding;
  limits.any_encoding = false;
  limits.bytes = protocol::LargestTensorFrame(kind, limits);
  return limits;
}

// What of a device's frames the plan lets be so large that no frame can be is said before the first device comes.
Status SplitServer::Impl::CheckFrames() {
  const protocol::FrameLimits limits = Limits(FrameKind::kActivations);
  step_bytes = std::max(limits.bytes, plan.u_shaped() ? Limits(FrameKind::kTailGradient).bytes : 0);
  // As the adapter's own file, but each number in four bytes, which may make the offsets in its head longer.
  constexpr uint64_t kLongerOffsets = 48;
  update_bytes = protocol::kMaxSplitControlBytes;
  if (!device_adapter.empty()) {
    update_bytes += SerializeSafetensors(device_adapter, {}).size() - TotalBytes(device_adapter);
    for (const auto& [name, tensor] : device_adapter) {
      update_bytes += sizeof(float) * static_cast<uint64_t>(tensor.numel()) + kLongerOffsets;
    }
  }
  const uint64_t elements = uint64_t{limits.rows} * limits.length * limits.width;
  if (elements <= protocol::kMaxSplitElements && std::max(step_bytes, update_bytes) <= protocol::kMaxSplitFrameBytes) {
    return OkStatus();
  }
  return InvalidArgument("the plan makes frames of up to " + std::to_string(std::max(step_bytes, update_bytes) >> 20) +
                         " MiB and tensors of up to " + std::to_string(elements) + " numbers, and the most are " +
                         std::to_string(protocol::kMaxSplitFrameBytes >> 20) + " MiB and " +
                         std::to_string(protocol::kMaxSplitElements) +
                         "; choose a smaller batch_size or sequence_length, or train less on devices");
}

Status SplitServer::Impl::EnsureLoaded() {
  if (!must_reload) return OkStatus();
  const Status loaded = Reload();
  if (!loaded.ok()) return Unavailable("the split server's state cannot be read or written: " + loaded.message());
  must_reload = false;
  return OkStatus();
}

// Nothing: the answer comes later.
Result<std::optional<std::string>> SplitServer::Impl::Take(uint64_t ticket, const std::string& device,
                                                           std::string_view bytes) {
  HEDDLE_RETURN_IF_ERROR(EnsureLoaded());
  if (!IsValidDeviceName(device)) return InvalidArgument("'" + device + "' is no name of a device");
  HEDDLE_ASSIGN_OR_RETURN(const FrameKind kind, protocol::KindOf(bytes));
  if (!protocol::FromDevice(kind)) {
    return InvalidArgument("a " + std::string(FrameKindName(kind)) + " comes from the split server, not to it");
  }
  if (kind == FrameKind::kActivations || kind == FrameKind::kTailGradient) {
    HEDDLE_ASSIGN_OR_RETURN(TensorFrame request, protocol::ParseTensorFrame(bytes, Limits(kind)));
    return Enqueue(ticket, device, std::move(request));
  }
  HEDDLE_ASSIGN_OR_RETURN(
      ControlFrame control,
      protocol::ParseControlFrame(bytes, kind == FrameKind::kHello ? protocol::kMaxSplitControlBytes : update_bytes));
  if (kind == FrameKind::kHello) {
    HEDDLE_ASSIGN_OR_RETURN(std::string welcome, Hello(device, control));
    return std::optional<std::string>(std::move(welcome));
  }
  const auto session = sessions.find(device);
  if (session != sessions.end() && session->second->id() == control.session && session->second->contributed()) {
    later[device] = {ticket, std::move(control)};  // its last step is not the server's yet
    return std::optional<std::string>();
  }
  HEDDLE_ASSIGN_OR_RETURN(std::string answer, Update(device, control));
  return std::optional<std::string>(std::move(answer));
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
  last_sign = now;
  const Status elsewhere = Unavailable("the device has come on another connection");
  if (const auto update = later.find(device); update != later.end()) {
    Say(update->second.ticket, Refusal(elsewhere));
    later.erase(update);
  }
  if (const auto found = sessions.find(device); found != sessions.end()) {
    SplitSession& session = *found->second;
    session.seen = now;
    session.restored = false;
    DropQueue(session, elsewhere);
    const bool known = hello.session == session.id();
    // A device that is further than this server's memory goes back to it.
    if (known && (hello.last > session.log().last() || session.log().CanGoOn(hello.last))) {
      return Welcome(session, false);
    }
    sessions.erase(found);  // it begins anew
  }
  const auto full = [this] {
    return sessions.size() + counted.size() >= plan.devices_per_round || sessions.size() >= plan.max_sessions ||
           MemoryIsFull() || (in_sequence() && !sessions.empty());
  };
  if (full()) MakeRoom(full);
  if (in_sequence() && !sessions.empty()) return Serialize(wait);
  if (sessions.size() + counted.size() >= plan.devices_per_round) return Serialize(wait);
  if (sessions.size() >= plan.max_sessions) {
    return Full("the split server has " + std::to_string(sessions.size()) +
                " devices already, as many as the plan lets it have");
  }
  if (MemoryIsFull()) {
    return Full("the split server's " + std::to_string(sessions.size()) + " devices take about " +
                std::to_string(MemoryInUse() >> 20) + " MiB, another takes " +
                std::to_string((memory.session >> 20) + 1) + " MiB, and split.memory_limit_mb is " +
                std::to_string(MemoryLimit() >> 20));
  }
  const uint64_t id = DeriveSeed(plan.seed, "split session number",
                                 std::to_string(round) + "/" + device + "/" + std::to_string(starts) + "/" +
                                     std::to_string(++attempts)) |
                      1U;
  HEDDLE_ASSIGN_OR_RETURN(auto session, MakeSession(device, id));
  session->seen = now;
  // Of a round from which nothing has come and of which nobody is left, the time begins anew.
  const bool others = std::ranges::any_of(sessions, [&](const auto& one) { return !IsSilent(*one.second); });
  if (!round_since || (counted.empty() && !others)) round_since = now;
  place_since.emplace(device, now);
  return Welcome(*sessions.emplace(device, std::move(session)).first->second, true);
}

// A device that has gone for good, or is never done, must not hold up the round: another may have its place.
void SplitServer::Impl::MakeRoom(const std::function<bool()>& full) {
  std::erase_if(sessions, [&](const auto& one) {
    if (one.second->waits() || !IsSilent(*one.second)) return false;
    place_since.erase(one.first);
    return true;
  });
  // Then whoever has been at it longest, if longer than a turn; not who is done but for the update.
  const double timeout = PlaceTimeout();
  while (timeout > 0 && full()) {
    auto longest = sessions.end();
    for (auto it = sessions.begin(); it != sessions.end(); ++it) {
      const auto since = place_since.find(it->first);
      if (it->second->waits() || it->second->log().complete() || since == place_since.end()) continue;
      if (now - since->second <= Seconds(timeout)) continue;
      if (longest == sessions.end() || since->second < place_since.at(longest->first)) longest = it;
    }
    if (longest == sessions.end()) return;
    place_since.erase(longest->first);
    sessions.erase(longest);
  }
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

Result<std::optional<std::string>> SplitServer::Impl::Enqueue(uint64_t ticket, const std::string& device,
                                                              TensorFrame request) {
  const auto found = sessions.find(device);
  if (found == sessions.end() || found->second->id() != request.session) {
    return Aborted("the split server has no such session of this device");
  }
  SplitSession& session = *found->second;
  session.seen = now;
  session.missed = false;
  if (session.restored) return Unavailable("the split server went back to its last checkpoint: say hello again");
  HEDDLE_ASSIGN_OR_RETURN(const std::string* kept,
                          session.log().Admit(request, static_cast<uint32_t>(session.queue.size())));
  if (kept != nullptr) return std::optional<std::string>(*kept);
  if (session.queue.size() >= schedule.MaxInFlight()) {
    return ResourceExhausted("a device has more than " + std::to_string(schedule.MaxInFlight()) +
                             " requests on the way, which is what the plan lets it have");
  }
  session.queue.push_back({ticket, std::move(request), now});
  return std::optional<std::string>();
}

void SplitServer::Impl::DropQueue(SplitSession& session, const Status& why) {
  for (const WaitingRequest& one : session.queue) Say(one.ticket, Refusal(why));
  session.queue.clear();
}

void SplitServer::Impl::DropIfBroken(const std::string& device) {
  const auto found = sessions.find(device);
  if (found == sessions.end() || !found->second->broken()) return;
  DropQueue(*found->second, Aborted("the session ended with an error before this request"));
  sessions.erase(found);
}

// ---- whose turn it is ----

std::optional<SplitServer::Impl::Batch> SplitServer::Impl::NextBatch(bool hurry, std::optional<Duration>* wake) {
  std::vector<std::string> waiting;  // the longest first
  for (const auto& [device, session] : sessions) {
    if (!session->queue.empty() && !session->contributed()) waiting.push_back(device);
  }
  const auto since = [this](const std::string& device) { return sessions.at(device)->queue.front().since; };
  std::stable_sort(waiting.begin(), waiting.end(),
                   [&since](const std::string& a, const std::string& b) { return since(a) < since(b); });
  std::set<std::string> waits_for_others;
  for (const std::string& first : waiting) {
    if (waits_for_others.contains(first)) continue;
    Batch batch = Companions(waiting, first);
    const Duration due = since(first) + Seconds(plan.server_wait_ms / 1000);
    if (hurry || batch.size() >= plan.server_batch) return batch;
    const std::vector<SplitSession*> others = MayJoin(batch);
    if (now >= due || others.empty()) {
      for (SplitSession* other : others) other->missed = true;
      return batch;
    }
    *wake = std::min(wake->value_or(due), due);
    waits_for_others.insert(batch.begin(), batch.end());
  }
  return std::nullopt;
}

// Those that can be computed in one pass with the first.
SplitServer::Impl::Batch SplitServer::Impl::Companions(const std::vector<std::string>& waiting,
                                                       const std::string& first) const {
  const TensorFrame& request = sessions.at(first)->queue.front().frame;
  const void* const pass = sessions.at(first)->Pass(request.micro);
  Batch batch = {first};
  for (const std::string& device : waiting) {
    if (batch.size() >= plan.server_batch) break;
    const SplitSession& session = *sessions.at(device);
    const TensorFrame& other = session.queue.front().frame;
    if (device == first || other.kind != request.kind || other.length != request.length) continue;
    const bool fits = request.kind == FrameKind::kActivations ? other.mask.empty() == request.mask.empty() &&
                                                                    other.segments.empty() == request.segments.empty()
                                                              : session.Pass(other.micro) == pass;
    if (fits) batch.push_back(device);
  }
  return batch;
}

// Sessions whose next request, which has not come yet, might be computed with these.
std::vector<SplitSession*> SplitServer::Impl::MayJoin(const Batch& batch) const {
  const TensorFrame& request = sessions.at(batch.front())->queue.front().frame;
  const void* const pass = sessions.at(batch.front())->Pass(request.micro);
  std::vector<SplitSession*> out;
  for (const auto& [device, one] : sessions) {
    SplitSession& session = *one;
    const bool silent = session.missed || session.restored;
    if (silent || session.waits() || session.log().complete()) continue;
    const auto next = schedule.At(session.log().last() + 1);
    if (next.request != request.kind) continue;
    const bool fits = request.kind == FrameKind::kActivations || (pass != nullptr && session.Pass(next.micro) == pass);
    if (fits) out.push_back(&session);
  }
  return out;
}

std::vector<Result<TensorFrame>> SplitServer::Impl::Answers(const Batch& batch) {
  std::vector<SplitSession::Turn> turns;
  for (const std::string& device : batch) {
    SplitSession& session = *sessions.at(device);
    turns.push_back({&session, &session.queue.front().frame});
  }
  ++passes;
  if (turns.size() > 1) {
    std::vector<Result<TensorFrame>> answers;
    const Status all = Guarded([&] {
      answers = SplitSession::AnswerTogether(together, turns);
      return OkStatus();
    });
    if (all.ok()) return answers;
    Log(Severity::kWarning, "a pass over several devices failed, and each is computed by itself",
        {{"error", all.message()}});
  }
  std::vector<Result<TensorFrame>> answers;
  for (const SplitSession::Turn& turn : turns) {
    if (turn.session->broken()) {
      answers.emplace_back(Aborted("a pass over several devices failed"));
    } else {
      answers.push_back(Guarded([&turn] { return turn.session->Answer(*turn.request); }));
    }
  }
  return answers;
}

void SplitServer::Impl::Compute(const Batch& batch) {
  std::vector<Result<TensorFrame>> answers = Answers(batch);
  // One checkpoint for all steps that end here, before any of them is answered.
  uint32_t ended = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    SplitSession& session = *sessions.at(batch[i]);
    if (!answers[i].ok() || !schedule.At(session.queue.front().frame.sequence).ends_step) continue;
    session.contributed_at = now;
    session.late = false;
    if (!in_parallel()) ++ended;  // those are written after the step of all
  }
  const bool save = ended > 0 && steps_since_save + ended >= plan.checkpoint_every;
  steps_since_save += ended;
  std::vector<SplitServer::Reply> ready;
  for (size_t i = 0; i < batch.size(); ++i) {
    SplitSession& session = *sessions.at(batch[i]);
    const WaitingRequest request = std::move(session.queue.front());
    session.queue.pop_front();
    if (!answers[i].ok()) {
      ready.push_back({request.ticket, Refusal(answers[i].status())});
      // What the device sent after it can be no more than a guess; where the session is gone, it is told so each time.
      DropQueue(session, session.broken() || answers[i].status().code() == Code::kAborted
                             ? Aborted("the request before this one was refused, and its session is over")
                             : FailedPrecondition("the request before this one was refused"));
      DropIfBroken(batch[i]);
      continue;
    }
    const bool ends = schedule.At(request.frame.sequence).ends_step;
    answers[i]->durable = save && ends ? request.frame.sequence : session.durable;
    if (request.frame.kind == FrameKind::kActivations) session.rows += request.frame.rows;
    if (ends) session.boundary_rows = session.rows;
    std::string bytes = Serialize(*answers[i]);
    session.log().Add(bytes);
    ready.push_back({request.ticket, std::move(bytes)});
  }
  if (save) {
    if (Status status = Save(); !status.ok()) {
      const std::string refusal = Refusal(NotWritten(status));
      for (SplitServer::Reply& reply : ready) reply.frame = refusal;
    }
  }
  for (SplitServer::Reply& reply : ready) Say(reply.ticket, std::move(reply.frame));
}

}  // namespace heddle::coordinator
