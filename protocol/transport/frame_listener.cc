// The server of frame_socket.h: accepting, and a reader, a writer and a watch a connection.
#include <algorithm>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "common/logging.h"
#include "protocol/transport/frame_gate.h"
#include "protocol/transport/frame_socket_impl.h"
#include "protocol/transport/http_exchange.h"

namespace heddle::protocol {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using internal::kGoodbyeTime;
using internal::kTuple;

namespace {

const Duration kAcceptRetryTime = Seconds(0.1);
// Of a peer that was turned away, so that it can read why.
constexpr size_t kMaxLingerBytes = size_t{1} << 20;

}  // namespace

struct FrameListener::Impl : std::enable_shared_from_this<FrameListener::Impl> {
  Impl(asio::io_context& context, asio::any_io_executor pool, ListenerOptions given, Handler handle)
      : io(context),
        compute(std::move(pool)),
        options(std::move(given)),
        handler(std::move(handle)),
        strand(asio::make_strand(context)),
        acceptor(strand),
        accept_timer(strand),
        gate(options) {}

  Awaitable<void> AcceptLoop();
  Awaitable<void> WaitForHandshakes();
  void HandshakeEnded(uint64_t id);
  struct Connection;
  void Begin(uint64_t id, const std::shared_ptr<FrameSocket>& socket);
  void Close(uint64_t id);
  Awaitable<void> Serve(uint64_t id, std::shared_ptr<FrameSocket> socket);
  Awaitable<void> TurnAway(FrameSocket& socket, http::status status, std::string why);
  Awaitable<void> ReadFrames(std::shared_ptr<Connection> connection);
  Awaitable<void> WriteAnswers(std::shared_ptr<Connection> connection);
  Awaitable<void> Watch(std::shared_ptr<Connection> connection);
  Awaitable<std::optional<Peer>> Greet(FrameSocket& socket);
  Status Admits(const Peer& peer) {
    Status status = Unauthenticated("a device's certificate is needed");
    if (peer.authenticated) status = options.admits ? options.admits(peer) : OkStatus();
    if (!status.ok()) gate.Count(&ListenerStats::not_admitted);
    return status;
  }

  asio::io_context& io;
  const asio::any_io_executor compute;
  const ListenerOptions options;
  const Handler handler;
  asio::strand<asio::io_context::executor_type> strand;
  tcp::acceptor acceptor;
  asio::steady_timer accept_timer;
  std::atomic<uint16_t> port{0};
  std::atomic<bool> stopping{false};
  std::atomic<bool> accept_waits{false};  // for a handshake to end
  internal::FrameGate gate;

  struct Open {
    std::shared_ptr<FrameSocket> socket;
    std::weak_ptr<Connection> connection;  // once the device is known
  };
  std::mutex mutex;
  std::map<uint64_t, Open> open;
};

// On the connection's strand, but for Answer.
struct FrameListener::Impl::Connection : std::enable_shared_from_this<Connection> {
  Connection(std::shared_ptr<FrameSocket> connected, Peer known)
      : socket(std::move(connected)),
        peer(std::move(known)),
        executor(socket->impl_->stream.get_executor()),
        to_reader(executor),
        to_writer(executor),
        to_watch(executor) {}

  // Any thread.
  void Answer(std::string answer) {
    asio::post(executor, [self = shared_from_this(), answer = std::move(answer)]() mutable {
      self->answers.push_back(std::move(answer));
      self->to_writer.cancel();
    });
  }
  void Close() {
    closed = true;
    socket->Close();
    for (asio::steady_timer* timer : {&to_reader, &to_writer, &to_watch}) timer->cancel();
  }
  void Touch() { last_active = std::chrono::steady_clock::now(); }
  // Until the timer is cancelled, or the time comes.
  static Awaitable<void> Sleep(asio::steady_timer& timer, std::chrono::steady_clock::time_point until) {
    timer.expires_at(until);
    co_await timer.async_wait(kTuple);
  }

