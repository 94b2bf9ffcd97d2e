// The server of server.h: accepting, one coroutine a connection, and the Exchange that handlers see.
#include "protocol/transport/server.h"

#include <fcntl.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "common/logging.h"
#include "protocol/refusal.h"
#include "protocol/transport/http_head.h"
#include "protocol/transport/stream.h"

namespace heddle::protocol {

namespace asio = boost::asio;
using asio::ip::tcp;
using internal::Stream;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kHeadReadBytes = 4096;
// An unread body up to this size is read and thrown away, so that the connection can be used again.
constexpr uint64_t kMaxDrainBytes = 64 << 10;
// After an answer that ends the connection early, the peer gets this long (and this many bytes) to stop talking:
// closing with bytes unread would make its kernel throw our answer away.
constexpr uint64_t kMaxLingerBytes = uint64_t{64} << 20;
const Duration kLingerTime = Seconds(2);
const Duration kAcceptRetryTime = Seconds(0.1);

Status SocketStatus(const boost::system::error_code& error, const std::string& what) {
  Code code = Code::kUnavailable;
  if (error == asio::error::address_in_use) code = Code::kAlreadyExists;
  if (error == asio::error::access_denied || error == boost::system::errc::operation_not_permitted)
    code = Code::kPermissionDenied;
  if (error == boost::system::errc::address_not_available) code = Code::kInvalidArgument;
  return {code, what + ": " + error.message()};
}

// The peer as the handshake left it. A resumed session brings its certificate along without looking at the clock again,
// so this does.
void ReadPeer(SSL* ssl, Peer* peer) {
  X509* certificate = ssl ? SSL_get0_peer_certificate(ssl) : nullptr;
  if (!certificate || SSL_get_verify_result(ssl) != X509_V_OK) return;
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) >= 0 ||
      X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
    return;
  peer->device = internal::CommonNameOf(certificate);
  peer->serial_hex = internal::SerialHexOf(certificate);
  peer->authenticated = !peer->device.empty();
}

struct Counters {
  std::atomic<uint64_t> accepted{0}, handshakes_failed{0}, requests{0}, bytes_in{0}, bytes_out{0};
};

// What lives as long as one connection. Used on its strand only, but for `id`.
struct Connection {
  uint64_t id = 0;
  std::shared_ptr<Stream> stream;
  asio::cancellation_signal cancel;
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

// Reads what is there into memory of the thread, so that a connection without a request owns none. Not a coroutine: the
// address of thread-local memory must not live across a suspension.
Stream::Attempt ReadIntoInput(Connection& connection) {
  static thread_local std::byte scratch[kHeadReadBytes];
  const Stream::Attempt attempt = connection.stream->TryRead(scratch);
  connection.input.append(reinterpret_cast<const char*>(scratch), attempt.bytes);
  return attempt;
}

Stream::Attempt ReadIntoNothing(Connection& connection) {
  static thread_local std::byte sink[kHeadReadBytes];
  return connection.stream->TryRead(sink);
}

}  // namespace

