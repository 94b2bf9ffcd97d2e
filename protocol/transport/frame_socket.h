// Frames of split learning over a WebSocket over TLS 1.3, with the certificates of the coordinator's authority on both
// ends. One binary message is one frame.
//
// FrameSocket is one connection, on either side: coroutines, on one strand, one reader and one writer at a time. Every
// read and write has a deadline of its own, after which the connection is closed. FrameListener is the server: it reads
// a connection's frames, gives them to the handler on the compute executor, and writes the answers in the order in
// which they come; at most max_in_flight frames of a connection wait for theirs, then no more are read from it, so that
// a device that sends too much is held back by TCP. A device that is slow to read or to write keeps no other waiting.
//
// What a peer can make the listener hold is bounded at each stage: a descriptor before TLS (ConnectionGate's limits,
// which act before a byte is read); kMaxHttpHeaderBytes until it is known as a device; first_frame_bytes until its
// first frame; then max_frame_bytes, on max_connections_per_device connections, and what `begin_flight` lets wait. A
// frame that is larger is refused by the length in its header, with close code 1009, which the other side's Read gives
// as kResourceExhausted; one that is not binary with 1003, given as kInvalidArgument. Each refusal has its counter.
//
// Life cycle of a listener: construct, Start, Stop, and run the io_context dry before it is destroyed. Start and Stop
// from one thread.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/status.h"

namespace heddle::protocol {

struct Peer;  // transport/server.h

inline constexpr char kSplitTarget[] = "/v1/split";

struct SocketOptions {
  Duration handshake_timeout = Seconds(15);  // TCP, TLS and the WebSocket's upgrade together
  uint64_t max_frame_bytes = uint64_t{1} << 30;
  // Pings, pongs and the like between two frames; after more the connection is closed. Heddle's own ends send none.
  uint64_t max_control_frames = 100;
};

class FrameSocket {
 public:
  template <typename T>
  using Awaitable = boost::asio::awaitable<T>;

  struct Target {
    std::string host, server_name;  // server_name: in the certificate; empty: host
    uint16_t port = 0;
    std::shared_ptr<boost::asio::ssl::context> tls;
  };
  // Errors: kUnavailable, kDeadlineExceeded, kUnauthenticated (a certificate is not accepted, on either side),
  // kInvalidArgument (no port or context).
  static Awaitable<Result<std::shared_ptr<FrameSocket>>> Connect(Target target, SocketOptions options);

  ~FrameSocket();
  // Duration::max() is no deadline. Errors: kUnavailable when the peer has gone, kDeadlineExceeded, kResourceExhausted
  // (or kUnavailable, when the goodbye is cut short) for a message that is larger than either side's max_frame_bytes,
  // and for too many control frames; kInvalidArgument for a message that is not binary, on either side. After an error
  // the connection is closed.
  Awaitable<Result<std::string>> Read(Duration deadline);
  Awaitable<Status> Write(std::string_view frame, Duration deadline);
  // At once; what waits gets kUnavailable.
  void Close();

  struct Impl;
  explicit FrameSocket(std::unique_ptr<Impl> impl);

 private:
  friend class FrameListener;
  std::unique_ptr<Impl> impl_;
};

struct ListenerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;  // 0: any free one
  std::shared_ptr<boost::asio::ssl::context> tls;
  SocketOptions socket;
  Duration first_frame_timeout = Seconds(120);  // from the upgrade to the device's first frame
  Duration read_timeout = Seconds(300);         // of a device that nothing waits for, until its next frame
  Duration write_timeout = Seconds(60);
  size_t max_connections = 64;             // further ones are closed at once
  size_t max_connections_per_address = 0;  // likewise; an address is an IPv4 one or an IPv6 /64; 0: no limit
  // Further peers wait to be accepted; a handshake (TLS and upgrade) older than a second then makes room for them. 0:
  // no limit.
  size_t max_handshakes = 0;
  // A device that connects once more loses its oldest connection: one that comes back may be there before it is known
  // to have gone. 0: no limit.
  size_t max_connections_per_device = 2;
  uint64_t first_frame_bytes = 0;  // of a connection; 0: as any other
  size_t max_in_flight = 1;        // at least 1
  // Asked for each frame of a device, of so many bytes; what it gives is kept until the frame is answered. Null: the
  // device has as much on its way as it may, and the connection is closed. On the io_context's threads. Empty: no
  // limit.
  std::function<std::shared_ptr<void>(const Peer& peer, uint64_t bytes)> begin_flight;
  // Whether a device with a good certificate is heard: asked when it connects and before each of its frames, on the
  // io_context's threads. Empty: every one is. A refusal's message goes to the device.
  std::function<Status(const Peer&)> admits;
};

// Since Start.
struct ListenerStats {
  uint64_t accepted = 0;
  // Not let in: in all, by their address; ended because their handshake kept others waiting.
  uint64_t refused_full = 0, refused_address = 0, refused_handshakes = 0;
  // TLS that failed; TLS or an upgrade that took too long; requests that ask for no WebSocket here or are too large;
  // devices that are not admitted, when they connect or later.
  uint64_t failed_handshakes = 0, late_handshakes = 0, bad_requests = 0, not_admitted = 0;
  // Connections ended: for a newer one of the device, silent or too slow with a frame, for a frame that was too large
  // or not binary, for too many control frames, with more on the way than the device may have.
  uint64_t replaced = 0, silent = 0, large_frames = 0, not_binary = 0, control_floods = 0, over_share = 0;
};

class FrameListener {
 public:
  // Gives the answer; once, from any thread, at once or later.
  using Reply = std::function<void(std::string answer)>;
  // A frame of the device of this name; called on the compute executor.
  using Handler = std::function<void(const std::string& device, std::string frame, Reply reply)>;
  FrameListener(boost::asio::io_context& io, boost::asio::any_io_executor compute, ListenerOptions options,
                Handler handler);
  ~FrameListener();
  // Errors: kAlreadyExists (the port is taken), kInvalidArgument (the address), kPermissionDenied.
  Status Start();
  uint16_t port() const;
  size_t connections() const;   // any thread
  ListenerStats stats() const;  // any thread
  // Accepts no more and closes what is open. Any thread, once.
  void Stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace heddle::protocol
