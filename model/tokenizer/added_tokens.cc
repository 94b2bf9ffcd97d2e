#include "model/tokenizer/added_tokens.h"

#include <algorithm>

#include "model/tokenizer/unicode.h"

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

bool InsideWord(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWordCharacter(DecodeUtf8(text, LastCharacter(text.substr(0, begin))).code_point)) return true;
  return end < text.size() && IsWordCharacter(DecodeUtf8(text, end).code_point);
}

TokenTrie TrieOf(const std::vector<AddedToken>& tokens) {
  std::vector<std::pair<std::string_view, int32_t>> entries;
  // Backwards, since of equal ones the trie takes the last.
  for (size_t i = tokens.size(); i-- > 0;) entries.emplace_back(tokens[i].content, static_cast<int32_t>(i));
  return TokenTrie(std::move(entries));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  trie_ = TrieOf(tokens_);
  for (const AddedToken& token : tokens_) begins_[static_cast<uint8_t>(token.content[0])] = true;
}

std::vector<TextPiece> AddedTokens::Split(std::string_view text) const {
  std::vector<TextPiece> pieces;
  size_t plain = 0;  // where the text that is not yet cut begins
  for (size_t position = 0; !tokens_.empty() && position < text.size();) {
    if (!begins_[static_cast<uint8_t>(text[position])]) {
      ++position;
      continue;
    }
    const TokenTrie::Match match = trie_.Longest(text.substr(position));
    const AddedToken* token = match.length == 0 ? nullptr : &tokens_[static_cast<size_t>(match.value)];
    if (token == nullptr || (token->single_word && InsideWord(text, position, position + match.length))) {
      position += std::max<size_t>(match.length, 1);
      continue;
    }
    const size_t begin = token->lstrip ? StartOfSpaceBefore(text, plain, position) : position;
    size_t end = position + match.length;
    if (token->rstrip) end = SkipSpace(text, end);
    if (begin > plain) pieces.push_back({text.substr(plain, begin - plain), -1});
    pieces.push_back({text.substr(begin, end - begin), token->id});
    plain = position = end;
  }
  if (plain < text.size()) pieces.push_back({text.substr(plain), -1});
  return pieces;
}

}  // namespace heddle::model