class HttpExchange final : public Exchange {
 public:
  HttpExchange(Connection& connection, RequestHead head, const ServerOptions& options)
      : connection_(connection), stream_(*connection.stream), head_(std::move(head)), options_(options) {
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
  Awaitable<void> WaitGone() override {
    // A pipelined request means that the peer was there a moment ago and is not waiting for an end to this one.
    return stream_.WaitGone();
  }

  bool answered() const { return answered_; }
  // After the answer: makes the connection ready for the next request. False: it must be closed.
  Awaitable<bool> Finish();
  bool must_linger() const { return remaining_ > 0 || wants_continue_; }

 private:
  std::string BeginAnswer(unsigned status, std::string_view content_type, uint64_t length, const Headers& headers);
  Awaitable<Status> SendBody(int fd, uint64_t offset, uint64_t length);

  Connection& connection_;
  Stream& stream_;
  RequestHead head_;
  const ServerOptions& options_;
  uint64_t remaining_ = 0;  // of the body
  bool wants_continue_ = false;
  bool answered_ = false;
  bool complete_ = false;  // the whole answer went out
  bool keep_alive_ = true;
  uint64_t bytes_in_ = 0, bytes_out_ = 0;
};

Awaitable<Result<size_t>> HttpExchange::ReadBody(std::span<std::byte> buffer) {
  if (remaining_ == 0 || buffer.empty()) co_return size_t{0};
  if (buffer.size() > remaining_) buffer = buffer.first(remaining_);
  size_t got = 0;
  if (const std::string_view early = connection_.unread(); !early.empty()) {
    got = std::min(early.size(), buffer.size());
    std::memcpy(buffer.data(), early.data(), got);
    connection_.Consume(got);
  }
  if (got < buffer.size()) {
    stream_.SetIdleLimit(options_.body_idle_timeout);
    if (wants_continue_) {
      wants_continue_ = false;
      if (Status sent = co_await stream_.Write(std::string_view("HTTP/1.1 100 Continue\r\n\r\n"), false); !sent.ok())
        co_return sent;
    }
    Result<size_t> read = co_await stream_.Read(buffer.subspan(got), /*fill=*/true);
    stream_.ClearDeadline();
    if (!read.ok() && got == 0) co_return read.status();
    if (read.ok()) got += *read;
    if (got == 0) co_return Unavailable("the peer closed the connection in the middle of a body");
  }
  wants_continue_ = false;
  remaining_ -= got;
  bytes_in_ += got;
  co_return got;
}

Awaitable<Result<std::string>> HttpExchange::ReadAll(size_t limit) {
  if (remaining_ > limit)
    co_return ResourceExhausted("the body has " + std::to_string(remaining_) + " bytes, more than the limit of " +
                                std::to_string(limit));
  std::string body;
  while (remaining_ > 0) {
    // Memory follows what has really come, not what was promised.
    const size_t old = body.size();
    body.resize(old + std::min<uint64_t>(remaining_, std::max<size_t>(old, kHeadReadBytes)));
    Result<size_t> read = co_await ReadBody(std::as_writable_bytes(std::span(body).subspan(old)));
    if (!read.ok()) co_return read.status();
    body.resize(old + *read);
  }
  co_return body;
}

// Decides whether the connection can live on and writes the head.
std::string HttpExchange::BeginAnswer(unsigned status, std::string_view content_type, uint64_t length,
                                      const Headers& headers) {
  answered_ = true;
  keep_alive_ = head_.keep_alive && !connection_.stopping && !wants_continue_ && remaining_ <= kMaxDrainBytes;
  const bool no_length = status == 204 || status == 304 || status < 200;
  return FormatResponseHead(status, content_type, no_length ? std::nullopt : std::optional<uint64_t>(length), headers,
                            keep_alive_);
}

Awaitable<Status> HttpExchange::Respond(unsigned status, std::string content_type, std::string body, Headers headers) {
  if (answered_) co_return FailedPrecondition("the request was answered already");
  std::string answer = BeginAnswer(status, content_type, body.size(), headers);
  const bool without_body = head_.method == "HEAD" || status == 204 || status == 304;
  stream_.SetIdleLimit(options_.body_idle_timeout);
  if (!without_body) {
    bytes_out_ += body.size();
    answer += body;
  }
  Status sent = co_await stream_.Write(answer, /*more=*/false);
  stream_.ClearDeadline();
  complete_ = sent.ok();
  co_return sent;
}

Awaitable<Status> HttpExchange::RespondFile(unsigned status, std::string content_type,
                                            const std::filesystem::path& file, uint64_t offset, uint64_t length,
                                            Headers headers) {
  if (answered_) co_return FailedPrecondition("the request was answered already");
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) co_return ErrnoStatus(errno, "cannot open " + file.string());
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  if (size < 0) co_return ErrnoStatus(errno, "cannot seek in " + file.string());
  if (offset > static_cast<uint64_t>(size) || length > static_cast<uint64_t>(size) - offset)
    co_return OutOfRange(file.string() + " has " + std::to_string(size) + " bytes, fewer than asked for");
  const std::string answer = BeginAnswer(status, content_type, length, headers);
  const bool body = head_.method != "HEAD" && length > 0;
  stream_.SetIdleLimit(options_.body_idle_timeout);
  Status sent = co_await stream_.Write(answer, /*more=*/body);
  if (sent.ok() && body) sent = co_await SendBody(fd.get(), offset, length);
  stream_.ClearDeadline();
  complete_ = sent.ok();
  co_return sent;
}

