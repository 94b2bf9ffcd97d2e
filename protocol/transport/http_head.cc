#include "protocol/transport/http_head.h"

#include <algorithm>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <ctime>

#include "protocol/limits.h"

namespace heddle::protocol {
namespace {

namespace http = boost::beast::http;

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y));
  });
}

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

template <typename Fields>
Headers CopyHeaders(const Fields& fields) {
  Headers headers;
  for (const auto& field : fields)
    headers.emplace_back(std::string(View(field.name_string())), std::string(View(field.value())));
  return headers;
}

template <bool kRequest>
using Parser = http::parser<kRequest, http::empty_body>;

// Feeds a complete head; the parser must be satisfied with exactly it.
template <bool kRequest>
bool Feed(Parser<kRequest>& parser, std::string_view bytes, std::string* why) {
  boost::beast::error_code error;
  parser.header_limit(static_cast<uint32_t>(kMaxHttpHeaderBytes + 8));
  parser.body_limit(boost::none);
  parser.put(boost::asio::const_buffer(bytes.data(), bytes.size()), error);
  if (error && error != http::error::need_more) {
    *why = error.message();
    return false;
  }
  if (!parser.is_header_done()) {
    *why = "it ends early";
    return false;
  }
  return true;
}

struct Phrase {
  unsigned status;
  const char* text;
};
constexpr Phrase kPhrases[] = {
    {100, "Continue"},
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {411, "Length Required"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {422, "Unprocessable Content"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {505, "HTTP Version Not Supported"},
};

const char* ReasonPhrase(unsigned status) {
  for (const Phrase& phrase : kPhrases) {
    if (phrase.status == status) return phrase.text;
  }
  return status < 400 ? "OK" : "Error";
}

// IMF-fixdate, made once a second and thread.
std::string_view HttpDate() {
  thread_local time_t last = -1;
  thread_local char text[64] = "";
  thread_local size_t length = 0;
  const time_t now = time(nullptr);
  if (now != last) {
    static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                              "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    std::tm utc{};
    gmtime_r(&now, &utc);
    const int written =
        snprintf(text, sizeof text, "%s, %02d %s %04d %02d:%02d:%02d GMT", kDays[utc.tm_wday], utc.tm_mday,
                 kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
    length = static_cast<size_t>(std::max(written, 0));
    last = now;
  }
  return {text, length};
}

void AppendSafe(std::string& out, std::string_view text) {
  for (char c : text) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7F) out += c;
  }
}

void AppendHeader(std::string& out, std::string_view name, std::string_view value) {
  AppendSafe(out, name);
  out += ": ";
  AppendSafe(out, value);
  out += "\r\n";
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool Fail(HeadError* error, unsigned status, std::string message) {
  *error = {status, std::move(message)};
  return false;
}

// Line ends and continued lines that some parsers take for something else than others: what a proxy before us and we
// read differently is how a request is hidden in another.
bool HasAmbiguousLines(std::string_view head) {
  for (size_t i = 0; i < head.size(); ++i) {
    const char next = i + 1 < head.size() ? head[i + 1] : '\0';
    if (head[i] == '\r' && next != '\n') return true;
    if (head[i] == '\n' && (i == 0 || head[i - 1] != '\r' || next == ' ' || next == '\t')) return true;
  }
  return false;
}

// The rules on top of HTTP's grammar: what a request of ours may say about its body and what it expects.
bool CheckFraming(const Parser<true>& parser, RequestHead* head, HeadError* error) {
  const auto& message = parser.get();
  if (message.count(http::field::transfer_encoding) > 0) {
    if (message.count(http::field::content_length) > 0)
      return Fail(error, 400, "the request has both Transfer-Encoding and Content-Length");
    return Fail(error, 411, "the request's body comes in chunks; send it with a Content-Length");
  }
  if (message.count(http::field::content_length) > 0) {
    // Twice the same would be allowed; who sends it has nothing good in mind.
    const std::string_view text = View(message[http::field::content_length]);
    if (message.count(http::field::content_length) > 1 || text.find(',') != std::string_view::npos)
      return Fail(error, 400, "the request has more than one Content-Length");
    const auto length = parser.content_length();
    if (!length || *length > kMaxBlobBytes) return Fail(error, 413, "the request's Content-Length is beyond any limit");
    head->content_length = *length;
  }
  if (message.version() >= 11 && message.count(http::field::host) != 1)
    return Fail(error, 400, "the request must have exactly one Host header");
  const auto expect = message.find(http::field::expect);
  if (expect != message.end()) {
    if (!EqualsIgnoringCase(View(expect->value()), "100-continue"))
      return Fail(error, 417, "the only expectation that can be met is 100-continue");
    head->expects_continue = message.version() >= 11;
  }
  return true;
}

}  // namespace

std::optional<std::string_view> FindHeader(const Headers& headers, std::string_view name) {
  for (const auto& [key, value] : headers) {
    if (EqualsIgnoringCase(key, name)) return value;
  }
  return std::nullopt;
}

std::optional<size_t> FindHeadEnd(std::string_view bytes, size_t* from) {
  const size_t start = *from > 3 ? *from - 3 : 0;
  const size_t found = bytes.find("\r\n\r\n", start);
  *from = bytes.size();
  if (found == std::string_view::npos) return std::nullopt;
  return found + 4;
}

std::optional<HeadError> CheckIncompleteHead(std::string_view bytes) {
  // Room for a method and the version around the target.
  constexpr size_t kMaxLineBytes = kMaxTargetBytes + 64;
  if (bytes.size() > kMaxLineBytes && bytes.find("\r\n") >= kMaxLineBytes)
    return HeadError{414, "the request's target is longer than " + std::to_string(kMaxTargetBytes) + " bytes"};
  if (bytes.size() > kMaxHttpHeaderBytes)
    return HeadError{431, "the request's head is larger than " + std::to_string(kMaxHttpHeaderBytes) + " bytes"};
  return std::nullopt;
}

bool ParseRequestHead(std::string_view bytes, RequestHead* head, HeadError* error) {
  if (const auto too_large = CheckIncompleteHead(bytes)) {
    *error = *too_large;
    return false;
  }
  if (HasAmbiguousLines(bytes))
    return Fail(error, 400, "the request's head has a line that does not end in CR LF, or that is continued");
  Parser<true> parser;
  std::string why;
  if (!Feed(parser, bytes, &why)) return Fail(error, 400, "the request's head is not HTTP/1.1: " + why);
  const auto& message = parser.get();
  const std::string_view target = View(message.target());
  if (target.size() > kMaxTargetBytes)
    return Fail(error, 414, "the request's target is longer than " + std::to_string(kMaxTargetBytes) + " bytes");
  if (target.empty() || target[0] != '/') return Fail(error, 400, "the request's target must begin with a slash");
  const size_t question = target.find('?');
  Result<std::string> path = PercentDecode(target.substr(0, question), /*plus_is_space=*/false);
  if (!path.ok()) return Fail(error, 400, path.status().message());
  head->path = *std::move(path);
  head->query = question == std::string_view::npos ? "" : std::string(target.substr(question + 1));
  head->method = std::string(View(message.method_string()));
  if (!CheckFraming(parser, head, error)) return false;
  head->keep_alive = message.keep_alive();
  head->headers = CopyHeaders(message);
  return true;
}

Result<ResponseHead> ParseResponseHead(std::string_view bytes) {
  Parser<false> parser;
  std::string why;
  if (!Feed(parser, bytes, &why)) return InvalidArgument("the answer's head is not HTTP/1.1: " + why);
  const auto& message = parser.get();
  ResponseHead head;
  head.status = message.result_int();
  if (head.status < 100 || head.status > 599)
    return InvalidArgument("the answer's status " + std::to_string(head.status) + " is not one of HTTP");
  if (message.count(http::field::transfer_encoding) > 0)
    return InvalidArgument("the answer's body comes without a Content-Length");
  if (message.count(http::field::content_length) > 0) {
    const auto length = parser.content_length();
    if (!length) return InvalidArgument("the answer's Content-Length is not a number");
    head.content_length = *length;
  }
  head.keep_alive = message.keep_alive();
  head.headers = CopyHeaders(message);
  return head;
}

Result<std::string> PercentDecode(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int high = i + 2 < text.size() ? HexValue(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
      if (high < 0 || low < 0) return InvalidArgument("the target has a broken percent escape");
      c = static_cast<char>(high * 16 + low);
      i += 2;
      if (c == '\0') return InvalidArgument("the target holds a NUL");
    } else if (c == '+' && plus_is_space) {
      c = ' ';
    }
    out += c;
  }
  return out;
}

