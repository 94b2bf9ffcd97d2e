// Byte-level text for BPE as GPT-2 has it: a printable character for every byte, and the split of text into words.
// Pure functions; any bytes are legal input (a byte that is not part of valid UTF-8 counts as a character of no class).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace heddle::model {

enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace };
// General category L*, N*, or property White_Space.
CharClass ClassOf(char32_t code_point);

// One character at `position`: the code point and its length in bytes. Invalid UTF-8: U+FFFD with length 1.
struct DecodedChar {
  char32_t code_point = 0;
  size_t length = 1;
};
DecodedChar DecodeUtf8(std::string_view text, size_t position);
void AppendUtf8(char32_t code_point, std::string* out);

// The words of the text in order; together they are the text. The pattern of GPT-2:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::vector<std::string_view> SplitWords(std::string_view text);

// The character that stands for a byte in vocabularies: printable bytes for themselves, the others from U+0100 on.
const std::array<std::string, 256>& ByteCharacters();  // UTF-8
// The bytes that a token of the vocabulary stands for; a token with a character outside the alphabet for its own bytes.
std::string TokenBytes(std::string_view token);

}  // namespace heddle::model
