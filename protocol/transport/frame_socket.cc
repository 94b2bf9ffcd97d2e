#include "protocol/transport/frame_socket.h"

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <deque>
#include <map>
#include <mutex>

#include "common/logging.h"
#include "protocol/transport/http_exchange.h"
#include "protocol/transport/openssl_util.h"
#include "protocol/transport/tls_layer.h"

namespace heddle::protocol {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using asio::ip::tcp;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kFirstBuffer = size_t{64} << 10;

Status StatusOfError(const beast::error_code& error, std::string_view doing) {
  Code code = Code::kUnavailable;
  if (error == beast::error::timeout) code = Code::kDeadlineExceeded;
  if (error == websocket::error::message_too_big || error == websocket::error::buffer_overflow) {
    code = Code::kResourceExhausted;
  }
  if (error.category() == asio::error::get_ssl_category()) {
    const int reason = ERR_GET_REASON(static_cast<unsigned long>(error.value()));
    // An alert about a certificate, or our own verdict on one.
    const bool certificate = reason == SSL_R_CERTIFICATE_VERIFY_FAILED || (reason >= 1040 && reason <= 1049) ||
                             reason == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED;
    if (certificate) code = Code::kUnauthenticated;
  }
  return {code, "the split connection failed while " + std::string(doing) + ": " + error.message()};
}

}  // namespace

struct FrameSocket::Impl {
  Impl(tcp::socket socket, std::shared_ptr<asio::ssl::context> context, const SocketOptions& given)
      : tls(std::move(context)), options(given), stream(std::move(socket), *tls) {
    stream.read_message_max(options.max_frame_bytes);
    stream.binary(true);
    // Deadlines are those of Read and Write; the WebSocket's own would end a connection that waits for its server.
    websocket::stream_base::timeout none{};
    none.handshake_timeout = websocket::stream_base::none();
    none.idle_timeout = websocket::stream_base::none();
    none.keep_alive_pings = false;
    stream.set_option(none);
    stream.auto_fragment(false);
    stream.write_buffer_bytes(kFirstBuffer);
  }
  beast::tcp_stream& lowest() { return stream.next_layer().next_layer(); }

  const std::shared_ptr<asio::ssl::context> tls;
  const SocketOptions options;
  websocket::stream<internal::TlsLayer, /*deflateSupported=*/false> stream;
  beast::flat_buffer buffer;
};

FrameSocket::FrameSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FrameSocket::~FrameSocket() = default;

void FrameSocket::Close() {
  beast::error_code ignored;
  impl_->lowest().socket().close(ignored);
}

Awaitable<Result<std::string>> FrameSocket::Read(Duration deadline) {
  impl_->buffer.clear();
  if (deadline == Duration::max()) {
    impl_->lowest().expires_never();
  } else {
    impl_->lowest().expires_after(deadline);
  }
  const auto [error, bytes] = co_await impl_->stream.async_read(impl_->buffer, kTuple);
  if (error) {
    Close();
    co_return StatusOfError(error, "reading");
  }
  if (!impl_->stream.got_binary()) {
    Close();
    co_return InvalidArgument("a split frame must be a binary message");
  }
  const auto data = impl_->buffer.data();
  std::string frame(static_cast<const char*>(data.data()), data.size());
  // A large buffer is for large frames only.
  if (impl_->buffer.capacity() > kFirstBuffer && frame.size() < kFirstBuffer / 2) impl_->buffer.shrink_to_fit();
  co_return frame;
}

Awaitable<Status> FrameSocket::Write(std::string_view frame, Duration deadline) {
  impl_->lowest().expires_after(deadline);
  const auto [error, bytes] = co_await impl_->stream.async_write(asio::buffer(frame.data(), frame.size()), kTuple);
  if (!error) co_return OkStatus();
  Close();
  co_return StatusOfError(error, "writing");
}

