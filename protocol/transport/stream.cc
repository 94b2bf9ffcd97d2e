#include "protocol/transport/stream.h"

#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>

#include "protocol/limits.h"

namespace heddle::protocol::internal {

namespace asio = boost::asio;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
// Records gather up to this before they go to the socket: as much as one segmentation-offload packet carries.
constexpr size_t kGatherBytes = size_t{64} << 10;
constexpr size_t kKeepCapacity = 4096;
// A coroutine that moved this much without waiting lets the others of its thread run.
constexpr size_t kFairBytes = kIoBufferBytes;
// A peer that vanished without a word is noticed within about two minutes.
constexpr int kKeepIdleSeconds = 60, kKeepIntervalSeconds = 20, kKeepCount = 3;

void SetOption(int fd, int level, int name, int value) { ::setsockopt(fd, level, name, &value, sizeof value); }

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

// The BIO between OpenSSL and the socket. Writes are gathered in the stream and never raise SIGPIPE.
struct SocketBio {
  static Stream* Of(BIO* bio) { return static_cast<Stream*>(BIO_get_data(bio)); }

  static int Read(BIO* bio, char* data, int size) {
    Stream* stream = Of(bio);
    BIO_clear_retry_flags(bio);
    if (stream->fd_ < 0 || size <= 0) return -1;
    const ssize_t n = ::recv(stream->fd_, data, static_cast<size_t>(size), 0);
    if (n > 0) {
      stream->socket_bytes_ += static_cast<uint64_t>(n);
      return static_cast<int>(n);
    }
    if (n == 0) {
      stream->socket_end_ = true;
      return 0;
    }
    if (WouldBlock(errno) || errno == EINTR) {
      BIO_set_retry_read(bio);
    } else {
      stream->socket_error_ = errno;
    }
    return -1;
  }

  static int Write(BIO* bio, const char* data, int size) {
    Stream* stream = Of(bio);
    BIO_clear_retry_flags(bio);
    if (stream->fd_ < 0 || size <= 0) return -1;
    std::vector<std::byte>& gathered = stream->gathered_;
    if (gathered.size() - stream->gathered_sent_ >= kGatherBytes && !stream->SendGathered()) {
      if (stream->socket_error_ == 0) BIO_set_retry_write(bio);
      return -1;
    }
    if (gathered.capacity() < gathered.size() + static_cast<size_t>(size) && gathered.size() > kKeepCapacity)
      gathered.reserve(kGatherBytes + 2 * size_t{SSL3_RT_MAX_PACKET_SIZE});
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    gathered.insert(gathered.end(), bytes, bytes + size);
    stream->socket_bytes_ += static_cast<uint64_t>(size);
    if (gathered.size() - stream->gathered_sent_ >= kGatherBytes) stream->SendGathered();
    return size;
  }

  static long Control(BIO* bio, int command, long, void*) {
    switch (command) {
      case BIO_CTRL_FLUSH:  // the stream flushes on its own
        return 1;
      case BIO_CTRL_EOF:
        return Of(bio)->socket_end_ ? 1 : 0;
      default:
        return 0;
    }
  }

  static BIO_METHOD* Method() {
    static BIO_METHOD* const method = [] {
      BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "heddle socket");
      BIO_meth_set_read(made, &SocketBio::Read);
      BIO_meth_set_write(made, &SocketBio::Write);
      BIO_meth_set_ctrl(made, &SocketBio::Control);
      return made;
    }();
    return method;
  }
};

Stream::Stream(asio::ip::tcp::socket socket, std::shared_ptr<asio::ssl::context> tls, Side side)
    : executor_(socket.get_executor()), socket_(std::move(socket)), tls_(std::move(tls)), timer_(executor_) {
  boost::system::error_code ignored;
  socket_.native_non_blocking(true, ignored);
  fd_ = socket_.native_handle();
  SetOption(fd_, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd_, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd_, IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdleSeconds);
  SetOption(fd_, IPPROTO_TCP, TCP_KEEPINTVL, kKeepIntervalSeconds);
  SetOption(fd_, IPPROTO_TCP, TCP_KEEPCNT, kKeepCount);
  if (!tls_) return;
  ERR_clear_error();
  ssl_.reset(SSL_new(tls_->native_handle()));
  BIO* bio = ssl_ ? BIO_new(SocketBio::Method()) : nullptr;
  if (!bio) {
    failure_ = OpenSslStatus(Code::kResourceExhausted, "cannot make a TLS connection");
    return;
  }
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  if (side == Side::kServer) {
    SSL_set_accept_state(ssl_.get());
  } else {
    SSL_set_connect_state(ssl_.get());
  }
}

Stream::~Stream() { Close(); }