Awaitable<Status> HttpExchange::SendBody(int fd, uint64_t offset, uint64_t length) {
  const size_t piece = static_cast<size_t>(std::min<uint64_t>(length, kIoBufferBytes));
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(piece);
  while (length > 0) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(length, piece));
    const ssize_t got = ::pread(fd, buffer.get(), want, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) co_return ErrnoStatus(errno, "cannot read a file to send");
    if (got == 0) co_return DataLoss("a file became shorter while it was sent");
    length -= static_cast<uint64_t>(got);
    offset += static_cast<uint64_t>(got);
    const Status sent = co_await stream_.Write({buffer.get(), static_cast<size_t>(got)}, /*more=*/length > 0);
    if (!sent.ok()) co_return sent;
    bytes_out_ += static_cast<uint64_t>(got);
  }
  co_return OkStatus();
}

Awaitable<bool> HttpExchange::Finish() {
  if (!complete_ || !keep_alive_) co_return false;
  std::byte sink[kHeadReadBytes];
  while (remaining_ > 0) {
    Result<size_t> read = co_await ReadBody(sink);
    if (!read.ok()) co_return false;
  }
  co_return true;
}

// ---- the server ----

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  Impl(asio::io_context& context, ServerOptions opts, Handler handle)
      : io(context),
        options(std::move(opts)),
        handler(std::move(handle)),
        accept_strand(asio::make_strand(context)),
        acceptor(accept_strand),
        accept_timer(accept_strand),
        tls(options.tls) {}

  Status Listen();
  Awaitable<void> AcceptLoop();
  void Adopt(tcp::socket socket);
  Awaitable<void> Serve(std::shared_ptr<Connection> connection);
  Awaitable<bool> Greet(Connection& connection);
  Awaitable<std::optional<RequestHead>> ReadHead(Connection& connection);
  Awaitable<void> RefuseHead(Connection& connection, const HeadError& error);
  Awaitable<bool> Answer(Connection& connection, RequestHead head);
  Awaitable<void> Linger(Connection& connection);
  void Count(Connection& connection);
  void Forget(const std::shared_ptr<Connection>& connection);
  void ForEach(std::function<void(Connection&)> visit);
  bool WaitUntilGone(Duration limit);

  asio::io_context& io;
  const ServerOptions options;
  const Handler handler;
  asio::strand<asio::io_context::executor_type> accept_strand;
  tcp::acceptor acceptor;
  asio::steady_timer accept_timer;
  std::atomic<bool> stopping{false};
  std::atomic<uint16_t> port{0};
  Counters counters;

  std::mutex mutex;  // guards what follows
  std::condition_variable gone;
  std::shared_ptr<asio::ssl::context> tls;
  std::unordered_map<uint64_t, std::shared_ptr<Connection>> connections;
  uint64_t next_id = 1;
  bool accepting = false;
};

Status Server::Impl::Listen() {
  boost::system::error_code error;
  const asio::ip::address address = asio::ip::make_address(options.address, error);
  if (error) return InvalidArgument("\"" + options.address + "\" is not an IP address to listen on");
  const tcp::endpoint endpoint(address, options.port);
  const std::string what = "cannot listen on " + options.address + " port " + std::to_string(options.port);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    const Status status = SocketStatus(error, what);
    acceptor.close(error);
    return status;
  }
  port = acceptor.local_endpoint(error).port();
  return OkStatus();
}

