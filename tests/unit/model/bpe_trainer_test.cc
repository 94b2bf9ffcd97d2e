// The vocabulary trainer against a trainer that counts everything anew for every merge.
#include "model/tokenizer/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>

#include "model/tokenizer/byte_level.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

std::vector<std::string> Merges(const std::string& text) {
  std::vector<std::string> merges;
  const json::value root = json::parse(text);
  for (const auto& merge : root.at("model").at("merges").as_array()) merges.emplace_back(merge.as_string());
  return merges;
}

std::map<std::string, int64_t> Vocab(const std::string& text) {
  std::map<std::string, int64_t> vocab;
  const json::value root = json::parse(text);
  for (const auto& [name, id] : root.at("model").at("vocab").as_object()) vocab[std::string(name)] = id.as_int64();
  return vocab;
}

// The most frequent pair of neighbours; of equals the one with the smaller ids.
std::vector<std::string> SlowMerges(const std::vector<std::string>& documents,
                                    const std::map<std::string, int64_t>& ids, size_t count, int64_t min_frequency) {
  std::vector<std::vector<std::string>> words;
  for (const std::string& document : documents) {
    for (const std::string_view word : SplitWords(document)) {
      auto& parts = words.emplace_back();
      for (const char c : word) parts.push_back(ByteCharacters()[static_cast<uint8_t>(c)]);
    }
  }
  std::vector<std::string> merges;
  while (merges.size() < count) {
    std::map<std::pair<int64_t, int64_t>, std::pair<int64_t, std::string>> pairs;
    for (const auto& parts : words) {
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        auto& [n, name] = pairs[{ids.at(parts[i]), ids.at(parts[i + 1])}];
        ++n;
        name = parts[i] + " " + parts[i + 1];
      }
    }
    std::pair<int64_t, std::string> best{0, ""};
    for (const auto& [pair, counted] : pairs) {
      if (counted.first > best.first) best = counted;
    }
    if (best.first < min_frequency) break;
    merges.push_back(best.second);
    const std::string left = best.second.substr(0, best.second.find(' ')),
                      right = best.second.substr(best.second.find(' ') + 1);
    for (auto& parts : words) {
      std::vector<std::string> next;
      for (size_t i = 0; i < parts.size(); ++i) {
        if (i + 1 < parts.size() && parts[i] == left && parts[i + 1] == right) {
          next.push_back(left + right);
          ++i;
        } else {
          next.push_back(parts[i]);
        }
      }
      parts = std::move(next);
    }
  }
  return merges;
}

TEST(BpeTrainer, MergesAreThoseOfTheDefinition) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    std::vector<std::string> documents = {SampleText(1500, seed), "aaaaaaa aaaa aa aaaaa", "abababab baba\xff\xff\xff"};
    BpeTrainer trainer;
    for (const std::string& document : documents) trainer.Add(document);
    BpeTrainerOptions options;
    options.vocab_size = 420;
    options.special_tokens = {"<s>"};
    const std::string trained = *trainer.Train(options);
    const auto merges = Merges(trained);
    EXPECT_EQ(merges, SlowMerges(documents, Vocab(trained), static_cast<size_t>(420 - 257), options.min_frequency));
  }
}

TEST(BpeTrainer, StopsWherePairsBecomeRare) {
  BpeTrainer trainer;
  trainer.Add("ab ab ab cd");
  BpeTrainerOptions options;
  options.vocab_size = 1000;
  const auto merges = Merges(*trainer.Train(options));
  EXPECT_EQ(merges, (std::vector<std::string>{"a b", "\u0120 ab"}));  // "cd" is there once only
}

TEST(BpeTrainer, OrderOfDocumentsDoesNotCount) {
  std::vector<std::string> documents;
  for (uint64_t i = 0; i < 20; ++i) documents.push_back(SampleText(300, i));
  const auto train = [&] {
    BpeTrainer trainer;
    for (const std::string& document : documents) trainer.Add(document);
    return *trainer.Train({});
  };
  const std::string first = train();
  std::reverse(documents.begin(), documents.end());
  EXPECT_EQ(train(), first);
}

TEST(BpeTrainer, SpecialTokensComeFirstThenTheBytes) {
  BpeTrainer trainer;
  BpeTrainerOptions options;
  options.special_tokens = {"<s>", "</s>", "quote\"d"};
  const std::string trained = *trainer.Train(options);
  const auto vocab = Vocab(trained);
  EXPECT_EQ(vocab.size(), 259U);
  EXPECT_EQ(vocab.at("<s>"), 0);
  EXPECT_EQ(vocab.at("quote\"d"), 2);
  EXPECT_EQ(vocab.at("!"), 3);  // the first printable character
  const auto tokenizer = *Tokenizer::FromJson(trained);
  EXPECT_EQ(tokenizer->Encode("quote\"d"), std::vector<int32_t>{2});
}

TEST(BpeTrainer, AVocabularyWithoutRoomIsRefused) {
  BpeTrainer trainer;
  BpeTrainerOptions options;
  options.special_tokens = {"<s>"};
  for (const int64_t size : {int64_t{-1}, int64_t{0}, int64_t{256}, (int64_t{1} << 20) + 1}) {
    options.vocab_size = size;
    EXPECT_EQ(trainer.Train(options).status().code(), Code::kInvalidArgument) << size;
  }
  options.vocab_size = 257;
  EXPECT_TRUE(trainer.Train(options).ok());
}

}  // namespace
}  // namespace heddle::model
