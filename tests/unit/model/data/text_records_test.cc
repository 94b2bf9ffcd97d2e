// Examples of text from JSONL, CSV, TSV and text files.
#include "model/data/text_records.h"

#include <gtest/gtest.h>

#include "model/data/utf8.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/test_data.h"

namespace heddle::model {
namespace {

// The first example of a file with this content, or the reason why there is none.
Result<TextExample> First(const std::string& name, std::string_view content, TextOptions options = {}) {
  const TempDir folder;
  HEDDLE_ASSIGN_OR_RETURN(const TextRecords records,
                          TextRecords::Open(folder.Write(name, content), std::move(options)));
  return records.Read(0);
}

std::string Error(const std::string& name, std::string_view content, TextOptions options = {}) {
  const auto example = First(name, content, std::move(options));
  EXPECT_FALSE(example.ok()) << content;
  EXPECT_TRUE(example.status().code() == Code::kInvalidArgument) << example.status();
  return example.status().message();
}

TextOptions WithLabels(LabelMap labels) {
  TextOptions options;
  options.labels = std::move(labels);
  return options;
}

using Spans = std::vector<TextSpan>;

TEST(TextRecords, JsonLinesHoldTextsPairsCompletionsAndConversations) {
  EXPECT_EQ(First("a.jsonl", R"({"text": "a\u00e9\nb", "other": 1})")->spans, (Spans{{"a\xC3\xA9\nb", true}}));
  const auto pair =
      *First("a.jsonl", R"({"sentence1": "x", "sentence2": "y", "label": 1})", WithLabels(LabelMap::Classes(2)));
  EXPECT_EQ(pair.text(), "x");
  EXPECT_EQ(pair.pair, "y");
  EXPECT_EQ(pair.label, 1.0);
  EXPECT_EQ(First("a.jsonl", R"({"prompt": "1+1=", "completion": "2"})")->spans, (Spans{{"1+1=", false}, {"2", true}}));
  EXPECT_EQ(First("a.jsonl", R"({"text": ""})")->text(), "");
}

TEST(TextRecords, AConversationTeachesWhatTheAssistantSays) {
  const auto example =
      First("a.jsonl", R"({"messages": [{"role": "system", "content": "Be brief."},)"
                       R"({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},)"
                       R"({"role": "assistant", "content": "Well?"}, {"role": "user", "content": "Bye"}]})");
  ASSERT_TRUE(example.ok()) << example.status();
  EXPECT_EQ(example->spans, (Spans{{"system: Be brief.\nuser: Hi\nassistant: ", false},
                                   {"Yes?\n", true},
                                   {"assistant: ", false},
                                   {"Well?\n", true},
                                   {"user: Bye\n", false}}));
}

TEST(TextRecords, OtherFieldsAreReadAsTheyStand) {
  TextOptions options;
  options.other_fields = {"who", "when"};
  EXPECT_EQ(First("a.jsonl", R"({"text": "x", "when": 1848, "who": " J\u00fcrgen"})", options)->others,
            (std::vector<std::string>{" J\xC3\xBCrgen", "1848"}));
  EXPECT_EQ(First("a.jsonl", R"({"text": "x", "when": true, "who": -2.5})", options)->others,
            (std::vector<std::string>{"-2.5E0", "true"}));
  EXPECT_EQ(First("a.tsv", "when\tcontent\twho\n01\tx\ty\n", options)->others, (std::vector<std::string>{"y", "01"}));
  EXPECT_NE(Error("a.tsv", "when\tcontent\n01\tx\n", options).find("\"who\""), std::string::npos);
  EXPECT_NE(Error("a.jsonl", R"({"text": "x", "when": 1848})", options).find("\"who\""), std::string::npos);
  EXPECT_NE(Error("a.jsonl", R"({"text": "x", "when": null, "who": "y"})", options).find("\"when\""),
            std::string::npos);
  EXPECT_NE(Error("a.txt", "x", options).find("\"who\""), std::string::npos);
}

TEST(TextRecords, NullIsAsIfItWereAbsent) {
  EXPECT_EQ(First("a.jsonl", R"({"text": "x", "prompt": null, "completion": null})", {})->text(), "x");
}

TEST(TextRecords, TsvHasAHeaderAndNoQuotes) {
  const auto example = *First("a.tsv", "label\tsentence\n1\t\"so\" it goes\n", WithLabels(LabelMap::Classes(2)));
  EXPECT_EQ(example.text(), "\"so\" it goes");
  EXPECT_EQ(example.label, 1.0);
  EXPECT_EQ(example.line, 2);
}

TEST(TextRecords, CsvHasQuotesAndPerhapsNoHeader) {
  TextOptions options = WithLabels(*LabelMap::Named({"1", "2", "3", "4"}));
  options.columns = {"label", "title", "text"};
  options.text_fields = {"title", "text"};
  const auto example = *First("a.csv", "\"3\",\"Fears, \"\"for\"\"\",\"Unions\nsay\"\n", std::move(options));
  EXPECT_EQ(example.text(), "Fears, \"for\" Unions\nsay");
  EXPECT_EQ(example.label, 2.0);
}

TEST(TextRecords, FieldsCanBeCalledOtherwise) {
  TextOptions options;
  options.prompt_field = "question";
  options.completion_field = "answer";
  EXPECT_EQ(First("a.jsonl", R"({"question": "q", "answer": "a"})", options)->spans,
            (Spans{{"q", false}, {"a", true}}));
  EXPECT_EQ(First("a.csv", "answer,question\na,q\n", options)->spans, (Spans{{"q", false}, {"a", true}}));
}

TEST(TextRecords, LabelsOutOfRangeNameLineAndRange) {
  const TextOptions two = WithLabels(LabelMap::Classes(2));
  for (const char* label : {"2", "-1", "0.5", "\"two\"", "1e300", "18446744073709551615"}) {
    const std::string error = Error("a.jsonl", R"({"text": "x", "label": )" + std::string(label) + "}", two);
    EXPECT_NE(error.find("a.jsonl: line 1"), std::string::npos) << error;
    EXPECT_NE(error.find("from 0 to 1"), std::string::npos) << error;
  }
  EXPECT_NE(Error("a.jsonl", R"({"text": "x", "label": 1e300})", two).find("the label is 1e+300, but"),
            std::string::npos);
  const std::string digits(300, '7');
  EXPECT_LT(Error("a.tsv", "label\ttext\n" + digits + "\tx\n", two).size(), 250U);
  const std::string named = Error("a.tsv", "label\ttext\nmaybe\tx\n", WithLabels(*LabelMap::Named({"no", "yes"})));
  EXPECT_NE(named.find("line 2: the label is \"maybe\""), std::string::npos) << named;
  EXPECT_NE(named.find("one of no, yes"), std::string::npos) << named;
  EXPECT_EQ(First("a.tsv", "label\ttext\nyes\tx\n", WithLabels(*LabelMap::Named({"no", "yes"})))->label, 1.0);
  EXPECT_EQ(First("a.tsv", "label\ttext\n-2.5\tx\n", WithLabels(LabelMap::Numbers()))->label, -2.5);
  EXPECT_NE(Error("a.tsv", "label\ttext\nnan\tx\n", WithLabels(LabelMap::Numbers())).find("number"), std::string::npos);
  EXPECT_NE(Error("a.jsonl", R"({"text": "x"})", two).find("no \"label\""), std::string::npos);
  EXPECT_NE(Error("a.csv", "text\nx\n", two).find("no column \"label\""), std::string::npos);
}

TEST(TextRecords, NamesThatAreNumbersAreNamesOnly) {
  const LabelMap map = *LabelMap::Named({"1", "2"});
  EXPECT_EQ(*map.FromText("1"), 0.0);
  EXPECT_EQ(*map.FromInteger(2), 1.0);
  EXPECT_FALSE(map.FromText("0").ok());
  EXPECT_FALSE(map.FromInteger(0).ok());
  EXPECT_FALSE(LabelMap::Named({"a", "a"}).ok());
  EXPECT_FALSE(LabelMap::Named({}).ok());
  EXPECT_FALSE(LabelMap::Named({" a"}).ok());
}

TEST(TextRecords, InvalidUtf8NamesLineAndByte) {
  EXPECT_NE(Error("a.txt", "fine\nb\xFF").find("line 2 is not valid UTF-8 at byte 2"), std::string::npos);
  EXPECT_NE(Error("a.jsonl", "{\"text\": \"\xC3\"}").find("line 1 is not valid UTF-8 at byte 11"), std::string::npos);
  EXPECT_NE(Error("a.csv", "text\xE9\nx\n").find("line 1 is not valid UTF-8"), std::string::npos);
}

TEST(TextRecords, AnEmptyDataSetIsRefusedByName) {
  for (const auto& [name, content] :
       {std::pair{"a.txt", "\n\n"}, {"a.jsonl", ""}, {"a.csv", "text,label\n"}, {"a.tsv", ""}}) {
    const std::string error = Error(name, content);
    EXPECT_NE(error.find(std::string(name) + " is an empty data set"), std::string::npos) << error;
  }
}

TEST(TextRecords, FewerExamplesThanTheFileHasCanBeAskedFor) {
  const TempDir folder;
  TextOptions options;
  options.max_examples = 2;
  const auto two = TextRecords::Open(folder.Write("a.csv", "text\na\nb\n\"never closed\n"), options);
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(two->size(), 2);
  EXPECT_EQ(two->Read(1)->text(), "b");
  EXPECT_EQ(TextRecords::Open(folder.Write("a.txt", "a\n\nb\n\nc\n"), options)->size(), 2);
}

TEST(TextRecords, WhatIsWrongWithARecordIsToldInASentence) {
  const auto expect = [](const std::string& error, std::string_view part) {
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  expect(Error("a.jsonl", "{"), "line 1: it is not valid JSON");
  expect(Error("a.jsonl", "[1]"), "must be a JSON object");
  expect(Error("a.jsonl", R"({"text": 7})"), "\"text\" must be a string");
  expect(Error("a.jsonl", R"({"prompt": "x"})"), "the object needs");
  expect(Error("a.jsonl", R"({"text": null})"), "there is no \"text\"");
  expect(Error("a.jsonl", R"({"messages": 1})"), "list of objects");
  expect(Error("a.jsonl", R"({"messages": [{"role": "user"}]})"), "\"content\"");
  expect(Error("a.jsonl", R"({"messages": [{"role": "user", "content": "x"}]})"), "nothing to learn");
  expect(Error("a.csv", "text,label\nx\n"), "line 2: it has 1 fields, but there are 2 columns");
  expect(Error("a.csv", "a,b\nx,y\n"), "no column text");
  expect(Error("a.csv", "text,text\nx,y\n"), "two columns");
  expect(Error("a.csv", "text\n\"x\"y\n"), "line 2: field 1");
  expect(Error("a.parquet", "text\nx\n"), ".jsonl");
  expect(Error("a.txt", "x", WithLabels(LabelMap::Classes(2))), "no labels");
}

TEST(FirstInvalidUtf8, KnowsEveryBoundaryOfTheEncoding) {
  for (std::string_view good : {"", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                                "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "12345678\xC3\xA9 12345678"}) {
    EXPECT_EQ(FirstInvalidUtf8(good), good.size());
  }
  for (std::string_view bad : {"\x80", "\xC1\x81", "\xC3", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                               "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x82", "\xC3\xC3"}) {
    EXPECT_EQ(FirstInvalidUtf8("12345678ab" + std::string(bad) + "tail"), 10U);
  }
}

TEST(TextRecords, ReadsTheDataSetsPeopleHave) {
  HEDDLE_NEEDS_TEST_DATA("sst2/train.tsv");
  const auto folder = TestDataFolder();
  const auto check = [](const std::filesystem::path& path, TextOptions options, int64_t size) {
    const auto records = TextRecords::Open(path, std::move(options));
    ASSERT_TRUE(records.ok()) << records.status();
    EXPECT_EQ(records->size(), size) << path;
    for (int64_t i = 0; i < records->size(); i += i < 2000 || i > records->size() - 500 ? 1 : 17) {
      const auto example = records->Read(i);
      ASSERT_TRUE(example.ok()) << example.status();
      ASSERT_FALSE(example->text().empty());
    }
  };
  check(folder / "sst2/train.tsv", WithLabels(LabelMap::Classes(2)), 67349);
  TextOptions dev = WithLabels(LabelMap::Classes(2));
  dev.text_fields = {"content"};
  check(folder / "sst2/dev.tsv", dev, 872);
  TextOptions news = WithLabels(*LabelMap::Named({"1", "2", "3", "4"}));
  news.columns = {"label", "title", "text"};
  news.text_fields = {"title", "text"};
  check(folder / "agnews/ag_news_test.csv", news, 7600);
  TextOptions mathematics;
  mathematics.prompt_field = "question";
  mathematics.completion_field = "answer";
  check(folder / "gsm8k/train.jsonl", mathematics, 7473);
  check(folder / "gsm8k/test.jsonl", mathematics, 1319);
  check(folder / "shakespeare/speakers.jsonl", {}, 7097);
}

TEST(TextRecords, ExamplesMayBeWithoutALabelWhereTheOptionsSaySo) {
  const TempDir folder;
  const auto jsonl = folder.Write("a.jsonl",
                                  "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n"
                                  "{\"text\": \"c\", \"label\": null}\n{\"text\": \"d\", \"label\": \"\"}\n"
                                  "{\"text\": \"e\", \"label\": \"no number\"}\n");
  const auto tsv = folder.Write("a.tsv", "text\tlabel\na\t1\nb\t\n");
  const auto bare = folder.Write("b.tsv", "text\na\n");
  TextOptions options;
  options.labels = LabelMap::Classes(2);
  for (const bool some_unlabelled : {false, true}) {
    options.some_unlabelled = some_unlabelled;
    for (const auto& path : {jsonl, tsv}) {
      const auto records = TextRecords::Open(path, options);
      ASSERT_TRUE(records.ok()) << records.status();
      EXPECT_EQ(records->Read(0)->label, 1.0);
      for (int64_t i = 1; i < std::min<int64_t>(records->size(), 4); ++i) {
        const auto example = records->Read(i);
        EXPECT_EQ(example.ok(), some_unlabelled) << path << " " << i;
        if (example.ok()) {
          EXPECT_FALSE(example->label.has_value());
        }
      }
    }
    EXPECT_FALSE(TextRecords::Open(jsonl, options)->Read(4).ok()) << "a wrong label is no missing one";
    EXPECT_EQ(TextRecords::Open(bare, options).ok(), some_unlabelled);
  }
}

}  // namespace
}  // namespace heddle::model
