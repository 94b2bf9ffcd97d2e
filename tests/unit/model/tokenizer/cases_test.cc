// Small tokenizers of each kind, whose ids an independent script computed (tests/data/make_tokenizer_cases.py), read
// from tokenizer.json and from the older files that say the same.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <map>
#include <thread>

#include "common/file.h"
#include "model/tokenizer/stream_decoder.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/unicode.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

const fs::path kCases = HEDDLE_SOURCE_DIR "/tests/data/tokenizers";

std::vector<int32_t> Numbers(const json::value& list) {
  std::vector<int32_t> numbers;
  for (const json::value& number : list.as_array()) numbers.push_back(number.to_number<int32_t>());
  return numbers;
}

// Returns how many cases there were.
size_t ExpectTheCases(const std::string& kind, const Tokenizer& tokenizer) {
  std::ifstream lines(kCases / kind / "cases.jsonl");
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const json::object one = json::parse(line).as_object();
    const std::string text(one.at("text").as_string());
    if (!one.contains("second")) {
      const auto encoding = tokenizer.EncodeText(text);
      EXPECT_EQ(encoding->ids, Numbers(one.at("ids"))) << kind << ": " << line;
      continue;
    }
    const auto encoding = tokenizer.EncodePair(text, std::string(one.at("second").as_string()));
    EXPECT_EQ(encoding->ids, Numbers(one.at("ids"))) << kind << ": " << line;
    EXPECT_EQ(encoding->type_ids, Numbers(one.at("types"))) << kind << ": " << line;
  }
  return count;
}

class TokenizerCases : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerCases, HaveTheIdsOfTheScript) {
  const auto tokenizer = Tokenizer::Read(kCases / GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_GT(ExpectTheCases(GetParam(), **tokenizer), 40U);
  EXPECT_GT(ExpectTheCases(GetParam(), **tokenizer), 40U);  // from the cache of words
}

TEST_P(TokenizerCases, OneTokenizerServesManyThreads) {
  const auto tokenizer = *Tokenizer::Read(kCases / GetParam());
  const std::string text = *ReadFile(kCases / GetParam() / "cases.jsonl", 1 << 20);
  const auto expected = (*Tokenizer::Read(kCases / GetParam()))->Encode(text);
  std::vector<std::vector<int32_t>> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) threads.emplace_back([&] { result = tokenizer->Encode(text); });
  }
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerCases,
                         testing::Values("wordpiece", "byte-level", "byte-level-split", "byte-fallback", "unigram"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

json::object JsonOf(const std::string& kind) {
  return json::parse(*ReadFile(kCases / kind / "tokenizer.json", 1 << 20)).as_object();
}

// Tokens in the order of their ids.
std::vector<std::string> NamesOf(const json::object& tokenizer) {
  std::vector<std::string> names;
  for (const auto& [name, id] : tokenizer.at("model").at("vocab").as_object()) {
    names.resize(std::max<size_t>(names.size(), id.to_number<size_t>() + 1));
    names[id.to_number<size_t>()] = std::string(name);
  }
  return names;
}

TEST(OlderFiles, VocabTxtIsBertUncased) {
  const TempDir folder;
  std::string lines;
  for (const std::string& name : NamesOf(JsonOf("wordpiece"))) lines += name + "\n";
  folder.Write("vocab.txt", lines);
  const auto tokenizer = Tokenizer::Read(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectTheCases("wordpiece", **tokenizer);
  EXPECT_EQ((*tokenizer)->special().mask, 4);
  EXPECT_EQ((*tokenizer)->pad_id(), 0);
  EXPECT_EQ((*tokenizer)->Encode("[MASK]"), std::vector<int32_t>{4});
  EXPECT_EQ((*tokenizer)->DecodeText((*tokenizer)->EncodeText("The weaver, over.")->ids), "the weaver, over.");
  folder.Write("tokenizer_config.json", R"({"do_lower_case": false})");
  EXPECT_NE((*Tokenizer::Read(folder.path()))->Encode("The"), (*tokenizer)->Encode("The"));
}

TEST(OlderFiles, VocabJsonAndMergesAreGpt2) {
  const TempDir folder;
  json::object root = JsonOf("byte-level");
  json::object vocab = root["model"].as_object()["vocab"].as_object();
  vocab["<|endoftext|>"] = vocab.size();
  std::string merges = "#version: 0.2\n";
  for (const json::value& merge : root["model"].as_object()["merges"].as_array())
    merges += std::string(merge.as_string()) + "\n";
  folder.Write("vocab.json", json::serialize(vocab));
  folder.Write("merges.txt", merges);
  const auto gpt2 = Tokenizer::Read(folder.path());
  ASSERT_TRUE(gpt2.ok()) << gpt2.status();
  ExpectTheCases("byte-level", **gpt2);
  EXPECT_EQ((*gpt2)->eos_id(), static_cast<int32_t>(vocab.size()) - 1);
  folder.Write("merges.txt", merges + "qq zz\n");
  const Status unknown = Tokenizer::Read(folder.path()).status();
  EXPECT_NE(unknown.message().find("merges.txt: model.merges["), std::string::npos) << unknown;
  folder.Write("merges.txt", merges);

  // RoBERTa puts its own tokens around.
  for (const char* name : {"<s>", "</s>", "<mask>", "<pad>"}) vocab[name] = vocab.size();
  folder.Write("vocab.json", json::serialize(vocab));
  folder.Write("tokenizer_config.json", R"({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": false})");
  const auto roberta = Tokenizer::Read(folder.path());
  ASSERT_TRUE(roberta.ok()) << roberta.status();
  const auto id = [&](const char* name) { return vocab[name].to_number<int32_t>(); };
  const auto ids = (*roberta)->EncodePair("a", "b")->ids;
  EXPECT_EQ(ids, (std::vector<int32_t>{id("<s>"), id("a"), id("</s>"), id("</s>"), id("b"), id("</s>")}));
  // Its mask swallows the space before it.
  EXPECT_EQ((*roberta)->Encode("a <mask>"), (std::vector<int32_t>{id("a"), id("<mask>")}));

  // OPT begins each text.
  folder.Write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "bos_token":
      {"content": "</s>"}, "eos_token": "</s>"})");
  EXPECT_EQ((*Tokenizer::Read(folder.path()))->EncodeText("a")->ids, (std::vector<int32_t>{id("</s>"), id("a")}));
}

