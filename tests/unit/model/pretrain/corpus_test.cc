// What the small model's card says it was trained and tested on: each paragraph once, each document in one part.
#include "model/pretrain/corpus.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/common/temp_dir.h"

namespace heddle::model {
namespace {

PretrainSettings SettingsOf(const std::string& path) {
  PretrainSettings settings;
  settings.sources.push_back({.package = "letters", .paths = {path}, .ending = ".txt", .format = "text"});
  return settings;
}

std::string Paragraph(int number) {
  return "This is the letter with the number " + std::to_string(number) +
         ", and it goes on for long enough to be a paragraph of plain English text.";
}

std::multiset<std::string> ParagraphsOf(const Corpus& corpus) {
  std::multiset<std::string> out;
  for (const std::string* part : {&corpus.train, &corpus.dev, &corpus.test}) {
    std::string line;
    for (const char c : *part) {
      if (c != '\n') {
        line += c;
      } else if (!line.empty()) {
        out.insert(std::exchange(line, {}));
      }
    }
  }
  return out;
}

TEST(Corpus, HasEachParagraphOnceAndSplitsDocumentsByTheirHash) {
  const TempDir root;
  std::filesystem::create_directories(root / "doc/deep");
  std::set<std::string> expected;
  int number = 0;
  for (int file = 0; file < 400; ++file) {
    std::string text;
    // The last paragraph of each file is the first of the next one.
    for (int i = 0; i < 20; ++i) text += Paragraph(number + i) + "\n\n";
    for (int i = 0; i < 20; ++i) expected.insert(Paragraph(number + i));
    number += 19;
    root.Write("doc/" + std::string(file % 2 == 0 ? "" : "deep/") + std::to_string(file) + ".txt", text);
  }
  root.Write("doc/readme.md", "Not of the ending that was asked for, so that it must not be among the paragraphs.");

  const auto corpus = GatherCorpus(SettingsOf("doc"), root.path());
  ASSERT_TRUE(corpus.ok()) << corpus.status().message();
  const std::multiset<std::string> found = ParagraphsOf(*corpus);
  EXPECT_EQ(found.size(), expected.size());
  EXPECT_EQ(std::set<std::string>(found.begin(), found.end()), expected);
  ASSERT_EQ(corpus->counts.size(), 1U);
  EXPECT_EQ(corpus->counts[0].files, 400U);
  // 5 of 256 documents for testing, 3 for tuning; of some 400 documents that is 8 and 5.
  EXPECT_GT(corpus->test.size(), 0U);
  EXPECT_GT(corpus->dev.size(), 0U);
  EXPECT_LT(corpus->test.size() + corpus->dev.size(), corpus->train.size() / 10);

  const auto again = GatherCorpus(SettingsOf("doc"), root.path());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->train, corpus->train);
  EXPECT_EQ(again->test, corpus->test);
}

TEST(Corpus, NamesThePackageThatIsMissing) {
  const TempDir root;
  const auto corpus = GatherCorpus(SettingsOf("nowhere"), root.path());
  ASSERT_FALSE(corpus.ok());
  EXPECT_EQ(corpus.status().code(), Code::kNotFound);
  EXPECT_NE(corpus.status().message().find("apt install letters"), std::string::npos) << corpus.status().message();
}

TEST(Corpus, MarkupTablesAndCodeAreNoText) {
  const std::map<std::string, std::pair<std::string, std::vector<std::string>>> cases = {
      {"text",
       {"The quick brown fox jumps over the lazy dog, and it does so\nagain on the next line of the same paragraph.\n\n"
        "too short\n\n"
        "| 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 |\n",
        {"The quick brown fox jumps over the lazy dog, and it does so again on the next line of the same paragraph."}}},
      {"html",
       {"<html><head><title>T</title><style>p { color: red; margin: 0 auto; padding: 1px 2px 3px 4px }</style></head>"
        "<body><p>The quick <b>brown</b> fox jumps over the lazy dog &amp; it does so again and "
        "again.</p></body></html>",
        {"The quick brown fox jumps over the lazy dog & it does so again and again."}}},
  };
  for (const auto& [format, expected] : cases) {
    const auto found = ExtractParagraphs(expected.first, format);
    ASSERT_TRUE(found.ok()) << format << found.status().message();
    EXPECT_EQ(*found, expected.second) << format;
  }
  EXPECT_FALSE(ExtractParagraphs("text", "papyrus").ok());
}

}  // namespace
}  // namespace heddle::model
