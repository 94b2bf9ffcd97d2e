#include "model/tokenizer/byte_level.h"

#include <unordered_map>

namespace heddle::model {
namespace {

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

size_t EndOfWord(std::string_view text, size_t begin) {
  const size_t contraction = ContractionLength(text, begin);
  if (contraction > 0) return begin + contraction;
  // One space (U+0020 only) belongs to the word after it.
  const size_t word = begin + (text[begin] == ' ' ? 1 : 0);
  const CharClass run = word < text.size() ? ClassOf(DecodeUtf8(text, word).code_point) : CharClass::kSpace;
  return run == CharClass::kSpace ? EndOfSpace(text, begin) : EndOfRun(text, word, run);
}

std::vector<std::string_view> SplitWords(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = EndOfWord(text, begin);
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

std::string ByteToken(uint8_t byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">";
}

std::optional<uint8_t> ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<uint8_t>(value);
}

}  // namespace heddle::model
