// Special tokens, pairs, truncation and padding.
#include "model/tokenizer/encoding.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <numeric>

#include "model/tokenizer/post_processor.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {
namespace {

using Ids = std::vector<int32_t>;

PostProcessor Parsed(std::string_view text) {
  const boost::json::value value = boost::json::parse(text);
  auto processor = PostProcessor::FromJson(&value, 1000);
  EXPECT_TRUE(processor.ok()) << processor.status();
  return processor.ok() ? *processor : PostProcessor();
}

constexpr std::string_view kBertPairs = R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
             {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [101], "tokens": ["[CLS]"]},
                       "[SEP]": {"id": "[SEP]", "ids": [102], "tokens": ["[SEP]"]}}})";

TEST(PostProcessor, BertsTemplate) {
  const PostProcessor bert = Parsed(kBertPairs);
  Ids second = {3};
  const Encoding single = *bert.Build({1, 2}, nullptr, {});
  EXPECT_EQ(single.ids, (Ids{101, 1, 2, 102}));
  EXPECT_EQ(single.type_ids, (Ids{0, 0, 0, 0}));
  EXPECT_EQ(single.special_mask, (std::vector<uint8_t>{1, 0, 0, 1}));
  const Encoding pair = *bert.Build({1, 2}, &second, {});
  EXPECT_EQ(pair.ids, (Ids{101, 1, 2, 102, 3, 102}));
  EXPECT_EQ(pair.type_ids, (Ids{0, 0, 0, 0, 1, 1}));
  EncodeOptions plain;
  plain.add_special_tokens = false;
  EXPECT_EQ(bert.Build({1, 2}, &second, plain)->ids, (Ids{1, 2, 3}));
  EXPECT_EQ(bert.Build({1, 2}, &second, plain)->type_ids, (Ids{0, 0, 1}));
}

TEST(PostProcessor, TheOlderFormsSayTheSame) {
  Ids second = {3};
  const PostProcessor bert = Parsed(R"({"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]})");
  EXPECT_EQ(bert.Build({1}, &second, {})->ids, (Ids{101, 1, 102, 3, 102}));
  EXPECT_EQ(bert.Build({1}, &second, {})->type_ids, (Ids{0, 0, 0, 1, 1}));
  const PostProcessor roberta = Parsed(R"({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]})");
  EXPECT_EQ(roberta.Build({7}, nullptr, {})->ids, (Ids{0, 7, 2}));
  EXPECT_EQ(roberta.Build({7}, &second, {})->ids, (Ids{0, 7, 2, 2, 3, 2}));
  EXPECT_EQ(roberta.Build({7}, &second, {})->type_ids, Ids(6, 0));
  EXPECT_EQ(PostProcessor().Build({7}, &second, {})->ids, (Ids{7, 3}));
  EXPECT_EQ(PostProcessor().Build({7}, &second, {})->type_ids, (Ids{0, 1}));
  const PostProcessor llama3 =
      Parsed(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},)" + std::string(kBertPairs) + "]}");
  EXPECT_EQ(llama3.Build({1}, nullptr, {})->ids, (Ids{101, 1, 102}));
}

TEST(PostProcessor, WhatIsWrongIsSaid) {
  const auto code = [](const std::string& text) {
    const boost::json::value value = boost::json::parse(text);
    return PostProcessor::FromJson(&value, 1000).status().code();
  };
  EXPECT_EQ(code(R"({"type": "Other"})"), Code::kUnimplemented);
  EXPECT_EQ(code(R"({"type": "BertProcessing", "sep": ["[SEP]", 1000], "cls": ["[CLS]", 101]})"),
            Code::kInvalidArgument);  // no such id
  EXPECT_EQ(code(R"({"type": "BertProcessing", "sep": "[SEP]"})"), Code::kInvalidArgument);
  EXPECT_EQ(code(R"({"type": "TemplateProcessing", "single": []})"), Code::kInvalidArgument);  // the text is lost
  EXPECT_EQ(code(R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "x"}}],
                     "special_tokens": {}})"),
            Code::kInvalidArgument);
}