  const std::shared_ptr<FrameSocket> socket;
  const Peer peer;
  const asio::any_io_executor executor;
  asio::steady_timer to_reader, to_writer, to_watch;
  std::deque<std::string> answers;  // to be written
  size_t in_flight = 0;             // read, and the answer not written
  std::chrono::steady_clock::time_point last_active = std::chrono::steady_clock::now();
  bool heard = false;  // a frame has come
  bool closed = false;
};

constexpr auto kNever = std::chrono::steady_clock::time_point::max();

FrameListener::FrameListener(asio::io_context& io, asio::any_io_executor compute, ListenerOptions options,
                             Handler handler)
    : impl_(std::make_shared<Impl>(io, std::move(compute), std::move(options), std::move(handler))) {}
FrameListener::~FrameListener() = default;
uint16_t FrameListener::port() const { return impl_->port; }

size_t FrameListener::connections() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->open.size();
}

ListenerStats FrameListener::stats() const { return impl_->gate.stats(); }

Status FrameListener::Start() {
  beast::error_code error;
  const asio::ip::address address = asio::ip::make_address(impl_->options.address, error);
  if (error) return InvalidArgument("\"" + impl_->options.address + "\" is not an IP address to listen on");
  const tcp::endpoint endpoint(address, impl_->options.port);
  tcp::acceptor& acceptor = impl_->acceptor;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    Code code = Code::kUnavailable;
    if (error == asio::error::address_in_use) code = Code::kAlreadyExists;
    if (error == asio::error::access_denied) code = Code::kPermissionDenied;
    beast::error_code ignored;
    acceptor.close(ignored);
    return {code, "cannot listen on " + impl_->options.address + " port " + std::to_string(impl_->options.port) + ": " +
                      error.message()};
  }
  impl_->port = acceptor.local_endpoint(error).port();
  asio::co_spawn(
      impl_->strand, [impl = impl_] { return impl->AcceptLoop(); }, asio::detached);
  return OkStatus();
}

void FrameListener::Stop() {
  impl_->stopping = true;
  asio::post(impl_->strand, [impl = impl_] {
    beast::error_code ignored;
    impl->acceptor.close(ignored);
    impl->accept_timer.cancel();
  });
  std::vector<uint64_t> open;
  {
    std::lock_guard lock(impl_->mutex);
    for (const auto& [id, one] : impl_->open) open.push_back(id);
  }
  for (const uint64_t id : open) impl_->Close(id);
}

// Any thread.
void FrameListener::Impl::Close(uint64_t id) {
  std::lock_guard lock(mutex);
  const auto found = open.find(id);
  if (found == open.end()) return;
  asio::post(found->second.socket->impl_->stream.get_executor(), [one = found->second] {
    const auto connection = one.connection.lock();
    connection ? connection->Close() : one.socket->Close();
  });
}

Awaitable<void> FrameListener::Impl::AcceptLoop() {
  while (!stopping) {
    tcp::socket socket(asio::make_strand(io));
    const auto [error] = co_await acceptor.async_accept(socket, kTuple);
    if (stopping || error == asio::error::operation_aborted) co_return;
    if (error) {  // out of descriptors, as a rule: peers wait in the kernel's queue until some are free
      accept_timer.expires_after(kAcceptRetryTime);
      co_await accept_timer.async_wait(kTuple);
      continue;
    }
    beast::error_code gone;
    const tcp::endpoint remote = socket.remote_endpoint(gone);
    if (gone) continue;
    const auto id = gate.Admit(remote.address());
    if (!id) continue;  // closes it
    socket.set_option(tcp::no_delay(true), gone);
    auto made = std::make_shared<FrameSocket>(
        std::make_unique<FrameSocket::Impl>(std::move(socket), options.tls, options.socket));
    {
      std::lock_guard lock(mutex);
      open.emplace(*id, Open{made, {}});
    }
    co_await WaitForHandshakes();
    Begin(*id, made);
  }
}

// While as many peers as may are shaking hands, the next ones wait in the kernel's queue, until one that takes its time
// over it loses its place.
Awaitable<void> FrameListener::Impl::WaitForHandshakes() {
  while (!stopping) {
    accept_waits = true;  // before the look: whoever ends from now on wakes us
    const auto congestion = gate.MakeRoom();
    if (!congestion) break;
    if (congestion->end) {
      Close(*congestion->end);
      continue;
    }
    accept_timer.expires_after(congestion->wait);
    co_await accept_timer.async_wait(kTuple);
  }
  accept_waits = false;
}

