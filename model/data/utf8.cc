#include "model/data/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

namespace heddle::model {
namespace {

// The length of the valid character of several bytes at the front of `text`, or 0.
size_t LongCharacter(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  const size_t length = lead >= 0xC2 && lead < 0xE0   ? 2
                        : (lead & 0xF0) == 0xE0       ? 3
                        : lead >= 0xF0 && lead < 0xF5 ? 4
                                                      : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xE0 && at(1) < 0xA0) || (lead == 0xF0 && at(1) < 0x90);
  const bool surrogate = lead == 0xED && at(1) > 0x9F;
  const bool beyond = lead == 0xF4 && at(1) > 0x8F;
  return overlong || surrogate || beyond ? 0 : length;
}

}  // namespace

size_t FirstInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (uint64_t eight = 0; text.size() - at >= 8) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080U) == 0) {
        at += 8;
        continue;
      }
    }
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const size_t length = LongCharacter(text.substr(at));
    if (length == 0) return at;
    at += length;
  }
  return at;
}

Status CheckUtf8(std::string_view text, int64_t line) {
  const size_t bad = FirstInvalidUtf8(text);
  if (bad == text.size()) return OkStatus();
  const std::string_view before = text.substr(0, bad);
  const auto breaks = std::count(before.begin(), before.end(), '\n');
  const size_t line_begin = breaks == 0 ? 0 : before.rfind('\n') + 1;
  return InvalidArgument("line " + std::to_string(line + breaks) + " is not valid UTF-8 at byte " +
                         std::to_string(bad - line_begin + 1) + ": save the file as UTF-8");
}

}  // namespace heddle::model
