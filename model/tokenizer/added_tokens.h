// Tokens that are found in the text before anything else is done with it ("<|endoftext|>"). Immutable after building.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace heddle::model {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool lstrip = false, rstrip = false;  // swallow white space on that side
  bool special = false;
};

// A piece of a text: an added token (id >= 0), or plain text.
struct TextPiece {
  std::string_view text;
  int32_t id = -1;
};

class AddedTokens {
 public:
  // Tokens of empty content are ignored.
  explicit AddedTokens(std::vector<AddedToken> tokens);
  // The text cut at its added tokens: the leftmost, and of those the longest, as Hugging Face does. No empty pieces.
  std::vector<TextPiece> Split(std::string_view text) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  const AddedToken* LongestAt(std::string_view text, size_t position) const;
  std::vector<AddedToken> tokens_;                         // longest first
  std::unordered_map<char, std::vector<size_t>> by_byte_;  // first byte -> indices into tokens_
};

}  // namespace heddle::model
