#include "protocol/transport/tls_layer.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <chrono>

namespace heddle::protocol::internal {

namespace asio = boost::asio;
namespace beast = boost::beast;

namespace {

constexpr auto kGoodbye = std::chrono::seconds(2);

}  // namespace

struct TlsLayer::Impl {
  Impl(asio::ip::tcp::socket socket, asio::ssl::context& context)
      : stream(std::move(socket), context), goodbye(stream.get_executor()) {}
  beast::ssl_stream<beast::tcp_stream> stream;
  asio::steady_timer goodbye;
};

TlsLayer::TlsLayer(asio::ip::tcp::socket socket, asio::ssl::context& context)
    : impl_(std::make_shared<Impl>(std::move(socket), context)) {}
TlsLayer::~TlsLayer() = default;

TlsLayer::executor_type TlsLayer::get_executor() { return impl_->stream.get_executor(); }
beast::tcp_stream& TlsLayer::next_layer() { return impl_->stream.next_layer(); }
SSL* TlsLayer::native_handle() { return impl_->stream.native_handle(); }

asio::awaitable<TlsLayer::Error> TlsLayer::Handshake(asio::ssl::stream_base::handshake_type side) {
  const auto [error] = co_await impl_->stream.async_handshake(side, asio::as_tuple(asio::use_awaitable));
  co_return error;
}

void TlsLayer::Read(std::vector<asio::mutable_buffer> buffers, Moved handler) {
  impl_->stream.async_read_some(buffers, std::move(handler));
}

void TlsLayer::Write(std::vector<asio::const_buffer> buffers, Moved handler) {
  impl_->stream.async_write_some(buffers, std::move(handler));
}

// Beast's own reads until the peer ends, which one that goes on sending never does.
void TlsLayer::Teardown(beast::role_type role, Done handler) {
  impl_->goodbye.expires_after(kGoodbye);
  impl_->goodbye.async_wait([weak = std::weak_ptr<Impl>(impl_)](const Error& error) {
    const auto impl = weak.lock();
    if (error || !impl) return;
    Error ignored;
    impl->stream.next_layer().socket().close(ignored);
  });
  const executor_type executor = handler.get_executor();
  beast::async_teardown(role, impl_->stream,
                        asio::bind_executor(executor, [handler = std::move(handler)](const Error&) mutable {
                          handler(Error());  // however it ended: why it began is what the WebSocket's caller hears
                        }));
}

}  // namespace heddle::protocol::internal
