// A device's text as windows of ids.
#include "model/data/text_dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <numeric>

#include "common/random.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

using Format = TextDataset::Format;

const Tokenizer& Bytes() {  // without merges an id a byte, with an end token
  static const auto tokenizer = [] {
    BpeTrainerOptions options;
    options.special_tokens = {"<|endoftext|>"};
    return *Tokenizer::FromJson(*BpeTrainer().Train(options));
  }();
  return *tokenizer;
}

std::string Text(std::string_view text, Format format = Format::kText) {
  auto dataset = TextDataset::FromText(text, format, Bytes(), 1);
  EXPECT_TRUE(dataset.ok()) << dataset.status();
  return dataset.ok() ? Bytes().Decode(dataset->ids()) : "";
}

TEST(TextDataset, BlankLinesPartTheDocumentsOfAText) {
  EXPECT_EQ(Text("one\ntwo\n\n\nthree"), "one\ntwo<|endoftext|>three");
  EXPECT_EQ(Text("\n\n  \none\n \t\ntwo\n\n"), "one<|endoftext|>two");
  EXPECT_EQ(Text("one\r\ntwo\r\n\r\nthree\r\n"), "one\r\ntwo<|endoftext|>three");
  EXPECT_EQ(Text("only one"), "only one");
}

TEST(TextDataset, JsonLinesHoldTextOrPromptAndCompletion) {
  EXPECT_EQ(Text("{\"text\": \"a\\n\\nb\"}\n\n{\"client\": \"x\", \"text\": \"c\"}\r\n", Format::kJsonl),
            "a\n\nb<|endoftext|>c");
  EXPECT_EQ(Text(R"({"prompt": "q: ", "completion": "yes"})", Format::kJsonl), "q: yes");
  EXPECT_EQ(Text("{\"sentence\": \"ab\"}\n{\"sentence1\": \"c\"}", Format::kJsonl), "ab<|endoftext|>c");
}

TEST(TextDataset, BadLinesAreNamedByNumber) {
  for (const char* bad : {"{", "[1]", "{\"prompt\": \"x\"}", "{\"text\": 7}", "\"text\"", "null"}) {
    const auto text = "{\"text\": \"fine\"}\n\n" + std::string(bad) + "\n";
    const Status status = TextDataset::FromText(text, Format::kJsonl, Bytes(), 1).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << bad;
    EXPECT_NE(status.message().find("line 3"), std::string::npos) << status;
  }
}

TEST(TextDataset, WindowsShareOneTokenWithTheNext) {
  const auto dataset = *TextDataset::FromText("0123456789", Format::kText, Bytes(), 3);
  EXPECT_EQ(dataset.num_tokens(), 10);
  ASSERT_EQ(dataset.num_sequences(), 3);
  EXPECT_EQ(Bytes().Decode(dataset.Sequence(0)), "0123");
  EXPECT_EQ(Bytes().Decode(dataset.Sequence(1)), "3456");
  EXPECT_EQ(Bytes().Decode(dataset.Sequence(2)), "6789");
}

TEST(TextDataset, TooShortATextIsRefused) {
  EXPECT_TRUE(TextDataset::FromText("0123", Format::kText, Bytes(), 3).ok());
  for (const char* text : {"012", "", "\n\n\n"}) {
    const Status status = TextDataset::FromText(text, Format::kText, Bytes(), 3).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("sequence_length"), std::string::npos) << status;
  }
  EXPECT_EQ(TextDataset::FromText("0123", Format::kText, Bytes(), 0).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(TextDataset::FromText("0123", Format::kText, Bytes(), -5).status().code(), Code::kInvalidArgument);
}

