#include "model/tokenizer/tokenizer.h"

#include <unordered_map>

#include "common/file.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/tokenizer_json.h"

namespace heddle::model {
namespace {

constexpr size_t kMaxTokenizerBytes = size_t{64} << 20;
// Words repeat in long texts; the cache of one call to Encode is bounded.
constexpr size_t kCacheFromBytes = 4096, kMaxCachedWords = 1 << 16;

class ByteLevelBpe : public Tokenizer {
 public:
  explicit ByteLevelBpe(TokenizerParts parts)
      : merges_(parts.byte_ids),
        unnormalized_(std::move(parts.unnormalized)),
        normalized_(std::move(parts.normalized)),
        bytes_of_(std::move(parts.bytes_of)),
        add_prefix_space_(parts.add_prefix_space),
        use_regex_(parts.use_regex),
        bos_(parts.bos),
        eos_(parts.eos) {
    for (const auto& [left, right, merged] : parts.merges) merges_.Add(left, right, merged);
    if (parts.ignore_merges) whole_words_ = std::move(parts.vocab);
  }

  std::vector<int32_t> Encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 8);
    WordCache cache;
    cache.enabled = text.size() >= kCacheFromBytes;
    for (const TextPiece& outer : unnormalized_.Split(text)) {
      if (outer.id >= 0) {
        ids.push_back(outer.id);
        continue;
      }
      for (const TextPiece& piece : normalized_.Split(outer.text)) {
        if (piece.id >= 0) {
          ids.push_back(piece.id);
        } else {
          EncodePlain(piece.text, cache, &ids);
        }
      }
    }
    return ids;
  }

  std::string Decode(std::span<const int32_t> ids) const override {
    std::string out;
    for (const int32_t id : ids) {
      if (id >= 0 && static_cast<size_t>(id) < bytes_of_.size()) out += bytes_of_[id];
    }
    return out;
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_of_.size()); }
  int32_t bos_id() const override { return bos_; }
  int32_t eos_id() const override { return eos_; }

 private:
  struct WordCache {
    bool enabled = false;
    std::unordered_map<std::string_view, std::pair<size_t, size_t>> words;  // -> range of ids in `ids`
    std::vector<int32_t> ids;
  };

  void EncodePlain(std::string_view text, WordCache& cache, std::vector<int32_t>* ids) const {
    if (!add_prefix_space_ || text.starts_with(' ')) return EncodeWords(text, cache, ids);
    WordCache own;  // its keys must not outlive `prefixed`
    own.enabled = cache.enabled;
    const std::string prefixed = " " + std::string(text);
    EncodeWords(prefixed, own, ids);
  }

  void EncodeWords(std::string_view text, WordCache& cache, std::vector<int32_t>* ids) const {
    if (!use_regex_) return EncodeWord(text, ids);
    for (const std::string_view word : SplitWords(text)) {
      if (!cache.enabled) {
        EncodeWord(word, ids);
        continue;
      }
      const auto found = cache.words.find(word);
      if (found != cache.words.end()) {
        ids->insert(ids->end(), cache.ids.begin() + static_cast<std::ptrdiff_t>(found->second.first),
                    cache.ids.begin() + static_cast<std::ptrdiff_t>(found->second.second));
        continue;
      }
      const size_t begin = ids->size();
      EncodeWord(word, ids);
      if (cache.words.size() < kMaxCachedWords && word.size() <= 64) {
        const size_t first = cache.ids.size();
        cache.ids.insert(cache.ids.end(), ids->begin() + static_cast<std::ptrdiff_t>(begin), ids->end());
        cache.words.emplace(word, std::pair(first, cache.ids.size()));
      }
    }
  }

  void EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
    if (!whole_words_.empty()) {
      const auto whole = whole_words_.find(std::string(word));
      if (whole != whole_words_.end()) {
        ids->push_back(whole->second);
        return;
      }
    }
    merges_.Encode(word, ids);
  }

  BpeMerges merges_;
  AddedTokens unnormalized_, normalized_;
  std::vector<std::string> bytes_of_;                     // by id
  std::unordered_map<std::string, int32_t> whole_words_;  // bytes -> id; empty unless the file says ignore_merges
  bool add_prefix_space_, use_regex_;
  int32_t bos_, eos_;
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(std::string_view json) {
  HEDDLE_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerJson(json));
  return std::shared_ptr<const Tokenizer>(std::make_shared<ByteLevelBpe>(std::move(parts)));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Read(const std::filesystem::path& folder) {
  Result<std::string> text = ReadFile(folder / "tokenizer.json", kMaxTokenizerBytes);
  if (!text.ok()) return text.status();
  Result<TokenizerParts> parts = ParseTokenizerJson(*text);
  if (!parts.ok()) return parts.status().Annotate(folder.string());
  // Which of the special tokens begin and end a text is in a file of its own, when it is there.
  const std::filesystem::path config = folder / "tokenizer_config.json";
  if (std::error_code error; std::filesystem::exists(config, error)) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string config_text, ReadFile(config, size_t{4} << 20));
    Status status = ApplyTokenizerConfig(config_text, &*parts);
    if (!status.ok()) return status.Annotate(folder.string());
  }
  return std::shared_ptr<const Tokenizer>(std::make_shared<ByteLevelBpe>(*std::move(parts)));
}

Status CheckTokenizerFits(const LlamaConfig& config, const Tokenizer& tokenizer) {
  if (tokenizer.vocab_size() <= config.vocab_size) return OkStatus();
  return InvalidArgument("the tokenizer has ids up to " + std::to_string(tokenizer.vocab_size() - 1) +
                         ", but the model's vocab_size is " + std::to_string(config.vocab_size) +
                         ": use the tokenizer.json that belongs to this model");
}

}  // namespace heddle::model
