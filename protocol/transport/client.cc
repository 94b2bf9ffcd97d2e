// The client of client.h.
#include "protocol/transport/client.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>

#include "common/file.h"
#include "protocol/limits.h"
#include "protocol/transport/http_head.h"
#include "protocol/transport/stream.h"

namespace heddle::protocol {

namespace asio = boost::asio;
using asio::ip::tcp;
using internal::SessionPtr;
using internal::Stream;

namespace {

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kHeadReadBytes = 4096;
constexpr int kMaxInterimAnswers = 8;  // 1xx before the answer

}  // namespace

std::optional<std::string_view> HttpResponse::Header(std::string_view name) const { return FindHeader(headers, name); }

struct HttpClient::Impl {
  Impl(asio::any_io_executor exec, ClientOptions opts)
      : executor(exec), options(std::move(opts)), resolver(exec), connect_timer(exec) {}

  // One call from its beginning to its end: whatever leaves early leaves a connection that cannot be used again.
  struct Call {
    explicit Call(Impl& impl) : impl_(impl) { impl_.in_call = true; }
    ~Call() {
      impl_.in_call = false;
      if (!clean) impl_.Drop();
    }
    bool clean = false;
    Impl& impl_;
  };

  Awaitable<Status> Connect();
  Awaitable<Result<tcp::socket>> ConnectTcp();
  Awaitable<Status> SendHead(const HttpRequest& request, std::optional<uint64_t> length, std::string_view body);
  Awaitable<Status> SendFileBody(int fd, uint64_t offset, uint64_t length);
  Awaitable<Result<ResponseHead>> ReadHead(Duration limit);
  Awaitable<Result<size_t>> ReadBody(std::span<std::byte> buffer, uint64_t* remaining);
  Awaitable<Result<HttpResponse>> ReadAnswer(const HttpRequest& request, Call& call);
  Awaitable<Result<HttpResponse>> ReadWhole(ResponseHead head, bool no_body, size_t max_body, Call& call);
  Awaitable<Result<HttpResponse>> Send(const HttpRequest& request);
  Awaitable<Result<HttpResponse>> SendFile(const HttpRequest& request, const std::filesystem::path& file,
                                           uint64_t offset, uint64_t length);
  Awaitable<Result<Download>> DownloadTo(const std::string& target, const std::filesystem::path& file, uint64_t offset,
                                         uint64_t max_bytes, Sha256Hasher* hasher,
                                         const std::function<void(uint64_t)>& progress);
  Awaitable<Result<Download>> DownloadRange(const std::string& target, const std::filesystem::path& file,
                                            uint64_t offset, uint64_t first, uint64_t bytes, Sha256Hasher* hasher);
  Awaitable<Status> ReceiveFile(const ResponseHead& head, int fd, const std::string& path, uint64_t skip,
                                uint64_t offset, Sha256Hasher* hasher, const std::function<void(uint64_t)>& progress,
                                Download* download);
  bool AnswerIsEarly();
  std::string HostHeader() const;

  void Drop() {
    if (!stream) return;
    if (SessionPtr fresh = stream->TakeSession()) session = std::move(fresh);
    old_in += stream->bytes_in();
    old_out += stream->bytes_out();
    old_socket += stream->socket_bytes();
    stream->Close();
    stream.reset();
    input.clear();
  }