TEST(TextDataset, AShortLastWindowHoldsWhatTheOthersLeave) {
  const auto windows = [](std::string_view text, int64_t length) {
    const auto dataset = TextDataset::FromText(text, Format::kText, Bytes(), length, LastWindow::kShort);
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    std::vector<std::string> all;
    for (int64_t i = 0; dataset.ok() && i < dataset->num_sequences(); ++i) {
      all.push_back(Bytes().Decode(dataset->Sequence(i)));
    }
    return all;
  };
  using Windows = std::vector<std::string>;
  EXPECT_EQ(windows("0123456", 3), (Windows{"0123", "3456"}));
  EXPECT_EQ(windows("01234567", 3), (Windows{"0123", "3456", "67"}));
  EXPECT_EQ(windows("012345678", 3), (Windows{"0123", "3456", "678"}));
  EXPECT_EQ(windows("0123456789", 3), (Windows{"0123", "3456", "6789"}));
  for (const int64_t length : {int64_t{2}, int64_t{9}, std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(windows("01", length), Windows{"01"});
  }
  for (const auto& [text, tokens] : {std::pair("0", "1 token,"), std::pair("", "no token,"), std::pair("\n\n", "no")}) {
    const Status status = TextDataset::FromText(text, Format::kText, Bytes(), 3, LastWindow::kShort).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find(std::string("the data has ") + tokens), std::string::npos) << status;
  }
  const TempDir folder;
  const auto file = TextDataset::Read(folder.Write("a.txt", "01234"), Bytes(), 3, {}, LastWindow::kShort);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->num_sequences(), 2);
  EXPECT_EQ(TextDataset::Read(folder / "a.txt", Bytes(), 3)->num_sequences(), 1);
}

