// A protocol::Exchange without a socket: the test plays the network. It hands over the head, pieces of the body when it
// likes, breaks the connection or lets the server go down, and reads the answer.
//
// Use: make one with the head (ParseRequestHead makes it from bytes), StartHandling on an io_context, then poll that
// context after each thing that happened until answered() or finished(). Receive, Break and BeginShutdown may come at
// any time, before StartHandling too. Reads and waits look at no clock: what the test does not do does not happen.
//
// Ownership: StartHandling keeps the exchange alive until its handler has ended or the io_context is destroyed.
// Thread-safety: none; everything on the thread that polls the io_context.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "protocol/transport/http_head.h"
#include "protocol/transport/server.h"

namespace heddle::testing {

struct LocalAnswer {
  unsigned status = 0;
  std::string content_type;
  protocol::Headers headers;
  std::string body;  // as it would travel: empty after HEAD and with 204 and 304

  // Nothing when absent.
  std::optional<std::string_view> Header(std::string_view name) const { return protocol::FindHeader(headers, name); }
};

class LocalExchange final : public protocol::Exchange {
 public:
  // head.content_length declares the body; what Receive brings beyond it is not part of it.
  LocalExchange(const boost::asio::any_io_executor& executor, protocol::RequestHead head, protocol::Peer peer);

  // ---- the test's side ----

  // The next bytes of the body have come.
  void Receive(std::string_view bytes);
  // The connection has broken: nothing more comes, nothing that is answered from now on arrives.
  void Break();
  // The server goes down: long polls end, stopping() is true.
  void BeginShutdown();
  // Called inside Respond, when the answer has gone out: for tests to which the instant matters.
  void OnAnswer(std::function<void(const LocalAnswer&)> heard) { heard_ = std::move(heard); }

  // The answer that went out before a break. One there could be only once; a second is an error of the handler's.
  const std::optional<LocalAnswer>& answer() const { return answer_; }
  bool answered() const { return answered_; }
  bool broken() const { return broken_; }
  // The handler has returned; where it threw or gave no answer, the peer got the server's 500.
  bool finished() const { return finished_; }

  // ---- protocol::Exchange ----

  const protocol::Peer& peer() const override { return peer_; }
  std::string_view method() const override { return head_.method; }
  const std::string& path() const override { return head_.path; }
  std::optional<std::string> Query(std::string_view name) const override;
  std::optional<std::string_view> Header(std::string_view name) const override;
  std::optional<uint64_t> content_length() const override { return head_.content_length; }
  // Returns as soon as one byte is there.
  protocol::Awaitable<Result<size_t>> ReadBody(std::span<std::byte> buffer) override;
  protocol::Awaitable<Result<std::string>> ReadAll(size_t limit) override;
  protocol::Awaitable<Status> Respond(unsigned status, std::string content_type, std::string body,
                                      protocol::Headers headers) override;
  protocol::Awaitable<Status> RespondFile(unsigned status, std::string content_type, const std::filesystem::path& file,
                                          uint64_t offset, uint64_t length, protocol::Headers headers) override;
  protocol::Awaitable<void> WaitGone() override;
  bool stopping() const override { return stopping_; }
  uint64_t bytes_in() const override { return bytes_in_; }
  uint64_t bytes_out() const override { return bytes_out_; }

 private:
  friend void StartHandling(boost::asio::io_context& io, protocol::Handler handler,
                            std::shared_ptr<LocalExchange> exchange);
  void Wake() { wake_.cancel(); }
  protocol::Awaitable<void> WaitForNews();
  void Send(LocalAnswer answer);
  void Finish();

  boost::asio::steady_timer wake_;  // never expires; cancelled when there is news
  protocol::RequestHead head_;
  protocol::Peer peer_;
  std::string unread_;
  uint64_t remaining_ = 0;  // of the body, for the handler
  bool broken_ = false, stopping_ = false, answered_ = false, finished_ = false;
  std::optional<LocalAnswer> answer_;
  std::function<void(const LocalAnswer&)> heard_;
  uint64_t bytes_in_ = 0, bytes_out_ = 0;
};

// Runs the handler as the server would: what it throws, or an answer that it owes, becomes a 500.
void StartHandling(boost::asio::io_context& io, protocol::Handler handler, std::shared_ptr<LocalExchange> exchange);

}  // namespace heddle::testing
