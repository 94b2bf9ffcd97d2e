#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <bit>
#include <boost/json.hpp>

#include "common/file.h"
#include "model/tokenizer/json_members.h"
#include "model/tokenizer/sentencepiece.h"
#include "model/tokenizer/tokenizer_json.h"
#include "model/tokenizer/vocab_files.h"
#include "model/tokenizer/word_cache.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxTokenizerBytes = size_t{64} << 20, kMaxConfigBytes = size_t{4} << 20;

// As many places as tokens, within bounds.
int CacheBits(size_t vocab_size) { return std::clamp(static_cast<int>(std::bit_width(vocab_size)), 6, 15); }

// The parts of a tokenizer.json, one after the other.
class PipelineTokenizer : public Tokenizer {
 public:
  static std::shared_ptr<const Tokenizer> Make(TokenizerParts parts) {
    Common common;
    common.texts = std::move(parts.vocabulary.texts);
    common.special = parts.special;
    common.post_processor = std::move(parts.post_processor);
    for (const AddedTokens* tokens : {&parts.unnormalized, &parts.normalized}) {
      for (const AddedToken& token : tokens->tokens()) {
        if (token.special) common.special_ids.push_back(token.id);
      }
    }
    return std::shared_ptr<const Tokenizer>(new PipelineTokenizer(std::move(parts), std::move(common)));
  }

  std::vector<int32_t> Encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 8);
    Words words(*this, &ids);
    std::string changed;
    for (const TextPiece& outer : parts_.unnormalized.Split(text)) {
      if (outer.id >= 0) {
        ids.push_back(outer.id);
        continue;
      }
      const bool begins = outer.text.data() == text.data();
      std::string_view plain = outer.text;
      if (parts_.normalizer != nullptr) {
        changed = plain;
        parts_.normalizer->Apply(&changed);
        plain = changed;
      }
      for (const TextPiece& piece : parts_.normalized.Split(plain)) {
        const bool first = begins && piece.text.data() == plain.data();
        if (piece.id >= 0) {
          ids.push_back(piece.id);
        } else if (parts_.pre_tokenizer == nullptr) {
          words.Word(piece.text, first);
        } else {
          parts_.pre_tokenizer->Split(piece.text, first, words);
        }
      }
    }
    return ids;
  }

  std::string Decode(std::span<const int32_t> ids) const override {
    std::string out;
    if (parts_.decoder == nullptr) {
      for (const int32_t id : ids) out += TextOf(id);
      return out;
    }
    std::vector<std::string> tokens;
    for (const int32_t id : ids) {
      if (!TextOf(id).empty()) tokens.push_back(TextOf(id));
    }
    parts_.decoder->Apply(&tokens);
    for (const std::string& token : tokens) out += token;
    return out;
  }

 private:
  PipelineTokenizer(TokenizerParts parts, Common common)
      : Tokenizer(std::move(common)), parts_(std::move(parts)), cache_(CacheBits(texts().size())) {}

  class Words : public WordSink {
   public:
    Words(const PipelineTokenizer& tokenizer, std::vector<int32_t>* ids) : tokenizer_(tokenizer), ids_(ids) {}
    void Word(std::string_view word, bool) override {
      WordCache::Key key;
      if (!WordCache::MakeKey(word, &key)) {
        if (!word.empty()) tokenizer_.parts_.model->Encode(word, ids_);
        return;
      }
      if (tokenizer_.cache_.Find(key, ids_)) return;
      const size_t before = ids_->size();
      tokenizer_.parts_.model->Encode(word, ids_);
      tokenizer_.cache_.Put(key, *ids_, ids_->size() - before);
    }

   private:
    const PipelineTokenizer& tokenizer_;
    std::vector<int32_t>* ids_;
  };

  TokenizerParts parts_;
  WordCache cache_;
};

}  // namespace

Tokenizer::Tokenizer(Common common)
    : texts_(std::move(common.texts)),
      is_special_(texts_.size(), false),
      special_(common.special),
      post_processor_(std::move(common.post_processor)) {
  for (const int32_t id : common.special_ids) is_special_[static_cast<size_t>(id)] = true;
}

Result<Encoding> Tokenizer::EncodeText(std::string_view text, const EncodeOptions& options) const {
  return post_processor_.Build(Encode(text), nullptr, options);
}

