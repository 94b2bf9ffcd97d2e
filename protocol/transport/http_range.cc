// ParseRange of server.h: the one part of the server that needs no socket.
#include <algorithm>

#include "protocol/transport/server.h"

namespace heddle::protocol {
namespace {

// Decimal digits, saturating; nothing unless `text` is digits only.
std::optional<uint64_t> ParseNumber(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    const uint64_t digit = static_cast<uint64_t>(c - '0');
    value = value > (UINT64_MAX - digit) / 10 ? UINT64_MAX : value * 10 + digit;
  }
  return value;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

Result<std::optional<ByteRange>> ParseRange(std::optional<std::string_view> header, uint64_t size) {
  const std::optional<ByteRange> whole;
  if (!header) return whole;
  const std::string_view text = Trim(*header);
  const std::string_view unit = text.substr(0, text.find('='));
  const bool bytes_unit =
      unit.size() == 5 && std::equal(unit.begin(), unit.end(), "bytes", [](char a, char b) { return (a | 0x20) == b; });
  if (!bytes_unit || unit.size() == text.size()) return whole;
  const std::string_view spec = Trim(text.substr(unit.size() + 1));
  const size_t dash = spec.find('-');
  if (dash == std::string_view::npos) return whole;
  const std::string_view first = spec.substr(0, dash), last = spec.substr(dash + 1);
  const Status unsatisfiable = OutOfRange("the range " + std::string(text.substr(0, 64)) + " lies outside the " +
                                          std::to_string(size) + " bytes");
  if (first.empty()) {  // the last n bytes
    const auto n = ParseNumber(last);
    if (!n) return whole;
    if (*n == 0 || size == 0) return unsatisfiable;
    const uint64_t length = std::min(*n, size);
    return std::optional<ByteRange>(ByteRange{size - length, length});
  }
  const auto begin = ParseNumber(first);
  if (!begin) return whole;
  uint64_t end = UINT64_MAX;  // inclusive
  if (!last.empty()) {
    const auto given = ParseNumber(last);
    if (!given || *given < *begin) return whole;  // several ranges end here too: "0-1,3-4"
    end = *given;
  }
  if (*begin >= size) return unsatisfiable;
  return std::optional<ByteRange>(ByteRange{*begin, std::min(end, size - 1) - *begin + 1});
}

}  // namespace heddle::protocol