void FrameListener::Impl::HandshakeEnded(uint64_t id) {
  gate.HandshakeEnded(id);
  if (accept_waits.exchange(false)) asio::post(strand, [self = shared_from_this()] { self->accept_timer.cancel(); });
}

void FrameListener::Impl::Begin(uint64_t id, const std::shared_ptr<FrameSocket>& socket) {
  gate.HandshakeBegins(id);
  asio::co_spawn(
      socket->impl_->stream.get_executor(), [self = shared_from_this(), id, socket] { return self->Serve(id, socket); },
      [self = shared_from_this(), id, socket](std::exception_ptr failure) {
        if (failure) Log(Severity::kError, "a split connection failed");
        socket->Close();
        self->HandshakeEnded(id);
        self->gate.Leave(id);
        std::lock_guard lock(self->mutex);
        self->open.erase(id);
      });
}

Awaitable<void> FrameListener::Impl::TurnAway(FrameSocket& socket, http::status status, std::string why) {
  http::response<http::string_body> refusal(status, 11);
  refusal.body() = std::move(why) + "\n";
  refusal.prepare_payload();
  refusal.keep_alive(false);
  co_await http::async_write(socket.impl_->stream.next_layer(), refusal, kTuple);
  // To close with bytes unread would make the kernel throw the answer away.
  beast::tcp_stream& tcp = socket.impl_->lowest();
  beast::error_code ignored;
  tcp.socket().shutdown(tcp::socket::shutdown_send, ignored);
  tcp.expires_after(kGoodbyeTime);
  char sink[1024];
  for (size_t drained = 0; drained < kMaxLingerBytes;) {
    const auto [error, bytes] = co_await tcp.async_read_some(asio::buffer(sink), kTuple);
    if (error) break;
    drained += bytes;
  }
}

// The device, once TLS and the upgrade are done; nothing: it is turned away.
Awaitable<std::optional<Peer>> FrameListener::Impl::Greet(FrameSocket& socket) {
  FrameSocket::Impl& impl = *socket.impl_;
  impl.lowest().expires_after(options.socket.handshake_timeout);
  const auto untrusted = co_await impl.stream.next_layer().Handshake(asio::ssl::stream_base::server);
  if (untrusted) {
    const bool late = untrusted == beast::error::timeout;
    gate.Count(late ? &ListenerStats::late_handshakes : &ListenerStats::failed_handshakes);
    co_return std::nullopt;
  }
  Peer peer;
  internal::ReadPeer(impl.stream.next_layer().native_handle(), &peer);
  http::request_parser<http::string_body> parser;
  parser.header_limit(kMaxHttpHeaderBytes);
  parser.body_limit(0);
  const auto [unread, bytes] = co_await http::async_read(impl.stream.next_layer(), impl.buffer, parser, kTuple);
  if (unread == beast::error::timeout) gate.Count(&ListenerStats::late_handshakes);
  const bool malformed = unread && unread.category() == make_error_code(http::error::bad_method).category();
  const bool gone = unread == http::error::end_of_stream || unread == http::error::partial_message;
  if (unread && (!malformed || gone)) co_return std::nullopt;
  const Status admitted = Admits(peer);
  if (!admitted.ok()) {
    const bool known = admitted.code() == Code::kPermissionDenied;
    co_await TurnAway(socket, known ? http::status::forbidden : http::status::unauthorized, admitted.message());
    co_return std::nullopt;
  }
  const auto request = parser.release();
  http::status refused = http::status::ok;
  if (unread == http::error::header_limit) {
    refused = http::status::request_header_fields_too_large;
  } else if (malformed) {
    refused = http::status::bad_request;
  } else if (!websocket::is_upgrade(request) || request.target() != kSplitTarget) {
    refused = http::status::not_found;
  }
  if (refused != http::status::ok) {
    gate.Count(&ListenerStats::bad_requests);
    co_await TurnAway(socket, refused, "devices ask for a WebSocket here");
    co_return std::nullopt;
  }
  const uint64_t most = options.socket.max_frame_bytes;
  impl.stream.read_message_max(options.first_frame_bytes > 0 ? std::min(options.first_frame_bytes, most) : most);
  const auto [unwilling] = co_await impl.stream.async_accept(request, kTuple);
  impl.buffer.clear();
  if (unwilling) co_return std::nullopt;
  co_return peer;
}