std::optional<std::string> FindQuery(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t amp = query.find('&');
    const std::string_view pair = query.substr(0, amp);
    query = amp == std::string_view::npos ? std::string_view() : query.substr(amp + 1);
    const size_t equals = pair.find('=');
    Result<std::string> key = PercentDecode(pair.substr(0, equals), true);
    if (!key.ok() || *key != name) continue;
    Result<std::string> value =
        PercentDecode(equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1), true);
    if (!value.ok()) return std::nullopt;
    return *std::move(value);
  }
  return std::nullopt;
}

std::string FormatResponseHead(unsigned status, std::string_view content_type, std::optional<uint64_t> content_length,
                               const Headers& headers, bool keep_alive) {
  std::string out = "HTTP/1.1 " + std::to_string(status) + " " + ReasonPhrase(status) + "\r\n";
  AppendHeader(out, "Date", HttpDate());
  if (!content_type.empty()) AppendHeader(out, "Content-Type", content_type);
  if (content_length) AppendHeader(out, "Content-Length", std::to_string(*content_length));
  for (const auto& [name, value] : headers) AppendHeader(out, name, value);
  if (!keep_alive) out += "Connection: close\r\n";
  out += "\r\n";
  return out;
}

std::string FormatRequestHead(std::string_view method, std::string_view target, std::string_view host,
                              std::string_view content_type, std::optional<uint64_t> content_length,
                              const Headers& headers) {
  std::string out;
  AppendSafe(out, method);
  out += ' ';
  AppendSafe(out, target);
  out += " HTTP/1.1\r\n";
  AppendHeader(out, "Host", host);
  if (content_length) {
    if (!content_type.empty() && *content_length > 0) AppendHeader(out, "Content-Type", content_type);
    AppendHeader(out, "Content-Length", std::to_string(*content_length));
  }
  for (const auto& [name, value] : headers) AppendHeader(out, name, value);
  out += "\r\n";
  return out;
}

}  // namespace heddle::protocol