Status Stream::ExpectName(const std::string& name) {
  ERR_clear_error();
  X509_VERIFY_PARAM* param = SSL_get0_param(ssl_.get());
  if (X509_VERIFY_PARAM_set1_ip_asc(param, name.c_str()) == 1) return OkStatus();
  ERR_clear_error();
  SSL_set_hostflags(ssl_.get(), X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  if (SSL_set1_host(ssl_.get(), name.c_str()) != 1 || SSL_set_tlsext_host_name(ssl_.get(), name.c_str()) != 1)
    return OpenSslStatus(Code::kInvalidArgument, "\"" + name + "\" is not a server name");
  return OkStatus();
}

void Stream::OfferSession(SSL_SESSION* session) {
  if (ssl_ && session) SSL_set_session(ssl_.get(), session);
}

SessionPtr Stream::TakeSession() {
  if (!ssl_) return nullptr;
  SessionPtr session(SSL_get1_session(ssl_.get()));
  if (session && SSL_SESSION_is_resumable(session.get()) != 1) session.reset();
  return session;
}

// ---- time ----

void Stream::SetDeadline(Duration from_now) {
  pace_.reset();
  Arm(Clock::now() + from_now);
}

void Stream::SetPace(Duration idle, Duration allowance, uint64_t bytes_per_s) {
  pace_ = Pace{.idle = idle, .latest = Clock::now() + allowance, .bytes_per_s = bytes_per_s};
  Arm(pace_->Deadline());
}

void Stream::ClearDeadline() {
  pace_.reset();
  deadline_.reset();  // an armed timer finds nothing to do when it fires
}

// A deadline that moves away costs nothing: the timer fires at the old one, looks, and sleeps on.
void Stream::Arm(Clock::time_point when) {
  deadline_ = when;
  if (timer_armed_ && timer_at_ <= when) return;
  timer_armed_ = true;
  timer_at_ = when;
  timer_.expires_at(when);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    if (error) return;
    if (std::shared_ptr<Stream> self = weak.lock()) self->OnTimer();
  });
}

void Stream::OnTimer() {
  if (closed_) return;
  const Clock::time_point now = Clock::now();
  if (now < timer_at_) return;  // armed anew meanwhile
  timer_armed_ = false;
  if (!deadline_) return;
  if (now < *deadline_) return Arm(*deadline_);
  expired_ = true;
  boost::system::error_code ignored;
  socket_.cancel(ignored);
}

void Stream::Progress(size_t in, size_t out) {
  bytes_in_ += in;
  bytes_out_ += out;
  unyielded_ += in + out;
  if (!pace_ || !deadline_) return;
  pace_->bytes += in + out;
  deadline_ = pace_->Deadline();
}

// ---- waiting ----

Status Stream::Failure() const {
  if (failure_) return *failure_;
  if (expired_) return DeadlineExceeded("the peer sent or took nothing in time");
  return Unavailable("the connection is closed");
}

Awaitable<Status> Stream::Wait(Want want) {
  // What OpenSSL wanted to say (an answer to a key update, a ticket) must not stay behind while we wait.
  if (!gathered_.empty() && !Flush() && !failure_) want = Want::kWrite;
  if (closed_ || failure_ || expired_) co_return Failure();
  unyielded_ = 0;
  const auto type = want == Want::kRead ? asio::ip::tcp::socket::wait_read : asio::ip::tcp::socket::wait_write;
  auto [error] = co_await socket_.async_wait(type, kTuple);
  if (closed_ || failure_ || expired_) co_return Failure();
  if (error == asio::error::operation_aborted) co_return Cancelled("the operation was cancelled");
  if (error) co_return Unavailable("the connection broke: " + error.message());
  co_return OkStatus();
}

Awaitable<void> Stream::Yield() {
  unyielded_ = 0;
  co_await asio::post(executor_, asio::use_awaitable);
}

Awaitable<Status> Stream::WaitReadable() {
  if (ssl_ && SSL_has_pending(ssl_.get())) co_return OkStatus();
  co_return co_await Wait(Want::kRead);
}

Awaitable<void> Stream::WaitGone() {
  while (!closed_ && !wake_) {
    bool unread = false;
    if (ssl_) {
      std::byte byte;
      size_t n = 0;
      ERR_clear_error();
      const int peeked = SSL_peek_ex(ssl_.get(), &byte, 1, &n);
      const int error = peeked == 1 ? SSL_ERROR_NONE : SSL_get_error(ssl_.get(), peeked);
      Flush();
      if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) co_return;
      unread = peeked == 1;
    } else {
      std::byte byte;
      const ssize_t n = ::recv(fd_, &byte, 1, MSG_PEEK);
      if (n == 0 || (n < 0 && !WouldBlock(errno) && errno != EINTR)) co_return;
      unread = n > 0;
    }
    // With unread bytes the socket is readable all the time; only an error can be waited for.
    const auto type = unread ? asio::ip::tcp::socket::wait_error : asio::ip::tcp::socket::wait_read;
    waiting_gone_ = true;
    auto [error] = co_await socket_.async_wait(type, kTuple);
    waiting_gone_ = false;
    if (error || unread) co_return;
  }
}

