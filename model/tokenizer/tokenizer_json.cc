#include "model/tokenizer/tokenizer_json.h"

#include <boost/json.hpp>
#include <optional>
#include <utility>

#include "model/tokenizer/json_members.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxAddedBytes = 512;  // the longest real ones have a tenth; bounds what finding them may cost

Result<AddedToken> ReadAddedToken(const json::value& value, bool* normalized) {
  const json::object* object = value.if_object();
  const json::value* content = object == nullptr ? nullptr : Member(*object, "content");
  const json::value* id = object == nullptr ? nullptr : Member(*object, "id");
  if (content == nullptr || !content->is_string() || id == nullptr) {
    return InvalidArgument("each of added_tokens must be an object with an id and a content");
  }
  AddedToken token;
  token.content = std::string(content->get_string());
  if (token.content.size() > kMaxAddedBytes) {
    return InvalidArgument("the added token \"" + Shorten(token.content) + "\" has more than " +
                           std::to_string(kMaxAddedBytes) + " bytes");
  }
  HEDDLE_ASSIGN_OR_RETURN(token.id, TokenId(*id, token.content));
  HEDDLE_ASSIGN_OR_RETURN(token.lstrip, BoolMember(*object, "lstrip", false));
  HEDDLE_ASSIGN_OR_RETURN(token.rstrip, BoolMember(*object, "rstrip", false));
  HEDDLE_ASSIGN_OR_RETURN(token.single_word, BoolMember(*object, "single_word", false));
  HEDDLE_ASSIGN_OR_RETURN(token.special, BoolMember(*object, "special", false));
  HEDDLE_ASSIGN_OR_RETURN(*normalized, BoolMember(*object, "normalized", !token.special));
  return token;
}

Status ReadAddedTokens(const json::object& root, TokenizerParts* parts) {
  const json::value* list = Member(root, "added_tokens");
  if (list == nullptr) return OkStatus();
  if (!list->is_array()) return InvalidArgument("added_tokens must be a list");
  std::vector<AddedToken> unnormalized, normalized;
  for (const json::value& value : list->get_array()) {
    bool is_normalized = false;
    HEDDLE_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(value, &is_normalized));
    HEDDLE_RETURN_IF_ERROR(SetTokenText(token.id, token.content, &parts->vocabulary));
    if (token.lstrip || token.rstrip) parts->keeps_bytes = false;
    // Its text is looked for in normalized text, and so is normalized as well.
    if (is_normalized && parts->normalizer != nullptr) parts->normalizer->Apply(&token.content);
    (is_normalized ? normalized : unnormalized).push_back(std::move(token));
  }
  parts->unnormalized = AddedTokens(std::move(unnormalized));
  parts->normalized = AddedTokens(std::move(normalized));
  return OkStatus();
}

std::optional<int32_t> FindToken(const TokenizerParts& parts, std::string_view content) {
  for (const AddedTokens* tokens : {&parts.unnormalized, &parts.normalized}) {
    for (const AddedToken& token : tokens->tokens()) {
      if (parts.vocabulary.texts[static_cast<size_t>(token.id)] == content) return token.id;
    }
  }
  const auto found = parts.vocabulary.ids.find(std::string(content));
  if (found == parts.vocabulary.ids.end()) return std::nullopt;
  return found->second;
}

struct SpecialName {
  std::string_view key;  // of tokenizer_config.json
  int32_t SpecialTokens::*id;
  std::vector<std::string_view> names;  // in use where no file says it
};

const std::vector<SpecialName>& SpecialNames() {
  static const std::vector<SpecialName> kNames = {
      {"bos_token", &SpecialTokens::bos, {"<|begin_of_text|>", "<|endoftext|>", "<s>"}},
      {"eos_token", &SpecialTokens::eos, {"<|end_of_text|>", "<|endoftext|>", "</s>"}},
      {"unk_token", &SpecialTokens::unknown, {"[UNK]", "<unk>"}},
      {"pad_token", &SpecialTokens::pad, {"[PAD]", "<pad>"}},
      {"cls_token", &SpecialTokens::cls, {"[CLS]"}},
      {"sep_token", &SpecialTokens::sep, {"[SEP]"}},
      {"mask_token", &SpecialTokens::mask, {"[MASK]", "<mask>"}}};
  return kNames;
}

