// Byte-pair encoding of bytes (GPT-2 and after), or of characters with bytes for those that have no token (Llama 2).
#include <array>
#include <boost/json.hpp>
#include <optional>

#include "model/tokenizer/bpe.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_members.h"
#include "model/tokenizer/token_model.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr std::string_view kSpaceSign = "\u2581";

// Words of ignore_merges: whole ones that are tokens are taken as they are.
using WholeWords = std::unordered_map<std::string, int32_t>;

class ByteBpe : public TokenModel {
 public:
  ByteBpe(BpeMerges merges, const std::array<int32_t, 256>& byte_ids, WholeWords whole)
      : merges_(std::move(merges)), byte_ids_(byte_ids), whole_(std::move(whole)) {}

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    if (!whole_.empty()) {
      if (const auto found = whole_.find(std::string(word)); found != whole_.end())
        return ids->push_back(found->second);
    }
    constexpr size_t kFew = 64;
    std::array<int32_t, kFew> few;
    std::vector<int32_t> many;
    if (word.size() > kFew) many.resize(word.size());
    int32_t* symbols = word.size() > kFew ? many.data() : few.data();
    for (size_t i = 0; i < word.size(); ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(word[i])];
    merges_.Merge({symbols, word.size()}, ids);
  }

 private:
  BpeMerges merges_;
  std::array<int32_t, 256> byte_ids_;
  WholeWords whole_;
};

class CharacterBpe : public TokenModel {
 public:
  struct Options {
    std::vector<int32_t> byte_ids;  // empty: no byte fallback
    std::optional<int32_t> unknown;
    bool fuse_unknown = false;
    bool cuts_before_spaces = false;
  };
  CharacterBpe(BpeMerges merges, std::unordered_map<char32_t, int32_t> characters, WholeWords whole, Options options)
      : merges_(std::move(merges)),
        characters_(std::move(characters)),
        whole_(std::move(whole)),
        options_(std::move(options)) {
    for (char32_t c = 0; c < 0x80; ++c) {
      const auto found = characters_.find(c);
      ascii_[c] = found == characters_.end() ? -1 : found->second;
    }
  }

  void Encode(std::string_view word, std::vector<int32_t>* ids) const override {
    if (!whole_.empty()) {
      if (const auto found = whole_.find(std::string(word)); found != whole_.end())
        return ids->push_back(found->second);
    }
    std::vector<int32_t> symbols;
    symbols.reserve(word.size());
    bool after_unknown = false;
    for (size_t position = 0; position < word.size();) {
      const DecodedChar c = DecodeUtf8(word, position);
      const int32_t id = CharacterId(c);
      if (id >= 0) {
        symbols.push_back(id);
      } else if (!options_.byte_ids.empty()) {
        // A byte that is no character is one, U+FFFD, to the SentencePiece library too.
        const std::string_view text = c.code_point == 0xFFFD ? "\uFFFD" : word.substr(position, c.length);
        for (const char byte : text) symbols.push_back(options_.byte_ids[static_cast<uint8_t>(byte)]);
      } else if (options_.unknown && !(after_unknown && options_.fuse_unknown)) {
        symbols.push_back(*options_.unknown);
      }
      after_unknown = id < 0;
      position += c.length;
    }
    merges_.Merge(symbols, ids);
  }
  bool CutsBeforeSpaceSigns() const override { return options_.cuts_before_spaces; }

 private:
  int32_t CharacterId(const DecodedChar& c) const {  // -1: none
    if (c.code_point < 0x80) return ascii_[c.code_point];
    const auto found = characters_.find(c.code_point);
    return found == characters_.end() ? -1 : found->second;
  }

  BpeMerges merges_;
  std::unordered_map<char32_t, int32_t> characters_;
  WholeWords whole_;
  Options options_;
  std::array<int32_t, 0x80> ascii_{};
};

Status ReadVocab(const json::object& model, bool byte_level, Vocabulary* vocabulary) {
  const json::value* vocab = Member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return InvalidArgument("model.vocab must be an object");
  for (const auto& [key, value] : vocab->get_object()) {
    const std::string_view name(key.data(), key.size());
    HEDDLE_ASSIGN_OR_RETURN(const int32_t id, TokenId(value, name));
    HEDDLE_RETURN_IF_ERROR(SetTokenText(id, byte_level ? TokenBytes(name) : std::string(name), vocabulary));
    vocabulary->ids.emplace(name, id);
  }
  return OkStatus();
}

// "left right", or ["left", "right"] as newer files have it. Neither may be empty: the token of no bytes may share its
// id with another one.
bool SplitMerge(const json::value& value, std::string_view* left, std::string_view* right) {
  if (value.is_string()) {
    const std::string_view text(value.get_string().data(), value.get_string().size());
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) return false;
    *left = text.substr(0, space);
    *right = text.substr(space + 1);
    return !left->empty() && !right->empty();
  }
  if (!value.is_array() || value.get_array().size() != 2) return false;
  const json::value &a = value.get_array()[0], &b = value.get_array()[1];
  if (!a.is_string() || !b.is_string()) return false;
  *left = {a.get_string().data(), a.get_string().size()};
  *right = {b.get_string().data(), b.get_string().size()};
  return !left->empty() && !right->empty();
}

