#include "tests/simulation/system/network.h"

#include <algorithm>
#include <utility>

namespace heddle::system_simulation {

uint64_t Network::Send(size_t machine, protocol::Peer peer, Request request, Heard heard, Cut cut) {
  const uint64_t id = next_++;
  auto call = std::make_shared<Call>();
  call->machine = machine;
  call->peer = std::move(peer);
  call->request = std::move(request);
  call->heard = std::move(heard);
  call->cut = std::move(cut);
  calls_[id] = call;
  if (time_.Chance(weather.duplicates)) {
    ++happened["duplicate"];
    // Somebody sends the same again, after a while: a proxy, or the device's own library.
    auto again = std::make_shared<Call>(*call);
    again->heard = nullptr;
    const uint64_t copy = next_++;
    calls_[copy] = again;
    time_.After(time_.Skewed(0.01, 90), [this, copy, again] { Arrive(copy, again); });
  }
  if (cut_.contains(machine)) {
    Fail(id, time_.Between(3, 20), DeadlineExceeded("no way to the coordinator"));
  } else if (time_.Chance(weather.loses_request)) {
    ++happened["lost request"];
    Fail(id, time_.Skewed(0.05, 10), Unavailable("the connection broke before the request arrived"));
  } else {
    time_.After(time_.Skewed(0.002, 1.5), [this, id, call] { Arrive(id, call); });
  }
  return id;
}

void Network::Arrive(uint64_t id, const CallPtr& call) {
  if (!calls_.contains(id)) return;  // given up meanwhile
  if (cut_.contains(call->machine)) return Fail(id, time_.Between(3, 20), DeadlineExceeded("no way there"));
  if (!host_.up()) return Fail(id, time_.Skewed(0.01, 2), Unavailable("connection refused"));
  Deliver(id, call);
}

void Network::Deliver(uint64_t id, const CallPtr& call) {
  protocol::RequestHead head;
  head.method = call->request.method;
  head.path = call->request.path;
  head.headers = call->request.headers;
  const std::string& body = call->request.body;
  if (head.method == "POST" || head.method == "PATCH") head.content_length = body.size();
  call->exchange = host_.Open(std::move(head), call->peer);
  // The exchange belongs to the call, so it must not hold on to it.
  call->exchange->OnAnswer([this, id, weak = std::weak_ptr<Call>(call)](const Answer& answer) {
    if (const CallPtr alive = weak.lock()) Answered(id, alive, answer);
  });
  Forget();
  delivered_.push_back(call);
  const bool truncated = time_.Chance(weather.truncates);
  const bool slow = !body.empty() && time_.Chance(weather.slow);
  if (truncated) ++happened["truncation"];
  if (slow) ++happened["slow link"];
  const size_t until = truncated ? time_.Below(static_cast<uint32_t>(body.size() + 1)) : body.size();
  if (!slow) call->exchange->Receive(std::string_view(body).substr(0, until));
  if (truncated && !slow) {
    call->exchange->Break();
    Fail(id, time_.Skewed(0.1, 10), Unavailable("the connection broke in the middle of the request"));
  }
  host_.Serve(call->exchange);
  if (slow) Pieces(call, 0, until, time_.Skewed(0.01, 8), truncated);
  // Its sender may give a slow connection up while what it has sent is still on its way.
  if (slow && !truncated && time_.Chance(0.6)) Fail(id, time_.Skewed(0.05, 10), Unavailable("too slow"));
  if (slow && truncated) Fail(id, time_.Between(1, 30), Unavailable("the connection broke in the middle"));
  if (time_.Chance(weather.breaks)) BreakLater(id, call);
  host_.Pump();
}

// Calls that are over keep nothing alive.
void Network::Forget() {
  if (delivered_.size() < 64) return;
  std::erase_if(delivered_, [](const CallPtr& call) {
    if (call->exchange != nullptr && !call->exchange->finished()) return false;
    call->exchange.reset();
    return true;
  });
}

// The rest of the body comes piece by piece.
void Network::Pieces(const CallPtr& call, size_t from, size_t until, Duration pace, bool then_break) {
  const size_t piece = std::max<size_t>(1, time_.Below(static_cast<uint32_t>(call->request.body.size())));
  time_.After(pace, [this, call, from, until, pace, then_break, piece] {
    if (call->exchange == nullptr || call->silent) return;
    const size_t end = std::min(until, from + piece);
    call->exchange->Receive(std::string_view(call->request.body).substr(from, end - from));
    const bool over = end == until;
    if (over && then_break) call->exchange->Break();
    if (!over) Pieces(call, end, until, pace, then_break);
    host_.Pump();
  });
}

// At some time the connection breaks, or its peer falls silent, which the coordinator does not notice for long.
void Network::BreakLater(uint64_t id, const CallPtr& call) {
  time_.After(time_.Skewed(0.001, 40), [this, id, call] {
    if (call->exchange == nullptr || !calls_.contains(id)) return;
    if (time_.Chance(weather.goes_silent)) {
      ++happened["half-open connection"];
      Vanish(id);
      return;
    }
    ++happened["break"];
    call->exchange->Break();
    Fail(id, time_.Skewed(0.01, 5), Unavailable("the connection broke"));
    host_.Pump();
  });
}

void Network::Answered(uint64_t id, const CallPtr& call, const Answer& answer) {
  if (host_.dying()) return;  // the process died before
  if (witness) witness(call->peer.device, call->request, answer);
  if (!calls_.contains(id)) return;
  if (call->heard == nullptr) {
    calls_.erase(id);
    return;
  }
  if (cut_.contains(call->machine) || call->silent) return Fail(id, time_.Between(5, 60), DeadlineExceeded("silence"));
  if (time_.Chance(weather.loses_answer)) {
    ++happened["lost answer"];
    return Fail(id, time_.Skewed(0.05, 10), Unavailable("the connection broke before the answer arrived"));
  }
  if (time_.Chance(weather.cuts_answer)) return CutAnswer(id, answer);
  Answer arrives = answer;
  time_.After(time_.Skewed(0.002, 1.5),
              [this, id, arrives = std::move(arrives)]() mutable { Tell(id, std::move(arrives)); });
}

// The connection breaks before the last byte of the body, or in the head.
void Network::CutAnswer(uint64_t id, const Answer& answer) {
  ++happened["cut answer"];
  Answer head = answer;
  std::string received = std::exchange(head.body, "");
  received.resize(time_.Below(static_cast<uint32_t>(std::max<size_t>(1, received.size()))));
  time_.After(time_.Skewed(0.002, 10), [this, id, head = std::move(head), received = std::move(received)] {
    const auto found = calls_.find(id);
    if (found == calls_.end()) return;
    const CallPtr call = found->second;
    if (call->cut && !received.empty()) call->cut(head, received);
    Tell(id, Unavailable("the connection broke in the middle of the answer"));
  });
}

void Network::Fail(uint64_t id, Duration after, Status status) {
  time_.After(after, [this, id, status = std::move(status)] { Tell(id, status); });
}

void Network::Tell(uint64_t id, Result<Answer> result) {
  auto found = calls_.find(id);
  if (found == calls_.end()) return;
  const CallPtr call = found->second;
  calls_.erase(found);
  if (call->heard) std::exchange(call->heard, nullptr)(std::move(result));
}

void Network::Cancel(uint64_t id) {
  auto found = calls_.find(id);
  if (found == calls_.end()) return;
  if (found->second->exchange != nullptr) {
    found->second->exchange->Break();
    host_.Pump();
  }
  Fail(id, time_.Skewed(0.001, 0.1), Cancelled("given up"));
}

void Network::Vanish(uint64_t id) {
  auto found = calls_.find(id);
  if (found == calls_.end()) return;
  const CallPtr call = found->second;
  call->silent = true;
  Fail(id, time_.Between(5, 60), DeadlineExceeded("silence"));
  time_.After(time_.Between(20, 120), [this, call] {
    if (call->exchange == nullptr) return;
    call->exchange->Break();
    host_.Pump();
  });
}

void Network::SetPartition(size_t machine, bool cut) {
  if (!cut) {
    cut_.erase(machine);
    return;
  }
  cut_.insert(machine);
  std::vector<uint64_t> standing;
  for (const auto& [id, call] : calls_) {
    if (call->machine == machine && call->exchange != nullptr) standing.push_back(id);
  }
  for (const uint64_t id : standing) Vanish(id);
}

void Network::CoordinatorGone() {
  for (const CallPtr& call : delivered_) call->silent = true;
  for (const auto& [id, call] : calls_) {
    if (call->exchange == nullptr) continue;
    const bool reset_is_sent = time_.Chance(0.7);
    Fail(id, reset_is_sent ? time_.Skewed(0.005, 2) : time_.Between(5, 40), Unavailable("the connection was reset"));
  }
  // They live on that process's io_context.
  for (const CallPtr& call : delivered_) call->exchange.reset();
  delivered_.clear();
}

void Network::CoordinatorStops() {
  for (const auto& [id, call] : calls_) {
    if (call->exchange != nullptr) call->exchange->BeginShutdown();
  }
}

}  // namespace heddle::system_simulation