Awaitable<void> Server::Impl::AcceptLoop() {
  while (!stopping) {
    tcp::socket socket(asio::make_strand(io));
    auto [error] = co_await acceptor.async_accept(socket, kTuple);
    if (stopping || error == asio::error::operation_aborted) break;
    if (!error) {
      Adopt(std::move(socket));
      continue;
    }
    // Out of descriptors or memory: the waiting peers stay in the kernel's queue until some are free again.
    if (error != asio::error::connection_aborted) {
      Log(Severity::kWarning, "cannot accept a connection", {{"error", error.message()}});
      accept_timer.expires_after(kAcceptRetryTime);
      co_await accept_timer.async_wait(kTuple);
    }
  }
}

void Server::Impl::Adopt(tcp::socket socket) {
  counters.accepted.fetch_add(1, std::memory_order_relaxed);
  auto connection = std::make_shared<Connection>();
  boost::system::error_code error;
  const tcp::endpoint remote = socket.remote_endpoint(error);
  if (!error) connection->peer.address = remote.address().to_string() + ":" + std::to_string(remote.port());
  std::shared_ptr<asio::ssl::context> context;
  {
    std::lock_guard lock(mutex);
    if (stopping || connections.size() >= options.max_connections) return;  // the socket closes
    context = tls;
    connection->id = next_id++;
    connection->stream = std::make_shared<Stream>(std::move(socket), std::move(context), Stream::Side::kServer);
    connections.emplace(connection->id, connection);
  }
  auto self = shared_from_this();
  asio::co_spawn(
      connection->stream->executor(), [self, connection]() -> Awaitable<void> { return self->Serve(connection); },
      asio::bind_cancellation_slot(connection->cancel.slot(),
                                   [self, connection](std::exception_ptr) { self->Forget(connection); }));
}

void Server::Impl::Forget(const std::shared_ptr<Connection>& connection) {
  connection->stream->Close();
  Count(*connection);
  std::lock_guard lock(mutex);
  connections.erase(connection->id);
  gone.notify_all();
}

void Server::Impl::Count(Connection& connection) {
  const uint64_t in = connection.stream->bytes_in(), out = connection.stream->bytes_out();
  counters.bytes_in.fetch_add(in - connection.counted_in, std::memory_order_relaxed);
  counters.bytes_out.fetch_add(out - connection.counted_out, std::memory_order_relaxed);
  connection.counted_in = in;
  connection.counted_out = out;
}

Awaitable<void> Server::Impl::Serve(std::shared_ptr<Connection> connection) {
  try {
    if (!co_await Greet(*connection)) co_return;
    for (;;) {
      std::optional<RequestHead> head = co_await ReadHead(*connection);
      if (!head) break;
      if (!co_await Answer(*connection, *std::move(head))) break;
    }
    connection->stream->Shutdown();
  } catch (const boost::system::system_error& error) {
    // The hard end of Stop or CloseBySerial; anything else would be a fault of a library.
    if (error.code() != asio::error::operation_aborted)
      Log(Severity::kError, "a connection failed", {{"error", error.what()}, {"peer", connection->peer.address}});
  } catch (const std::exception& error) {
    Log(Severity::kError, "a connection failed", {{"error", error.what()}, {"peer", connection->peer.address}});
  }
}

Awaitable<bool> Server::Impl::Greet(Connection& connection) {
  connection.stream->SetDeadline(options.handshake_timeout);
  const Status status = co_await connection.stream->Handshake();
  if (status.ok()) {
    ReadPeer(connection.stream->ssl(), &connection.peer);
    co_return true;
  }
  counters.handshakes_failed.fetch_add(1, std::memory_order_relaxed);
  Log(Severity::kDebug, "a TLS handshake failed", {{"error", status.message()}, {"peer", connection.peer.address}});
  if (status.code() == Code::kUnauthenticated) co_await Linger(connection);  // let the alert arrive
  co_return false;
}