Awaitable<Result<std::shared_ptr<FrameSocket>>> FrameSocket::Connect(Target target, SocketOptions options) {
  if (target.port == 0 || !target.tls) co_return InvalidArgument("a split connection needs a port and certificates");
  const auto executor = asio::make_strand(co_await asio::this_coro::executor);
  tcp::resolver resolver(executor);
  const auto [unresolved, endpoints] =
      co_await resolver.async_resolve(target.host, std::to_string(target.port), kTuple);
  if (unresolved) co_return StatusOfError(unresolved, "looking up " + target.host);
  auto impl = std::make_unique<Impl>(tcp::socket(executor), target.tls, options);
  impl->lowest().expires_after(options.handshake_timeout);
  const auto [refused, endpoint] = co_await impl->lowest().async_connect(endpoints, kTuple);
  if (refused) co_return StatusOfError(refused, "connecting to " + target.host);
  impl->lowest().socket().set_option(tcp::no_delay(true));
  const std::string name = target.server_name.empty() ? target.host : target.server_name;
  SSL* ssl = impl->stream.next_layer().native_handle();
  // An address is checked as one; SNI is for names.
  beast::error_code not_an_address;
  asio::ip::make_address(name, not_an_address);
  const bool named = static_cast<bool>(not_an_address);
  const bool set = named ? SSL_set1_host(ssl, name.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, name.c_str()) == 1
                         : X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.c_str()) == 1;
  if (!set) co_return InvalidArgument("'" + name + "' is not a server name");
  const auto untrusted = co_await impl->stream.next_layer().Handshake(asio::ssl::stream_base::client);
  if (untrusted) co_return StatusOfError(untrusted, "shaking hands");
  websocket::response_type response;
  const auto [unwelcome] = co_await impl->stream.async_handshake(response, name, kSplitTarget, kTuple);
  const http::status said = response.result();
  if (unwelcome == websocket::error::upgrade_declined &&
      (said == http::status::unauthorized || said == http::status::forbidden)) {
    co_return Unauthenticated("the split server turns this device away: " +
                              response.body().substr(0, response.body().find('\n')));
  }
  if (unwelcome) co_return StatusOfError(unwelcome, "asking for a WebSocket");
  co_return std::make_shared<FrameSocket>(std::move(impl));
}

// ---- the server ----

struct FrameListener::Impl : std::enable_shared_from_this<FrameListener::Impl> {
  Impl(asio::io_context& context, asio::any_io_executor pool, ListenerOptions given, Handler handle)
      : io(context),
        compute(std::move(pool)),
        options(std::move(given)),
        handler(std::move(handle)),
        strand(asio::make_strand(context)),
        acceptor(strand) {}

  Awaitable<void> AcceptLoop();
  struct Connection;
  Awaitable<void> Serve(std::shared_ptr<FrameSocket> socket);
  Awaitable<void> ReadFrames(std::shared_ptr<Connection> connection);
  Awaitable<void> WriteAnswers(std::shared_ptr<Connection> connection);
  Awaitable<void> Watch(std::shared_ptr<Connection> connection);
  Awaitable<std::optional<Peer>> Greet(FrameSocket& socket);
  Status Admits(const Peer& peer) const {
    if (!peer.authenticated) return Unauthenticated("a device's certificate is needed");
    return options.admits ? options.admits(peer) : OkStatus();
  }

  asio::io_context& io;
  const asio::any_io_executor compute;
  const ListenerOptions options;
  const Handler handler;
  asio::strand<asio::io_context::executor_type> strand;
  tcp::acceptor acceptor;
  std::atomic<uint16_t> port{0};
  std::atomic<bool> stopping{false};

  std::mutex mutex;
  std::map<std::shared_ptr<FrameSocket>, std::weak_ptr<Connection>> sockets;
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
  return impl_->sockets.size();
}

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
  });
  std::lock_guard lock(impl_->mutex);
  for (const auto& [socket, serving] : impl_->sockets) {
    asio::post(socket->impl_->stream.get_executor(), [socket = socket, serving = serving] {
      const auto connection = serving.lock();
      connection ? connection->Close() : socket->Close();
    });
  }
}