// A folder of RoBERTa's first files has no tokenizer_config.json: the class follows from the model's type.
TEST(OlderFiles, WithoutAClassTheModelsTypeSaysWhatGoesAroundAText) {
  const TempDir folder;
  json::object vocab = JsonOf("byte-level")["model"].as_object()["vocab"].as_object();
  for (const char* name : {"<s>", "</s>", "<mask>", "<pad>", "<|endoftext|>"}) vocab[name] = vocab.size();
  folder.Write("vocab.json", json::serialize(vocab));
  folder.Write("merges.txt", "#version: 0.2\n");
  const auto ids_of = [&](std::vector<const char*> tokens) {
    std::vector<int32_t> ids;
    for (const char* token : tokens) ids.push_back(vocab.at(token).to_number<int32_t>());
    return ids;
  };
  const auto read = [&] {
    const auto tokenizer = Tokenizer::Read(folder.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? (*tokenizer)->EncodeText("a")->ids : std::vector<int32_t>();
  };
  EXPECT_EQ(read(), ids_of({"a"}));
  folder.Write("config.json", R"({"model_type": "roberta"})");
  EXPECT_EQ(read(), ids_of({"<s>", "a", "</s>"}));
  folder.Write("config.json", R"({"model_type": "gpt2"})");
  EXPECT_EQ(read(), ids_of({"a"}));
  // A class that is named is obeyed.
  folder.Write("tokenizer_config.json", R"({"tokenizer_class": "RobertaTokenizer"})");
  EXPECT_EQ(read(), ids_of({"<s>", "a", "</s>"}));
}

TEST(OlderFiles, TokensThatWereAddedLaterAreFoundWhole) {
  const TempDir folder;
  folder.Write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\nthe\nend\n[\n]\n<\n>\n");
  const auto before = *Tokenizer::Read(folder.path());
  EXPECT_EQ(before->Encode("the <end>"), (std::vector<int32_t>{3, 7, 4, 8}));
  EXPECT_EQ(before->vocab_size(), 9);
  // Of three files: names with ids, how they are found, which of them is the padding.
  folder.Write("added_tokens.json", R"({"<end>": 9, "[PAD]": 10})");
  folder.Write("tokenizer_config.json",
               R"({"pad_token": null, "added_tokens_decoder": {"11": {"content": "<x>", "special": true}}})");
  folder.Write("special_tokens_map.json", R"({"pad_token": {"content": "[PAD]"}, "unk_token": "[UNK]"})");
  const auto tokenizer = Tokenizer::Read(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("the <end>"), (std::vector<int32_t>{3, 9}));
  EXPECT_EQ((*tokenizer)->Encode("The <END>"), (std::vector<int32_t>{3, 9})) << "found in the lowercased text";
  EXPECT_EQ((*tokenizer)->Encode("the<x>end"), (std::vector<int32_t>{3, 11, 4}));
  EXPECT_EQ((*tokenizer)->pad_id(), 10);
  EXPECT_EQ((*tokenizer)->DecodeText(std::vector<int32_t>{3, 9, 10, 11}), "the <end>") << "[PAD] and <x> are special";
  EXPECT_EQ((*tokenizer)->vocab_size(), 12) << "a model with fewer rows is told that it does not fit";
  for (const char* wrong :
       {"[]", R"({"<end>": "9"})", R"({"<end>": -1})", R"({"<end>": 3})", R"({"<a>": 9, "<b>": 9})"}) {
    folder.Write("added_tokens.json", wrong);
    EXPECT_EQ(Tokenizer::Read(folder.path()).status().code(), Code::kInvalidArgument) << wrong;
  }
}

// As the files of gpt2, roberta-base and bert-base-uncased are.
TEST(OlderFiles, AModelWithoutATypeIsThatOfWhichItHasTheMembers) {
  for (const char* kind : {"wordpiece", "byte-level", "byte-level-split", "byte-fallback", "unigram"}) {
    json::object root = JsonOf(kind);
    root["model"].as_object().erase("type");
    if (std::string_view(kind) == "byte-level") {
      root["model"].as_object()["continuing_subword_prefix"] = "";
      root["model"].as_object()["end_of_word_suffix"] = "";
    }
    const auto tokenizer = Tokenizer::FromJson(json::serialize(root));
    ASSERT_TRUE(tokenizer.ok()) << kind << ": " << tokenizer.status();
    EXPECT_GT(ExpectTheCases(kind, **tokenizer), 40U);
  }
  json::object words = JsonOf("wordpiece");
  words["model"] = json::object{{"vocab", {{"a", 0}}}, {"unk_token", "a"}};
  const Status status = Tokenizer::FromJson(json::serialize(words)).status();
  EXPECT_EQ(status.code(), Code::kUnimplemented) << status;
  EXPECT_NE(status.message().find("WordLevel"), std::string::npos) << status;
}

TEST(OlderFiles, WhatIsWrongInThemIsSaid) {
  const TempDir folder;
  const auto expect = [&](const std::string& said) {
    const Status status = Tokenizer::Read(folder.path()).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << status;
    EXPECT_NE(status.message().find(said), std::string::npos) << status;
  };
  EXPECT_EQ(Tokenizer::Read(folder.path()).status().code(), Code::kNotFound);
  folder.Write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\na\n");
  expect("line 5 has the token \"a\" for the second time");
  folder.Write("vocab.txt", "[UNK]\n[CLS]\na\n");
  expect("lacks \"[SEP]\"");
  folder.Write("tokenizer_config.json", R"({"do_lower_case": "no"})");
  folder.Write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\n");
  expect("tokenizer_config.json: do_lower_case must be true or false");
  folder.Write("tokenizer_config.json", R"({"strip_accents": "no"})");
  expect("tokenizer_config.json: strip_accents must be true or false");
  fs::remove(folder.path() / "tokenizer_config.json");
  folder.Write("vocab.txt", "[CLS]\n[SEP]\na\n");
  expect("vocab.txt: model.unk_token is \"[UNK]\"");
  folder.Write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\n\xff\n");
  expect("line 4 is not UTF-8");
  fs::remove(folder.path() / "vocab.txt");
  folder.Write("vocab.json", "[]");
  EXPECT_EQ(Tokenizer::Read(folder.path()).status().code(), Code::kNotFound);  // no merges.txt
  folder.Write("merges.txt", "#version\na b\nab\n");
  expect("vocab.json is not a JSON object");
  folder.Write("vocab.json", "{}");
  expect("merges.txt: line 3");
  folder.Write("merges.txt", "");
  expect("vocab.json: model.vocab lacks the token of byte 0");
}

TEST(TokenizerConfig, HoldsWhereItContradictsTokenizerJson) {
  const TempDir folder;
  const auto ids = [&](const std::string& kind, const std::string& config, const std::string& text) {
    folder.Write("tokenizer.json", json::serialize(JsonOf(kind)));
    folder.Write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::Read(folder.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? (*tokenizer)->EncodePair(text, "a")->ids : std::vector<int32_t>();
  };
  const std::vector<int32_t> lower = ids("wordpiece", "{}", "the");
  EXPECT_EQ(ids("wordpiece", R"({"do_lower_case": true})", "THE"), lower);
  EXPECT_NE(ids("wordpiece", R"({"do_lower_case": false})", "THE"), lower);
  EXPECT_EQ(ids("wordpiece", R"({"do_lower_case": false})", "the"), lower);
  // The class that has no settings of its own leaves all as it is.
  EXPECT_EQ(ids("wordpiece", R"({"do_lower_case": false, "tokenizer_class": "PreTrainedTokenizerFast"})", "THE"),
            lower);
  EXPECT_NE(ids("wordpiece", R"({"strip_accents": false})", "thé"), ids("wordpiece", "{}", "thé"));

  EXPECT_EQ(ids("byte-level", R"({"add_prefix_space": true})", "the"),
            ids("byte-level", R"({"add_prefix_space": true})", " the"));
  EXPECT_NE(ids("byte-level", R"({"add_prefix_space": true})", "the"), ids("byte-level", "{}", "the"));

  const std::vector<int32_t> begun = ids("byte-fallback", "{}", "the");
  const auto llama = [&](const std::string& settings) {
    return ids("byte-fallback", R"({"tokenizer_class": "LlamaTokenizer", )" + settings + "}", "the");
  };
  ASSERT_EQ(begun[0], 1);
  std::vector<int32_t> bare = llama(R"("add_bos_token": false)");
  EXPECT_EQ(std::count(bare.begin(), bare.end(), 1), 0);
  const std::vector<int32_t> both = llama(R"("add_eos_token": true)");
  EXPECT_EQ(std::count(both.begin(), both.end(), 1), 2);
  EXPECT_EQ(std::count(both.begin(), both.end(), 2), 2);
  EXPECT_EQ(both.front(), 1);
  EXPECT_EQ(both.back(), 2);
  folder.Write("tokenizer_config.json",
               R"({"tokenizer_class": "LlamaTokenizer", "add_eos_token": true, "eos_token": "<end>"})");
  const Status status = Tokenizer::Read(folder.path()).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("<end>"), std::string::npos) << status;
}

// What single bytes that are no text become. Byte-level tokenizers keep them. To the others each is U+FFFD, as to the
// SentencePiece library and to who decodes the text for Hugging Face's: of it BERT's normalizer makes nothing, byte
// fallback the three bytes EF BF BD, Unigram the unknown token.
TEST(InvalidUtf8, IsEncodedByEveryKind) {
  const std::string bad =
      "n\xff"
      "r\xc3";
  // By the order of the vocabularies in the files: wordpiece n, ##r; byte-level by byte; byte-fallback ▁, n, EF, BF,
  // BD, r, EF, BF, BD; unigram ▁, n, <unk>, r, <unk>.
  const std::map<std::string, std::vector<int32_t>> expected = {
      {"wordpiece", {29, 101}},
      {"byte-level", {'n', 0xff, 'r', 0xc3}},
      {"byte-level-split", {'n', 0xff, 'r', 0xc3}},
      {"byte-fallback", {303, 289, 242, 194, 192, 292, 242, 194, 192}},
      {"unigram", {3, 14, 2, 10, 2}}};
  for (const auto& [kind, ids] : expected) {
    const auto tokenizer = *Tokenizer::Read(kCases / kind);
    EXPECT_EQ(tokenizer->Encode(bad), ids) << kind;
    if (kind.starts_with("byte-level")) continue;
    EXPECT_EQ(tokenizer->Encode("n\uFFFDr\uFFFD"), ids) << kind;
  }
  json::object with_bytes = JsonOf("unigram");
  json::array& vocab = with_bytes["model"].as_object()["vocab"].as_array();
  const auto first = static_cast<int32_t>(vocab.size());
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    const std::string name = std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">";
    vocab.push_back(json::array{json::string(name), -20.0});
  }
  with_bytes["model"].as_object()["byte_fallback"] = true;
  const auto unigram = Tokenizer::FromJson(json::serialize(with_bytes));
  ASSERT_TRUE(unigram.ok()) << unigram.status();
  EXPECT_EQ((*unigram)->Encode(bad), (std::vector<int32_t>{3, 14, first + 0xEF, first + 0xBF, first + 0xBD, 10,
                                                           first + 0xEF, first + 0xBF, first + 0xBD}));
  for (const char* kind : {"byte-level", "byte-level-split"}) {
    const auto tokenizer = *Tokenizer::Read(kCases / kind);
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(bad)), bad) << kind;
  }
  const auto fallback = *Tokenizer::Read(kCases / "byte-fallback");
  EXPECT_EQ(fallback->Decode(fallback->Encode(bad)), "n\uFFFDr\uFFFD");
}

