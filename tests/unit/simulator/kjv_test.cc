#include "simulator/corpus/kjv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/common/temp_dir.h"

namespace heddle::simulator {
namespace {

struct Book {
  const char* name;
  const char* part;
  int chapters;
};
// A short Bible with books of the real one: two or three a part, and names that begin with digits.
constexpr Book kBooks[] = {
    {"Ge", "law", 11},      {"Deu", "law", 8},      {"Josh", "history", 9},       {"1Sam", "history", 7},
    {"2Sam", "history", 6}, {"Est", "history", 4},  {"Job", "wisdom", 12},        {"SSol", "wisdom", 3},
    {"Isa", "prophets", 9}, {"Mal", "prophets", 5}, {"Mat", "new-testament", 16}, {"Rev", "new-testament", 13}};
constexpr size_t kEvery = 20;

// "<Ge-3>" is in every verse of the third chapter of Genesis.
std::string Mark(const Book& book, int chapter) {
  return std::string("<") + book.name + "-" + std::to_string(chapter) + ">";
}

std::string Verses() {
  std::string out;
  for (const Book& book : kBooks) {
    for (int chapter = 1; chapter <= book.chapters; ++chapter) {
      for (int verse = 1; verse <= 3; ++verse) {
        out += book.name + std::to_string(chapter) + ":" + std::to_string(verse) + " And " + Mark(book, chapter) +
               ": verse " + std::to_string(verse) + ".\n";
      }
    }
  }
  return out;
}

std::vector<std::string> AllParts() {
  std::vector<std::string> names;
  for (const KjvPart& part : KjvParts()) names.push_back(part.name);
  return names;
}

size_t CountOf(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST(Kjv, EveryChapterIsWholeInItsPartOrHeldOutAndNowhereElse) {
  TempDir folder;
  const auto files = WriteKjvFrom(Verses(), folder / "data", AllParts());
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->parts.size(), 5U);
  std::map<std::string, std::string> texts;
  for (size_t i = 0; i < files->parts.size(); ++i) {
    EXPECT_EQ(files->parts[i], folder / "data" / (AllParts()[i] + ".txt"));
    texts[AllParts()[i]] = Slurp(files->parts[i]);
  }
  const std::string heldout = Slurp(files->heldout), all = Slurp(files->all);
  size_t index = 0, held = 0;
  for (const Book& book : kBooks) {
    for (int chapter = 1; chapter <= book.chapters; ++chapter, ++index) {
      const std::string mark = Mark(book, chapter);
      SCOPED_TRACE(mark);
      const bool is_held = index % kEvery == kEvery - 1;
      held += is_held ? 1 : 0;
      EXPECT_EQ(CountOf(heldout, mark), is_held ? 3U : 0U);
      EXPECT_EQ(CountOf(all, mark), is_held ? 0U : 3U);
      for (const auto& [part, text] : texts) EXPECT_EQ(CountOf(text, mark), !is_held && part == book.part ? 3U : 0U);
    }
  }
  EXPECT_EQ(held, index / kEvery);
  EXPECT_GE(held, 5U);
}

TEST(Kjv, AChapterIsAParagraphWithoutItsNumbers) {
  TempDir folder;
  const auto files = WriteKjvFrom(Verses(), folder.path(), {"law"});
  ASSERT_TRUE(files.ok()) << files.status();
  const std::string law = Slurp(files->parts[0]);
  EXPECT_TRUE(
      law.starts_with("And <Ge-1>: verse 1. And <Ge-1>: verse 2. And <Ge-1>: verse 3.\n\nAnd <Ge-2>: verse 1. "))
      << law.substr(0, 120);
  EXPECT_EQ(law.find("Ge1:1"), std::string::npos);
}

TEST(Kjv, TheTextOfAllIsOfThePartsThatWereAskedForInTheirOrder) {
  TempDir folder;
  const auto files = WriteKjvFrom(Verses(), folder.path(), {"prophets", "law"});
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->parts.size(), 2U);
  EXPECT_EQ(Slurp(files->all), Slurp(folder / "prophets.txt") + Slurp(folder / "law.txt"));
  EXPECT_FALSE(std::filesystem::exists(folder / "wisdom.txt"));
  // What is held out does not depend on who takes part.
  TempDir other;
  const auto whole = WriteKjvFrom(Verses(), other.path(), AllParts());
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(Slurp(files->heldout), Slurp(whole->heldout));
}

TEST(Kjv, APartThatThereIsNotIsNamedWithThoseThatThereAre) {
  TempDir folder;
  for (const char* name : {"psalms", "", "../law", "Law"}) {
    const auto files = WriteKjvFrom(Verses(), folder / "out", {"law", name});
    ASSERT_FALSE(files.ok()) << name;
    EXPECT_EQ(files.status().code(), Code::kNotFound);
    EXPECT_NE(files.status().message().find("'" + std::string(name) + "'"), std::string::npos) << files.status();
    for (const std::string& part : AllParts()) {
      EXPECT_NE(files.status().message().find(part), std::string::npos) << files.status();
    }
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "out")) << "something was written";
}

TEST(Kjv, ALineThatIsNotAVerseIsRefusedAndShown) {
  TempDir folder;
  for (const std::string line : {"In the beginning", "Ge1 In the beginning", "Ge:1 In the beginning", "1:1 In the",
                                 "Ge1:1", ":", " Ge1:1 x", "warning: no such book"}) {
    SCOPED_TRACE(line);
    const auto files = WriteKjvFrom(Verses() + line + "\n", folder / "out", {"law"});
    ASSERT_FALSE(files.ok());
    EXPECT_EQ(files.status().code(), Code::kDataLoss);
    EXPECT_NE(files.status().message().find(line), std::string::npos) << files.status();
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

TEST(Kjv, ATextThatEndsEarlyOrGoesOnAfterTheEndIsRefused) {
  TempDir folder;
  const std::string verses = Verses();
  for (const std::string& text : {std::string(), std::string("\n\n"), verses.substr(0, verses.find("Rev1:1 ")),
                                  verses.substr(0, verses.find("Deu1:1 ")), verses + "Ps1:1 Blessed is the man.\n"}) {
    const auto files = WriteKjvFrom(text, folder / "out", {"law"});
    ASSERT_FALSE(files.ok()) << text.size();
    EXPECT_EQ(files.status().code(), Code::kDataLoss) << files.status();
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

}  // namespace
}  // namespace heddle::simulator
