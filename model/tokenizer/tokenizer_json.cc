#include "model/tokenizer/tokenizer_json.h"

#include <boost/json.hpp>
#include <optional>

#include "model/tokenizer/byte_level.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

// Above every known vocabulary. Bounds what one hostile id can make us allocate.
constexpr int64_t kMaxId = int64_t{1} << 21;

std::string Shorten(std::string_view text) {
  return text.size() <= 60 ? std::string(text) : std::string(text.substr(0, 57)) + "...";
}

// The member, or null when absent or JSON null.
const json::value* Member(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<bool> BoolMember(const json::object& object, std::string_view key, bool otherwise) {
  const json::value* value = Member(object, key);
  if (value == nullptr) return otherwise;
  if (!value->is_bool()) return InvalidArgument("tokenizer.json: " + std::string(key) + " must be true or false");
  return value->get_bool();
}

Result<int32_t> Id(const json::value& value, std::string_view what) {
  json::error_code error;
  const auto id = value.to_number<int64_t>(error);
  if (error || id < 0 || id >= kMaxId) {
    return InvalidArgument("tokenizer.json: the id of " + Shorten(what) + " must be a whole number from 0 to " +
                           std::to_string(kMaxId - 1));
  }
  return static_cast<int32_t>(id);
}

// The "type" of a component that is an object; empty when the component is absent.
Result<std::string_view> ComponentType(const json::object& root, std::string_view key, const json::object** component) {
  const json::value* value = Member(root, key);
  if (value == nullptr) return std::string_view();
  const json::value* type = value->is_object() ? Member(value->get_object(), "type") : nullptr;
  if (type == nullptr || !type->is_string()) {
    return InvalidArgument("tokenizer.json: " + std::string(key) + " must be an object with a type");
  }
  *component = &value->get_object();
  return std::string_view(type->get_string().data(), type->get_string().size());
}

Status Unsupported(std::string_view key, std::string_view type, std::string_view known) {
  return Unimplemented("tokenizer.json: " + std::string(key) + " of type \"" + Shorten(type) +
                       "\" is not supported (only " + std::string(known) + ")");
}

Status ReadPreTokenizer(const json::object& root, TokenizerParts* parts) {
  const json::object* component = nullptr;
  HEDDLE_ASSIGN_OR_RETURN(std::string_view type, ComponentType(root, "pre_tokenizer", &component));
  if (type == "Sequence") {
    const json::value* list = Member(*component, "pretokenizers");
    if (list != nullptr && list->is_array() && list->get_array().size() == 1 && list->get_array()[0].is_object()) {
      const json::object& inner = list->get_array()[0].get_object();
      const json::value* inner_type = Member(inner, "type");
      if (inner_type != nullptr && inner_type->is_string()) {
        type = {inner_type->get_string().data(), inner_type->get_string().size()};
        component = &inner;
      }
    }
  }
  if (type != "ByteLevel") return Unsupported("pre_tokenizer", type.empty() ? "null" : type, "ByteLevel");
  HEDDLE_ASSIGN_OR_RETURN(parts->add_prefix_space, BoolMember(*component, "add_prefix_space", true));
  HEDDLE_ASSIGN_OR_RETURN(parts->use_regex, BoolMember(*component, "use_regex", true));
  return OkStatus();
}

// Components that would change ids or text are refused. Post-processors only add special tokens around a text, which
// Encode leaves to its callers.
Status CheckOtherComponents(const json::object& root) {
  const json::object* component = nullptr;
  HEDDLE_ASSIGN_OR_RETURN(const std::string_view normalizer, ComponentType(root, "normalizer", &component));
  if (!normalizer.empty()) return Unsupported("normalizer", normalizer, "null");
  HEDDLE_ASSIGN_OR_RETURN(const std::string_view decoder, ComponentType(root, "decoder", &component));
  if (!decoder.empty() && decoder != "ByteLevel") return Unsupported("decoder", decoder, "ByteLevel");
  HEDDLE_ASSIGN_OR_RETURN(const std::string_view post, ComponentType(root, "post_processor", &component));
  for (const char* known : {"", "ByteLevel", "TemplateProcessing", "RobertaProcessing", "Sequence"}) {
    if (post == known) return OkStatus();
  }
  return Unsupported("post_processor", post, "ByteLevel, TemplateProcessing, RobertaProcessing");
}

// Model vocabulary under the names of the file, while merges are read.
using NamedVocab = std::unordered_map<std::string_view, int32_t>;

Status SetBytes(int32_t id, std::string bytes, std::string_view name, TokenizerParts* parts) {
  if (parts->bytes_of.size() <= static_cast<size_t>(id)) parts->bytes_of.resize(static_cast<size_t>(id) + 1);
  std::string& slot = parts->bytes_of[id];
  if (!slot.empty() && slot != bytes) {
    return InvalidArgument("tokenizer.json: two tokens have the id " + std::to_string(id) + ", one of them \"" +
                           Shorten(name) + "\"");
  }
  slot = std::move(bytes);
  return OkStatus();
}

Status ReadVocab(const json::object& model, NamedVocab* names, TokenizerParts* parts) {
  const json::value* vocab = Member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return InvalidArgument("tokenizer.json: model.vocab must be an object");
  for (const auto& [key, value] : vocab->get_object()) {
    const std::string_view name(key.data(), key.size());
    HEDDLE_ASSIGN_OR_RETURN(const int32_t id, Id(value, name));
    std::string bytes = TokenBytes(name);
    parts->vocab.emplace(bytes, id);
    HEDDLE_RETURN_IF_ERROR(SetBytes(id, std::move(bytes), name, parts));
    names->emplace(name, id);
  }
  for (int b = 0; b < 256; ++b) {
    const auto found = names->find(ByteCharacters()[b]);
    if (found == names->end()) {
      return InvalidArgument("tokenizer.json: model.vocab lacks the token of byte " + std::to_string(b) +
                             ", so not every text could be encoded");
    }
    parts->byte_ids[b] = found->second;
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

Status ReadMerges(const json::object& model, const NamedVocab& names, TokenizerParts* parts) {
  const json::value* merges = Member(model, "merges");
  if (merges == nullptr || !merges->is_array()) return InvalidArgument("tokenizer.json: model.merges must be a list");
  std::string joined;
  size_t index = 0;
  for (const json::value& value : merges->get_array()) {
    const std::string where = "tokenizer.json: model.merges[" + std::to_string(index++) + "]";
    std::string_view left, right;
    if (!SplitMerge(value, &left, &right))
      return InvalidArgument(where + " must be \"left right\" or [\"left\", \"right\"]");
    joined.assign(left).append(right);
    const auto a = names.find(left), b = names.find(right), c = names.find(joined);
    if (a == names.end() || b == names.end() || c == names.end()) {
      return InvalidArgument(where + " joins \"" + Shorten(left) + "\" and \"" + Shorten(right) +
                             "\", but these or the result are not in model.vocab");
    }
    parts->merges.push_back({a->second, b->second, c->second});
  }
  return OkStatus();
}

Status ReadModel(const json::object& root, TokenizerParts* parts) {
  const json::object* model = nullptr;
  HEDDLE_ASSIGN_OR_RETURN(std::string_view type, ComponentType(root, "model", &model));
  if (type != "BPE") return Unsupported("model", type.empty() ? "null" : type, "BPE");
  if (Member(*model, "dropout") != nullptr) return Unimplemented("tokenizer.json: model.dropout is not supported");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json::value* value = Member(*model, key);
    if (value != nullptr && !(value->is_string() && value->get_string().empty())) {
      return Unimplemented(std::string("tokenizer.json: model.") + key + " is not supported");
    }
  }
  HEDDLE_ASSIGN_OR_RETURN(parts->ignore_merges, BoolMember(*model, "ignore_merges", false));
  NamedVocab names;
  HEDDLE_RETURN_IF_ERROR(ReadVocab(*model, &names, parts));
  return ReadMerges(*model, names, parts);
}

Result<AddedToken> ReadAddedToken(const json::value& value, bool* normalized) {
  const json::object* object = value.if_object();
  const json::value* content = object == nullptr ? nullptr : Member(*object, "content");
  const json::value* id = object == nullptr ? nullptr : Member(*object, "id");
  if (content == nullptr || !content->is_string() || id == nullptr) {
    return InvalidArgument("tokenizer.json: each of added_tokens must be an object with an id and a content");
  }
  AddedToken token;
  token.content = std::string(content->get_string());
  HEDDLE_ASSIGN_OR_RETURN(token.id, Id(*id, token.content));
  HEDDLE_ASSIGN_OR_RETURN(token.lstrip, BoolMember(*object, "lstrip", false));
  HEDDLE_ASSIGN_OR_RETURN(token.rstrip, BoolMember(*object, "rstrip", false));
  HEDDLE_ASSIGN_OR_RETURN(token.special, BoolMember(*object, "special", false));
  HEDDLE_ASSIGN_OR_RETURN(*normalized, BoolMember(*object, "normalized", !token.special));
  HEDDLE_ASSIGN_OR_RETURN(const bool single_word, BoolMember(*object, "single_word", false));
  if (single_word) {
    return Unimplemented("tokenizer.json: the added token \"" + Shorten(token.content) +
                         "\" has single_word, which is not supported");
  }
  return token;
}

Status ReadAddedTokens(const json::object& root, TokenizerParts* parts) {
  const json::value* list = Member(root, "added_tokens");
  if (list == nullptr) return OkStatus();
  if (!list->is_array()) return InvalidArgument("tokenizer.json: added_tokens must be a list");
  std::vector<AddedToken> unnormalized, normalized;
  for (const json::value& value : list->get_array()) {
    bool is_normalized = false;
    HEDDLE_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(value, &is_normalized));
    HEDDLE_RETURN_IF_ERROR(SetBytes(token.id, token.content, token.content, parts));
    (is_normalized ? normalized : unnormalized).push_back(std::move(token));
  }
  parts->unnormalized = AddedTokens(std::move(unnormalized));
  parts->normalized = AddedTokens(std::move(normalized));
  return OkStatus();
}

std::optional<int32_t> FindAdded(const TokenizerParts& parts, std::string_view content) {
  for (const AddedTokens* tokens : {&parts.unnormalized, &parts.normalized}) {
    for (const AddedToken& token : tokens->tokens()) {
      if (token.content == content) return token.id;
    }
  }
  return std::nullopt;
}

// The names in use for tokens that begin and end a text, for folders without tokenizer_config.json.
void GuessBosAndEos(TokenizerParts* parts) {
  for (const char* name : {"<|begin_of_text|>", "<|endoftext|>", "<s>"}) {
    if (const auto id = FindAdded(*parts, name); id && parts->bos < 0) parts->bos = *id;
  }
  for (const char* name : {"<|end_of_text|>", "<|endoftext|>", "</s>"}) {
    if (const auto id = FindAdded(*parts, name); id && parts->eos < 0) parts->eos = *id;
  }
}

}  // namespace

