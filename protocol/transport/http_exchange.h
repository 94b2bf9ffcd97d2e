// One connection of the server and one request on it, as handlers see it (server.h). For the .cc files of this folder
// only.
//
// Thread-safety: none; used on the connection's strand. Life cycle: a Connection lives until its coroutine ends, an
// HttpExchange on that coroutine's stack for one request.
#pragma once

#include <atomic>
#include <boost/asio/cancellation_signal.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "protocol/transport/http_head.h"
#include "protocol/transport/server.h"
#include "protocol/transport/stream.h"

namespace heddle::protocol::internal {

// What Server::stats() shows.
struct Counters {
  using Counter = std::atomic<uint64_t>;
  Counter accepted{0}, handshakes_failed{0}, requests{0}, bytes_in{0}, bytes_out{0};
  Counter refused_full{0}, refused_address{0}, refused_handshakes{0};
  Counter late_handshakes{0}, late_heads{0}, late_bodies{0}, idle_ended{0};
  Counter malformed_heads{0}, large_heads{0}, failures{0};

  ServerStats Read() const;  // without the open connections
  static void Add(Counter& counter, uint64_t n = 1) { counter.fetch_add(n, std::memory_order_relaxed); }
};

// What lives as long as one connection. Used on its strand only, but for `id`.
struct Connection {
  uint64_t id = 0;
  std::shared_ptr<Stream> stream;
  boost::asio::cancellation_signal cancel;
  Peer peer;
  std::string input;      // bytes read and not used yet: a head, the beginning of a body, a pipelined request
  size_t input_used = 0;  // of them
  bool idle = false;      // between requests
  bool stopping = false;
  uint64_t counted_in = 0, counted_out = 0;  // of the stream's bytes, already in the server's counters

  std::string_view unread() const { return std::string_view(input).substr(input_used); }
  void Consume(size_t n) {
    input_used += n;
    if (input_used < input.size()) return;
    input_used = 0;
    input.clear();
    if (input.capacity() > 64) std::string().swap(input);  // an idle connection holds nothing
  }
};

// The peer as the handshake left it. A resumed session brings its certificate along without looking at the clock again,
// so this does. `ssl` may be null.
void ReadPeer(SSL* ssl, Peer* peer);

class HttpExchange final : public Exchange {
 public:
  HttpExchange(Connection& connection, RequestHead head, const ServerOptions& options, Counters& counters)
      : connection_(connection),
        stream_(*connection.stream),
        head_(std::move(head)),
        options_(options),
        counters_(counters),
        allowance_(options.body_idle_timeout) {
    remaining_ = head_.content_length.value_or(0);
    wants_continue_ = head_.expects_continue && remaining_ > 0;
  }

  const Peer& peer() const override { return connection_.peer; }
  std::string_view method() const override { return head_.method; }
  const std::string& path() const override { return head_.path; }
  std::optional<std::string> Query(std::string_view name) const override { return FindQuery(head_.query, name); }
  std::optional<std::string_view> Header(std::string_view name) const override {
    return FindHeader(head_.headers, name);
  }
  std::optional<uint64_t> content_length() const override { return head_.content_length; }
  bool stopping() const override { return connection_.stopping; }
  uint64_t bytes_in() const override { return bytes_in_; }
  uint64_t bytes_out() const override { return bytes_out_; }

  Awaitable<Result<size_t>> ReadBody(std::span<std::byte> buffer) override;
  Awaitable<Result<std::string>> ReadAll(size_t limit) override;
  Awaitable<Status> Respond(unsigned status, std::string content_type, std::string body, Headers headers) override;
  Awaitable<Status> RespondFile(unsigned status, std::string content_type, const std::filesystem::path& file,
                                uint64_t offset, uint64_t length, Headers headers) override;
  Awaitable<void> WaitGone() override;

  bool answered() const { return answered_; }
  // Nobody is there to hear an answer, so the handler need not give one.
  bool gone() const { return gone_; }
  // After the answer: makes the connection ready for the next request. False: it must be closed.
  Awaitable<bool> Finish();
  bool must_linger() const { return remaining_ > 0 || wants_continue_; }

 private:
  std::string BeginAnswer(unsigned status, std::string_view content_type, uint64_t length, const Headers& headers);
  Awaitable<Status> SendBody(int fd, uint64_t offset, uint64_t length);
  Awaitable<Result<size_t>> ReadAtPace(std::span<std::byte> buffer);
  void EndAnswer(const Status& sent);
  void NoteLate(const Status& status);

  Connection& connection_;
  Stream& stream_;
  RequestHead head_;
  const ServerOptions& options_;
  Counters& counters_;
  // How much longer than its pace the body may still take. Only the time that is spent waiting for the peer counts.
  Duration allowance_;
  uint64_t remaining_ = 0;  // of the body
  bool wants_continue_ = false;
  bool answered_ = false;
  bool complete_ = false;  // the whole answer went out
  bool keep_alive_ = true;
  bool late_ = false;
  bool gone_ = false;
  uint64_t bytes_in_ = 0, bytes_out_ = 0;
};

}  // namespace heddle::protocol::internal
