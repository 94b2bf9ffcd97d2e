// Any bytes as the head of an answer: refused, or read into values that make the same answer when written out again.
#include "protocol/limits.h"
#include "protocol/transport/http_head.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle::protocol;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)ParseResponseHead(bytes);
  size_t from = 0;
  const std::optional<size_t> end = FindHeadEnd(bytes, &from);
  if (!end) return 0;
  const auto head = ParseResponseHead(bytes.substr(0, *end));
  if (!head.ok()) {
    Require(head.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  Require(head->status >= 100 && head->status <= 599, "the status is one of HTTP");
  Headers others;
  for (const auto& [name, value] : head->headers) {
    if (value.empty() || value.find_first_of("\t\x7f") != std::string::npos) return 0;
    bool own = false;
    for (const char* mine : {"Date", "Content-Type", "Content-Length", "Connection", "Proxy-Connection", "Upgrade"})
      own = own || FindHeader({{name, ""}}, mine);
    if (!own) others.emplace_back(name, value);
  }
  const std::string written =
      FormatResponseHead(head->status, "text/plain", head->content_length, others, head->keep_alive);
  if (written.size() > kMaxHttpHeaderBytes) return 0;
  const auto again = ParseResponseHead(written);
  Require(again.ok(), "what is written can be read", written);
  Require(again->status == head->status && again->content_length == head->content_length, "status and length survive",
          written);
  for (const auto& [name, value] : others)
    Require(FindHeader(again->headers, name) == FindHeader(others, name), "headers survive", written);
  return 0;
}