// `crosses`: a merge puts a space sign behind something else, so that no text may be cut there.
Result<BpeMerges> ReadMerges(const json::object& model, const Vocabulary& vocabulary, bool* crosses) {
  const json::value* list = Member(model, "merges");
  if (list == nullptr || !list->is_array()) return InvalidArgument("model.merges must be a list");
  BpeMerges merges;
  size_t index = 0;
  for (const json::value& value : list->get_array()) {
    const auto where = [&] { return "model.merges[" + std::to_string(index) + "]"; };
    std::string_view left, right;
    if (!SplitMerge(value, &left, &right))
      return InvalidArgument(where() + " must be \"left right\" or [\"left\", \"right\"]");
    const auto a = vocabulary.ids.find(std::string(left)), b = vocabulary.ids.find(std::string(right)),
               c = vocabulary.ids.find(std::string(left).append(right)), none = vocabulary.ids.end();
    if (a == none || b == none || c == none) {
      return InvalidArgument(where() + " joins \"" + Shorten(left) + "\" and \"" + Shorten(right) +
                             "\", but these or the result are not in model.vocab");
    }
    if (right.starts_with(kSpaceSign) && !left.ends_with(kSpaceSign)) *crosses = true;
    merges.Add(a->second, b->second, c->second);
    ++index;
  }
  return merges;
}

Status CheckSettings(const json::object& model) {
  const json::value* dropout = Member(model, "dropout");
  const bool none = dropout == nullptr || (dropout->is_number() && dropout->to_number<double>() == 0);
  if (!none) return Unimplemented("model.dropout is not supported");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json::value* value = Member(model, key);
    if (value != nullptr && !(value->is_string() && value->get_string().empty()))
      return Unimplemented(std::string("model.") + key + " is not supported");
  }
  return OkStatus();
}

Result<std::array<int32_t, 256>> ByteIds(const Vocabulary& vocabulary) {
  std::array<int32_t, 256> ids{};
  for (int b = 0; b < 256; ++b) {
    const auto found = vocabulary.ids.find(ByteCharacters()[b]);
    if (found == vocabulary.ids.end()) {
      return InvalidArgument("model.vocab lacks the token of byte " + std::to_string(b) +
                             ", so not every text could be encoded");
    }
    ids[b] = found->second;
  }
  return ids;
}

}  // namespace

Result<std::unique_ptr<const TokenModel>> ParseBpe(const json::object& model, bool byte_level, Vocabulary* vocabulary) {
  HEDDLE_RETURN_IF_ERROR(CheckSettings(model));
  HEDDLE_ASSIGN_OR_RETURN(const bool ignore_merges, BoolMember(model, "ignore_merges", false));
  HEDDLE_RETURN_IF_ERROR(ReadVocab(model, byte_level, vocabulary));
  std::array<int32_t, 256> byte_ids{};
  if (byte_level) {
    HEDDLE_ASSIGN_OR_RETURN(byte_ids, ByteIds(*vocabulary));
  }
  bool crosses = false;
  HEDDLE_ASSIGN_OR_RETURN(BpeMerges merges, ReadMerges(model, *vocabulary, &crosses));
  WholeWords whole;
  if (ignore_merges) {
    // By what the tokens stand for: the words that come may be bytes.
    for (const auto& [name, id] : vocabulary->ids) whole.emplace(byte_level ? TokenBytes(name) : name, id);
  }
  if (byte_level)
    return std::unique_ptr<const TokenModel>(std::make_unique<ByteBpe>(std::move(merges), byte_ids, std::move(whole)));

  CharacterBpe::Options options;
  HEDDLE_ASSIGN_OR_RETURN(const bool byte_fallback, BoolMember(model, "byte_fallback", false));
  HEDDLE_ASSIGN_OR_RETURN(options.fuse_unknown, BoolMember(model, "fuse_unk", false));
  HEDDLE_ASSIGN_OR_RETURN(const std::string unknown, StringMember(model, "unk_token", ""));
  if (byte_fallback) {
    HEDDLE_ASSIGN_OR_RETURN(options.byte_ids, ByteTokens(*vocabulary));
  }
  if (!unknown.empty()) {
    const auto found = vocabulary->ids.find(unknown);
    if (found == vocabulary->ids.end()) {
      return InvalidArgument("model.unk_token is \"" + Shorten(unknown) + "\", which is not in model.vocab");
    }
    options.unknown = found->second;
  }
  std::unordered_map<char32_t, int32_t> characters;
  for (const auto& [name, id] : vocabulary->ids) {
    if (name.empty()) continue;
    const DecodedChar c = DecodeUtf8(name, 0);
    if (c.length == name.size()) characters.emplace(c.code_point, id);
  }
  options.cuts_before_spaces = !crosses && !ignore_merges && characters.contains(DecodeUtf8(kSpaceSign, 0).code_point);
  return std::unique_ptr<const TokenModel>(
      std::make_unique<CharacterBpe>(std::move(merges), std::move(characters), std::move(whole), std::move(options)));
}

}  // namespace heddle::model