Awaitable<std::optional<RequestHead>> Server::Impl::ReadHead(Connection& connection) {
  Stream& stream = *connection.stream;
  stream.ReleaseBuffers();
  stream.SetDeadline(connection.input.empty() ? options.keep_alive_timeout : options.header_timeout);
  size_t searched = 0;
  bool begun = !connection.input.empty();
  for (;;) {
    // An empty line before a request is allowed (RFC 9112, 2.2), and may arrive in two pieces.
    while (connection.unread().starts_with("\r\n")) {
      connection.Consume(2);
      searched = 0;
    }
    if (const auto end = FindHeadEnd(connection.unread(), &searched)) {
      RequestHead head;
      HeadError error;
      const bool good = ParseRequestHead(connection.unread().substr(0, *end), &head, &error);
      stream.ClearDeadline();
      if (!good) {
        co_await RefuseHead(connection, error);
        co_return std::nullopt;
      }
      connection.Consume(*end);
      co_return head;
    }
    if (const auto error = CheckIncompleteHead(connection.unread())) {
      co_await RefuseHead(connection, *error);
      co_return std::nullopt;
    }
    const Stream::Attempt attempt = ReadIntoInput(connection);
    if (attempt.bytes > 0) {
      // Once a request: a peer that sends nothing but empty lines does not prolong it.
      if (!begun) stream.SetDeadline(options.header_timeout);
      begun = true;
      continue;
    }
    if (attempt.state != Stream::State::kOpen) co_return std::nullopt;
    connection.idle = connection.unread().empty();
    if (connection.idle && connection.stopping) co_return std::nullopt;
    const Status readable = co_await stream.WaitReadable();
    connection.idle = false;
    if (!readable.ok()) co_return std::nullopt;
  }
}

Awaitable<void> Server::Impl::RefuseHead(Connection& connection, const HeadError& error) {
  counters.requests.fetch_add(1, std::memory_order_relaxed);
  const bool large = error.status == 413 || error.status == 414 || error.status == 431;
  const std::string body =
      SerializeRefusal(MakeRefusal(large ? v1::REFUSAL_REASON_TOO_LARGE : v1::REFUSAL_REASON_MALFORMED, error.message));
  const std::string answer =
      FormatResponseHead(error.status, kProtobufContentType, body.size(), {}, /*keep_alive=*/false) + body;
  connection.stream->SetIdleLimit(options.body_idle_timeout);
  const Status sent = co_await connection.stream->Write(answer, /*more=*/false);
  if (sent.ok()) co_await Linger(connection);
}

