// The HTTP/1.1 client of devices, demo and tests: one connection, kept alive and reopened as needed, coroutines.
//
// Thread-safety: one strand, one call at a time; destroying it cancels the call in flight. Cancel() may be called from
// that strand; it makes the call in flight return kCancelled. A call that fails with kUnavailable or kDeadlineExceeded
// may be repeated; retry policy belongs to the caller.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ssl/context.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/digest.h"
#include "common/status.h"
#include "protocol/transport/server.h"  // Awaitable, Headers

namespace heddle::protocol {

struct ClientOptions {
  std::string host;
  uint16_t port = 0;
  std::shared_ptr<boost::asio::ssl::context> tls;  // null: plain TCP
  std::string server_name;                         // name the certificate must bear; empty: `host`
  bool verify_name = true;                         // false only while enrolling against a pinned fingerprint
  Headers headers;                                 // sent with every request
  Duration connect_timeout = Seconds(15);
  Duration idle_timeout = Seconds(60);  // without a byte either way, except while a long poll waits
};

// Not an aggregate on purpose: g++ 12 destroys a braced temporary of an aggregate twice when it is made inside a
// co_await expression.
struct HttpRequest {
  HttpRequest() = default;
  HttpRequest(std::string verb, std::string where, std::string content = {})
      : method(std::move(verb)), target(std::move(where)), body(std::move(content)) {}

  std::string method = "GET";
  std::string target = "/";
  Headers headers;
  std::string body;
  std::string content_type = "application/x-protobuf";
  Duration answer_timeout = Seconds(60);  // until the answer's head; long polls set it high
  size_t max_body = size_t{1} << 20;
};

struct HttpResponse {
  unsigned status = 0;
  Headers headers;
  std::string body;
  std::optional<std::string_view> Header(std::string_view name) const;
};

class HttpClient {
 public:
  HttpClient(boost::asio::any_io_executor executor, ClientOptions options);
  ~HttpClient();

  // Errors: kUnavailable (no connection, broken), kDeadlineExceeded, kUnauthenticated (TLS refused either way),
  // kResourceExhausted (answer too large), kCancelled. An answer of any HTTP status is a value.
  Awaitable<Result<HttpResponse>> Send(HttpRequest request);

  // GETs `target` from byte `offset` (Range when > 0) and appends to `file`, hashing as it goes with `hasher` (which
  // already holds the first `offset` bytes). At most `max_bytes` in all. What came stays on error, so that a later call
  // resumes. The value is the HTTP status: 200/206 done, else the refusal's body is in `refusal`.
  struct Download {
    unsigned status = 0;
    uint64_t bytes = 0;
    HttpResponse refusal;
  };
  Awaitable<Result<Download>> DownloadTo(std::string target, const std::filesystem::path& file, uint64_t offset,
                                         uint64_t max_bytes, Sha256Hasher* hasher,
                                         std::function<void(uint64_t bytes)> progress = {});

  // GETs `bytes` bytes of `target` from `first` on, which must be at least one, and writes them to `file` from `offset`
  // on, where it is cut; else as DownloadTo. Errors: also kUnavailable when the server sends more than was asked for.
  Awaitable<Result<Download>> DownloadRange(std::string target, const std::filesystem::path& file, uint64_t offset,
                                            uint64_t first, uint64_t bytes, Sha256Hasher* hasher);

  // Sends `length` bytes of the file from `offset` as the body.
  Awaitable<Result<HttpResponse>> SendFile(HttpRequest head, const std::filesystem::path& file, uint64_t offset,
                                           uint64_t length);

  void Cancel();
  void Close();
  uint64_t bytes_in() const;  // of bodies and heads, before TLS
  uint64_t bytes_out() const;
  uint64_t socket_bytes() const;  // both ways, TLS and its handshakes included

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;  // also held by the call in flight
};

}  // namespace heddle::protocol