void Stream::Wake() {
  wake_ = true;
  boost::system::error_code ignored;
  if (waiting_gone_ && !closed_) socket_.cancel(ignored);
}

// ---- reading ----

Stream::Attempt Stream::TryRead(std::span<std::byte> buffer) {
  if (closed_) return {0, State::kFailed};
  const Attempt attempt = ssl_ ? TryReadTls(buffer) : TryReadPlain(buffer);
  if (attempt.bytes > 0) Progress(attempt.bytes, 0);
  return attempt;
}

Stream::Attempt Stream::TryReadPlain(std::span<std::byte> buffer) {
  Attempt attempt;
  while (attempt.bytes < buffer.size()) {
    const ssize_t n = ::recv(fd_, buffer.data() + attempt.bytes, buffer.size() - attempt.bytes, 0);
    if (n > 0) {
      attempt.bytes += static_cast<size_t>(n);
    } else if (n == 0) {
      attempt.state = State::kEnd;
      break;
    } else if (errno != EINTR) {
      if (!WouldBlock(errno)) {
        attempt.state = State::kFailed;
        if (!failure_) failure_ = Unavailable(std::string("the connection broke: ") + std::strerror(errno));
      }
      break;
    }
  }
  return attempt;
}

Stream::Attempt Stream::TryReadTls(std::span<std::byte> buffer) {
  Attempt attempt;
  while (attempt.bytes < buffer.size()) {
    size_t n = 0;
    ERR_clear_error();
    const int ok = SSL_read_ex(ssl_.get(), buffer.data() + attempt.bytes, buffer.size() - attempt.bytes, &n);
    if (ok == 1) {
      attempt.bytes += n;
      continue;
    }
    const int error = SSL_get_error(ssl_.get(), ok);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
      tls_want_ = error == SSL_ERROR_WANT_READ ? Want::kRead : Want::kWrite;
    } else if (error == SSL_ERROR_ZERO_RETURN) {
      attempt.state = State::kEnd;
    } else {
      attempt.state = State::kFailed;
      FailFromTls(error, "reading");
    }
    break;
  }
  return attempt;
}

// Turns OpenSSL's last error into `failure_`, once.
void Stream::FailFromTls(int ssl_error, std::string_view doing) {
  if (failure_) return;
  const unsigned long first = ERR_peek_error();
  const int reason = ERR_GET_LIB(first) == ERR_LIB_SSL ? ERR_GET_REASON(first) : 0;
  // Reasons above 1000 are alerts that the peer sent.
  const bool about_certificates =
      reason == SSL_R_CERTIFICATE_VERIFY_FAILED || reason == SSL_R_TLSV1_ALERT_UNKNOWN_CA ||
      reason == SSL_R_SSLV3_ALERT_BAD_CERTIFICATE || reason == SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED ||
      reason == SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED || reason == SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN ||
      reason == SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE || reason == SSL_R_TLSV1_ALERT_ACCESS_DENIED ||
      reason == SSL_R_TLSV1_ALERT_DECRYPT_ERROR || reason == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED;
  std::string detail = "TLS failed while " + std::string(doing);
  if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    detail = "the peer's certificate is not accepted: ";
    detail += X509_verify_cert_error_string(SSL_get_verify_result(ssl_.get()));
    ERR_clear_error();
  } else if (socket_error_ != 0) {
    detail += std::string(": ") + std::strerror(socket_error_);
    ERR_clear_error();
  } else if (socket_end_ && !about_certificates) {
    detail = "the peer closed the connection while " + std::string(doing);
    ERR_clear_error();
  } else if (ssl_error == SSL_ERROR_SSL) {
    detail += ": " + TakeOpenSslErrors();
  }
  failure_ = Status(about_certificates ? Code::kUnauthenticated : Code::kUnavailable, std::move(detail));
}

Awaitable<Result<size_t>> Stream::Read(std::span<std::byte> buffer, bool fill) {
  size_t got = 0;
  if (unyielded_ >= kFairBytes) co_await Yield();
  for (;;) {
    if (closed_ || expired_) {
      if (got > 0) co_return got;
      co_return Failure();
    }
    const Attempt attempt = TryRead(buffer.subspan(got));
    got += attempt.bytes;
    if (got == buffer.size() || (got > 0 && (!fill || attempt.state != State::kOpen))) co_return got;
    if (attempt.state == State::kEnd) co_return got;
    if (attempt.state == State::kFailed) {
      // A peer that just drops the connection ends it too; lengths are known from the heads.
      if (socket_end_ && failure_ && failure_->code() != Code::kUnauthenticated) co_return size_t{0};
      co_return Failure();
    }
    if (Status status = co_await Wait(tls_want_); !status.ok()) {
      if (got > 0) co_return got;  // what came counts; the next call says what happened
      co_return status;
    }
    tls_want_ = Want::kRead;
  }
}