TEST(Decoding, GivesTextBack) {
  const std::string text = "the weaver runs under the old roof";
  for (const char* kind : {"wordpiece", "byte-level", "byte-level-split", "byte-fallback", "unigram"}) {
    const auto tokenizer = *Tokenizer::Read(kCases / kind);
    const std::vector<int32_t> ids = tokenizer->EncodeText(text)->ids;
    EXPECT_EQ(tokenizer->DecodeText(ids), text) << kind;
    EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{-1, 1'000'000}), "") << kind;
  }
  const auto fallback = *Tokenizer::Read(kCases / "byte-fallback");
  EXPECT_EQ(fallback->Decode(fallback->Encode("x 日\U0001F600")), "x 日\U0001F600");
}

TEST(StreamDecoder, GivesTheSamePiecesAsTheWholeAndNoHalfCharacters) {
  const std::string text = "the weaver, x 日\U0001F600 é runs\n  under  Straße \u0301";
  for (const char* kind : {"wordpiece", "byte-level", "byte-level-split", "byte-fallback", "unigram"}) {
    const auto tokenizer = *Tokenizer::Read(kCases / kind);
    const std::vector<int32_t> ids = tokenizer->Encode(text);
    StreamDecoder decoder(*tokenizer);
    std::string all;
    size_t pieces = 0;
    for (const int32_t id : ids) {
      const std::string piece = decoder.Add(id);
      EXPECT_TRUE(IsValidUtf8(piece)) << kind;
      pieces += piece.empty() ? 0 : 1;
      all += piece;
    }
    EXPECT_EQ(all + decoder.Finish(), tokenizer->Decode(ids)) << kind;
    EXPECT_GT(pieces, ids.size() / 3) << kind;  // as they come
  }
}

