#include "model/tokenizer/stream_decoder.h"

#include <span>
#include <string_view>

namespace heddle::model {
namespace {

// The text ends with a character that may not be whole: its bytes, or what decoders make of such bytes.
bool MayGoOn(std::string_view text) {
  if (text.ends_with("\uFFFD")) return true;
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<uint8_t>(text[text.size() - back]);
    if (byte < 0x80) return false;
    if (byte >= 0xC0) return (byte >= 0xF0 ? 4U : byte >= 0xE0 ? 3U : 2U) > back;
  }
  return false;
}

}  // namespace

std::string StreamDecoder::Since(size_t begin, size_t end) const {
  return tokenizer_.Decode(std::span(ids_).subspan(begin, end - begin));
}

std::string StreamDecoder::Add(int32_t id) {
  ids_.push_back(id);
  const std::string before = Since(0, printed_), now = Since(0, ids_.size());
  constexpr size_t kMostKept = 16;  // tokens: longer than any character
  if (now.size() <= before.size() || (MayGoOn(now) && ids_.size() - printed_ < kMostKept)) return {};
  std::string out = now.substr(before.size());
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(printed_));
  printed_ = ids_.size();
  return out;
}

std::string StreamDecoder::Finish() {
  const std::string before = Since(0, printed_), now = Since(0, ids_.size());
  printed_ = ids_.size();
  return now.size() > before.size() ? now.substr(before.size()) : std::string();
}

}  // namespace heddle::model