Result<Encoding> Tokenizer::EncodePair(std::string_view first, std::string_view second,
                                       const EncodeOptions& options) const {
  std::vector<int32_t> other = Encode(second);
  return post_processor_.Build(Encode(first), &other, options);
}

std::string Tokenizer::DecodeText(std::span<const int32_t> ids) const {
  std::vector<int32_t> kept;
  for (const int32_t id : ids) {
    if (!IsSpecial(id)) kept.push_back(id);
  }
  return Decode(kept);
}

int32_t Tokenizer::pad_id() const { return special_.pad >= 0 ? special_.pad : std::max(special_.eos, 0); }

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < is_special_.size() && is_special_[static_cast<size_t>(id)];
}

const std::string& Tokenizer::TextOf(int32_t id) const {
  static const std::string kNone;
  return id >= 0 && static_cast<size_t>(id) < texts_.size() ? texts_[static_cast<size_t>(id)] : kNone;
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(std::string_view json) {
  HEDDLE_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerJson(json));
  return PipelineTokenizer::Make(std::move(parts));
}

namespace {

struct Folder {
  std::filesystem::path path;
  std::string config;  // of tokenizer_config.json; empty: there is none

  bool Has(const char* name) const {
    std::error_code error;
    return std::filesystem::exists(path / name, error);
  }
  Result<std::string> Text(const char* name) const { return ReadFile(path / name, kMaxTokenizerBytes); }
  // Of a file that need not be there.
  Result<std::string> TextIfAny(const char* name) const { return Has(name) ? Text(name) : std::string(); }
  // Those that were added to the vocabulary of an older file.
  Result<json::array> LaterTokens() const {
    HEDDLE_ASSIGN_OR_RETURN(const std::string added, TextIfAny("added_tokens.json"));
    return AddedTokensOf(added, config);
  }
  // model_type in config.json: whose tokenizer it is where nothing else says so.
  std::string ModelType() const {
    const auto text = TextIfAny("config.json");
    json::error_code error;
    const json::value root = text.ok() ? json::parse(*text, error) : json::value();
    const json::value* type = !error && root.is_object() ? Member(root.get_object(), "model_type") : nullptr;
    return type != nullptr && type->is_string() ? std::string(type->get_string()) : "";
  }
};

// Tokens that were added to an older vocabulary beside those that it names itself.
Status AddLaterTokens(const Folder& folder, json::object* root) {
  HEDDLE_ASSIGN_OR_RETURN(const json::array later, folder.LaterTokens());
  json::array& tokens = (*root)["added_tokens"].as_array();
  for (const json::value& token : later) {
    const json::value* content = Member(token.get_object(), "content");
    const bool there = std::any_of(tokens.begin(), tokens.end(), [&](const json::value& one) {
      return content != nullptr && one.get_object().at("content") == *content;
    });
    if (!there) tokens.push_back(token);
  }
  return OkStatus();
}

// A model file of SentencePiece has its own pieces; what was added to them is not in it.
Status CheckNothingAdded(const Folder& folder, const Tokenizer& tokenizer, const char* name) {
  HEDDLE_ASSIGN_OR_RETURN(const json::array later, folder.LaterTokens());
  for (const json::value& token : later) {
    const json::value* content = Member(token.get_object(), "content");
    const std::string text = content != nullptr && content->is_string() ? std::string(content->get_string()) : "?";
    const auto id = token.get_object().at("id").to_number<int64_t>();
    if (id < tokenizer.vocab_size() && tokenizer.TextOf(static_cast<int32_t>(id)) == text) continue;
    return InvalidArgument("\"" + Shorten(text) + "\" was added to the pieces of " + name +
                           "; save the tokenizer as tokenizer.json, which has both");
  }
  return OkStatus();
}

// What SentencePiece's model file does not say.
Result<SentencePieceSettings> SettingsOf(const std::string& config) {
  SentencePieceSettings settings;
  json::error_code error;
  const json::value root = config.empty() ? json::object() : json::parse(config, error);
  if (error || !root.is_object()) return InvalidArgument("tokenizer_config.json is not a JSON object");
  for (const auto& [key, target] :
       {std::pair("add_bos_token", &settings.add_bos), std::pair("add_eos_token", &settings.add_eos)}) {
    if (Member(root.get_object(), key) == nullptr) continue;
    HEDDLE_ASSIGN_OR_RETURN(*target, ConfigFlag(root.get_object(), key, false));
  }
  return settings;
}

Result<std::shared_ptr<const Tokenizer>> ReadSentencePieceFile(const Folder& folder, const char* name) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, folder.Text(name));
  HEDDLE_ASSIGN_OR_RETURN(const SentencePieceSettings settings, SettingsOf(folder.config));
  Result<std::shared_ptr<const Tokenizer>> tokenizer = ReadSentencePiece(bytes, settings);
  if (!tokenizer.ok()) return tokenizer.status().Annotate(name);
  HEDDLE_RETURN_IF_ERROR(CheckNothingAdded(folder, **tokenizer, name));
  return tokenizer;
}

