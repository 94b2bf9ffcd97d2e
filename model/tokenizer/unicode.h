// Characters and their properties, as tokenizers ask for them. The wall around ICU, and the only place that decodes
// UTF-8. Pure functions; thread-safe. Any bytes are legal input: a byte that is not part of valid UTF-8 is U+FFFD.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

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
bool IsValidUtf8(std::string_view text);
// Where the last character of a text that is not empty begins.
size_t LastCharacter(std::string_view text);
bool IsAscii(std::string_view text);

bool IsWhiteSpace(char32_t c);  // property White_Space
bool IsNumeric(char32_t c);     // general category N*
bool IsMark(char32_t c);        // M*
bool IsNonspacingMark(char32_t c);
// Cc, Cf, Co: what BERT's cleaning removes, with tab and line ends excepted. Unassigned code points stay: which they
// are depends on the version of Unicode.
bool IsControl(char32_t c);
// P*, or any of ASCII's marks and symbols ("$", "+", "^"), as BERT has it.
bool IsPunctuation(char32_t c);
// Ideographs that BERT surrounds with spaces.
bool IsIdeograph(char32_t c);
// \w of a regular expression: alphabetic, M*, Nd, Pc, Join_Control.
bool IsWordCharacter(char32_t c);
// Without context and language: a final sigma stays a sigma. "İ" gives two characters.
void AppendLowercase(char32_t c, std::string* out);

// Marks of a character are sorted among 256 of them, which no writer reaches: the time is linear.
enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string Normalize(NormalForm form, std::string_view text);
// Calls `sink` with each extended grapheme cluster of the text, in order.
void ForEachGrapheme(std::string_view text, const std::function<void(std::string_view)>& sink);

}  // namespace heddle::model
