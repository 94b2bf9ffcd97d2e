#include "protocol/transport/tls_layer.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <boost/beast/websocket/ssl.hpp>

namespace heddle::protocol::internal {

namespace asio = boost::asio;
namespace beast = boost::beast;

struct TlsLayer::Impl {
  beast::ssl_stream<beast::tcp_stream> stream;
};

TlsLayer::TlsLayer(asio::ip::tcp::socket socket, asio::ssl::context& context)
    : impl_(new Impl{beast::ssl_stream<beast::tcp_stream>(std::move(socket), context)}) {}
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

void TlsLayer::Teardown(beast::role_type role, Done handler) {
  beast::async_teardown(role, impl_->stream, std::move(handler));
}

}  // namespace heddle::protocol::internal