  asio::any_io_executor executor;
  ClientOptions options;
  tcp::resolver resolver;
  asio::steady_timer connect_timer;
  std::shared_ptr<Stream> stream;
  SessionPtr session;
  std::string input;  // bytes read and not used yet
  tcp::socket* connecting = nullptr;
  bool in_call = false;
  bool cancelled = false;
  uint64_t old_in = 0, old_out = 0, old_socket = 0;  // of connections that are gone
};

std::string HttpClient::Impl::HostHeader() const {
  const std::string& name = options.server_name.empty() ? options.host : options.server_name;
  return (name.find(':') == std::string::npos ? name : "[" + name + "]") + ":" + std::to_string(options.port);
}

Awaitable<Result<tcp::socket>> HttpClient::Impl::ConnectTcp() {
  const std::string where = options.host + " port " + std::to_string(options.port);
  std::vector<tcp::endpoint> endpoints;
  boost::system::error_code error;
  if (const asio::ip::address address = asio::ip::make_address(options.host, error); !error) {
    endpoints.emplace_back(address, options.port);  // no resolver, no thread of it
  } else if (options.host == "localhost") {         // this machine, whatever a resolver says (RFC 6761, 6.3)
    endpoints.emplace_back(asio::ip::address_v4::loopback(), options.port);
    endpoints.emplace_back(asio::ip::address_v6::loopback(), options.port);
  } else {
    auto [failed, results] = co_await resolver.async_resolve(options.host, std::to_string(options.port), kTuple);
    if (cancelled) co_return Cancelled("the call was cancelled");
    if (failed) co_return Unavailable("cannot resolve " + options.host + ": " + failed.message());
    for (const auto& entry : results) endpoints.push_back(entry.endpoint());
  }
  bool timed_out = false;
  tcp::socket socket(executor);
  connecting = &socket;
  // The socket lives in this frame; the timer's handler must not outlive it, so it looks through a shared flag.
  auto alive = std::make_shared<bool>(true);
  connect_timer.expires_after(options.connect_timeout);
  connect_timer.async_wait([alive, &socket, &timed_out](const boost::system::error_code& aborted) {
    if (aborted || !*alive) return;
    timed_out = true;
    boost::system::error_code ignored;
    socket.close(ignored);
  });
  struct Guard {
    ~Guard() {
      *alive = false;
      impl->connecting = nullptr;
      impl->connect_timer.cancel();
    }
    Impl* impl;
    std::shared_ptr<bool> alive;
  } guard{this, alive};
  error = asio::error::host_not_found;
  for (const tcp::endpoint& endpoint : endpoints) {
    boost::system::error_code ignored;
    socket.close(ignored);
    auto [failed] = co_await socket.async_connect(endpoint, kTuple);
    if (cancelled) co_return Cancelled("the call was cancelled");
    if (timed_out) co_return DeadlineExceeded("cannot connect to " + where + " in time");
    if (!failed) co_return std::move(socket);
    error = failed;
    if (failed == asio::error::operation_aborted) break;
  }
  co_return Unavailable("cannot connect to " + where + ": " + error.message());
}

// Makes sure of a connection on which nothing is under way.
Awaitable<Status> HttpClient::Impl::Connect() {
  if (stream) {
    // A kept connection may have been closed meanwhile; then a byte, an end or an error is there to be read.
    std::byte byte;
    const Stream::Attempt attempt = stream->TryRead({&byte, 1});
    if (attempt.state == Stream::State::kOpen && attempt.bytes == 0 && input.empty()) co_return OkStatus();
    Drop();
  }
  Result<tcp::socket> socket = co_await ConnectTcp();
  if (!socket.ok()) co_return socket.status();
  stream = std::make_shared<Stream>(*std::move(socket), options.tls, Stream::Side::kClient);
  input.clear();
  if (options.tls) {
    if (options.verify_name) {
      Status named = stream->ExpectName(options.server_name.empty() ? options.host : options.server_name);
      if (!named.ok()) co_return named;
    }
    stream->OfferSession(session.get());
  }
  stream->SetDeadline(options.connect_timeout);
  const Status greeted = co_await stream->Handshake();
  if (!greeted.ok()) session.reset();  // in case it was the session that displeased
  co_return greeted;
}

// True when the answer began before our body was through: the server will not take the rest.
bool HttpClient::Impl::AnswerIsEarly() {
  std::byte bytes[256];
  const Stream::Attempt attempt = stream->TryRead(bytes);
  input.append(reinterpret_cast<const char*>(bytes), attempt.bytes);
  return attempt.bytes > 0 || attempt.state != Stream::State::kOpen;
}

Awaitable<Status> HttpClient::Impl::SendHead(const HttpRequest& request, std::optional<uint64_t> length,
                                             std::string_view body) {
  Headers headers = options.headers;
  headers.insert(headers.end(), request.headers.begin(), request.headers.end());
  std::string head =
      FormatRequestHead(request.method, request.target, HostHeader(), request.content_type, length, headers);
  const bool more = length.value_or(0) > body.size();
  head += body;
  stream->SetPace(options.idle_timeout, Duration(0), 0);
  co_return co_await stream->Write(head, more);
}

Awaitable<Status> HttpClient::Impl::SendFileBody(int fd, uint64_t offset, uint64_t length) {
  const size_t piece = static_cast<size_t>(std::min<uint64_t>(length, kIoBufferBytes));
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(std::max<size_t>(piece, 1));
  while (length > 0) {
    const ssize_t got = ::pread(fd, buffer.get(), std::min<uint64_t>(length, piece), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) co_return ErrnoStatus(errno, "cannot read the file to send");
    if (got == 0) co_return DataLoss("the file to send became shorter meanwhile");
    offset += static_cast<uint64_t>(got);
    length -= static_cast<uint64_t>(got);
    const Status sent = co_await stream->Write({buffer.get(), static_cast<size_t>(got)}, /*more=*/length > 0);
    if (!sent.ok()) co_return sent;
    if (length > 0 && AnswerIsEarly()) co_return Aborted("the server answered before the end of the body");
  }
  co_return OkStatus();
}

Awaitable<Result<ResponseHead>> HttpClient::Impl::ReadHead(Duration limit) {
  stream->SetDeadline(limit);
  int interim = 0;
  size_t searched = 0;
  for (;;) {
    if (const auto end = FindHeadEnd(input, &searched)) {
      Result<ResponseHead> head = ParseResponseHead(std::string_view(input).substr(0, *end));
      if (!head.ok()) co_return Unavailable(head.status().message());
      input.erase(0, *end);
      searched = 0;
      if (head->status >= 200) co_return head;
      if (++interim > kMaxInterimAnswers) co_return Unavailable("the server sends interim answers without end");
      continue;
    }
    if (input.size() > kMaxHttpHeaderBytes) co_return ResourceExhausted("the answer's head is too large");
    std::byte piece[kHeadReadBytes];
    Result<size_t> read = co_await stream->Read(piece, /*fill=*/false);
    if (!read.ok()) co_return read.status();
    if (*read == 0) co_return Unavailable("the server closed the connection without an answer");
    input.append(reinterpret_cast<const char*>(piece), *read);
  }
}

// The next piece of an answer's body; never 0 while `*remaining` is not.
Awaitable<Result<size_t>> HttpClient::Impl::ReadBody(std::span<std::byte> buffer, uint64_t* remaining) {
  if (buffer.size() > *remaining) buffer = buffer.first(*remaining);
  const size_t early = std::min(input.size(), buffer.size());
  std::memcpy(buffer.data(), input.data(), early);
  input.erase(0, early);
  size_t got = early;
  if (got < buffer.size()) {
    stream->SetPace(options.idle_timeout, Duration(0), 0);
    Result<size_t> read = co_await stream->Read(buffer.subspan(got), /*fill=*/true);
    if (!read.ok() && got == 0) co_return read.status();
    if (read.ok()) got += *read;
    if (got == 0) co_return Unavailable("the server closed the connection in the middle of an answer");
  }
  *remaining -= got;
  co_return got;
}

Awaitable<Result<HttpResponse>> HttpClient::Impl::ReadWhole(ResponseHead head, bool no_body, size_t max_body,
                                                            Call& call) {
  HttpResponse response;
  response.status = head.status;
  response.headers = std::move(head.headers);
  const bool without = no_body || head.status == 204 || head.status == 304;
  if (!without && !head.content_length) co_return Unavailable("the answer has no Content-Length");
  uint64_t remaining = without ? 0 : *head.content_length;
  if (remaining > max_body)
    co_return ResourceExhausted("the answer has " + std::to_string(remaining) + " bytes, more than the limit of " +
                                std::to_string(max_body));
  while (remaining > 0) {
    const size_t old = response.body.size();
    response.body.resize(old + std::min<uint64_t>(remaining, kIoBufferBytes));
    Result<size_t> read = co_await ReadBody(std::as_writable_bytes(std::span(response.body).subspan(old)), &remaining);
    if (!read.ok()) co_return read.status();
    response.body.resize(old + *read);
  }
  call.clean = head.keep_alive;
  stream->ClearDeadline();
  co_return response;
}

Awaitable<Result<HttpResponse>> HttpClient::Impl::ReadAnswer(const HttpRequest& request, Call& call) {
  Result<ResponseHead> head = co_await ReadHead(request.answer_timeout);
  if (!head.ok()) co_return head.status();
  co_return co_await ReadWhole(*std::move(head), request.method == "HEAD", request.max_body, call);
}

Awaitable<Result<HttpResponse>> HttpClient::Impl::Send(const HttpRequest& request) {
  Call call(*this);
  if (Status status = co_await Connect(); !status.ok()) co_return status;
  const bool has_body = request.method != "GET" && request.method != "HEAD";
  const Status sent =
      co_await SendHead(request, has_body ? std::optional<uint64_t>(request.body.size()) : std::nullopt, request.body);
  if (!sent.ok() && sent.code() != Code::kUnavailable) co_return sent;
  // Even when the connection broke while we wrote, the reason may lie there to be read.
  Result<HttpResponse> answer = co_await ReadAnswer(request, call);
  if (!sent.ok()) call.clean = false;
  if (!answer.ok() && !sent.ok() && answer.status().code() != Code::kUnauthenticated) co_return sent;
  co_return answer;
}

Awaitable<Result<HttpResponse>> HttpClient::Impl::SendFile(const HttpRequest& request,
                                                           const std::filesystem::path& file, uint64_t offset,
                                                           uint64_t length) {
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) co_return ErrnoStatus(errno, "cannot open " + file.string());
  Call call(*this);
  if (Status status = co_await Connect(); !status.ok()) co_return status;
  Status sent = co_await SendHead(request, length, {});
  if (sent.ok()) sent = co_await SendFileBody(fd.get(), offset, length);
  const bool broken = sent.code() == Code::kUnavailable || sent.code() == Code::kAborted;
  if (!sent.ok() && !broken) co_return sent;
  Result<HttpResponse> answer = co_await ReadAnswer(request, call);
  if (!sent.ok()) call.clean = false;
  if (!answer.ok() && sent.code() == Code::kUnavailable && answer.status().code() != Code::kUnauthenticated)
    co_return sent;
  co_return answer;
}