// For folders without tokenizer_config.json. Only added tokens: a word of the vocabulary may have such a name.
void GuessSpecialTokens(TokenizerParts* parts) {
  for (const SpecialName& special : SpecialNames()) {
    int32_t& id = parts->special.*special.id;
    for (const std::string_view name : special.names) {
      for (const AddedTokens* tokens : {&parts->unnormalized, &parts->normalized}) {
        for (const AddedToken& token : tokens->tokens()) {
          if (id < 0 && parts->vocabulary.texts[static_cast<size_t>(token.id)] == name) id = token.id;
        }
      }
    }
  }
}

// The component under `key`, when it is of this type.
json::object* ComponentOf(json::object* root, std::string_view key, std::string_view type) {
  json::value* value = root->if_contains(key);
  json::object* object = value == nullptr ? nullptr : value->if_object();
  const json::value* found = object == nullptr ? nullptr : Member(*object, "type");
  return found != nullptr && found->is_string() && found->get_string() == type ? object : nullptr;
}

// Puts a setting that is there, and true or false, into a component.
void SetFrom(const json::object& config, std::string_view key, json::object* component, std::string_view to) {
  const json::value* value = Member(config, key);
  if (component != nullptr && value != nullptr && value->is_bool()) (*component)[to] = value->get_bool();
}

