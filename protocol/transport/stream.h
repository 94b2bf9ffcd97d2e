// One connection's bytes: TLS over a non-blocking socket, or the bare socket, behind the same few coroutines.
//
// Why not asio::ssl::stream: it moves at most one 16 KB record a call through a pair of memory BIOs and holds about
// 70 KB a connection. Here OpenSSL reads the socket itself through a small BIO of ours: Read() loops over records until
// the caller's buffer is full or the socket is dry, records to be written gather into 64 KB before a system call, and
// an idle connection holds no buffers at all.
//
// Thread-safety: none; use it on the executor of its socket (a strand). Life cycle: make it as a shared_ptr (its timer
// looks for it through a weak_ptr); Handshake() if there is TLS; reads and writes; Shutdown() or Close().
// At most one coroutine reads or waits at a time, and at most one writes.
#pragma once

#include <algorithm>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "protocol/transport/openssl_util.h"

namespace heddle::protocol::internal {

template <typename T>
using Awaitable = boost::asio::awaitable<T>;

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  enum class Side { kServer, kClient };

  // `tls` null: plain TCP. The socket must be open.
  Stream(boost::asio::ip::tcp::socket socket, std::shared_ptr<boost::asio::ssl::context> tls, Side side);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Client only, before Handshake: the name (or address) the certificate must bear, and a session to resume.
  // Errors: kInvalidArgument.
  Status ExpectName(const std::string& name);
  void OfferSession(SSL_SESSION* session);
  SessionPtr TakeSession();  // for the next connection; null when there is none

  // Errors: kUnauthenticated (certificates), kUnavailable, kDeadlineExceeded.
  Awaitable<Status> Handshake();
  SSL* ssl() const { return ssl_.get(); }

  // Deadlines, enforced by one timer: at a time from now, moved by nothing; or so long after the last byte either way,
  // and (bytes_per_s > 0) not later than `allowance` plus the time that the bytes moved from now on need at that rate.
  void SetDeadline(Duration from_now);
  void SetPace(Duration idle, Duration allowance, uint64_t bytes_per_s);
  void ClearDeadline();

  // What can be read without waiting. 0 bytes: nothing now, or the end; see the state.
  enum class State { kOpen, kEnd, kFailed };
  struct Attempt {
    size_t bytes = 0;
    State state = State::kOpen;
  };
  Attempt TryRead(std::span<std::byte> buffer);

  // Waits for the first byte; with `fill`, until the buffer is full, or the peer has ended. 0: the end, in good order
  // or not. Errors: kUnavailable, kDeadlineExceeded, kUnauthenticated (the peer refused our certificate), kCancelled.
  Awaitable<Result<size_t>> Read(std::span<std::byte> buffer, bool fill);
  // `more`: the bytes may wait in memory (at most 64 KB) for the next call. Errors: as Read.
  Awaitable<Status> Write(std::span<const std::byte> data, bool more);
  Awaitable<Status> Write(std::string_view data, bool more) { return Write(std::as_bytes(std::span(data)), more); }
  // Until something can be read, without reading it.
  Awaitable<Status> WaitReadable();
  // Until the peer has closed, Wake() is called, or the waiting coroutine is cancelled. Eats no byte. While bytes of
  // the application lie unread it can only notice a reset.
  Awaitable<void> WaitGone();
  void Wake();

  // Gives back what only busy connections need.
  void ReleaseBuffers();
  // Says goodbye (close_notify, FIN) as far as that needs no waiting. Reading stays possible.
  void Shutdown();
  // At once. Coroutines that wait get kUnavailable, or what `why` says.
  void Close(Code why = Code::kUnavailable);
  bool closed() const { return closed_; }

  uint64_t bytes_in() const { return bytes_in_; }
  uint64_t bytes_out() const { return bytes_out_; }
  // On the socket, both ways: with handshakes and the overhead of records where there is TLS.
  uint64_t socket_bytes() const { return ssl_ ? socket_bytes_ : bytes_in_ + bytes_out_; }
  const boost::asio::any_io_executor& executor() const { return executor_; }

 private:
  friend struct SocketBio;
  using Clock = std::chrono::steady_clock;
  enum class Want { kRead, kWrite };

  Awaitable<Status> Wait(Want want);
  Awaitable<void> Yield();
  bool Flush();  // false: the socket takes no more now, or is broken
  bool SendGathered();
  Attempt TryReadPlain(std::span<std::byte> buffer);
  Attempt TryReadTls(std::span<std::byte> buffer);
  Awaitable<Status> WritePlain(std::span<const std::byte> data, bool more);
  Awaitable<Status> WriteTls(std::span<const std::byte> data, bool more);
  void FailFromTls(int ssl_error, std::string_view doing);
  Status Failure() const;
  void Progress(size_t bytes_in, size_t bytes_out);
  void Arm(Clock::time_point when);
  void OnTimer();

  boost::asio::any_io_executor executor_;
  boost::asio::ip::tcp::socket socket_;
  std::shared_ptr<boost::asio::ssl::context> tls_;
  std::unique_ptr<SSL, OpenSslDeleter<SSL_free>> ssl_;
  int fd_ = -1;                // of the socket; -1 once closed, so that OpenSSL cannot touch a number used anew
  uint64_t socket_bytes_ = 0;  // of TLS
  bool socket_end_ = false;    // recv() said 0
  int socket_error_ = 0;       // the errno that broke the socket
  Want tls_want_ = Want::kRead;
  bool waiting_gone_ = false;
  bool wake_ = false;
  bool closed_ = false;
  bool expired_ = false;
  std::optional<Status> failure_;    // the first error; sticks
  std::vector<std::byte> gathered_;  // sealed records on their way to the socket
  size_t gathered_sent_ = 0;
  size_t unyielded_ = 0;  // bytes moved since this coroutine last let others run

  boost::asio::steady_timer timer_;
  bool timer_armed_ = false;
  Clock::time_point timer_at_;
  std::optional<Clock::time_point> deadline_;
  struct Pace {
    Duration idle{0};
    Clock::time_point latest;  // where the allowance ends, before what the bytes earn
    uint64_t bytes_per_s = 0, bytes = 0;
    Clock::time_point Deadline() const {
      const Clock::time_point silent = Clock::now() + idle;
      if (bytes_per_s == 0) return silent;
      return std::min(silent, latest + Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_s)));
    }
  };
  std::optional<Pace> pace_;

  uint64_t bytes_in_ = 0, bytes_out_ = 0;
};

}  // namespace heddle::protocol::internal
