// Group `models`: how fast text becomes ids, on one core.
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <set>
#include <unordered_map>

#include "bench.h"
#include "common/file.h"
#include "model/tokenizer/bpe_trainer.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/tokenizer.h"
#include "simulator/corpus/kjv.h"

namespace heddle::bench {
namespace {

namespace json = boost::json;
using model::Tokenizer;

constexpr size_t kTextBytes = 10'000'000, kDocumentBytes = 20'000;
constexpr int kReadings = 5;

// The King James Bible, again and again, in documents of 20 KB.
Result<std::vector<std::string>> Documents(const Context& context) {
  HEDDLE_ASSIGN_OR_RETURN(const simulator::KjvFiles files, simulator::WriteKjv(context.work, {"law", "new-testament"}));
  HEDDLE_ASSIGN_OR_RETURN(const std::string once, ReadFile(files.all));
  std::string text;
  while (text.size() < kTextBytes) text += once;
  std::vector<std::string> documents;
  for (size_t at = 0; at < kTextBytes; at += kDocumentBytes) documents.push_back(text.substr(at, kDocumentBytes));
  return documents;
}

// A vocabulary of 8192, learned from the text's first third.
Result<std::string> Bpe(const std::vector<std::string>& documents) {
  model::BpeTrainer trainer;
  for (size_t i = 0; i < documents.size() / 3; ++i) trainer.Add(documents[i]);
  model::BpeTrainerOptions options;
  options.vocab_size = 8192;
  return trainer.Train(options);
}

// The 4000 most frequent words, all characters, and the 4000 most frequent ends of words: what is not a frequent word
// is put together from pieces.
std::string WordPiece(const std::vector<std::string>& documents) {
  std::unordered_map<std::string, int64_t> words, ends;
  std::set<std::string> names = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  for (const std::string& document : documents) {
    for (std::string_view word : model::SplitWords(document)) {
      std::string lower;
      for (const char c : word) {
        if (c != ' ' && c != '\n') lower.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
      }
      ++words[lower];
      for (size_t at = 1; at < lower.size(); ++at) ++ends["##" + lower.substr(at)];
      for (const char c : lower) names.insert({std::string(1, c), "##" + std::string(1, c)});
    }
  }
  for (const auto& counts : {words, ends}) {
    std::vector<std::pair<int64_t, std::string>> sorted;
    for (const auto& [text, count] : counts) sorted.emplace_back(-count, text);
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < std::min<size_t>(sorted.size(), 4000); ++i) names.insert(sorted[i].second);
  }
  json::object vocab;
  for (const std::string& name : names) vocab[name] = vocab.size();
  return json::serialize(json::object{{"normalizer", {{"type", "BertNormalizer"}}},
                                      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                                      {"decoder", {{"type", "WordPiece"}}},
                                      {"model", {{"type", "WordPiece"}, {"vocab", vocab}}}});
}

double Megabytes(const std::vector<std::string>& documents) {
  size_t bytes = 0;
  for (const std::string& document : documents) bytes += document.size();
  return static_cast<double>(bytes) / 1e6;
}

// MB/s on this thread. Each round has a tokenizer of its own, whose cache of words is empty.
Result<double> Speed(const std::string& tokenizer_json, const std::vector<std::string>& documents, size_t* tokens) {
  std::vector<double> speeds;
  for (int round = 0; round < kReadings; ++round) {
    HEDDLE_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromJson(tokenizer_json));
    *tokens = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& document : documents) *tokens += tokenizer->Encode(document).size();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    speeds.push_back(Megabytes(documents) / seconds.count());
  }
  return Median(speeds);
}

// A megabyte in which no word comes twice.
std::vector<std::string> NewWords() {
  std::vector<std::string> documents(50);
  uint64_t state = 1;
  for (std::string& document : documents) {
    while (document.size() < kDocumentBytes) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      document += ' ';
      for (uint64_t letters = state >> 20; letters > 0; letters /= 26 * 16)
        document += static_cast<char>('a' + letters % 26);
    }
  }
  return documents;
}

Result<Findings> Tokenize(const Context& context) {
  Findings found;
  const auto documents = Documents(context);
  if (!documents.ok()) {
    for (const char* id : {"tokenize-bpe", "tokenize-wordpiece"}) found.skipped[id] = documents.status().message();
    return found;
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::string bpe, Bpe(*documents));
  for (const auto& [id, text] :
       {std::pair("tokenize-bpe", bpe), std::pair("tokenize-wordpiece", WordPiece(*documents))}) {
    size_t tokens = 0, ignored = 0;
    HEDDLE_ASSIGN_OR_RETURN(const double speed, Speed(text, *documents, &tokens));
    HEDDLE_ASSIGN_OR_RETURN(const double cold, Speed(text, NewWords(), &ignored));
    char note[120];
    std::snprintf(note, sizeof note, "median of %d; %.2f bytes a token; %.1f MB/s where no word comes twice", kReadings,
                  static_cast<double>(kTextBytes) / static_cast<double>(tokens), cold);
    found.values[id] = {speed, note};
  }
  return found;
}

}  // namespace

std::vector<Measurement> TokenizerMeasurements() {
  return {{"models",
           {{"tokenize-bpe", "10 MB of English to ids on one core, byte-level BPE", "MB/s", 5, true},
            {"tokenize-wordpiece", "the same, WordPiece", "MB/s", 5, true}},
           Tokenize}};
}

}  // namespace heddle::bench
