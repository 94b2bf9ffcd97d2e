#include "protocol/transport/http_exchange.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "common/file.h"
#include "common/test_hooks.h"
#include "protocol/limits.h"

namespace heddle::protocol::internal {
namespace {

constexpr size_t kPieceBytes = 4096;
// An unread body up to this size is read and thrown away, so that the connection can be used again.
constexpr uint64_t kMaxDrainBytes = 64 << 10;

}  // namespace

void ReadPeer(SSL* ssl, Peer* peer) {
  X509* certificate = ssl ? SSL_get0_peer_certificate(ssl) : nullptr;
  if (!certificate || SSL_get_verify_result(ssl) != X509_V_OK) return;
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) >= 0 ||
      X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
    return;
  peer->device = CommonNameOf(certificate);
  peer->serial_hex = SerialHexOf(certificate);
  peer->authenticated = !peer->device.empty();
}

Awaitable<Result<size_t>> HttpExchange::ReadBody(std::span<std::byte> buffer) {
  if (remaining_ == 0 || buffer.empty()) co_return size_t{0};
  if (buffer.size() > remaining_) buffer = buffer.first(remaining_);
  size_t got = 0;
  if (const std::string_view early = connection_.unread(); !early.empty()) {
    got = std::min(early.size(), buffer.size());
    std::memcpy(buffer.data(), early.data(), got);
    connection_.Consume(got);
  }
  if (got < buffer.size()) {
    Result<size_t> read = co_await ReadAtPace(buffer.subspan(got));
    if (!read.ok() && got == 0) co_return read.status();
    if (read.ok()) got += *read;
    if (got == 0) {
      gone_ = true;
      co_return Unavailable("the peer closed the connection in the middle of a body");
    }
  }
  wants_continue_ = false;
  remaining_ -= got;
  bytes_in_ += got;
  co_return got;
}

// A body that trickles ends like one that stalls: a peer may not hold a request open at its leisure.
Awaitable<Result<size_t>> HttpExchange::ReadAtPace(std::span<std::byte> buffer) {
  using Clock = std::chrono::steady_clock;
  const uint64_t pace = options_.min_body_bytes_per_s;
  const Clock::time_point begin = Clock::now();
  stream_.SetPace(options_.body_idle_timeout, allowance_, pace);
  if (wants_continue_) {
    wants_continue_ = false;
    if (Status sent = co_await stream_.Write(std::string_view("HTTP/1.1 100 Continue\r\n\r\n"), false); !sent.ok())
      co_return sent;
  }
  Result<size_t> read = co_await stream_.Read(buffer, /*fill=*/true);
  stream_.ClearDeadline();
  if (!read.ok()) {
    NoteLate(read.status());
    gone_ = true;
    co_return read;
  }
  // What a fast piece earned is not saved up for a slow one.
  const auto spent = std::chrono::duration_cast<Duration>(Clock::now() - begin);
  const Duration earned = pace > 0 ? Seconds(static_cast<double>(*read) / static_cast<double>(pace)) : spent;
  allowance_ = std::min(options_.body_idle_timeout, allowance_ + earned - spent);
  co_return read;
}

Awaitable<void> HttpExchange::WaitGone() {
  // A pipelined request means that the peer was there a moment ago and is not waiting for an end to this one.
  co_await stream_.WaitGone();
  gone_ = !connection_.stopping;
}

Awaitable<Result<std::string>> HttpExchange::ReadAll(size_t limit) {
  if (remaining_ > limit)
    co_return ResourceExhausted("the body has " + std::to_string(remaining_) + " bytes, more than the limit of " +
                                std::to_string(limit));
  std::string body;
  while (remaining_ > 0) {
    // Memory follows what has really come, not what was promised.
    const size_t old = body.size();
    body.resize(old + std::min<uint64_t>(remaining_, std::max<size_t>(old, kPieceBytes)));
    Result<size_t> read = co_await ReadBody(std::as_writable_bytes(std::span(body).subspan(old)));
    if (!read.ok()) co_return read.status();
    body.resize(old + *read);
  }
  co_return body;
}

// Once an exchange: after a late body the answer is late too.
void HttpExchange::NoteLate(const Status& status) {
  if (status.code() == Code::kDeadlineExceeded && !std::exchange(late_, true)) Counters::Add(counters_.late_bodies);
}

void HttpExchange::EndAnswer(const Status& sent) {
  stream_.ClearDeadline();
  complete_ = sent.ok();
  NoteLate(sent);
}

