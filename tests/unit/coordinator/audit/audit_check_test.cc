// Whatever somebody does to the log's files, short of making all of it anew, is found and its place is named.
#include "coordinator/audit/audit_check.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "tests/unit/coordinator/audit/audit_fixture.h"

namespace heddle::coordinator::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class AuditCheckTest : public AuditTest {};

TEST_F(AuditCheckTest, FindsAWholeLogWholeAndNamesItsHead) {
  Fill(7);
  ASSERT_GT(Files().size(), 2U);
  const AuditReport report = Check();
  EXPECT_FALSE(report.fault);
  EXPECT_EQ(report.lines, 7U);
  EXPECT_EQ(report.repairs, 0U);
  EXPECT_EQ(report.last.sequence, 7U);
  EXPECT_THAT(LinesOf(Files().back()).back(), HasSubstr(report.last.hash.ToHex()));
  const auto anchor = AuditAnchor::Parse(report.last.ToString());
  ASSERT_TRUE(anchor.ok()) << anchor.status();
  EXPECT_FALSE(Check(*anchor).fault);
  for (const char* wrong : {"", "7", "7:", "7:12", "x:", ":"}) EXPECT_FALSE(AuditAnchor::Parse(wrong).ok()) << wrong;
}

TEST_F(AuditCheckTest, SaysSoWhenThereIsNoLog) {
  EXPECT_EQ(CheckAudit(folder()).status().code(), Code::kNotFound);
  EXPECT_EQ(LastAuditLines(folder(), 3).status().code(), Code::kNotFound);
}

TEST_F(AuditCheckTest, FindsEveryAlteredByte) {
  Fill(5);
  for (const fs::path& file : Files()) {
    const std::string content = *ReadFile(file);
    uint64_t line = 1;
    for (size_t i = 0; i < content.size(); ++i) {
      std::string altered = content;
      altered[i] = static_cast<char>(altered[i] ^ 1);
      Write(file, altered);
      SCOPED_TRACE(file.filename().string() + " byte " + std::to_string(i));
      ExpectFault(file.filename().string(), line);
      if (content[i] == '\n') ++line;
    }
    Write(file, content);
  }
  ExpectWhole(5);
}

TEST_F(AuditCheckTest, FindsAnEndThatWasCutOffAtAnyByte) {
  Fill(5);
  const std::vector<fs::path> files = Files();
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    const std::string content = *ReadFile(*file);
    for (size_t size = content.size(); size-- > 0;) {
      Write(*file, content.substr(0, size));
      SCOPED_TRACE(file->filename().string() + " cut at " + std::to_string(size));
      const AuditReport report = Check();
      ASSERT_TRUE(report.fault);
      EXPECT_EQ(report.fault->file, file->filename().string());
    }
    fs::remove(*file);
    ASSERT_TRUE(Check().fault) << file->filename() << " is gone";
  }
}

TEST_F(AuditCheckTest, FindsDeletedSwappedRepeatedAndForgedLines) {
  AuditOptions options = Options();
  options.max_file_bytes = 1 << 20;
  {
    auto log = *AuditLog::Open(options);
    for (int i = 1; i <= 6; ++i) ASSERT_TRUE(log->Append(AnEvent(std::to_string(i))).ok());
  }
  const fs::path file = Files().at(0);
  const std::string name = file.filename().string();
  const std::vector<std::string> lines = LinesOf(file);
  for (size_t i = 0; i < 5; ++i) {  // a missing last line is found in FindsAnEndThatWasCutOffAtAnyByte
    SCOPED_TRACE(i);
    auto deleted = lines;
    deleted.erase(deleted.begin() + static_cast<ptrdiff_t>(i));
    WriteLines(file, deleted);
    ExpectFault(name, i + 1, "lines are missing");
    auto swapped = lines;
    std::swap(swapped[i], swapped[i + 1]);
    WriteLines(file, swapped);
    ExpectFault(name, i + 1, "another order");
    auto repeated = lines;
    repeated.insert(repeated.begin() + static_cast<ptrdiff_t>(i), lines[i]);
    WriteLines(file, repeated);
    ExpectFault(name, i + 2, "repeated");
    // A line that is right in itself: the next one does not follow it.
    auto forged = lines;
    AuditRecord record = *ParseRecord(lines[i]);
    record.event.object = "somebody else";
    forged[i] = FormatRecord(&record);
    WriteLines(file, forged);
    ExpectFault(name, i + 2, "does not follow the line before it");
  }
  WriteLines(file, lines);
  ExpectWhole(6);
}

// Whoever can write to the folder can make the chain anew from some line on; the head tells, or a line that is known
// from elsewhere.
TEST_F(AuditCheckTest, FindsAChainMadeAnewByItsHeadOrByWhatIsKnownFromElsewhere) {
  Fill(4);
  const AuditAnchor anchor = Check().last;
  AuditRecord before;
  for (const fs::path& file : Files()) {
    std::vector<std::string> lines = LinesOf(file);
    for (std::string& line : lines) {
      AuditRecord record = *ParseRecord(line);
      if (record.sequence == 2) record.event.object = "somebody else";
      record.previous = before.hash;
      line = FormatRecord(&record);
      before = record;
    }
    WriteLines(file, lines);
  }
  ExpectFault(Files().back().filename().string(), LinesOf(Files().back()).size(), "known to be another");
  // The head made to match: the log alone is whole again.
  const AuditHead head{.write = 98, .sequence = before.sequence, .hash = before.hash};
  Write(AuditHeadPath(folder()), FormatSlot(head));
  EXPECT_FALSE(Check().fault);
  EXPECT_TRUE(Check(anchor).fault);
  EXPECT_TRUE(Check(AuditAnchor{.sequence = 9, .hash = anchor.hash}).fault);
}

TEST_F(AuditCheckTest, FindsAMissingFileAndAMissingHead) {
  Fill(7);
  const std::vector<fs::path> files = Files();
  ASSERT_GE(files.size(), 3U);
  for (size_t i = 0; i + 1 < files.size(); ++i) {
    fs::rename(files[i], temp_.path() / "away");
    ExpectFault(files[i + 1].filename().string(), 1, "lines are missing");
    fs::rename(temp_.path() / "away", files[i]);
  }
  const std::string head = *ReadFile(AuditHeadPath(folder()));
  fs::remove(AuditHeadPath(folder()));
  ExpectFault("head", 0, "missing");
  Write(AuditHeadPath(folder()), "x" + head);
  ExpectFault("head", 0, "damaged");
}

TEST_F(AuditCheckTest, GivesTheNewestLinesOfAllFilesInOrder) {
  Fill(7);
  std::vector<std::string> objects;
  const auto newest = LastAuditLines(folder(), 5);
  ASSERT_TRUE(newest.ok()) << newest.status();
  for (const std::string& line : *newest) objects.push_back(ParseRecord(line)->event.object);
  EXPECT_THAT(objects, ElementsAre("3", "4", "5", "6", "7"));
  EXPECT_EQ(LastAuditLines(folder(), 100)->size(), 7U);
  EXPECT_TRUE(LastAuditLines(folder(), 0)->empty());
}

}  // namespace
}  // namespace heddle::coordinator::testing
