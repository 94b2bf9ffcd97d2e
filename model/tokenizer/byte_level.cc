#include "model/tokenizer/byte_level.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

namespace heddle::model {
namespace {

struct CodePointRange {
  char32_t first, last;
};
#include "model/tokenizer/unicode_ranges.inc"

template <size_t N>
bool Contains(const CodePointRange (&ranges)[N], char32_t code_point) {
  const auto* range = std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                                       [](char32_t c, const CodePointRange& r) { return c < r.first; });
  return range != std::begin(ranges) && code_point <= std::prev(range)->last;
}

// Property White_Space (PropList.txt); stable since Unicode 6.3.
bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

CharClass SlowClassOf(char32_t c) {
  if (IsWhiteSpace(c)) return CharClass::kSpace;
  if (Contains(kLetterRanges, c)) return CharClass::kLetter;
  if (Contains(kNumberRanges, c)) return CharClass::kNumber;
  return CharClass::kOther;
}

// Length of a contraction ('s 't 're 've 'm 'll 'd) at the position, or 0.
size_t ContractionLength(std::string_view text, size_t position) {
  if (text[position] != '\'' || position + 1 >= text.size()) return 0;
  const char first = text[position + 1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (position + 2 >= text.size()) return 0;
  const char second = text[position + 2];
  const bool two =
      (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
  return two ? 3 : 0;
}

// The end of the run of characters of one class that starts at the position.
size_t EndOfRun(std::string_view text, size_t position, CharClass run) {
  while (position < text.size()) {
    const DecodedChar c = DecodeUtf8(text, position);
    if (ClassOf(c.code_point) != run) break;
    position += c.length;
  }
  return position;
}

// End of the run of white space at `begin`, less its last character when a word follows (the pattern's \s+(?!\S)),
// unless that character is the whole run.
size_t EndOfSpace(std::string_view text, size_t begin) {
  size_t end = begin, last = begin;
  while (end < text.size()) {
    const DecodedChar c = DecodeUtf8(text, end);
    if (ClassOf(c.code_point) != CharClass::kSpace) break;
    last = end;
    end += c.length;
  }
  return end == text.size() || last == begin ? end : last;
}

}  // namespace

CharClass ClassOf(char32_t c) {
  if (c < 0x80) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return CharClass::kLetter;
    if (c >= '0' && c <= '9') return CharClass::kNumber;
    return c == ' ' || (c >= 0x09 && c <= 0x0D) ? CharClass::kSpace : CharClass::kOther;
  }
  return SlowClassOf(c);
}

DecodedChar DecodeUtf8(std::string_view text, size_t position) {
  constexpr DecodedChar kInvalid{0xFFFD, 1};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() - position < length) return kInvalid;
  char32_t code_point = lead & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return kInvalid;
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  // Overlong forms, surrogates, beyond Unicode.
  const bool legal = (length != 3 || code_point >= 0x800) && (length != 4 || code_point >= 0x10000) &&
                     code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF);
  return legal ? DecodedChar{code_point, length} : kInvalid;
}

void AppendUtf8(char32_t c, std::string* out) {
  const auto tail = [&](int shift) { out->push_back(static_cast<char>(0x80 | (c >> shift & 0x3F))); };
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    tail(6), tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    tail(12), tail(6), tail(0);
  }
}

std::vector<std::string_view> SplitWords(std::string_view text) {
  std::vector<std::string_view> words;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = begin + ContractionLength(text, begin);
    if (end == begin) {
      // One space (U+0020 only) belongs to the word after it.
      const size_t word = begin + (text[begin] == ' ' ? 1 : 0);
      const CharClass run = word < text.size() ? ClassOf(DecodeUtf8(text, word).code_point) : CharClass::kSpace;
      end = run == CharClass::kSpace ? EndOfSpace(text, begin) : EndOfRun(text, word, run);
    }
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

const std::array<std::string, 256>& ByteCharacters() {
  static const std::array<std::string, 256> kCharacters = [] {
    std::array<std::string, 256> characters;
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      AppendUtf8(printable ? static_cast<char32_t>(b) : next++, &characters[b]);
    }
    return characters;
  }();
  return kCharacters;
}

std::string TokenBytes(std::string_view token) {
  static const std::unordered_map<char32_t, char> kBytes = [] {
    std::unordered_map<char32_t, char> bytes;
    for (int b = 0; b < 256; ++b) bytes[DecodeUtf8(ByteCharacters()[b], 0).code_point] = static_cast<char>(b);
    return bytes;
  }();
  std::string out;
  for (size_t position = 0; position < token.size();) {
    const DecodedChar c = DecodeUtf8(token, position);
    const auto found = kBytes.find(c.code_point);
    if (found == kBytes.end()) return std::string(token);
    out.push_back(found->second);
    position += c.length;
  }
  return out;
}

}  // namespace heddle::model
