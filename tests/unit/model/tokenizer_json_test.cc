// tokenizer.json: the parts that are read, and those that are refused.
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

class TokenizerJsonTest : public testing::Test {
 protected:
  TokenizerJsonTest() : root_(json::parse(TinyTokenizerJson(300)).as_object()) {}
  Result<std::shared_ptr<const Tokenizer>> Read() const { return Tokenizer::FromJson(json::serialize(root_)); }
  std::shared_ptr<const Tokenizer> Good() const {
    auto tokenizer = Read();
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *tokenizer;
  }
  void ExpectRefused(Code code, const std::string& said) const {
    const Status status = Read().status();
    EXPECT_EQ(status.code(), code) << said;
    EXPECT_NE(status.message().find(said), std::string::npos) << status;
    EXPECT_LT(status.message().size(), 400U);
  }
  json::object& Model() { return root_["model"].as_object(); }
  json::object root_;
};

TEST_F(TokenizerJsonTest, MergesMayBePairs) {
  const auto before = Good()->Encode("the weaver pulls threads");
  for (json::value& merge : Model()["merges"].as_array()) {
    const std::string text(merge.as_string());
    merge = json::array{text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
  }
  EXPECT_EQ(Good()->Encode("the weaver pulls threads"), before);
}

TEST_F(TokenizerJsonTest, PrefixSpaceIsAddedOncePerPlainPiece) {
  root_["pre_tokenizer"].as_object()["add_prefix_space"] = true;
  const auto tokenizer = Good();
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("the loom")), " the loom");
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(" the loom")), " the loom");
  EXPECT_EQ(tokenizer->Encode("the"), tokenizer->Encode(" the"));
}

TEST_F(TokenizerJsonTest, PreTokenizerMayBeASequenceOfOne) {
  const json::value inner = root_["pre_tokenizer"];
  root_["pre_tokenizer"] = json::object{{"type", "Sequence"}, {"pretokenizers", json::array{inner}}};
  EXPECT_EQ(Good()->Decode(Good()->Encode("wool")), "wool");
  root_["pre_tokenizer"] = json::object{{"type", "Sequence"}, {"pretokenizers", json::array{inner, inner}}};
  ExpectRefused(Code::kUnimplemented, "pre_tokenizer");
}

TEST_F(TokenizerJsonTest, IgnoreMergesTakesWholeWordsFirst) {
  json::object& vocab = Model()["vocab"].as_object();
  const auto id = static_cast<int32_t>(vocab.size());
  vocab["xyzzy"] = id;
  EXPECT_GT(Good()->Encode("xyzzy").size(), 1U);
  Model()["ignore_merges"] = true;
  EXPECT_EQ(Good()->Encode("xyzzy"), std::vector<int32_t>{id});
}

TEST_F(TokenizerJsonTest, AddedTokensAreFoundLeftmostAndLongest) {
  json::array& added = root_["added_tokens"].as_array();
  const auto add = [&](const char* content, int id, bool strip) {
    added.push_back(json::object{{"id", id},
                                 {"content", content},
                                 {"single_word", false},
                                 {"lstrip", strip},
                                 {"rstrip", strip},
                                 {"normalized", false},
                                 {"special", true}});
  };
  add("<a>", 300, false);
  add("<a><b>", 301, false);
  add("<strip>", 302, true);
  const auto tokenizer = Good();
  EXPECT_EQ(tokenizer->vocab_size(), 303);
  EXPECT_EQ(tokenizer->Encode("<a><b>"), std::vector<int32_t>{301});
  EXPECT_EQ(tokenizer->Encode("<a><a><b>"), (std::vector<int32_t>{300, 301}));
  const auto stripped = tokenizer->Encode("x \n<strip>\t y");
  EXPECT_EQ(stripped.size(), 3U);
  EXPECT_EQ(stripped[1], 302);
}

TEST_F(TokenizerJsonTest, OtherKindsAreUnimplementedByName) {
  const json::object good = root_;
  const auto refused = [&](const auto& change, const std::string& said) {
    root_ = good;
    change();
    ExpectRefused(Code::kUnimplemented, said);
  };
  refused([&] { Model()["type"] = "WordPiece"; }, "WordPiece");
  refused([&] { Model()["type"] = "Unigram"; }, "Unigram");
  refused([&] { Model()["dropout"] = 0.1; }, "dropout");
  refused([&] { Model()["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix");
  refused([&] { Model()["type"] = "WordLevel"; }, "WordLevel");
  refused([&] { root_["model"] = nullptr; }, "null");
  refused([&] { root_["pre_tokenizer"].as_object()["type"] = "UnicodeScripts"; }, "UnicodeScripts");
  refused([&] { root_["normalizer"] = json::object{{"type", "Uppercase"}}; }, "Uppercase");
  refused([&] { root_["decoder"] = json::object{{"type", "WordPiece"}}; }, "decoder");
  refused([&] { root_["post_processor"] = json::object{{"type", std::string(10'000, 'x')}}; }, "post_processor");
}

TEST_F(TokenizerJsonTest, MalformedFilesAreInvalidArguments) {
  const json::object good = root_;
  const auto refused = [&](const auto& change, const std::string& said) {
    root_ = good;
    change();
    ExpectRefused(Code::kInvalidArgument, said);
  };
  refused([&] { Model()["vocab"] = json::array{}; }, "vocab");
  refused([&] { Model()["vocab"].as_object().erase("a"); }, "byte 97");
  refused([&] { Model()["vocab"].as_object()["a"] = -1; }, "id of a");
  refused([&] { Model()["vocab"].as_object()["a"] = 2'000'000'000; }, "id of a");
  refused([&] { Model()["vocab"].as_object()["a"] = "7"; }, "id of a");
  refused([&] { Model()["vocab"].as_object()["a"] = Model()["vocab"].as_object()["b"]; }, "two tokens have the id");
  refused([&] { Model()["merges"] = 5; }, "merges");
  refused([&] { Model()["merges"].as_array().push_back("onlyone"); }, "merges[");
  refused([&] { Model()["merges"].as_array().push_back("a b c"); }, "merges[");
  refused([&] { Model()["merges"].as_array().push_back(" a"); }, "merges[");
  refused([&] { Model()["merges"].as_array().push_back("q z"); }, "not in model.vocab");
  refused([&] { root_["added_tokens"] = json::object{}; }, "added_tokens");
  refused([&] { root_["added_tokens"].as_array().push_back("x"); }, "added_tokens");
  refused([&] { root_["model"] = "BPE"; }, "model");
  refused([&] { root_["pre_tokenizer"].as_object()["add_prefix_space"] = 1; }, "add_prefix_space");
}

TEST_F(TokenizerJsonTest, TruncatedFilesAreRefused) {
  const std::string text = json::serialize(root_);
  for (size_t length = 0; length < text.size(); length += 97) {
    EXPECT_FALSE(Tokenizer::FromJson(text.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(Tokenizer::FromJson(std::string(100'000, '{')).ok());
}

}  // namespace
}  // namespace heddle::model