Result<TokenizerParts> ParseTokenizerJson(std::string_view text) {
  json::error_code error;
  json::monotonic_resource memory;
  const json::value root = json::parse(text, error, &memory);  // depth limit 32
  if (error) return InvalidArgument("tokenizer.json is not valid JSON: " + error.message());
  if (!root.is_object()) return InvalidArgument("tokenizer.json must hold a JSON object");
  TokenizerParts parts;
  const json::object& object = root.get_object();
  HEDDLE_RETURN_IF_ERROR(ReadPreTokenizer(object, &parts));
  HEDDLE_RETURN_IF_ERROR(CheckOtherComponents(object));
  HEDDLE_RETURN_IF_ERROR(ReadModel(object, &parts));
  HEDDLE_RETURN_IF_ERROR(ReadAddedTokens(object, &parts));
  GuessBosAndEos(&parts);
  return parts;
}

Status ApplyTokenizerConfig(std::string_view text, TokenizerParts* parts) {
  json::error_code error;
  const json::value root = json::parse(text, error);
  if (error) return InvalidArgument("tokenizer_config.json is not valid JSON: " + error.message());
  if (!root.is_object()) return InvalidArgument("tokenizer_config.json must hold a JSON object");
  for (const auto& [key, target] : {std::pair("bos_token", &parts->bos), std::pair("eos_token", &parts->eos)}) {
    const json::value* value = Member(root.get_object(), key);
    if (value != nullptr && value->is_object()) value = Member(value->get_object(), "content");
    if (value == nullptr || !value->is_string()) continue;
    const std::string content(value->get_string());
    const auto id = FindAdded(*parts, content);
    if (!id) {
      return InvalidArgument(std::string("tokenizer_config.json: ") + key + " is \"" + Shorten(content) +
                             "\", which is not one of the added_tokens of tokenizer.json");
    }
    *target = *id;
  }
  return OkStatus();
}

}  // namespace heddle::model