// To be written from `offset` on, with nothing behind it. What has no length, as /dev/null, is not cut (EINVAL).
static Result<UniqueFd> OpenCut(const std::filesystem::path& file, uint64_t offset) {
  UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600));
  if (fd.valid() && (::ftruncate(fd.get(), static_cast<off_t>(offset)) == 0 || errno == EINVAL)) return fd;
  return ErrnoStatus(errno, "cannot write to " + file.string());
}

Awaitable<Status> HttpClient::Impl::ReceiveFile(const ResponseHead& head, int fd, const std::string& path,
                                                uint64_t skip, uint64_t offset, Sha256Hasher* hasher,
                                                const std::function<void(uint64_t)>& progress, Download* download) {
  uint64_t remaining = *head.content_length;
  const size_t piece = static_cast<size_t>(std::min<uint64_t>(std::max<uint64_t>(remaining, 1), kIoBufferBytes));
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(piece);
  while (remaining > 0) {
    Result<size_t> read = co_await ReadBody({buffer.get(), piece}, &remaining);
    if (!read.ok()) co_return read.status();
    std::span<const std::byte> data(buffer.get(), *read);
    const size_t skipped = static_cast<size_t>(std::min<uint64_t>(skip, data.size()));
    skip -= skipped;
    data = data.subspan(skipped);
    for (size_t done = 0; done < data.size();) {
      const ssize_t n = ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) co_return ErrnoStatus(n < 0 ? errno : EIO, "cannot write " + path);
      // Hash exactly what is in the file, so that file and hash agree also after a full disk.
      if (hasher) hasher->Update(data.subspan(done, static_cast<size_t>(n)));
      done += static_cast<size_t>(n);
      offset += static_cast<uint64_t>(n);
      download->bytes += static_cast<uint64_t>(n);
    }
    if (progress) progress(offset);
  }
  co_return OkStatus();
}

