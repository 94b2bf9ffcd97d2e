// Frames of split learning over a WebSocket over TLS 1.3, with the certificates of the coordinator's authority on both
// ends. One binary message is one frame.
//
// FrameSocket is one connection, on either side: coroutines, on one strand, one reader and one writer at a time. Every
// read and write has a deadline of its own, after which the connection is closed. FrameListener is the server: it reads
// a connection's frames, gives them to the handler on the compute executor, and writes the answers in the order in
// which they come; at most max_in_flight frames of a connection wait for theirs, then no more are read from it, so that
// a device that sends too much is held back by TCP. A device that is slow to read or to write keeps no other waiting.
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
  // (or kUnavailable, when the goodbye is cut short) for a message that is larger than max_frame_bytes,
  // kInvalidArgument for one that is not binary. After an error the connection is closed.
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
  Duration read_timeout = Seconds(300);  // of a device that nothing waits for, until its next frame
  Duration write_timeout = Seconds(60);
  size_t max_connections = 64;  // further ones are closed at once
  size_t max_in_flight = 1;     // at least 1
  // Whether a device with a good certificate is heard: asked when it connects and before each of its frames, on the
  // io_context's threads. Empty: every one is. A refusal's message goes to the device.
  std::function<Status(const Peer&)> admits;
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
  size_t connections() const;  // any thread
  // Accepts no more and closes what is open. Any thread, once.
  void Stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace heddle::protocol
