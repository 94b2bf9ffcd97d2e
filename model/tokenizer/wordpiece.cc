// WordPiece (Schuster and Nakajima 2012; BERT's form): the longest token that a word begins with, then the longest that
// goes on with the rest. A word that does not come out is unknown as a whole.
#include <boost/json.hpp>

#include "model/tokenizer/json_members.h"
#include "model/tokenizer/token_model.h"
#include "model/tokenizer/token_trie.h"
#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxTokenBytes = 512;  // the longest real ones have a tenth; bounds what one word may cost
constexpr int64_t kMaxWordCharacters = 1000;

class WordPiece : public TokenModel {
 public:
  WordPiece(TokenTrie first, TokenTrie further, int32_t unknown, size_t max_characters)
      : first_(std::move(first)), further_(std::move(further)), unknown_(unknown), max_characters_(max_characters) {}

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    const size_t before = ids->size();
    if (word.size() > max_characters_ && TooLong(word)) return ids->push_back(unknown_);
    for (size_t position = 0; position < word.size();) {
      const TokenTrie& trie = position == 0 ? first_ : further_;
      const TokenTrie::Match match = trie.Longest(word.substr(position));
      if (match.length == 0) {
        ids->resize(before);
        return ids->push_back(unknown_);
      }
      ids->push_back(match.value);
      position += match.length;
    }
  }

 private:
  bool TooLong(std::string_view word) const {
    size_t characters = 0;
    for (size_t position = 0; position < word.size(); ++characters) position += DecodeUtf8(word, position).length;
    return characters > max_characters_;
  }

  TokenTrie first_, further_;
  int32_t unknown_;
  size_t max_characters_;
};

}  // namespace

Result<std::unique_ptr<const TokenModel>> ParseWordPiece(const json::object& model, Vocabulary* vocabulary) {
  const json::value* vocab = Member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return InvalidArgument("model.vocab must be an object");
  HEDDLE_ASSIGN_OR_RETURN(const std::string unknown, StringMember(model, "unk_token", "[UNK]"));
  HEDDLE_ASSIGN_OR_RETURN(const std::string prefix, StringMember(model, "continuing_subword_prefix", "##"));
  HEDDLE_ASSIGN_OR_RETURN(const int64_t max_characters, IntMember(model, "max_input_chars_per_word", 100));
  if (max_characters > kMaxWordCharacters) {
    return InvalidArgument("model.max_input_chars_per_word is " + std::to_string(max_characters) +
                           ", but must be at most " + std::to_string(kMaxWordCharacters));
  }
  std::vector<std::pair<std::string_view, int32_t>> first, further;
  for (const auto& [key, value] : vocab->get_object()) {
    const std::string_view name(key.data(), key.size());
    HEDDLE_ASSIGN_OR_RETURN(const int32_t id, TokenId(value, name));
    if (name.size() > kMaxTokenBytes) {
      return InvalidArgument("the token \"" + Shorten(name) + "\" has more than " + std::to_string(kMaxTokenBytes) +
                             " bytes");
    }
    HEDDLE_RETURN_IF_ERROR(SetTokenText(id, std::string(name), vocabulary));
    vocabulary->ids.emplace(name, id);
    // A token may be both: "##a" begins the word "##a", where words may have such signs.
    first.emplace_back(name, id);
    if (name.starts_with(prefix)) further.emplace_back(name.substr(prefix.size()), id);
  }
  const auto found = vocabulary->ids.find(unknown);
  if (found == vocabulary->ids.end()) {
    return InvalidArgument("model.unk_token is \"" + Shorten(unknown) + "\", which is not in model.vocab");
  }
  return std::unique_ptr<const TokenModel>(std::make_unique<WordPiece>(
      TokenTrie(std::move(first)), TokenTrie(std::move(further)), found->second, static_cast<size_t>(max_characters)));
}

}  // namespace heddle::model