Awaitable<Result<HttpClient::Download>> HttpClient::Impl::DownloadTo(const std::string& target,
                                                                     const std::filesystem::path& file, uint64_t offset,
                                                                     uint64_t max_bytes, Sha256Hasher* hasher,
                                                                     const std::function<void(uint64_t)>& progress) {
  Call call(*this);
  if (Status status = co_await Connect(); !status.ok()) co_return status;
  HttpRequest request;
  request.target = target;
  if (offset > 0) request.headers.emplace_back("Range", "bytes=" + std::to_string(offset) + "-");
  if (Status sent = co_await SendHead(request, std::nullopt, {}); !sent.ok()) co_return sent;
  Result<ResponseHead> head = co_await ReadHead(request.answer_timeout);
  if (!head.ok()) co_return head.status();
  Download download;
  download.status = head->status;
  if (head->status != 200 && head->status != 206) {
    Result<HttpResponse> refusal = co_await ReadWhole(*std::move(head), false, request.max_body, call);
    if (!refusal.ok()) co_return refusal.status();
    download.refusal = *std::move(refusal);
    co_return download;
  }
  if (!head->content_length) co_return Unavailable("the answer has no Content-Length");
  uint64_t skip = 0;
  if (head->status == 206) {
    const std::string expected = "bytes " + std::to_string(offset) + "-";
    const std::string_view range = FindHeader(head->headers, "Content-Range").value_or("");
    if (!range.starts_with(expected)) co_return DataLoss("the server sent another range than it was asked for");
  } else {
    skip = offset;  // it does not know ranges and sends everything
    if (*head->content_length < skip) co_return DataLoss("the server sent less than is there already");
  }
  const uint64_t coming = *head->content_length - skip;
  if (offset > max_bytes || coming > max_bytes - offset)
    co_return ResourceExhausted("the answer would make " + file.string() + " larger than " + std::to_string(max_bytes) +
                                " bytes");
  Result<UniqueFd> fd = OpenCut(file, offset);
  if (!fd.ok()) co_return fd.status();
  const Status received =
      co_await ReceiveFile(*head, fd->get(), file.string(), skip, offset, hasher, progress, &download);
  if (!received.ok()) co_return received;
  call.clean = head->keep_alive;
  stream->ClearDeadline();
  co_return download;
}