// Of what was made of older files, with the name of the one that a mistake is in.
Result<TokenizerParts> ParseConverted(const json::object& root, const char* vocab) {
  Result<TokenizerParts> parts = ParseTokenizer(root);
  if (parts.ok()) return parts;
  const bool of_merges = parts.status().message().starts_with("model.merges");
  return parts.status().Annotate(of_merges ? "merges.txt" : vocab);
}

Result<TokenizerParts> ReadParts(const Folder& folder) {
  if (folder.Has("tokenizer.json")) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string text, folder.Text("tokenizer.json"));
    return ParseTokenizerJson(text, folder.config);
  }
  if (folder.Has("vocab.txt")) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string text, folder.Text("vocab.txt"));
    HEDDLE_ASSIGN_OR_RETURN(json::object root, TokenizerFromVocabTxt(text, folder.config));
    HEDDLE_RETURN_IF_ERROR(AddLaterTokens(folder, &root));
    return ParseConverted(root, "vocab.txt");
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::string vocab, folder.Text("vocab.json"));
  HEDDLE_ASSIGN_OR_RETURN(const std::string merges, folder.Text("merges.txt"));
  HEDDLE_ASSIGN_OR_RETURN(json::object root, TokenizerFromMerges(vocab, merges, folder.config, folder.ModelType()));
  HEDDLE_RETURN_IF_ERROR(AddLaterTokens(folder, &root));
  return ParseConverted(root, "vocab.json");
}

Result<std::shared_ptr<const Tokenizer>> ReadFolder(Folder folder) {
  if (folder.Has("tokenizer_config.json")) {
    HEDDLE_ASSIGN_OR_RETURN(folder.config, ReadFile(folder.path / "tokenizer_config.json", kMaxConfigBytes));
  }
  if (!folder.Has("tokenizer.json") && !folder.Has("vocab.txt") && !folder.Has("vocab.json")) {
    for (const char* name : {"tokenizer.model", "spiece.model"}) {
      if (folder.Has(name)) return ReadSentencePieceFile(folder, name);
    }
    return NotFound(
        "there is no tokenizer; copy the model's beside its weights: tokenizer.json, vocab.txt, vocab.json with "
        "merges.txt, tokenizer.model or spiece.model");
  }
  if (!folder.Has("tokenizer.json")) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string map, folder.TextIfAny("special_tokens_map.json"));
    HEDDLE_ASSIGN_OR_RETURN(folder.config, MergedTokenizerConfig(folder.config, map));
  }
  HEDDLE_ASSIGN_OR_RETURN(TokenizerParts parts, ReadParts(folder));
  // Which of the special tokens begin and end a text is in a file of its own, when it is there.
  if (!folder.config.empty()) HEDDLE_RETURN_IF_ERROR(ApplyTokenizerConfig(folder.config, &parts));
  return PipelineTokenizer::Make(std::move(parts));
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Read(const std::filesystem::path& folder) {
  Result<std::shared_ptr<const Tokenizer>> tokenizer = ReadFolder({folder, ""});
  return tokenizer.ok() ? std::move(tokenizer) : tokenizer.status().Annotate(folder.string());
}

Status CheckTokenizerFits(int64_t vocab_size, const Tokenizer& tokenizer) {
  if (tokenizer.vocab_size() <= vocab_size) return OkStatus();
  return InvalidArgument("the tokenizer has ids up to " + std::to_string(tokenizer.vocab_size() - 1) +
                         ", but the model's vocab_size is " + std::to_string(vocab_size) +
                         ": use the tokenizer that belongs to this model");
}

Status CheckTokenizerFits(const ModelSpec& config, const Tokenizer& tokenizer) {
  return CheckTokenizerFits(config.vocab_size, tokenizer);
}

}  // namespace heddle::model
