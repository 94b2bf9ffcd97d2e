#include "model/tokenizer/vocab_files.h"

#include <boost/json.hpp>
#include <charconv>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "model/tokenizer/json_members.h"
#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

// The lines of a file without their ends ("\n" or "\r\n"); no line after the last end.
Status ForEachLine(std::string_view text, std::string_view file,
                   const std::function<Status(size_t number, std::string_view line)>& function) {
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!IsValidUtf8(line)) {
      return InvalidArgument(std::string(file) + ": line " + std::to_string(number) + " is not UTF-8");
    }
    HEDDLE_RETURN_IF_ERROR(function(number, line));
  }
  return OkStatus();
}

Result<json::object> ReadConfig(std::string_view text) {
  if (text.empty()) return json::object();
  json::error_code error;
  json::value root = json::parse(text, error);
  if (error || !root.is_object()) return InvalidArgument("tokenizer_config.json is not a JSON object");
  return std::move(root.get_object());
}

// The text of a special token: a string, or an object with a content.
std::string NameOf(const json::object& config, std::string_view key, std::string_view otherwise) {
  const json::value* value = Member(config, key);
  if (value != nullptr && value->is_object()) value = Member(value->get_object(), "content");
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string(otherwise);
}

// The tokens that have a part to play: "…_token", and additional_special_tokens.
std::set<std::string> SpecialNamesOf(const json::object& config) {
  std::set<std::string> names;
  const auto add = [&](const json::value& value) {
    const json::value* content = value.is_object() ? Member(value.get_object(), "content") : &value;
    if (content != nullptr && content->is_string()) names.emplace(content->get_string());
  };
  for (const auto& [key, value] : config) {
    if (key.ends_with("_token")) add(value);
    if (key != "additional_special_tokens" || !value.is_array()) continue;
    for (const json::value& one : value.get_array()) add(one);
  }
  return names;
}

json::object MakeAddedToken(const std::string& content, int64_t id, bool lstrip = false) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", lstrip},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

}  // namespace

Result<json::object> TokenizerFromVocabTxt(std::string_view vocab_text, std::string_view config_text) {
  HEDDLE_ASSIGN_OR_RETURN(const json::object config, ReadConfig(config_text));
  json::object vocab;
  HEDDLE_RETURN_IF_ERROR(ForEachLine(vocab_text, "vocab.txt", [&](size_t number, std::string_view line) {
    const auto id = static_cast<int64_t>(number) - 1;
    if (id >= kMaxTokenId) return InvalidArgument("vocab.txt has more lines than " + std::to_string(kMaxTokenId));
    if (!line.empty() && !vocab.emplace(line, id).second) {
      return InvalidArgument("vocab.txt: line " + std::to_string(number) + " has the token \"" + Shorten(line) +
                             "\" for the second time");
    }
    return OkStatus();
  }));
  HEDDLE_ASSIGN_OR_RETURN(const bool lowercase, ConfigFlag(config, "do_lower_case", true));
  HEDDLE_ASSIGN_OR_RETURN(const bool chinese, ConfigFlag(config, "tokenize_chinese_chars", true));
  json::object normalizer = {{"type", "BertNormalizer"}, {"lowercase", lowercase}, {"handle_chinese_chars", chinese}};
  if (Member(config, "strip_accents") != nullptr) {
    HEDDLE_ASSIGN_OR_RETURN(normalizer["strip_accents"], ConfigFlag(config, "strip_accents", false));
  }

  const std::string unknown = NameOf(config, "unk_token", "[UNK]");
  const std::string cls = NameOf(config, "cls_token", "[CLS]"), sep = NameOf(config, "sep_token", "[SEP]");
  json::array added;
  for (const std::string& name :
       {unknown, cls, sep, NameOf(config, "pad_token", "[PAD]"), NameOf(config, "mask_token", "[MASK]")}) {
    const json::value* id = vocab.if_contains(name);
    if (id != nullptr) added.push_back(MakeAddedToken(name, id->to_number<int64_t>()));
  }
  if (!vocab.contains(cls) || !vocab.contains(sep))
    return InvalidArgument("vocab.txt lacks \"" + Shorten(vocab.contains(cls) ? sep : cls) +
                           "\", which goes around a text");
  json::object post = {
      {"type", "BertProcessing"}, {"cls", json::array{cls, vocab[cls]}}, {"sep", json::array{sep, vocab[sep]}}};
  return json::object{{"added_tokens", std::move(added)},
                      {"normalizer", std::move(normalizer)},
                      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                      {"post_processor", std::move(post)},
                      {"decoder", {{"type", "WordPiece"}}},
                      {"model", {{"type", "WordPiece"}, {"unk_token", unknown}, {"vocab", std::move(vocab)}}}};
}