Awaitable<Result<HttpClient::Download>> HttpClient::Impl::DownloadRange(const std::string& target,
                                                                        const std::filesystem::path& file,
                                                                        uint64_t offset, uint64_t first, uint64_t bytes,
                                                                        Sha256Hasher* hasher) {
  Call call(*this);
  if (Status status = co_await Connect(); !status.ok()) co_return status;
  HttpRequest request;
  request.target = target;
  const std::string range = std::to_string(first) + "-" + std::to_string(first + bytes - 1);
  request.headers.emplace_back("Range", "bytes=" + range);
  if (Status sent = co_await SendHead(request, std::nullopt, {}); !sent.ok()) co_return sent;
  Result<ResponseHead> head = co_await ReadHead(request.answer_timeout);
  if (!head.ok()) co_return head.status();
  Download download;
  download.status = head->status;
  if (head->status == 200) co_return Unavailable("the server sends whole files where a part was asked for");
  if (head->status != 206) {
    Result<HttpResponse> refusal = co_await ReadWhole(*std::move(head), false, request.max_body, call);
    if (!refusal.ok()) co_return refusal.status();
    download.refusal = *std::move(refusal);
    co_return download;
  }
  const std::string_view sent = FindHeader(head->headers, "Content-Range").value_or("");
  if (!sent.starts_with("bytes " + range + "/") || head->content_length != bytes) {
    co_return DataLoss("the server sent another range than it was asked for");
  }
  Result<UniqueFd> fd = OpenCut(file, offset);
  if (!fd.ok()) co_return fd.status();
  const Status received =
      co_await ReceiveFile(*head, fd->get(), file.string(), /*skip=*/0, offset, hasher, {}, &download);
  if (!received.ok()) co_return received;
  call.clean = head->keep_alive;
  stream->ClearDeadline();
  co_return download;
}

