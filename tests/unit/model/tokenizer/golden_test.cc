// Ids of other people's tokenizers, on given texts.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>

#include "model/tokenizer/tokenizer.h"
#include "tests/unit/model/test_data.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

struct GoldenCase {
  std::string text;
  std::vector<int32_t> ids;
};

std::vector<GoldenCase> GoldenCases(const std::string& tokenizer) {
  std::vector<GoldenCase> cases;
  std::ifstream lines(TestDataFolder() / "tokenizers" / "golden.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const json::value root = json::parse(line);
    if (root.at("tokenizer").as_string() != tokenizer) continue;
    GoldenCase one{std::string(root.at("text").as_string()), {}};
    for (const json::value& id : root.at("ids").as_array()) one.ids.push_back(id.to_number<int32_t>());
    cases.push_back(std::move(one));
  }
  return cases;
}

TEST(GoldenIds, WordPieceIsThatOfMiniLm) {
  HEDDLE_NEEDS_TEST_DATA("tokenizers");
  const auto tokenizer = Tokenizer::Read(TestDataFolder() / "minilm-l6-v2");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<GoldenCase> cases = GoldenCases("minilm-l6-v2");
  EXPECT_EQ(cases.size(), 337U);
  for (GoldenCase& one : cases) {
    // Where special tokens are written out in the text, Hugging Face's tokenizers find them (they are in added_tokens);
    // the implementation behind the cases cuts the brackets off.
    if (one.text == "[CLS] [SEP] [PAD] [MASK] [UNK]") one.ids = {101, 101, 102, 0, 103, 100, 102};
    EXPECT_EQ((*tokenizer)->EncodeText(one.text)->ids, one.ids) << one.text;
  }
}

// The ids of the SentencePiece library. In them "<s>" of a text is three characters, as it is for the library: Hugging
// Face's wrapper of this model would find the token.
TEST(GoldenIds, SentencePieceIsThatOfStories15m) {
  HEDDLE_NEEDS_TEST_DATA("tokenizers");
  const auto tokenizer = Tokenizer::Read(TestDataFolder() / "stories15m");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<GoldenCase> cases = GoldenCases("stories15m");
  EXPECT_EQ(cases.size(), 337U);
  for (const GoldenCase& one : cases) {
    EXPECT_EQ((*tokenizer)->EncodeText(one.text)->ids, one.ids) << one.text;
  }
}

}  // namespace
}  // namespace heddle::model