// Llama's class makes the template anew, from which of the two tokens go around a text.
Status OverrideTemplate(const json::object& config, json::object* root) {
  const json::value *bos = Member(config, "add_bos_token"), *eos = Member(config, "add_eos_token");
  if (bos == nullptr && eos == nullptr) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const bool add_bos, BoolMember(config, "add_bos_token", true));
  HEDDLE_ASSIGN_OR_RETURN(const bool add_eos, BoolMember(config, "add_eos_token", false));
  json::array single, pair_end;
  json::object special;
  const auto add = [&](const char* key, const char* otherwise, json::array* first) -> Status {
    const json::value* name = Member(config, key);
    if (name != nullptr && name->is_object()) name = Member(name->get_object(), "content");
    const std::string content(name != nullptr && name->is_string() ? std::string(name->get_string()) : otherwise);
    const json::value* id = nullptr;
    const json::value* added = Member(*root, "added_tokens");
    const json::array* list = added == nullptr ? nullptr : added->if_array();
    for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
      const json::object* one = (*list)[i].if_object();
      const json::value* text = one == nullptr ? nullptr : Member(*one, "content");
      if (text != nullptr && text->is_string() && text->get_string() == content) id = Member(*one, "id");
    }
    if (id == nullptr) {
      return InvalidArgument(std::string(key) + " \"" + Shorten(content) +
                             "\" is to go around a text, but is not one of added_tokens in tokenizer.json");
    }
    special[content] = {{"id", content}, {"ids", json::array{*id}}, {"tokens", json::array{content}}};
    first->push_back(json::object{{"SpecialToken", {{"id", content}, {"type_id", 0}}}});
    pair_end.push_back(json::object{{"SpecialToken", {{"id", content}, {"type_id", 1}}}});
    return OkStatus();
  };
  if (add_bos) HEDDLE_RETURN_IF_ERROR(add("bos_token", "<s>", &single));
  single.push_back(json::object{{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  pair_end.push_back(json::object{{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  if (add_eos) HEDDLE_RETURN_IF_ERROR(add("eos_token", "</s>", &single));
  json::array pair = single;
  for (const json::value& one : pair_end) pair.push_back(one);
  (*root)["post_processor"] =
      json::object{{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
  return OkStatus();
}

// What the classes of the reference change, where tokenizer_config.json contradicts tokenizer.json. The class without
// a name of its own changes nothing.
Status Override(const json::object& config, json::object* root) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string kind, StringMember(config, "tokenizer_class", ""));
  if (kind == "PreTrainedTokenizerFast") return OkStatus();
  json::object* bert = ComponentOf(root, "normalizer", "BertNormalizer");
  SetFrom(config, "do_lower_case", bert, "lowercase");
  SetFrom(config, "strip_accents", bert, "strip_accents");
  SetFrom(config, "tokenize_chinese_chars", bert, "handle_chinese_chars");
  SetFrom(config, "add_prefix_space", ComponentOf(root, "pre_tokenizer", "ByteLevel"), "add_prefix_space");
  return kind.starts_with("Llama") ? OverrideTemplate(config, root) : OkStatus();
}

}  // namespace

Result<TokenizerParts> ParseTokenizerJson(std::string_view text, std::string_view config) {
  json::error_code error;
  json::monotonic_resource memory;
  json::value root = json::parse(text, error, &memory);  // depth limit 32
  if (error) return InvalidArgument("tokenizer.json is not valid JSON: " + error.message() + "; copy the file anew");
  if (!root.is_object()) return InvalidArgument("tokenizer.json must hold a JSON object");
  if (!config.empty()) {
    const json::value settings = json::parse(config, error);
    if (error)
      return InvalidArgument("tokenizer_config.json is not valid JSON: " + error.message() + "; copy the file anew");
    if (!settings.is_object()) return InvalidArgument("tokenizer_config.json must hold a JSON object");
    const Status overridden = Override(settings.get_object(), &root.get_object());
    if (!overridden.ok()) return overridden.Annotate("tokenizer_config.json");
  }
  Result<TokenizerParts> parts = ParseTokenizer(root.get_object());
  if (!parts.ok()) return parts.status().Annotate("tokenizer.json");
  return parts;
}

Result<TokenizerParts> ParseTokenizer(const json::object& root) {
  TokenizerParts parts;
  HEDDLE_ASSIGN_OR_RETURN(parts.normalizer, ParseNormalizer(Member(root, "normalizer")));
  HEDDLE_ASSIGN_OR_RETURN(ParsedPreTokenizer pre, ParsePreTokenizer(Member(root, "pre_tokenizer")));
  parts.keeps_bytes = pre.byte_level && pre.keeps_bytes && parts.normalizer == nullptr;
  HEDDLE_ASSIGN_OR_RETURN(parts.decoder, ParseDecoder(Member(root, "decoder"), pre.byte_level));
  HEDDLE_ASSIGN_OR_RETURN(parts.model, ParseTokenModel(Member(root, "model"), pre.byte_level, &parts.vocabulary));
  HEDDLE_RETURN_IF_ERROR(ReadAddedTokens(root, &parts));
  HEDDLE_ASSIGN_OR_RETURN(parts.post_processor,
                          PostProcessor::FromJson(Member(root, "post_processor"), std::ssize(parts.vocabulary.texts)));
  parts.pre_tokenizer = std::move(pre.pre_tokenizer);
  if (parts.pre_tokenizer == nullptr && parts.model->CutsBeforeSpaceSigns())
    parts.pre_tokenizer = CutBeforeSpaceSigns();
  GuessSpecialTokens(&parts);
  return parts;
}

Status ApplyTokenizerConfig(std::string_view text, TokenizerParts* parts) {
  json::error_code error;
  const json::value root = json::parse(text, error);
  if (error)
    return InvalidArgument("tokenizer_config.json is not valid JSON: " + error.message() + "; copy the file anew");
  if (!root.is_object()) return InvalidArgument("tokenizer_config.json must hold a JSON object");
  for (const SpecialName& special : SpecialNames()) {
    const json::value* value = Member(root.get_object(), special.key);
    if (value != nullptr && value->is_object()) value = Member(value->get_object(), "content");
    if (value == nullptr || !value->is_string()) continue;
    const std::string content(value->get_string());
    if (const auto id = FindToken(*parts, content)) {
      parts->special.*special.id = *id;
    } else if (special.key == "bos_token" || special.key == "eos_token") {
      return InvalidArgument("tokenizer_config.json: " + std::string(special.key) + " is \"" + Shorten(content) +
                             "\", which is not one of the tokens of the tokenizer");
    }
  }
  return OkStatus();
}

}  // namespace heddle::model