// ---- the wall: what Asio throws when the caller's coroutine is cancelled becomes a Status ----

namespace {

// `keep` holds what the call uses.
template <typename T>
Awaitable<Result<T>> Walled(Awaitable<Result<T>> call, [[maybe_unused]] std::shared_ptr<void> keep, bool& cancelled) {
  cancelled = false;
  try {
    Result<T> result = co_await std::move(call);
    if (cancelled && !result.ok()) co_return Cancelled("the call was cancelled");
    co_return result;
  } catch (const boost::system::system_error& error) {
    if (error.code() == asio::error::operation_aborted) co_return Cancelled("the call was cancelled");
    co_return Internal(std::string("the transport failed: ") + error.what());
  } catch (const std::exception& error) {
    co_return Internal(std::string("the transport failed: ") + error.what());
  }
}

}  // namespace

HttpClient::HttpClient(asio::any_io_executor executor, ClientOptions options)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(options))) {}

HttpClient::~HttpClient() { Close(); }

Awaitable<Result<HttpResponse>> HttpClient::Send(HttpRequest request) {
  HEDDLE_ASSERT(!impl_->in_call, "one call at a time");
  co_return co_await Walled(impl_->Send(request), impl_, impl_->cancelled);
}

Awaitable<Result<HttpClient::Download>> HttpClient::DownloadTo(std::string target, const std::filesystem::path& file,
                                                               uint64_t offset, uint64_t max_bytes,
                                                               Sha256Hasher* hasher,
                                                               std::function<void(uint64_t bytes)> progress) {
  HEDDLE_ASSERT(!impl_->in_call, "one call at a time");
  co_return co_await Walled(impl_->DownloadTo(target, file, offset, max_bytes, hasher, progress), impl_,
                            impl_->cancelled);
}

Awaitable<Result<HttpClient::Download>> HttpClient::DownloadRange(std::string target, const std::filesystem::path& file,
                                                                  uint64_t offset, uint64_t first, uint64_t bytes,
                                                                  Sha256Hasher* hasher) {
  HEDDLE_ASSERT(!impl_->in_call, "one call at a time");
  co_return co_await Walled(impl_->DownloadRange(target, file, offset, first, bytes, hasher), impl_, impl_->cancelled);
}

Awaitable<Result<HttpResponse>> HttpClient::SendFile(HttpRequest head, const std::filesystem::path& file,
                                                     uint64_t offset, uint64_t length) {
  HEDDLE_ASSERT(!impl_->in_call, "one call at a time");
  co_return co_await Walled(impl_->SendFile(head, file, offset, length), impl_, impl_->cancelled);
}

void HttpClient::Cancel() {
  if (!impl_->in_call) return;
  impl_->cancelled = true;
  impl_->resolver.cancel();
  boost::system::error_code ignored;
  if (impl_->connecting) impl_->connecting->close(ignored);
  if (impl_->stream) impl_->stream->Close(Code::kCancelled);
}

void HttpClient::Close() {
  if (impl_->in_call) return Cancel();
  if (impl_->stream) impl_->stream->Shutdown();
  impl_->Drop();
}

uint64_t HttpClient::bytes_in() const { return impl_->old_in + (impl_->stream ? impl_->stream->bytes_in() : 0); }
uint64_t HttpClient::socket_bytes() const {
  return impl_->old_socket + (impl_->stream ? impl_->stream->socket_bytes() : 0);
}
uint64_t HttpClient::bytes_out() const { return impl_->old_out + (impl_->stream ? impl_->stream->bytes_out() : 0); }

}  // namespace heddle::protocol