// Decides whether the connection can live on and writes the head.
std::string HttpExchange::BeginAnswer(unsigned status, std::string_view content_type, uint64_t length,
                                      const Headers& headers) {
  answered_ = true;
  keep_alive_ = head_.keep_alive && !connection_.stopping && !wants_continue_ && remaining_ <= kMaxDrainBytes;
  const bool no_length = status == 204 || status == 304 || status < 200;
  return FormatResponseHead(status, content_type, no_length ? std::nullopt : std::optional<uint64_t>(length), headers,
                            keep_alive_);
}

Awaitable<Status> HttpExchange::Respond(unsigned status, std::string content_type, std::string body, Headers headers) {
  if (answered_) co_return FailedPrecondition("the request was answered already");
  std::string answer = BeginAnswer(status, content_type, body.size(), headers);
  const bool without_body = head_.method == "HEAD" || status == 204 || status == 304;
  stream_.SetPace(options_.body_idle_timeout, options_.body_idle_timeout, options_.min_body_bytes_per_s);
  if (!without_body) {
    bytes_out_ += body.size();
    answer += body;
  }
  HEDDLE_FAILPOINT(kUnanswered);
  Status sent = co_await stream_.Write(answer, /*more=*/false);
  EndAnswer(sent);
  HEDDLE_FAILPOINT(kAnswered);
  co_return sent;
}

Awaitable<Status> HttpExchange::RespondFile(unsigned status, std::string content_type,
                                            const std::filesystem::path& file, uint64_t offset, uint64_t length,
                                            Headers headers) {
  if (answered_) co_return FailedPrecondition("the request was answered already");
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) co_return ErrnoStatus(errno, "cannot open " + file.string());
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  if (size < 0) co_return ErrnoStatus(errno, "cannot seek in " + file.string());
  if (offset > static_cast<uint64_t>(size) || length > static_cast<uint64_t>(size) - offset)
    co_return OutOfRange(file.string() + " has " + std::to_string(size) + " bytes, fewer than asked for");
  const std::string answer = BeginAnswer(status, content_type, length, headers);
  const bool body = head_.method != "HEAD" && length > 0;
  stream_.SetPace(options_.body_idle_timeout, options_.body_idle_timeout, options_.min_body_bytes_per_s);
  HEDDLE_FAILPOINT(kUnanswered);
  Status sent = co_await stream_.Write(answer, /*more=*/body);
  if (sent.ok() && body) sent = co_await SendBody(fd.get(), offset, length);
  EndAnswer(sent);
  HEDDLE_FAILPOINT(kAnswered);
  co_return sent;
}

Awaitable<Status> HttpExchange::SendBody(int fd, uint64_t offset, uint64_t length) {
  const size_t piece = static_cast<size_t>(std::min<uint64_t>(length, kServerIoBufferBytes));
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(piece);
  while (length > 0) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(length, piece));
    const ssize_t got = ::pread(fd, buffer.get(), want, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) co_return ErrnoStatus(errno, "cannot read a file to send");
    if (got == 0) co_return DataLoss("a file became shorter while it was sent");
    length -= static_cast<uint64_t>(got);
    offset += static_cast<uint64_t>(got);
    const Status sent = co_await stream_.Write({buffer.get(), static_cast<size_t>(got)}, /*more=*/length > 0);
    if (!sent.ok()) co_return sent;
    bytes_out_ += static_cast<uint64_t>(got);
  }
  co_return OkStatus();
}

Awaitable<bool> HttpExchange::Finish() {
  if (!complete_ || !keep_alive_) co_return false;
  std::byte sink[kPieceBytes];
  while (remaining_ > 0) {
    Result<size_t> read = co_await ReadBody(sink);
    if (!read.ok()) co_return false;
  }
  co_return true;
}

ServerStats Counters::Read() const {
  ServerStats stats;
  stats.connections_accepted = accepted;
  stats.handshakes_failed = handshakes_failed;
  stats.requests = requests;
  stats.refused_full = refused_full;
  stats.refused_address = refused_address;
  stats.refused_handshakes = refused_handshakes;
  stats.late_handshakes = late_handshakes;
  stats.late_heads = late_heads;
  stats.late_bodies = late_bodies;
  stats.idle_ended = idle_ended;
  stats.malformed_heads = malformed_heads;
  stats.large_heads = large_heads;
  stats.failures = failures;
  stats.bytes_in = bytes_in;
  stats.bytes_out = bytes_out;
  return stats;
}

}  // namespace heddle::protocol::internal