// ---- writing ----

// Sends what is gathered. False: not all of it went.
bool Stream::SendGathered() {
  while (gathered_sent_ < gathered_.size()) {
    const ssize_t n = ::send(fd_, gathered_.data() + gathered_sent_, gathered_.size() - gathered_sent_, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (!WouldBlock(errno)) socket_error_ = errno;
      // Keep what is left at the front, so that the buffer does not grow with every partial send.
      gathered_.erase(gathered_.begin(), gathered_.begin() + static_cast<ptrdiff_t>(gathered_sent_));
      gathered_sent_ = 0;
      return false;
    }
    gathered_sent_ += static_cast<size_t>(n);
    if (pace_ && deadline_) deadline_ = pace_->Deadline();
  }
  gathered_.clear();
  gathered_sent_ = 0;
  return true;
}

bool Stream::Flush() {
  if (closed_ || gathered_.empty()) return true;
  if (SendGathered()) return true;
  if (socket_error_ != 0 && !failure_)
    failure_ = Unavailable(std::string("the connection broke: ") + std::strerror(socket_error_));
  return false;
}

Awaitable<Status> Stream::Write(std::span<const std::byte> data, bool more) {
  if (unyielded_ >= kFairBytes) co_await Yield();
  if (closed_ || failure_ || expired_) co_return Failure();
  if (ssl_) co_return co_await WriteTls(data, more);
  co_return co_await WritePlain(data, more);
}

Awaitable<Status> Stream::WritePlain(std::span<const std::byte> data, bool more) {
  while (!data.empty()) {
    const ssize_t n = ::send(fd_, data.data(), data.size(), MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    if (n > 0) {
      Progress(0, static_cast<size_t>(n));
      data = data.subspan(static_cast<size_t>(n));
    } else if (n < 0 && WouldBlock(errno)) {
      if (Status status = co_await Wait(Want::kWrite); !status.ok()) co_return status;
    } else if (n < 0 && errno != EINTR) {
      failure_ = Unavailable(std::string("the connection broke: ") + std::strerror(errno));
      co_return Failure();
    }
  }
  co_return OkStatus();
}

Awaitable<Status> Stream::WriteTls(std::span<const std::byte> data, bool more) {
  while (!data.empty()) {
    size_t n = 0;
    ERR_clear_error();
    const int ok = SSL_write_ex(ssl_.get(), data.data(), data.size(), &n);
    if (ok == 1) {
      Progress(0, n);
      data = data.subspan(n);
      continue;
    }
    const int error = SSL_get_error(ssl_.get(), ok);
    if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ) {
      FailFromTls(error, "writing");
      co_return Failure();
    }
    const Want want = error == SSL_ERROR_WANT_WRITE ? Want::kWrite : Want::kRead;
    if (Status status = co_await Wait(want); !status.ok()) co_return status;
  }
  while (!more && !Flush()) {
    if (Status status = co_await Wait(Want::kWrite); !status.ok()) co_return status;
  }
  co_return OkStatus();
}

// ---- beginning and end ----

Awaitable<Status> Stream::Handshake() {
  if (failure_) co_return *failure_;
  if (!ssl_) co_return OkStatus();
  for (;;) {
    ERR_clear_error();
    const int ok = SSL_do_handshake(ssl_.get());
    const int error = ok == 1 ? SSL_ERROR_NONE : SSL_get_error(ssl_.get(), ok);
    if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
      FailFromTls(error, "shaking hands");
      if (!closed_ && !gathered_.empty()) SendGathered();  // the alert that tells the peer why
      co_return Failure();
    }
    if (error == SSL_ERROR_NONE) {
      if (Flush()) co_return OkStatus();
      if (failure_) co_return Failure();
    }
    const Want want = error == SSL_ERROR_WANT_READ ? Want::kRead : Want::kWrite;
    if (Status status = co_await Wait(want); !status.ok()) co_return status;
  }
}

void Stream::ReleaseBuffers() {
  if (gathered_.empty() && gathered_.capacity() > kKeepCapacity) std::vector<std::byte>().swap(gathered_);
}

void Stream::Shutdown() {
  if (closed_) return;
  if (ssl_ && !failure_ && SSL_is_init_finished(ssl_.get())) {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
    Flush();
  }
  boost::system::error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
}

void Stream::Close(Code why) {
  if (closed_) return;
  closed_ = true;
  if (why != Code::kUnavailable) failure_ = Status(why, "the operation was cancelled");
  fd_ = -1;
  boost::system::error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
}

}  // namespace heddle::protocol::internal
