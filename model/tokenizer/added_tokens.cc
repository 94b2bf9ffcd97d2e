#include "model/tokenizer/added_tokens.h"

#include <algorithm>

#include "model/tokenizer/byte_level.h"

namespace heddle::model {
namespace {

size_t SkipSpace(std::string_view text, size_t position) {
  while (position < text.size()) {
    const DecodedChar c = DecodeUtf8(text, position);
    if (ClassOf(c.code_point) != CharClass::kSpace) break;
    position += c.length;
  }
  return position;
}

// Where the white space that ends at `end` begins; not before `limit`.
size_t StartOfSpaceBefore(std::string_view text, size_t limit, size_t end) {
  while (end > limit) {
    size_t start = end - 1;
    while (start > limit && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    const DecodedChar c = DecodeUtf8(text, start);
    if (start + c.length != end || ClassOf(c.code_point) != CharClass::kSpace) break;
    end = start;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content.size() > b.content.size(); });
  for (size_t i = 0; i < tokens_.size(); ++i) by_byte_[tokens_[i].content[0]].push_back(i);
}

const AddedToken* AddedTokens::LongestAt(std::string_view text, size_t position) const {
  const auto found = by_byte_.find(text[position]);
  if (found == by_byte_.end()) return nullptr;
  for (const size_t index : found->second) {
    if (text.substr(position).starts_with(tokens_[index].content)) return &tokens_[index];
  }
  return nullptr;
}

std::vector<TextPiece> AddedTokens::Split(std::string_view text) const {
  std::vector<TextPiece> pieces;
  size_t plain = 0;  // where the text that is not yet cut begins
  for (size_t position = 0; !tokens_.empty() && position < text.size();) {
    const AddedToken* token = LongestAt(text, position);
    if (token == nullptr) {
      ++position;
      continue;
    }
    const size_t begin = token->lstrip ? StartOfSpaceBefore(text, plain, position) : position;
    size_t end = position + token->content.size();
    if (token->rstrip) end = SkipSpace(text, end);
    if (begin > plain) pieces.push_back({text.substr(plain, begin - plain), -1});
    pieces.push_back({text.substr(begin, end - begin), token->id});
    plain = position = end;
  }
  if (plain < text.size()) pieces.push_back({text.substr(plain), -1});
  return pieces;
}

}  // namespace heddle::model
