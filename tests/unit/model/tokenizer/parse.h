// Components of a tokenizer.json from a line of JSON, and what they do to a text.
#pragma once

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace heddle::model {

using Words = std::vector<std::string>;

inline std::string Normalized(std::string_view component, std::string text) {
  const boost::json::value value = boost::json::parse(component);
  const auto normalizer = ParseNormalizer(&value);
  EXPECT_TRUE(normalizer.ok()) << normalizer.status();
  if (normalizer.ok() && *normalizer != nullptr) (*normalizer)->Apply(&text);
  return text;
}

class CollectWords : public WordSink {
 public:
  void Word(std::string_view word, bool first) override {
    words.emplace_back(word);
    firsts.push_back(first);
  }
  Words words;
  std::vector<bool> firsts;
};

inline Words Split(std::string_view component, std::string_view text, bool first = true) {
  const boost::json::value value = boost::json::parse(component);
  const auto parsed = ParsePreTokenizer(&value);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  CollectWords words;
  if (parsed.ok()) parsed->pre_tokenizer->Split(text, first, words);
  return words.words;
}

}  // namespace heddle::model
