// The server of server.h: accepting, and one coroutine a connection.
#include "protocol/transport/server.h"

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
#include <mutex>
#include <unordered_map>

#include "common/logging.h"
#include "protocol/refusal.h"
#include "protocol/transport/connection_gate.h"
#include "protocol/transport/http_exchange.h"
#include "protocol/transport/http_head.h"
#include "protocol/transport/stream.h"

namespace heddle::protocol {

namespace asio = boost::asio;
using asio::ip::tcp;
using internal::Connection;
using internal::Counters;
using internal::HttpExchange;
using internal::Stream;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kHeadReadBytes = 4096;
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

// ---- the server ----

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  Impl(asio::io_context& context, ServerOptions opts, Handler handle)
      : io(context),
        options(std::move(opts)),
        handler(std::move(handle)),
        accept_strand(asio::make_strand(context)),
        acceptor(accept_strand),
        accept_timer(accept_strand),
        tls(options.tls),
        gate({.connections = options.max_connections,
              .per_address = options.max_connections_per_address,
              .handshakes = options.tls ? options.max_handshakes : 0}) {}

  Status Listen();
  Awaitable<void> AcceptLoop();
  Awaitable<void> WaitForHandshakes();
  void HandshakeEnded(const Connection& connection);
  void Begin(const std::shared_ptr<Connection>& connection);
  std::shared_ptr<Connection> Admit(tcp::socket& socket);
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
  std::atomic<bool> accept_waits{false};  // for a handshake to end
  std::atomic<uint16_t> port{0};
  Counters counters;

  std::mutex mutex;  // guards what follows
  std::condition_variable gone;
  std::shared_ptr<asio::ssl::context> tls;
  std::unordered_map<uint64_t, std::shared_ptr<Connection>> connections;
  ConnectionGate gate;
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
      Counters::Add(counters.accepted);
      if (const std::shared_ptr<Connection> connection = Admit(socket)) {
        co_await WaitForHandshakes();
        Begin(connection);
      }
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

// While as many peers as may are shaking hands, the next ones wait in the kernel's queue: a crowd that comes back at
// once is taken in order. Whoever takes its time over it then loses its place, so that silence cannot keep others out.
Awaitable<void> Server::Impl::WaitForHandshakes() {
  while (!stopping) {
    accept_waits = true;  // before the look: whoever ends from now on wakes us
    std::optional<ConnectionGate::Congestion> congestion;
    std::shared_ptr<Connection> oldest;
    {
      std::lock_guard lock(mutex);
      congestion = gate.MakeRoom(std::chrono::steady_clock::now());
      if (congestion && congestion->end) {
        auto found = connections.find(*congestion->end);
        if (found != connections.end()) oldest = found->second;
      }
    }
    if (!congestion) break;
    if (congestion->end) {
      Counters::Add(counters.refused_handshakes);
      if (oldest) {
        auto executor = oldest->stream->executor();
        asio::post(executor, [oldest = std::move(oldest)] { oldest->stream->Close(); });
      }
      continue;
    }
    accept_timer.expires_after(congestion->wait);
    co_await accept_timer.async_wait(kTuple);
  }
  accept_waits = false;
}

void Server::Impl::HandshakeEnded(const Connection& connection) {
  {
    std::lock_guard lock(mutex);
    gate.HandshakeEnded(connection.id);
  }
  if (accept_waits.exchange(false))
    asio::post(accept_strand, [self = shared_from_this()] { self->accept_timer.cancel(); });
}

// Nothing: the peer is not let in, and its socket closes.
std::shared_ptr<Connection> Server::Impl::Admit(tcp::socket& socket) {
  boost::system::error_code error;
  const tcp::endpoint remote = socket.remote_endpoint(error);
  if (error) return nullptr;  // gone already
  std::string network = NetworkOf(remote.address());
  std::lock_guard lock(mutex);
  if (stopping) return nullptr;
  const auto verdict = gate.Admit(network);
  if (verdict != ConnectionGate::Verdict::kAdmitted) {
    Counters::Add(verdict == ConnectionGate::Verdict::kFull ? counters.refused_full : counters.refused_address);
    return nullptr;
  }
  auto connection = std::make_shared<Connection>();
  connection->id = next_id++;
  connection->peer.address = remote.address().to_string() + ":" + std::to_string(remote.port());
  connection->peer.network = std::move(network);
  connection->stream = std::make_shared<Stream>(std::move(socket), tls, Stream::Side::kServer);
  connections.emplace(connection->id, connection);
  return connection;
}

void Server::Impl::Begin(const std::shared_ptr<Connection>& connection) {
  if (stopping) return Forget(connection);
  {
    std::lock_guard lock(mutex);
    gate.HandshakeBegins(connection->id, std::chrono::steady_clock::now());
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
  HandshakeEnded(*connection);
  std::lock_guard lock(mutex);
  gate.Leave(connection->id, connection->peer.network);
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
  const auto failed = [&](const std::exception& error) {
    Counters::Add(counters.failures);
    Log(Severity::kError, "a connection failed", {{"error", error.what()}, {"peer", connection->peer.address}});
  };
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
    if (error.code() != asio::error::operation_aborted) failed(error);
  } catch (const std::exception& error) {
    failed(error);
  }
}

Awaitable<bool> Server::Impl::Greet(Connection& connection) {
  connection.stream->SetDeadline(options.handshake_timeout);
  const Status status = co_await connection.stream->Handshake();
  if (status.ok()) {
    HandshakeEnded(connection);
    internal::ReadPeer(connection.stream->ssl(), &connection.peer);
    co_return true;
  }
  Counters::Add(counters.handshakes_failed);
  if (status.code() == Code::kDeadlineExceeded) Counters::Add(counters.late_handshakes);
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
    if (readable.code() == Code::kDeadlineExceeded) {
      Counters::Add(begun ? counters.late_heads : counters.idle_ended);
    }
    if (!readable.ok()) co_return std::nullopt;
  }
}

Awaitable<void> Server::Impl::RefuseHead(Connection& connection, const HeadError& error) {
  Counters::Add(counters.requests);
  const bool large = error.status == 413 || error.status == 414 || error.status == 431;
  Counters::Add(large ? counters.large_heads : counters.malformed_heads);
  const std::string body =
      SerializeRefusal(MakeRefusal(large ? v1::REFUSAL_REASON_TOO_LARGE : v1::REFUSAL_REASON_MALFORMED, error.message));
  const std::string answer =
      FormatResponseHead(error.status, kProtobufContentType, body.size(), {}, /*keep_alive=*/false) + body;
  connection.stream->SetPace(options.body_idle_timeout, options.body_idle_timeout, options.min_body_bytes_per_s);
  const Status sent = co_await connection.stream->Write(answer, /*more=*/false);
  if (sent.ok()) co_await Linger(connection);
}

Awaitable<bool> Server::Impl::Answer(Connection& connection, RequestHead head) {
  Counters::Add(counters.requests);
  HttpExchange exchange(connection, std::move(head), options, counters);
  std::string failure;
  try {
    co_await handler(exchange);
    if (!exchange.answered() && exchange.gone()) co_return false;
    if (!exchange.answered()) failure = "the handler gave no answer";
  } catch (const boost::system::system_error& error) {
    if (error.code() == asio::error::operation_aborted && connection.stream->closed()) throw;
    failure = error.what();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  if (!failure.empty()) {
    Counters::Add(counters.failures);
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
  ServerStats stats = impl_->counters.Read();
  std::lock_guard lock(impl_->mutex);
  stats.connections_open = impl_->connections.size();
  return stats;
}

}  // namespace heddle::protocol
