// A device's text as windows of ids.
#include "model/data/text_dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

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
