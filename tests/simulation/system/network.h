// The network of a simulated world, request by request: what TLS leaves of loss, delay, duplication, truncation and
// silence. Flipped bits are broken connections, since nothing that was changed gets through.
//
// A request is on its way, in the coordinator's hands, or answered. Its sender hears exactly once: the answer, or
// kUnavailable (broken, refused), kDeadlineExceeded (silence) or kCancelled. What the coordinator gave as an answer is
// shown to `witness` at that instant, whether it arrives or not. An answer may end early with its connection: its
// sender hears kUnavailable, and what came of the body goes to `cut` just before. Not thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/simulation/system/coordinator_host.h"
#include "tests/simulation/system/timeline.h"

namespace heddle::system_simulation {

struct Request {
  std::string method, path;
  protocol::Headers headers;
  std::string body;
  std::string about;  // for the trace
};

// Probabilities, by request.
struct Weather {
  double loses_request = 0, loses_answer = 0, breaks = 0, duplicates = 0, truncates = 0, slow = 0, goes_silent = 0;
  double cuts_answer = 0;
};

class Network {
 public:
  using Answer = testing::LocalAnswer;
  using Heard = std::function<void(Result<Answer>)>;
  using Cut = std::function<void(const Answer& head, std::string_view received)>;

  Network(Timeline& time, CoordinatorHost& host) : time_(time), host_(host) {}

  Weather weather;
  std::map<std::string, uint64_t> happened;  // how often each kind of weather did something
  // Sees every answer when the coordinator gives it. `device`: whose certificate the request bore.
  std::function<void(const std::string& device, const Request&, const Answer&)> witness;

  // `machine`: which one sends, for partitions. Returns a number for Cancel.
  uint64_t Send(size_t machine, protocol::Peer peer, Request request, Heard heard, Cut cut = nullptr);
  // The sender closes the connection. It hears kCancelled.
  void Cancel(uint64_t call);
  // The sender is gone without a word: it hears nothing, the coordinator notices late.
  void Vanish(uint64_t call);
  // Cuts the machine off, or joins it again. Connections that stand are half-open then.
  void SetPartition(size_t machine, bool cut);
  void HealAll() { cut_.clear(); }
  // The coordinator's process is gone: every connection breaks. Before the host is cleared away.
  void CoordinatorGone();
  // The coordinator goes down in the orderly way: its requests are told.
  void CoordinatorStops();
  size_t open_calls() const { return calls_.size(); }

 private:
  struct Call {
    size_t machine = 0;
    protocol::Peer peer;
    Request request;
    Heard heard;  // empty: its sender listens no more
    Cut cut;      // may be empty
    std::shared_ptr<testing::LocalExchange> exchange;
    bool silent = false;  // the sender is not there any more, and nobody knows
  };
  using CallPtr = std::shared_ptr<Call>;

  void Arrive(uint64_t id, const CallPtr& call);
  void Deliver(uint64_t id, const CallPtr& call);
  void Pieces(const CallPtr& call, size_t from, size_t until, Duration pace, bool then_break);
  void Answered(uint64_t id, const CallPtr& call, const Answer& answer);
  void CutAnswer(uint64_t id, const Answer& answer);
  void Fail(uint64_t id, Duration after, Status status);
  void Tell(uint64_t id, Result<Answer> result);
  void BreakLater(uint64_t id, const CallPtr& call);
  void Forget();

  Timeline& time_;
  CoordinatorHost& host_;
  uint64_t next_ = 1;
  std::map<uint64_t, CallPtr> calls_;  // whose sender has not heard yet
  std::vector<CallPtr> delivered_;     // whose exchange may still live
  std::set<size_t> cut_;
};

}  // namespace heddle::system_simulation