Result<json::object> TokenizerFromMerges(std::string_view vocab_json, std::string_view merges_text,
                                         std::string_view config_text, std::string_view model_type) {
  HEDDLE_ASSIGN_OR_RETURN(const json::object config, ReadConfig(config_text));
  json::error_code error;
  json::value vocab = json::parse(vocab_json, error);
  if (error || !vocab.is_object()) return InvalidArgument("vocab.json is not a JSON object");
  json::array merges;
  HEDDLE_RETURN_IF_ERROR(ForEachLine(merges_text, "merges.txt", [&](size_t number, std::string_view line) {
    if (line.empty() || (number == 1 && line.starts_with("#version"))) return OkStatus();
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos) {
      return InvalidArgument("merges.txt: line " + std::to_string(number) + " must be two tokens with a space between");
    }
    merges.emplace_back(line);
    return OkStatus();
  }));
  HEDDLE_ASSIGN_OR_RETURN(const bool prefix, ConfigFlag(config, "add_prefix_space", false));
  HEDDLE_ASSIGN_OR_RETURN(const bool add_bos, ConfigFlag(config, "add_bos_token", false));
  const std::string kind = NameOf(config, "tokenizer_class", "");
  const bool roberta = kind.empty()
                           ? model_type == "roberta" || model_type == "longformer" || model_type == "bart"
                           : kind.starts_with("Roberta") || kind.starts_with("Longformer") || kind.starts_with("Bart");
  const std::string bos = NameOf(config, "bos_token", roberta ? "<s>" : "<|endoftext|>");
  const std::string eos = NameOf(config, "eos_token", roberta ? "</s>" : "<|endoftext|>");
  const std::string cls = NameOf(config, "cls_token", roberta ? "<s>" : ""),
                    sep = NameOf(config, "sep_token", roberta ? "</s>" : "");
  const std::string mask = NameOf(config, "mask_token", roberta ? "<mask>" : "");
  const auto id_of = [&](const std::string& name) {
    return name.empty() ? nullptr : vocab.get_object().if_contains(name);
  };
  json::array added;
  for (const std::string& name : {bos, eos, cls, sep, mask, NameOf(config, "unk_token", roberta ? "<unk>" : ""),
                                  NameOf(config, "pad_token", roberta ? "<pad>" : "")}) {
    const json::value* id = id_of(name);
    json::error_code wrong;
    if (id == nullptr || (id->to_number<int64_t>(wrong), wrong)) continue;  // the reader of the vocabulary says so
    added.push_back(MakeAddedToken(name, id->to_number<int64_t>(wrong), roberta && name == mask));
  }
  json::value post = nullptr;
  if (roberta) {
    if (id_of(cls) == nullptr || id_of(sep) == nullptr)
      return InvalidArgument("vocab.json lacks \"" + Shorten(id_of(cls) == nullptr ? cls : sep) +
                             "\", which goes around a text");
    post = {{"type", "RobertaProcessing"}, {"cls", {cls, *id_of(cls)}}, {"sep", {sep, *id_of(sep)}}};
  } else if (add_bos) {
    if (id_of(bos) == nullptr) return InvalidArgument("vocab.json lacks \"" + Shorten(bos) + "\", which begins a text");
    const json::value begin = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
    const json::value a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                      b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
    json::object ids;
    ids[bos] = json::object{{"id", bos}, {"ids", json::array{*id_of(bos)}}, {"tokens", json::array{bos}}};
    post = json::object{{"type", "TemplateProcessing"},
                        {"single", json::array{begin, a}},
                        {"pair", json::array{begin, a, begin, b}},
                        {"special_tokens", std::move(ids)}};
  }
  return json::object{{"added_tokens", std::move(added)},
                      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", prefix}}},
                      {"post_processor", std::move(post)},
                      {"decoder", {{"type", "ByteLevel"}}},
                      {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}}}};
}

