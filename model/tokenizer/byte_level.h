// Byte-level text for BPE as GPT-2 has it: a printable character for every byte, and the split of text into words.
// Pure functions; any bytes are legal input (a byte that is not part of valid UTF-8 counts as a character of no class).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/unicode.h"

namespace heddle::model {

// The words of the text in order; together they are the text. The pattern of GPT-2:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::vector<std::string_view> SplitWords(std::string_view text);
// The end of the word that begins at `begin`, which is inside the text.
size_t EndOfWord(std::string_view text, size_t begin);

// The character that stands for a byte in vocabularies: printable bytes for themselves, the others from U+0100 on.
const std::array<std::string, 256>& ByteCharacters();  // UTF-8
// The bytes that a token of the vocabulary stands for; a token with a character outside the alphabet for its own bytes.
std::string TokenBytes(std::string_view token);

// Vocabularies of characters write a byte without a character as "<0x0A>": that token, and the byte of one.
std::string ByteToken(uint8_t byte);
std::optional<uint8_t> ByteOfToken(std::string_view token);

}  // namespace heddle::model
