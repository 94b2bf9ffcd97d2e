// Any bytes as what a peer sends for a request: one head is found wherever the pieces are cut, refused with a status,
// or read into values that make the same request when it is written out again.
#include "protocol/limits.h"
#include "protocol/transport/http_head.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle::protocol;

namespace {

std::string PercentEncode(std::string_view path) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/') {
      out += c;
    } else {
      out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out;
}

std::optional<size_t> FindInPieces(std::string_view bytes, size_t piece) {
  size_t from = 0;
  for (size_t have = 0; have < bytes.size(); have += piece) {
    if (const auto end = FindHeadEnd(bytes.substr(0, have), &from)) return end;
  }
  return FindHeadEnd(bytes, &from);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::optional<size_t> end = FindInPieces(bytes, 1);
  Require(end == FindInPieces(bytes, 7) && end == FindInPieces(bytes, size + 1), "the cut does not matter");
  if (const auto error = CheckIncompleteHead(bytes))
    Require(size > kMaxTargetBytes && (error->status == 414 || error->status == 431), "only large heads are too large");
  RequestHead ignored;
  HeadError why;
  (void)ParseRequestHead(bytes, &ignored, &why);  // with what follows the head, or without its end
  if (!end) return 0;

  RequestHead head;
  HeadError error;
  if (!ParseRequestHead(bytes.substr(0, *end), &head, &error)) {
    Require(error.status >= 400 && error.status < 600 && !error.message.empty(),
            "a refusal has a status and a sentence");
    return 0;
  }
  Require(head.path.starts_with('/') && head.path.find('\0') == std::string::npos, "the path is a path", head.path);
  Require(!FindHeader(head.headers, "Transfer-Encoding"), "a body has a length or is refused");
  Require(head.content_length.value_or(0) <= kMaxBlobBytes, "lengths are bounded");
  Require(head.content_length.has_value() == FindHeader(head.headers, "Content-Length").has_value(),
          "the length that is used is the one that was sent");

  bool exact = true;  // headers that cannot be written out as they are
  Headers others;
  for (const auto& [name, value] : head.headers) {
    exact = exact && value.find_first_of("\t\x7f") == std::string::npos && !value.empty();
    if (FindHeader({{name, ""}}, "Host") || FindHeader({{name, ""}}, "Content-Length")) continue;
    others.emplace_back(name, value);
  }
  const std::string target = PercentEncode(head.path) + (head.query.empty() ? "" : "?" + head.query);
  const std::string written = FormatRequestHead(head.method, target, "h", "", head.content_length, others);
  if (!exact || written.size() > kMaxHttpHeaderBytes || target.size() > kMaxTargetBytes) return 0;
  RequestHead again;
  Require(ParseRequestHead(written, &again, &error), "what is written can be read", written);
  Require(again.method == head.method && again.path == head.path && again.query == head.query,
          "the request line survives", written);
  Require(again.content_length == head.content_length, "the length survives", written);
  for (const auto& [name, value] : others)
    Require(FindHeader(again.headers, name) == FindHeader(others, name), "headers survive", written);
  return 0;
}