Awaitable<void> FrameListener::Impl::Serve(uint64_t id, std::shared_ptr<FrameSocket> socket) {
  std::optional<Peer> peer = co_await Greet(*socket);
  HandshakeEnded(id);
  if (!peer) co_return;
  const auto connection = std::make_shared<Connection>(socket, *std::move(peer));
  {
    std::lock_guard lock(mutex);
    if (const auto found = open.find(id); found != open.end()) found->second.connection = connection;
  }
  if (const auto oldest = gate.Join(id, connection->peer.device)) Close(*oldest);
  for (auto part : {&Impl::WriteAnswers, &Impl::Watch}) {
    asio::co_spawn(
        connection->executor, [self = shared_from_this(), connection, part] { return ((*self).*part)(connection); },
        asio::detached);
  }
  co_await ReadFrames(connection);
  connection->Close();
}

Awaitable<void> FrameListener::Impl::ReadFrames(std::shared_ptr<Connection> connection) {
  FrameSocket& socket = *connection->socket;
  while (!connection->closed) {
    if (connection->in_flight >= options.max_in_flight) {
      co_await Connection::Sleep(connection->to_reader, kNever);
      continue;
    }
    Result<std::string> frame = co_await socket.Read(Duration::max());  // Watch has the deadline
    if (!frame.ok()) {
      const Code code = frame.status().code();
      if (code == Code::kInvalidArgument) gate.Count(&ListenerStats::not_binary);
      if (code == Code::kResourceExhausted) {
        gate.Count(socket.impl_->flooded() ? &ListenerStats::control_floods : &ListenerStats::large_frames);
      }
      co_return;
    }
    if (!Admits(connection->peer).ok()) co_return;
    std::shared_ptr<void> flight;
    if (options.begin_flight && !(flight = options.begin_flight(connection->peer, frame->size()))) {
      gate.Count(&ListenerStats::over_share);
      co_return;
    }
    if (!connection->heard) socket.impl_->stream.read_message_max(options.socket.max_frame_bytes);
    connection->heard = true;
    connection->Touch();
    ++connection->in_flight;
    auto work = [self = shared_from_this(), connection, flight = std::move(flight),
                 frame = *std::move(frame)]() mutable {
      auto reply = [connection, flight = std::move(flight)](std::string answer) {
        connection->Answer(std::move(answer));
      };
      self->handler(connection->peer.device, std::move(frame), std::move(reply));
    };
    asio::post(compute, std::move(work));
  }
}

Awaitable<void> FrameListener::Impl::WriteAnswers(std::shared_ptr<Connection> connection) {
  while (!connection->closed) {
    if (connection->answers.empty()) {
      co_await Connection::Sleep(connection->to_writer, kNever);
      continue;
    }
    const std::string answer = std::move(connection->answers.front());
    connection->answers.pop_front();
    const Status written = co_await connection->socket->Write(answer, options.write_timeout);
    if (!written.ok()) co_return connection->Close();
    connection->Touch();
    --connection->in_flight;
    connection->to_reader.cancel();
  }
}

// Closes the connection of a device that has all its answers and says nothing.
Awaitable<void> FrameListener::Impl::Watch(std::shared_ptr<Connection> connection) {
  while (!connection->closed) {
    const auto now = std::chrono::steady_clock::now();
    if (connection->in_flight > 0) connection->last_active = now;
    const Duration patience =
        connection->heard ? options.read_timeout : std::min(options.read_timeout, options.first_frame_timeout);
    const auto end = connection->last_active + patience;
    if (now >= end) {
      gate.Count(&ListenerStats::silent);
      co_return connection->Close();
    }
    co_await Connection::Sleep(connection->to_watch, end);
  }
}

}  // namespace heddle::protocol