// Sizes after truncation of a pair under kLongestFirst.
std::pair<size_t, size_t> Sizes(size_t first, size_t second, int64_t most, Truncation truncation) {
  Ids a(first), b(second);
  EncodeOptions options;
  options.truncation = truncation;
  EXPECT_TRUE(Truncate(most, options, &a, &b).ok());
  return {a.size(), b.size()};
}

TEST(Truncation, TakesFromTheLongerText) {
  using P = std::pair<size_t, size_t>;
  constexpr auto kLongest = Truncation::kLongestFirst;
  EXPECT_EQ(Sizes(3, 4, 7, kLongest), P(3, 4));
  EXPECT_EQ(Sizes(3, 10, 8, kLongest), P(3, 5));
  EXPECT_EQ(Sizes(10, 3, 8, kLongest), P(5, 3));
  EXPECT_EQ(Sizes(10, 10, 8, kLongest), P(4, 4));
  EXPECT_EQ(Sizes(10, 10, 7, kLongest), P(3, 4));
  EXPECT_EQ(Sizes(11, 10, 7, kLongest), P(4, 3));
  EXPECT_EQ(Sizes(5, 5, 0, kLongest), P(0, 0));
  EXPECT_EQ(Sizes(10, 3, 8, Truncation::kOnlyFirst), P(5, 3));
  EXPECT_EQ(Sizes(3, 10, 8, Truncation::kOnlySecond), P(3, 5));
}

TEST(Truncation, KeepsTheSideThatIsAskedFor) {
  EncodeOptions options;
  Ids ids = {1, 2, 3, 4};
  ASSERT_TRUE(Truncate(3, options, &ids, nullptr).ok());
  EXPECT_EQ(ids, (Ids{1, 2, 3}));
  options.truncation_side = Side::kLeft;
  ASSERT_TRUE(Truncate(2, options, &ids, nullptr).ok());
  EXPECT_EQ(ids, (Ids{2, 3}));
}

TEST(Truncation, CountsTheSpecialTokensAndSaysWhenThereIsNoRoom) {
  const PostProcessor bert = Parsed(kBertPairs);
  EncodeOptions options;
  options.max_length = 5;
  Ids text(20);
  std::iota(text.begin(), text.end(), 1);
  EXPECT_EQ(bert.Build(text, nullptr, options)->ids, (Ids{101, 1, 2, 3, 102}));
  Ids second = text;
  EXPECT_EQ(bert.Build(text, &second, options)->ids, (Ids{101, 1, 102, 1, 102}));
  options.max_length = 2;
  EXPECT_EQ(bert.Build(text, nullptr, options)->ids, (Ids{101, 102}));
  options.max_length = 1;
  EXPECT_EQ(bert.Build(text, nullptr, options).status().code(), Code::kInvalidArgument);
  options.max_length = 5;
  options.truncation = Truncation::kOnlySecond;
  EXPECT_EQ(bert.Build(text, nullptr, options).status().code(), Code::kInvalidArgument);  // there is no second
  EXPECT_EQ(bert.Build(text, &second, options).status().code(), Code::kInvalidArgument);  // the first is too long
}

TEST(Padding, MakesABatchOfOneLength) {
  std::vector<Encoding> batch(2);
  for (const int32_t id : {1, 2, 3}) batch[0].Append(id, 0, false);
  batch[1].Append(9, 1, false);
  PaddingOptions options;
  options.pad_id = 5;
  Pad(options, batch);
  EXPECT_EQ(batch[1].ids, (Ids{9, 5, 5}));
  EXPECT_EQ(batch[1].type_ids, (Ids{1, 0, 0}));
  EXPECT_EQ(batch[1].attention_mask, (std::vector<uint8_t>{1, 0, 0}));
  EXPECT_EQ(batch[1].special_mask, (std::vector<uint8_t>{0, 1, 1}));
  options.multiple_of = 4;
  options.side = Side::kLeft;
  Pad(options, batch);
  EXPECT_EQ(batch[0].ids, (Ids{5, 1, 2, 3}));
  options.length = 9;
  Pad(options, batch);
  EXPECT_EQ(batch[0].size(), 12U);
}

}  // namespace
}  // namespace heddle::model