Result<std::string> MergedTokenizerConfig(std::string_view config_text, std::string_view special_map) {
  if (special_map.empty()) return std::string(config_text);
  HEDDLE_ASSIGN_OR_RETURN(json::object config, ReadConfig(config_text));
  json::error_code error;
  const json::value map = json::parse(special_map, error);
  if (error || !map.is_object()) return InvalidArgument("special_tokens_map.json is not a JSON object");
  for (const auto& [key, value] : map.get_object()) {
    json::value& there = config[key];
    if (there.is_null()) there = value;
  }
  return json::serialize(config);
}

Result<json::array> AddedTokensOf(std::string_view added_json, std::string_view config_text) {
  HEDDLE_ASSIGN_OR_RETURN(const json::object config, ReadConfig(config_text));
  std::map<int64_t, json::object> tokens;
  const auto add = [&](int64_t id, const std::string& file, json::object token) -> Status {
    if (id < 0 || id >= kMaxTokenId) {
      return InvalidArgument(file + ": a token's id is not from 0 to " + std::to_string(kMaxTokenId - 1));
    }
    const auto [at, fresh] = tokens.try_emplace(id, token);
    const json::value *content = Member(token, "content"), *before = Member(at->second, "content");
    if (!fresh && (content == nullptr || before == nullptr || *content != *before)) {
      return InvalidArgument(file + ": two tokens have the id " + std::to_string(id));
    }
    return OkStatus();
  };
  if (const json::value* decoder = Member(config, "added_tokens_decoder"); decoder != nullptr) {
    if (!decoder->is_object()) return InvalidArgument("tokenizer_config.json: added_tokens_decoder is not an object");
    for (const auto& [key, value] : decoder->get_object()) {
      int64_t id = -1;
      const auto [end, wrong] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (wrong != std::errc() || end != key.data() + key.size() || !value.is_object()) {
        return InvalidArgument("tokenizer_config.json: added_tokens_decoder must name an object for each id");
      }
      json::object token = value.get_object();
      token["id"] = id;
      HEDDLE_RETURN_IF_ERROR(add(id, "tokenizer_config.json", std::move(token)));
    }
  }
  json::error_code error;
  const json::value added = added_json.empty() ? json::object() : json::parse(added_json, error);
  if (error || !added.is_object()) return InvalidArgument("added_tokens.json is not a JSON object");
  const std::set<std::string> special = SpecialNamesOf(config);
  for (const auto& [content, value] : added.get_object()) {
    json::error_code wrong;
    const auto id = value.to_number<int64_t>(wrong);
    if (wrong) return InvalidArgument("added_tokens.json must hold the id of each token");
    json::object token = MakeAddedToken(std::string(content), id);
    const bool has_a_part = special.contains(std::string(content));
    token["special"] = has_a_part;
    token["normalized"] = !has_a_part;  // looked for in the text as the model sees it: lowercased, where it is uncased
    HEDDLE_RETURN_IF_ERROR(add(id, "added_tokens.json", std::move(token)));
  }
  json::array out;
  for (auto& [id, token] : tokens) out.push_back(std::move(token));
  return out;
}

}  // namespace heddle::model
