#include "protocol/transport/frame_socket.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>

#include "protocol/transport/frame_socket_impl.h"
#include "protocol/transport/openssl_util.h"
#include "protocol/transport/server.h"  // Awaitable

namespace heddle::protocol {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using internal::kFirstBuffer;
using internal::kGoodbyeTime;
using internal::kTuple;

namespace {

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
    if (impl_->flooded()) {
      co_return ResourceExhausted("the other side of a split connection sends pings instead of frames");
    }
    const uint16_t why = impl_->stream.reason().code;  // also when our answer to it did not get through
    if (why == websocket::close_code::too_big) {
      co_return ResourceExhausted("the other side of the split connection takes no frame as large as that");
    }
    if (why == websocket::close_code::unknown_data) {
      co_return InvalidArgument("the other side of the split connection takes binary messages only");
    }
    co_return StatusOfError(error, "reading");
  }
  impl_->control_frames = 0;
  if (!impl_->stream.got_binary()) {
    impl_->lowest().expires_after(kGoodbyeTime);
    co_await impl_->stream.async_close(websocket::close_code::unknown_data, kTuple);
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

}  // namespace heddle::protocol
