// Heads of HTTP/1.1 requests and answers as plain values. Beast parses; its headers stay in http_head.cc, so that no
// other file pays for them. Bodies never come here.
//
// Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"

namespace heddle::protocol {

using Headers = std::vector<std::pair<std::string, std::string>>;

// Case-insensitive; the first of several. Nothing when absent.
std::optional<std::string_view> FindHeader(const Headers& headers, std::string_view name);

// The bytes that belong to the head: up to and with the empty line. Nothing while it is not complete. `from`: where the
// last search ended, so that a head arriving byte by byte is not searched again and again.
std::optional<size_t> FindHeadEnd(std::string_view bytes, size_t* from);

struct RequestHead {
  std::string method;
  std::string path;   // percent-decoded, without the query; begins with '/'
  std::string query;  // as sent, without the '?'
  Headers headers;
  std::optional<uint64_t> content_length;
  bool keep_alive = true;
  bool expects_continue = false;
};

// What a bad head is answered with.
struct HeadError {
  unsigned status = 400;  // 400, 411, 414, 417, 431, 505
  std::string message;
};

// `bytes` is one complete head as FindHeadEnd found it. Returns true and fills `head`, or returns false and fills
// `error`. Any bytes are legal input.
bool ParseRequestHead(std::string_view bytes, RequestHead* head, HeadError* error);

// Whether a head that is still incomplete has grown beyond its limits (414 for the request line, 431 for the rest).
std::optional<HeadError> CheckIncompleteHead(std::string_view bytes);

struct ResponseHead {
  unsigned status = 0;
  Headers headers;
  std::optional<uint64_t> content_length;
  bool keep_alive = true;
};

// Errors: kInvalidArgument. An answer in chunks is refused: Heddle's servers always say the length.
Result<ResponseHead> ParseResponseHead(std::string_view bytes);

// "%2F" to "/" and so on. Errors: kInvalidArgument for a broken escape or a NUL.
Result<std::string> PercentDecode(std::string_view text, bool plus_is_space);
// The first value of `name` in a query string, decoded; nothing when absent or broken.
std::optional<std::string> FindQuery(std::string_view query, std::string_view name);

// "HTTP/1.1 404 Not Found\r\n" with Date, Content-Type and the headers; characters that would end a header are dropped.
// `content_length` is left out when nothing (1xx, 204, 304).
std::string FormatResponseHead(unsigned status, std::string_view content_type, std::optional<uint64_t> content_length,
                               const Headers& headers, bool keep_alive);
// `content_length` nothing: no body.
std::string FormatRequestHead(std::string_view method, std::string_view target, std::string_view host,
                              std::string_view content_type, std::optional<uint64_t> content_length,
                              const Headers& headers);

}  // namespace heddle::protocol
