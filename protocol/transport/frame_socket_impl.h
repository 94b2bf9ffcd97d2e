// The inside of a FrameSocket, for frame_socket.cc and frame_listener.cc only: Beast's WebSocket over TlsLayer.
//
// Thread-safety: none; on the connection's strand.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <memory>

#include "protocol/transport/frame_socket.h"
#include "protocol/transport/tls_layer.h"

namespace heddle::protocol {

namespace internal {

inline constexpr auto kTuple = boost::asio::as_tuple(boost::asio::use_awaitable);
inline constexpr size_t kFirstBuffer = size_t{64} << 10;
inline const Duration kGoodbyeTime = Seconds(2);

}  // namespace internal

struct FrameSocket::Impl {
  Impl(boost::asio::ip::tcp::socket socket, std::shared_ptr<boost::asio::ssl::context> context,
       const SocketOptions& given)
      : tls(std::move(context)), options(given), stream(std::move(socket), *tls) {
    stream.read_message_max(options.max_frame_bytes);
    stream.binary(true);
    // Deadlines are those of Read and Write; the WebSocket's own would end a connection that waits for its server.
    boost::beast::websocket::stream_base::timeout none{};
    none.handshake_timeout = boost::beast::websocket::stream_base::none();
    none.idle_timeout = boost::beast::websocket::stream_base::none();
    none.keep_alive_pings = false;
    stream.set_option(none);
    stream.auto_fragment(false);
    stream.write_buffer_bytes(internal::kFirstBuffer);
    // What is read or answered next then fails.
    stream.control_callback([this](boost::beast::websocket::frame_type kind, boost::beast::string_view) {
      boost::beast::error_code ignored;
      if (kind == boost::beast::websocket::frame_type::close) return;
      ++control_frames;
      if (flooded()) lowest().socket().close(ignored);
    });
  }
  bool flooded() const { return control_frames > options.max_control_frames; }
  boost::beast::tcp_stream& lowest() { return stream.next_layer().next_layer(); }

  const std::shared_ptr<boost::asio::ssl::context> tls;
  const SocketOptions options;
  boost::beast::websocket::stream<internal::TlsLayer, /*deflateSupported=*/false> stream;
  boost::beast::flat_buffer buffer;
  uint64_t control_frames = 0;  // since the last frame
};

}  // namespace heddle::protocol