TEST(StreamDecoder, BytesThatNeverBecomeACharacterComeOutInTheEnd) {
  const auto tokenizer = *Tokenizer::Read(kCases / "byte-level");
  StreamDecoder decoder(*tokenizer);
  std::string all;
  for (const int32_t id : tokenizer->Encode(std::string(40, '\xC3'))) all += decoder.Add(id);
  EXPECT_EQ(all + decoder.Finish(), std::string(40, '\xC3'));
}

TEST(AddedTokens, OfASingleWordAreNotFoundInsideOne) {
  json::object root = JsonOf("wordpiece");
  const auto next = static_cast<int32_t>(NamesOf(root).size());
  root["added_tokens"].as_array().push_back(
      json::object{{"id", next}, {"content", "Loom"}, {"single_word", true}, {"normalized", true}, {"special", false}});
  const auto tokenizer = Tokenizer::FromJson(json::serialize(root));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto has = [&](const char* text) {
    const auto ids = (*tokenizer)->Encode(text);
    return std::count(ids.begin(), ids.end(), next);
  };
  EXPECT_EQ(has("LOOM"), 1);  // found in normalized text
  EXPECT_EQ(has("a loom, loom"), 2);
  EXPECT_EQ(has("looms aloom loom_"), 0);
}

}  // namespace
}  // namespace heddle::model
