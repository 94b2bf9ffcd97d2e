#include "model/tokenizer/precompiled.h"

#include <array>
#include <cstring>

#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace {

// A unit of the double array: where the children are, whether one of them is a value, and its own label.
uint32_t Label(uint32_t unit) { return unit & 0x800000FFU; }
bool HasValue(uint32_t unit) { return (unit >> 8 & 1U) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFFU; }
uint32_t Offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200U) >> 6); }

constexpr size_t kMaxReplacementBytes = 256;
constexpr size_t kMaxKeyBytes = 64;  // real ones have a third of it; a trie with a cycle would have no end

Result<std::string> DecodeBase64(std::string_view text) {
  static const std::array<int8_t, 256> kDigits = [] {
    std::array<int8_t, 256> digits;
    digits.fill(-1);
    constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < kAlphabet.size(); ++i) digits[static_cast<uint8_t>(kAlphabet[i])] = static_cast<int8_t>(i);
    return digits;
  }();
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  out.reserve(text.size() / 4 * 3 + 3);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int8_t digit = kDigits[static_cast<uint8_t>(c)];
    if (digit < 0) return InvalidArgument("precompiled_charsmap is not base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out.push_back(static_cast<char>(bits >> count & 0xFFU));
  }
  return out;
}

}  // namespace

Result<CharsMap> CharsMap::FromBase64(std::string_view text) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, DecodeBase64(text));
  return FromBytes(bytes);
}

Result<CharsMap> CharsMap::FromBytes(std::string_view bytes) {
  const auto number = [&](size_t at) {
    uint32_t value = 0;
    for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)]);
    return value;
  };
  if (bytes.size() < 4) return InvalidArgument("the tokenizer's precompiled_charsmap is cut short");
  const size_t size = number(0);
  if (size % 4 != 0 || size < 4 || size > bytes.size() - 4) {
    return InvalidArgument("the tokenizer's precompiled_charsmap says that its trie has " + std::to_string(size) +
                           " bytes, which does not fit its " + std::to_string(bytes.size()));
  }
  CharsMap map;
  map.trie_.reserve(size / 4);
  for (size_t at = 4; at < size + 4; at += 4) map.trie_.push_back(number(at));
  map.texts_ = bytes.substr(size + 4);
  return map;
}

CharsMap::Match CharsMap::Find(std::string_view text, bool longest) const {
  Match match;
  uint32_t value = 0;
  uint32_t node = Offset(trie_[0]);
  for (size_t i = 0; i < text.size() && i < kMaxKeyBytes; ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (byte == 0 || node >= trie_.size() || Label(trie_[node]) != byte) break;
    const uint32_t unit = trie_[node];
    node ^= Offset(unit);
    if (node >= trie_.size()) break;
    if (!HasValue(unit)) continue;
    value = Value(trie_[node]);
    match.length = i + 1;
    if (!longest) break;
  }
  if (match.length == 0) return match;
  if (value >= texts_.size()) return {};
  match.with = std::string_view(texts_).substr(value, kMaxReplacementBytes);
  match.with = match.with.substr(0, match.with.find('\0'));
  return match;
}

void PrecompiledNormalizer::ApplyWithin(size_t most, std::string* text) const {
  constexpr size_t kShortGrapheme = 6;
  std::string out;
  out.reserve(text->size());
  ForEachGrapheme(*text, [&](std::string_view grapheme) {
    if (out.size() > most) return;
    if (grapheme.size() < kShortGrapheme) {
      const CharsMap::Match match = map_.Shortest(grapheme);
      if (match.length > 0) {
        out.append(match.with);
        return;
      }
    }
    for (size_t position = 0; position < grapheme.size() && out.size() <= most;) {
      const size_t length = DecodeUtf8(grapheme, position).length;
      const std::string_view character = grapheme.substr(position, length);
      const CharsMap::Match match = map_.Shortest(character);
      out.append(match.length > 0 ? match.with : character);
      position += length;
    }
  });
  *text = std::move(out);
}

}  // namespace heddle::model