TEST(TextDataset, ReadGoesByTheEndingOfTheName) {
  const TempDir folder;
  folder.Write("a.txt", "{\"text\": \"as it is\"}");
  folder.Write("a.jsonl", "{\"text\": \"unpacked\"}");
  folder.Write("a.csv", "text");
  EXPECT_EQ(Bytes().Decode(TextDataset::Read(folder / "a.txt", Bytes(), 2)->ids()), "{\"text\": \"as it is\"}");
  EXPECT_EQ(Bytes().Decode(TextDataset::Read(folder / "a.jsonl", Bytes(), 2)->ids()), "unpacked");
  EXPECT_EQ(TextDataset::Read(folder / "a.csv", Bytes(), 2).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(TextDataset::Read(folder / "b.txt", Bytes(), 2).status().code(), Code::kNotFound);
  folder.Write("c.txt", "x");
  EXPECT_NE(TextDataset::Read(folder / "c.txt", Bytes(), 2).status().message().find("c.txt"), std::string::npos);
}

TEST(TextDataset, AFileGivesTheIdsOfItsTextInMemory) {
  const TempDir folder;
  const std::string pieces[] = {"a", "b c",   "\n",       "\n\n",         "\r\n", "\r",
                                " ", " \t\n", "\xC3\xA9", "\xEF\xBB\xBF", "\f",   "\v\n"};
  PhiloxStream random(11, 0);
  for (int round = 0; round < 300; ++round) {
    std::string text = "xy";
    for (int i = 0; i < 40; ++i) text += pieces[random.NextBelow(std::size(pieces))];
    if (round % 3 == 0) text = "\xEF\xBB\xBF\r\n" + text;
    const auto memory = TextDataset::FromText(text, Format::kText, Bytes(), 1);
    ASSERT_TRUE(memory.ok()) << memory.status();
    for (const size_t in_memory : {size_t{1}, size_t{7}, size_t{1000}}) {
      TextLimits limits;
      limits.tokens_in_memory = in_memory;
      const auto file = TextDataset::Read(folder.Write("a.txt", text), Bytes(), 1, limits);
      ASSERT_TRUE(file.ok()) << file.status();
      ASSERT_EQ(Bytes().Decode(file->ids()), Bytes().Decode(memory->ids()));
      ASSERT_TRUE(std::ranges::equal(file->ids(), memory->ids()));
      ASSERT_EQ(file->num_sequences(), memory->num_sequences());
    }
  }
}

TEST(TextDataset, BytesThatAreNotUtf8AreRefusedWithTheirLine) {
  const TempDir folder;
  for (const Format format : {Format::kText, Format::kJsonl}) {
    const bool text = format == Format::kText;
    const std::string bad = text ? "fine\n\nfine\nab\xFF\xFEz\n" : "{\"text\": \"fine\"}\n\n\n{\"text\": \"\xFF\"}\n";
    const Status memory = TextDataset::FromText(bad, format, Bytes(), 1).status();
    EXPECT_EQ(memory.code(), Code::kInvalidArgument);
    EXPECT_NE(
        memory.message().find(text ? "line 4 is not valid UTF-8 at byte 3" : "line 4 is not valid UTF-8 at byte 11"),
        std::string::npos)
        << memory;
    const auto path = folder.Write(text ? "a.txt" : "a.jsonl", bad);
    const Status file = TextDataset::Read(path, Bytes(), 1).status();
    EXPECT_EQ(file.message(), path.string() + ": " + std::string(memory.message()));
  }
}

TEST(TextDataset, LimitsAreToldWithTheLine) {
  const TempDir folder;
  const auto error = [&](std::string_view name, std::string_view content, const TextLimits& limits) {
    const Status status = TextDataset::Read(folder.Write(name, content), Bytes(), 1, limits).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    return std::string(status.message());
  };
  TextLimits small;
  small.document_bytes = 9;
  EXPECT_TRUE(TextDataset::Read(folder.Write("a.txt", "01234567\n\n01234567\n"), Bytes(), 1, small).ok());
  const std::string paragraph = error("a.txt", "x\n\n0123\n45678\n", small);
  EXPECT_NE(paragraph.find("line 4: a record may have at most 9 bytes: split it by a blank line"), std::string::npos)
      << paragraph;
  const std::string line = error("a.jsonl", "{\"text\":\"long\"}\n", small);
  EXPECT_NE(line.find("line 1: a record may have at most 9 bytes"), std::string::npos) << line;
  TextLimits few;
  few.tokens = 5;
  EXPECT_TRUE(TextDataset::Read(folder.Write("a.txt", "ab\n\ncd\n"), Bytes(), 1, few).ok());
  const std::string many = error("a.txt", "ab\n\ncde\n", few);
  EXPECT_NE(many.find("line 3 have 6 tokens, at most 5 are taken"), std::string::npos) << many;
}

TEST(TextDataset, WithoutAFolderForTemporaryFilesALongTextIsRefusedAndAShortOneIsNot) {
  const TempDir folder;
  const auto path = folder.Write("a.txt", "0123456789");
  TextLimits small;
  small.tokens_in_memory = 4;
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before == nullptr ? "" : before;
  ::setenv("TMPDIR", (folder / "absent").c_str(), 1);
  const Status status = TextDataset::Read(path, Bytes(), 1, small).status();
  const bool short_one = TextDataset::Read(path, Bytes(), 1).ok();
  before == nullptr ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", kept.c_str(), 1);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("TMPDIR"), std::string::npos) << status;
  EXPECT_TRUE(short_one);
}

TEST(TokenStore, TheTemporaryFileHasNoName) {
  const TempDir folder;
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before == nullptr ? "" : before;
  ::setenv("TMPDIR", folder.path().c_str(), 1);
  TokenStoreWriter writer(2);
  const int32_t ids[] = {5, 6, 7, 8, 9};
  const Status appended = writer.Append(ids);
  const auto store = writer.Finish();
  before == nullptr ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", kept.c_str(), 1);
  ASSERT_TRUE(appended.ok()) << appended;
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_FALSE((*store)->in_memory());
  EXPECT_TRUE(std::ranges::equal((*store)->ids(), ids));
  EXPECT_EQ(folder.Count(), 0U);
}

TEST(SampleOrder, EveryEpochIsAPermutationOfItsOwn) {
  SampleOrder order(50, 7);
  std::vector<std::vector<int64_t>> epochs(3);
  for (auto& epoch : epochs) {
    for (int i = 0; i < 50; ++i) epoch.push_back(order.Next());
    auto sorted = epoch;
    std::sort(sorted.begin(), sorted.end());
    std::vector<int64_t> all(50);
    std::iota(all.begin(), all.end(), int64_t{0});
    EXPECT_EQ(sorted, all);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(SampleOrder, DependsOnTheSeedOnly) {
  SampleOrder a(1000, 1), b(1000, 1), c(1000, 2);
  bool differs = false;
  for (int i = 0; i < 2500; ++i) {
    const int64_t next = a.Next();
    EXPECT_EQ(next, b.Next());
    differs |= next != c.Next();
  }
  EXPECT_TRUE(differs);
}

TEST(SampleOrder, OneSequenceIsSeenAgainAndAgain) {
  SampleOrder order(1, 3);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(order.Next(), 0);
}

}  // namespace
}  // namespace heddle::model
