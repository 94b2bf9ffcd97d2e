#include "model/tokenizer/token_model.h"

#include <boost/json.hpp>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_members.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

// Files of 2020 and before name no type: it is told by the members that only one kind has.
std::string_view TypeByMembers(const json::object& model) {
  if (Member(model, "merges") != nullptr) return "BPE";
  const json::value* vocab = Member(model, "vocab");
  if (vocab != nullptr && vocab->is_array()) return "Unigram";
  const bool pieces =
      Member(model, "continuing_subword_prefix") != nullptr || Member(model, "max_input_chars_per_word") != nullptr;
  return pieces ? "WordPiece" : "WordLevel";
}

}  // namespace

Result<std::unique_ptr<const TokenModel>> ParseTokenModel(const json::value* value, bool byte_level,
                                                          Vocabulary* vocabulary) {
  constexpr std::string_view kKnown = "BPE, Unigram, WordPiece";
  Component component;
  if (value != nullptr && value->is_object() && Member(value->get_object(), "type") == nullptr) {
    component = {&value->get_object(), TypeByMembers(value->get_object())};
  } else {
    HEDDLE_ASSIGN_OR_RETURN(component, ReadComponent(value, "model"));
  }
  if (component.object == nullptr) return UnsupportedComponent("model", "null", kKnown);
  if (component.type == "BPE") return ParseBpe(*component.object, byte_level, vocabulary);
  if (component.type != "WordPiece" && component.type != "Unigram")
    return UnsupportedComponent("model", component.type, kKnown);
  if (byte_level) return UnsupportedComponent("a model after the pre_tokenizer ByteLevel", component.type, "BPE");
  return component.type == "WordPiece" ? ParseWordPiece(*component.object, vocabulary)
                                       : ParseUnigram(*component.object, vocabulary);
}

Status SetTokenText(int32_t id, std::string text, Vocabulary* vocabulary) {
  if (vocabulary->texts.size() <= static_cast<size_t>(id)) vocabulary->texts.resize(static_cast<size_t>(id) + 1);
  std::string& slot = vocabulary->texts[id];
  if (!slot.empty() && slot != text) {
    return InvalidArgument("two tokens have the id " + std::to_string(id) + ", one of them \"" + Shorten(text) + "\"");
  }
  slot = std::move(text);
  return OkStatus();
}

Result<std::vector<int32_t>> ByteTokens(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids;
  for (int b = 0; b < 256; ++b) {
    const std::string name = ByteToken(static_cast<uint8_t>(b));
    const auto found = vocabulary.ids.find(name);
    if (found == vocabulary.ids.end()) {
      return InvalidArgument("model.byte_fallback needs the token " + name + ", which is not in model.vocab");
    }
    ids.push_back(found->second);
  }
  return ids;
}

}  // namespace heddle::model