Awaitable<bool> Server::Impl::Answer(Connection& connection, RequestHead head) {
  counters.requests.fetch_add(1, std::memory_order_relaxed);
  HttpExchange exchange(connection, std::move(head), options);
  std::string failure;
  try {
    co_await handler(exchange);
    if (!exchange.answered()) failure = "the handler gave no answer";
  } catch (const boost::system::system_error& error) {
    if (error.code() == asio::error::operation_aborted && connection.stream->closed()) throw;
    failure = error.what();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  if (!failure.empty()) {
    Log(Severity::kError, "a request failed", {{"path", exchange.path()}, {"error", failure}});
    if (exchange.answered()) co_return false;  // part of an answer may have gone out
    const std::string body =
        SerializeRefusal(MakeRefusal(v1::REFUSAL_REASON_INTERNAL, "the coordinator failed to answer; see its log"));
    const Status sent = co_await exchange.Respond(500, std::string(kProtobufContentType), body, {});
    if (!sent.ok()) co_return false;
  }
  const bool next = co_await exchange.Finish();
  Count(connection);
  if (next) co_return true;
  if (exchange.must_linger()) co_await Linger(connection);
  co_return false;
}

// Ends our side and reads on for a while, so that the peer can read the answer before its next write fails.
Awaitable<void> Server::Impl::Linger(Connection& connection) {
  Stream& stream = *connection.stream;
  stream.Shutdown();
  stream.SetDeadline(kLingerTime);
  uint64_t drained = 0;
  while (drained < kMaxLingerBytes && !connection.stopping) {
    const Stream::Attempt attempt = ReadIntoNothing(connection);
    drained += attempt.bytes;
    if (attempt.state != Stream::State::kOpen) break;
    if (attempt.bytes > 0) continue;
    const Status readable = co_await stream.WaitReadable();
    if (!readable.ok()) break;
  }
}

void Server::Impl::ForEach(std::function<void(Connection&)> visit) {
  std::vector<std::shared_ptr<Connection>> all;
  {
    std::lock_guard lock(mutex);
    for (const auto& [id, connection] : connections) all.push_back(connection);
  }
  for (std::shared_ptr<Connection>& connection : all) {
    auto executor = connection->stream->executor();
    asio::post(executor, [visit, connection = std::move(connection)] { visit(*connection); });
  }
}

bool Server::Impl::WaitUntilGone(Duration limit) {
  std::unique_lock lock(mutex);
  return gone.wait_for(lock, limit, [this] { return connections.empty() && !accepting; });
}

namespace {

void CloseHard(Connection& connection) {
  connection.stopping = true;
  connection.stream->Close();
  connection.cancel.emit(asio::cancellation_type::terminal);
}

}  // namespace

Server::Server(asio::io_context& io, ServerOptions options, Handler handler)
    : impl_(std::make_shared<Impl>(io, std::move(options), std::move(handler))) {}

Server::~Server() { Stop(Duration(0)); }

Status Server::Start() {
  HEDDLE_RETURN_IF_ERROR(impl_->Listen());
  {
    std::lock_guard lock(impl_->mutex);
    impl_->accepting = true;
  }
  auto self = impl_;
  asio::co_spawn(
      impl_->accept_strand, [self]() -> Awaitable<void> { return self->AcceptLoop(); },
      [self](std::exception_ptr) {
        std::lock_guard lock(self->mutex);
        self->accepting = false;
        self->gone.notify_all();
      });
  return OkStatus();
}

uint16_t Server::port() const { return impl_->port; }

void Server::Stop(Duration grace) {
  {
    std::lock_guard lock(impl_->mutex);
    if (!impl_->accepting && impl_->connections.empty()) return;
  }
  impl_->stopping = true;
  asio::post(impl_->accept_strand, [self = impl_] {
    boost::system::error_code ignored;
    self->acceptor.close(ignored);
    self->accept_timer.cancel();
  });
  const auto wake = [](Connection& connection) {
    connection.stopping = true;
    if (connection.idle) {
      connection.stream->Shutdown();
      connection.stream->Close();
    } else {
      connection.stream->Wake();
    }
  };
  impl_->ForEach(wake);
  if (impl_->WaitUntilGone(grace)) return;
  impl_->ForEach(CloseHard);
  if (!impl_->WaitUntilGone(Seconds(1))) Log(Severity::kError, "a handler does not end; its connection is abandoned");
}

void Server::CloseBySerial(const std::string& serial_hex) {
  impl_->ForEach([serial_hex](Connection& connection) {
    if (connection.peer.serial_hex == serial_hex && !serial_hex.empty()) CloseHard(connection);
  });
}

void Server::ReplaceTls(std::shared_ptr<asio::ssl::context> tls) {
  std::lock_guard lock(impl_->mutex);
  impl_->tls = std::move(tls);
}

ServerStats Server::stats() const {
  ServerStats stats;
  stats.connections_accepted = impl_->counters.accepted;
  stats.handshakes_failed = impl_->counters.handshakes_failed;
  stats.requests = impl_->counters.requests;
  stats.bytes_in = impl_->counters.bytes_in;
  stats.bytes_out = impl_->counters.bytes_out;
  std::lock_guard lock(impl_->mutex);
  stats.connections_open = impl_->connections.size();
  return stats;
}

}  // namespace heddle::protocol
