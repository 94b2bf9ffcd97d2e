#include "model/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <boost/json.hpp>
#include <numeric>
#include <queue>
#include <tuple>
#include <utility>

#include "model/tokenizer/byte_level.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

using Pair = std::pair<int32_t, int32_t>;

struct PairHash {
  size_t operator()(const Pair& p) const {
    return std::hash<uint64_t>()(static_cast<uint64_t>(p.first) << 32 | static_cast<uint32_t>(p.second));
  }
};

struct Word {
  std::vector<int32_t> symbols;
  int64_t count = 0;
};

// The most frequent pair; of equals the one with the smaller ids.
struct Candidate {
  int64_t count;
  Pair pair;
  bool operator<(const Candidate& other) const { return std::tie(count, other.pair) < std::tie(other.count, pair); }
};

class Learner {
 public:
  Learner(std::vector<Word> words, int32_t first_id) : words_(std::move(words)), next_id_(first_id) {
    for (size_t w = 0; w < words_.size(); ++w) {
      const auto& symbols = words_[w].symbols;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) Change({symbols[i], symbols[i + 1]}, words_[w].count, w);
    }
    for (const auto& [pair, count] : counts_) queue_.push({count, pair});
  }

  // The next merge, applied to all words; false when no pair is frequent enough.
  bool Next(int64_t min_frequency, Pair* merged) {
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      const int64_t count = counts_[best.pair];
      if (count != best.count) {  // changed since it was queued
        if (count > 0) queue_.push({count, best.pair});
        continue;
      }
      if (count < min_frequency || count <= 0) return false;
      Apply(best.pair);
      *merged = best.pair;
      return true;
    }
    return false;
  }

 private:
  void Change(const Pair& pair, int64_t by, size_t word) {
    counts_[pair] += by;
    if (by > 0) {
      auto& where = where_[pair];
      if (where.empty() || where.back() != word) where.push_back(word);
      changed_.push_back(pair);
    }
  }

  void Apply(const Pair& pair) {
    changed_.clear();
    const std::vector<size_t> where = std::move(where_[pair]);
    where_.erase(pair);
    for (const size_t w : where) ApplyToWord(pair, w);
    counts_[pair] = 0;
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const Pair& p : changed_) queue_.push({counts_[p], p});
    ++next_id_;
  }

  void ApplyToWord(const Pair& pair, size_t w) {
    Word& word = words_[w];
    const std::vector<int32_t> before = std::move(word.symbols);
    word.symbols.clear();
    for (size_t i = 0; i < before.size(); ++i) {
      const bool here = i + 1 < before.size() && before[i] == pair.first && before[i + 1] == pair.second;
      word.symbols.push_back(here ? next_id_ : before[i]);
      if (here) ++i;
    }
    if (word.symbols.size() == before.size()) return;
    for (size_t i = 0; i + 1 < before.size(); ++i) counts_[{before[i], before[i + 1]}] -= word.count;
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i) Change({word.symbols[i], word.symbols[i + 1]}, word.count, w);
  }

  std::vector<Word> words_;
  int32_t next_id_;
  std::unordered_map<Pair, int64_t, PairHash> counts_;
  std::unordered_map<Pair, std::vector<size_t>, PairHash> where_;  // words that (may) hold the pair
  std::priority_queue<Candidate> queue_;
  std::vector<Pair> changed_;
};

// Byte tokens in the order of their characters, as Hugging Face's trainer numbers its alphabet.
std::vector<uint8_t> AlphabetOrder() {
  std::vector<uint8_t> order(256);
  std::iota(order.begin(), order.end(), uint8_t{0});
  const auto& characters = ByteCharacters();
  std::sort(order.begin(), order.end(), [&](uint8_t a, uint8_t b) {
    return DecodeUtf8(characters[a], 0).code_point < DecodeUtf8(characters[b], 0).code_point;
  });
  return order;
}

std::string ToJson(const std::vector<std::string>& names, size_t num_special, const std::vector<Pair>& merges) {
  const auto quote = [](const std::string& text) { return json::serialize(json::string_view(text)); };
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  for (size_t i = 0; i < num_special; ++i) {
    out += std::string(i > 0 ? "," : "") + "\n    {\"id\": " + std::to_string(i) + ", \"content\": " + quote(names[i]) +
           ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}";
  }
  const std::string byte_level =
      "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}";
  out += "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": " + byte_level +
         ",\n  \"post_processor\": null,\n  \"decoder\": " + byte_level +
         ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
         "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
         "    \"byte_fallback\": false,\n    \"vocab\": {";
  for (size_t i = 0; i < names.size(); ++i) {
    out += std::string(i > 0 ? "," : "") + "\n      " + quote(names[i]) + ": " + std::to_string(i);
  }
  out += "\n    },\n    \"merges\": [";
  for (size_t i = 0; i < merges.size(); ++i) {
    out += std::string(i > 0 ? "," : "") + "\n      " + quote(names[merges[i].first] + " " + names[merges[i].second]);
  }
  return out + "\n    ]\n  }\n}\n";
}

}  // namespace

void BpeTrainer::Add(std::string_view document) {
  for (const std::string_view word : SplitWords(document)) ++words_[std::string(word)];
}

Result<std::string> BpeTrainer::Train(const BpeTrainerOptions& options) const {
  const auto num_special = static_cast<int64_t>(options.special_tokens.size());
  if (options.vocab_size < 256 + num_special || options.vocab_size > int64_t{1} << 20) {
    return InvalidArgument("vocab_size is " + std::to_string(options.vocab_size) + ", but must be from " +
                           std::to_string(256 + num_special) + " (bytes and special tokens) to " +
                           std::to_string(int64_t{1} << 20));
  }
  std::vector<std::string> names = options.special_tokens;
  std::array<int32_t, 256> byte_ids{};
  for (const uint8_t byte : AlphabetOrder()) {
    byte_ids[byte] = static_cast<int32_t>(names.size());
    names.push_back(ByteCharacters()[byte]);
  }
  std::vector<std::pair<std::string_view, int64_t>> sorted(words_.begin(), words_.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<Word> words;
  words.reserve(sorted.size());
  for (const auto& [text, count] : sorted) {
    Word word;
    word.count = count;
    for (const char c : text) word.symbols.push_back(byte_ids[static_cast<uint8_t>(c)]);
    words.push_back(std::move(word));
  }
  Learner learner(std::move(words), static_cast<int32_t>(names.size()));
  std::vector<Pair> merges;
  Pair merged;
  while (static_cast<int64_t>(names.size()) < options.vocab_size && learner.Next(options.min_frequency, &merged)) {
    merges.push_back(merged);
    names.push_back(names[merged.first] + names[merged.second]);
  }
  return ToJson(names, options.special_tokens.size(), merges);
}

}  // namespace heddle::model
