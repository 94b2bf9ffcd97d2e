// The HTTP/1.1 server under every Heddle listener: Asio coroutines, Beast for the heads, bodies in large pieces read
// and written around Beast (its parser is fed heads only). TLS 1.3, or plain TCP for loopback listeners.
//
// Life cycle: construct; Start (binds; port() is then real); Stop (two steps: stops accepting and wakes waiting
// handlers through their cancellation, gives them `grace`, then closes what is left); destroy. Start and Stop from one
// thread. A handler runs on the connection's strand; several connections run at once on the server's io threads.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/status.h"
#include "protocol/limits.h"
#include "protocol/transport/http_head.h"  // Headers

namespace heddle::protocol {

template <typename T>
using Awaitable = boost::asio::awaitable<T>;

// Pieces in which a server moves bodies. Smaller than a client's: it has many under way at once, each with a buffer.
inline constexpr size_t kServerIoBufferBytes = size_t{64} << 10;

// Who is at the other end, as TLS says it.
struct Peer {
  bool authenticated = false;  // a client certificate of our authority, in its time
  std::string device;          // its common name; empty unless authenticated
  std::string serial_hex;      // its serial number, lower case
  std::string address;         // "127.0.0.1:4711", for logs only
  std::string network;         // what limits per address count by: "127.0.0.1", "2001:db8:0:1::/64"
};

// One request and its answer. Lives on the stack of the connection's coroutine; never outlives the handler's co_return.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const Peer& peer() const = 0;
  virtual std::string_view method() const = 0;  // "GET"
  virtual const std::string& path() const = 0;  // percent-decoded, without the query
  virtual std::optional<std::string> Query(std::string_view name) const = 0;
  virtual std::optional<std::string_view> Header(std::string_view name) const = 0;  // case-insensitive
  virtual std::optional<uint64_t> content_length() const = 0;  // nothing: no body (chunked bodies are refused with 411)

  // The next piece of the body, straight from the TLS stream into `buffer`; 0 at its end. Errors: kUnavailable when the
  // connection broke, kDeadlineExceeded when nothing came for the idle time-out.
  virtual Awaitable<Result<size_t>> ReadBody(std::span<std::byte> buffer) = 0;
  // The whole body. Errors: as above; kResourceExhausted beyond `limit`.
  virtual Awaitable<Result<std::string>> ReadAll(size_t limit) = 0;

  // Exactly one of these, once. A body left unread is drained up to a small bound, else the connection closes
  // afterwards.
  virtual Awaitable<Status> Respond(unsigned status, std::string content_type, std::string body,
                                    Headers headers = {}) = 0;
  // `length` bytes of the file from `offset`, in large pieces; HEAD sends the head only. Content-Length is set.
  virtual Awaitable<Status> RespondFile(unsigned status, std::string content_type, const std::filesystem::path& file,
                                        uint64_t offset, uint64_t length, Headers headers = {}) = 0;

  // Completes when the peer has closed the connection or the server stops; for long polls, raced against the answer.
  virtual Awaitable<void> WaitGone() = 0;
  virtual bool stopping() const = 0;  // the server is going down

  // Bytes of bodies this exchange has read and written; for metrics.
  virtual uint64_t bytes_in() const = 0;
  virtual uint64_t bytes_out() const = 0;
};

// Must answer; an unanswered exchange gets a 500. Exceptions that escape are logged and become a 500.
using Handler = std::function<Awaitable<void>(Exchange&)>;

struct ServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;                               // 0: any free one
  std::shared_ptr<boost::asio::ssl::context> tls;  // null: plain TCP
  size_t max_connections = 10'000;                 // further ones are closed at once
  size_t max_connections_per_address = 0;          // likewise; an address is an IPv4 one or an IPv6 /64; 0: no limit
  // Further peers wait to be accepted; a handshake older than a second then makes room for them. 0: no limit.
  size_t max_handshakes = 1000;
  Duration handshake_timeout = Seconds(10);
  Duration header_timeout = Seconds(30);       // from the first byte of a request to the end of its head
  Duration keep_alive_timeout = Seconds(120);  // between requests
  Duration body_idle_timeout = Seconds(60);    // without a byte of a body either way
  // A body either way that is slower than this (on average, after one body_idle_timeout) ends the connection. 0: no
  // limit.
  uint64_t min_body_bytes_per_s = 1024;
};

// Since Start, but for connections_open.
struct ServerStats {
  uint64_t connections_accepted = 0, connections_open = 0, handshakes_failed = 0, requests = 0, bytes_in = 0,
           bytes_out = 0;
  // Not let in: in all, by their address; ended because their handshake kept others waiting.
  uint64_t refused_full = 0, refused_address = 0, refused_handshakes = 0;
  // Ended for taking too long over a handshake, a head, a body (either way), or between requests.
  uint64_t late_handshakes = 0, late_heads = 0, late_bodies = 0, idle_ended = 0;
  // Requests refused by their head, before any handler: as malformed (400, 411, 417), as too large (413, 414, 431).
  uint64_t malformed_heads = 0, large_heads = 0;
  // Handlers that threw or gave no answer, and connections that ended by an exception: each is a fault of ours.
  uint64_t failures = 0;
};

class Server {
 public:
  // Runs on `io`, which the caller runs with as many threads as it likes; `io` must outlive the server.
  Server(boost::asio::io_context& io, ServerOptions options, Handler handler);
  ~Server();

  // Errors: kInvalidArgument (address), kAlreadyExists (port in use), kPermissionDenied.
  Status Start();
  uint16_t port() const;
  // Blocks the caller (not an io thread) until every connection is gone, at most `grace` plus a second.
  void Stop(Duration grace);
  // Closes at once every connection whose peer has this certificate serial (revocation).
  void CloseBySerial(const std::string& serial_hex);
  // For certificates renewed on disk: used by connections accepted from now on.
  void ReplaceTls(std::shared_ptr<boost::asio::ssl::context> tls);
  ServerStats stats() const;  // any thread

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// "bytes=a-b", "bytes=a-", "bytes=-n" against a size. Nothing: no or an unusable Range header (send the whole, 200).
// An Error: unsatisfiable (416).
struct ByteRange {
  uint64_t offset = 0, length = 0;
};
Result<std::optional<ByteRange>> ParseRange(std::optional<std::string_view> header, uint64_t size);

}  // namespace heddle::protocol