Awaitable<void> FrameListener::Impl::AcceptLoop() {
  while (!stopping) {
    tcp::socket socket(asio::make_strand(io));
    const auto [error] = co_await acceptor.async_accept(socket, kTuple);
    if (stopping || error == asio::error::operation_aborted) co_return;
    if (error) continue;
    beast::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    const auto executor = socket.get_executor();
    auto made = std::make_shared<FrameSocket>(
        std::make_unique<FrameSocket::Impl>(std::move(socket), options.tls, options.socket));
    {
      std::lock_guard lock(mutex);
      if (sockets.size() >= options.max_connections) continue;  // closes it
      sockets.emplace(made, std::weak_ptr<Connection>());
    }
    asio::co_spawn(
        executor, [self = shared_from_this(), made] { return self->Serve(made); },
        [self = shared_from_this(), made](std::exception_ptr failure) {
          if (failure) Log(Severity::kError, "a split connection failed");
          made->Close();
          std::lock_guard lock(self->mutex);
          self->sockets.erase(made);
        });
  }
}

// The device, once TLS and the upgrade are done; nothing: it is turned away.
Awaitable<std::optional<Peer>> FrameListener::Impl::Greet(FrameSocket& socket) {
  FrameSocket::Impl& impl = *socket.impl_;
  impl.lowest().expires_after(options.socket.handshake_timeout);
  const auto untrusted = co_await impl.stream.next_layer().Handshake(asio::ssl::stream_base::server);
  if (untrusted) co_return std::nullopt;
  Peer peer;
  internal::ReadPeer(impl.stream.next_layer().native_handle(), &peer);
  http::request<http::string_body> request;
  http::request_parser<http::string_body> parser;
  parser.header_limit(kMaxHttpHeaderBytes);
  parser.body_limit(0);
  const auto [unread, bytes] = co_await http::async_read(impl.stream.next_layer(), impl.buffer, parser, kTuple);
  if (unread) co_return std::nullopt;
  request = parser.release();
  const bool upgrade = websocket::is_upgrade(request) && request.target() == kSplitTarget;
  const Status admitted = Admits(peer);
  if (!upgrade || !admitted.ok()) {
    http::status status = http::status::not_found;
    if (!admitted.ok()) status = http::status::unauthorized;
    if (admitted.code() == Code::kPermissionDenied) status = http::status::forbidden;
    http::response<http::string_body> refusal(status, request.version());
    refusal.body() = (admitted.ok() ? "devices ask for a WebSocket here" : admitted.message()) + "\n";
    refusal.prepare_payload();
    refusal.keep_alive(false);
    co_await http::async_write(impl.stream.next_layer(), refusal, kTuple);
    co_return std::nullopt;
  }
  const auto [unwilling] = co_await impl.stream.async_accept(request, kTuple);
  impl.buffer.clear();
  if (unwilling) co_return std::nullopt;
  co_return peer;
}

Awaitable<void> FrameListener::Impl::Serve(std::shared_ptr<FrameSocket> socket) {
  std::optional<Peer> peer = co_await Greet(*socket);
  if (!peer) co_return;
  const auto connection = std::make_shared<Connection>(socket, *std::move(peer));
  {
    std::lock_guard lock(mutex);
    if (const auto found = sockets.find(socket); found != sockets.end()) found->second = connection;
  }
  for (auto part : {&Impl::WriteAnswers, &Impl::Watch}) {
    asio::co_spawn(
        connection->executor, [self = shared_from_this(), connection, part] { return ((*self).*part)(connection); },
        asio::detached);
  }
  co_await ReadFrames(connection);
  connection->Close();
}

Awaitable<void> FrameListener::Impl::ReadFrames(std::shared_ptr<Connection> connection) {
  while (!stopping && !connection->closed) {
    if (connection->in_flight >= options.max_in_flight) {
      co_await Connection::Sleep(connection->to_reader, kNever);
      continue;
    }
    Result<std::string> frame = co_await connection->socket->Read(Duration::max());  // Watch has the deadline
    if (!frame.ok() || !Admits(connection->peer).ok()) co_return;
    connection->Touch();
    ++connection->in_flight;
    asio::post(compute, [self = shared_from_this(), connection, frame = *std::move(frame)]() mutable {
      self->handler(connection->peer.device, std::move(frame),
                    [connection](std::string answer) { connection->Answer(std::move(answer)); });
    });
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
    const auto end = connection->last_active + options.read_timeout;
    if (now >= end) co_return connection->Close();
    co_await Connection::Sleep(connection->to_watch, end);
  }
}

}  // namespace heddle::protocol
