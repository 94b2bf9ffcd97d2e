// Prompts: what a language model reads, where it answers, and which tokens are the classes.
#include "model/data/prompt.h"

#include <gtest/gtest.h>

#include "model/config/registry.h"

namespace heddle::model {
namespace {

std::shared_ptr<const Tokenizer> Of(const char* name) {
  const auto tokenizer = Tokenizer::Read(std::filesystem::path(HEDDLE_SOURCE_DIR) / name);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

ModelSpec SpecOf(const std::string& architecture) {
  const auto spec = ParseModelConfig("{\"architectures\": [\"" + architecture + R"("], "hidden_size": 8,
      "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 40000,
      "max_position_embeddings": 64, "pad_token_id": 0})");
  EXPECT_TRUE(spec.ok()) << spec.status();
  return *spec;
}

TextExample Text(const std::string& text) {
  TextExample example;
  example.spans = {{text}};
  example.label = 1;
  return example;
}

constexpr const char* kTiny = "model/pretrained/heddle-tiny";

TEST(Prompt, ACausalModelReadsThePatternAsOneTextAndAnswersAtItsEnd) {
  const auto tokenizer = Of(kTiny);
  const auto prompt = Prompt::Make(SpecOf("LlamaForCausalLM"), tokenizer, "{text} it is {mask}", {"all", "no"});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  const auto encoded = prompt->Encode(Text("the people have power"), 32);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(tokenizer->DecodeText(encoded->ids), "the people have power it is");
  EXPECT_EQ(prompt->AnswerOf(*encoded), static_cast<int64_t>(encoded->ids.size()) - 1);
  EXPECT_EQ(encoded->label, 1);
  ASSERT_EQ(prompt->words().size(), 2U);
  EXPECT_EQ(tokenizer->TextOf(prompt->words()[0]), " all");
  EXPECT_EQ(tokenizer->TextOf(prompt->words()[1]), " no");
}

TEST(Prompt, TextsAreCutAndThePatternIsNot) {
  const auto tokenizer = Of(kTiny);
  const auto prompt =
      *Prompt::Make(SpecOf("LlamaForCausalLM"), tokenizer, "{text} , {pair} it is {mask}", {"all", "no"});
  TextExample example = Text("the people have power");
  EXPECT_NE(prompt.Encode(example, 32).status().message().find("{pair}"), std::string::npos);
  example.pair = "the state has more of it";
  const auto whole = *prompt.Encode(example, 64);
  EXPECT_EQ(tokenizer->DecodeText(whole.ids), "the people have power , the state has more of it it is");
  const auto cut = *prompt.Encode(example, static_cast<int64_t>(whole.ids.size()) - 3);  // of the second text
  EXPECT_EQ(cut.ids.size(), whole.ids.size() - 3);
  EXPECT_TRUE(tokenizer->DecodeText(cut.ids).starts_with("the people have power , the"));
  EXPECT_TRUE(tokenizer->DecodeText(cut.ids).ends_with(" it is"));
  EXPECT_EQ(prompt.Encode(example, 3).status().code(), Code::kInvalidArgument);
}

TEST(Prompt, AMaskedModelReadsItsMaskWhereTheAnswerStands) {
  const auto tokenizer = Of("tests/data/tokenizers/wordpiece");
  ASSERT_GE(tokenizer->special().mask, 0);
  // Two words that this small vocabulary has whole.
  std::vector<std::string> words;
  for (int32_t id = 0; id < tokenizer->vocab_size() && words.size() < 2; ++id) {
    const std::string& text = tokenizer->TextOf(id);
    if (tokenizer->IsSpecial(id) || text.size() < 2 || text.starts_with("##")) continue;
    if (tokenizer->Encode(text) == std::vector<int32_t>{id}) words.push_back(text);
  }
  ASSERT_EQ(words.size(), 2U);
  for (const char* pattern : {"{text} {mask}", "{mask} {text}", "a {mask} a {text} a"}) {
    const auto prompt = Prompt::Make(SpecOf("BertForMaskedLM"), tokenizer, pattern, words);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    // A text that has the mask's token in it must not be taken for the answer.
    const auto encoded = *prompt->Encode(Text(words[0] + " " + tokenizer->TextOf(tokenizer->special().mask)), 32);
    const int64_t at = prompt->AnswerOf(encoded);
    EXPECT_EQ(encoded.ids.at(static_cast<size_t>(at)), tokenizer->special().mask) << pattern;
    const bool first = std::string(pattern).find("{mask}") < std::string(pattern).find("{text}");
    const auto count = std::count(encoded.ids.begin(), encoded.ids.begin() + at, tokenizer->special().mask);
    EXPECT_EQ(count, first ? 0 : 1) << pattern;
    EXPECT_EQ(encoded.ids.front(), tokenizer->special().cls);
    EXPECT_EQ(encoded.ids.back(), tokenizer->special().sep);
  }
}

TEST(Prompt, WhatCannotBeAskedIsRefusedWithItsReason) {
  const auto tokenizer = Of(kTiny);
  const ModelSpec causal = SpecOf("LlamaForCausalLM");
  const auto message = [&](const ModelSpec& spec, const std::string& pattern, const std::vector<std::string>& words) {
    const auto prompt = Prompt::Make(spec, tokenizer, pattern, words);
    EXPECT_EQ(prompt.status().code(), Code::kInvalidArgument) << pattern;
    return prompt.status().message();
  };
  const std::vector<std::string> words = {"all", "no"};
  EXPECT_NE(message(causal, "it is {mask}", words).find("'{text}' is missing"), std::string::npos);
  EXPECT_NE(message(causal, "{text}", words).find("'{mask}' is missing"), std::string::npos);
  EXPECT_NE(message(causal, "{text} {text} {mask}", words).find("twice"), std::string::npos);
  EXPECT_NE(message(causal, "{text} {mask}.", words).find("at the end"), std::string::npos);
  EXPECT_NE(message(causal, "{text} {mask}", {"all", "all"}).find("another class"), std::string::npos);
  EXPECT_NE(message(causal, "{text} {mask}", {"all"}).find("two classes"), std::string::npos);
  EXPECT_NE(message(causal, "{text} {mask}", {"all", "incomprehensibilities"}).find("tokens of this model"),
            std::string::npos);
  EXPECT_NE(message(SpecOf("BertForSequenceClassification"), "{text} {mask}", words).find("classifier head"),
            std::string::npos);
  EXPECT_NE(message(SpecOf("BertForMaskedLM"), "{text} {mask}", words).find("mask token"), std::string::npos);
}

}  // namespace
}  // namespace heddle::model
