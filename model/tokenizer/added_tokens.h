// Tokens that are found in the text before anything else is done with it ("<|endoftext|>"). Immutable after building;
// thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/token_trie.h"

namespace heddle::model {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool lstrip = false, rstrip = false;  // swallow white space on that side
  bool single_word = false;             // not where a character of a word (\w) is its neighbour
  bool special = false;
};

// A piece of a text: an added token (id >= 0), or plain text.
struct TextPiece {
  std::string_view text;
  int32_t id = -1;
};

class AddedTokens {
 public:
  // Tokens of empty content are ignored; of two with equal content the first one counts.
  explicit AddedTokens(std::vector<AddedToken> tokens);
  // The text cut at its added tokens: the leftmost, and of those the longest, as Hugging Face does. No empty pieces.
  std::vector<TextPiece> Split(std::string_view text) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  std::vector<AddedToken> tokens_;
  TokenTrie trie_;                  // content -> index into tokens_
  std::array<bool, 256> begins_{};  // bytes that a content begins with
};

}  // namespace heddle::model
