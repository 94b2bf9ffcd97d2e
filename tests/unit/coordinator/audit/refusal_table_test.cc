// What strangers can cause in the audit log: every refusal is counted, and the lines are few.
#include "coordinator/audit/refusal_table.h"

#include <gmock/gmock.h>

#include <numeric>

namespace heddle::coordinator {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

Time At(double seconds) { return FromUnixMicros(1'764'000'000'000'000) + Seconds(seconds); }

uint64_t Total(const std::vector<AuditEvent>& lines) {
  return std::accumulate(lines.begin(), lines.end(), uint64_t{0},
                         [](uint64_t sum, const AuditEvent& line) { return sum + line.count; });
}

TEST(NetworkOf, IsTheNeighbourhoodOfAnAddress) {
  EXPECT_EQ(NetworkOf("192.0.2.7:4711"), "192.0.2.0/24");
  EXPECT_EQ(NetworkOf("192.0.2.7"), "192.0.2.0/24");
  EXPECT_EQ(NetworkOf("[2001:db8:1:2::7]:4711"), "2001:db8:1::/48");
  EXPECT_EQ(NetworkOf("2001:db8:1:2::7"), "2001:db8:1::/48");
  EXPECT_EQ(NetworkOf("[::ffff:192.0.2.7]:1"), "192.0.2.0/24");
  EXPECT_EQ(NetworkOf("[::1]:80"), "::/48");
  EXPECT_EQ(NetworkOf(""), "");
  EXPECT_EQ(NetworkOf("gone"), "gone");
  EXPECT_EQ(NetworkOf(":"), "");
}

TEST(RefusalTable, MakesOneLineOfTheSameRefusalsOfAWindow) {
  RefusalTable table;
  for (int i = 0; i < 1000; ++i) {
    table.Note("BAD_TOKEN", "", "192.0.2." + std::to_string(i % 256) + ":1", "/v1/enroll", "unknown", At(i * 0.005));
  }
  table.Note("NOT_YOURS", "anna", "192.0.2.9:1", "/v1/reports", "another's", At(1));
  EXPECT_THAT(table.Take(At(9.9)), IsEmpty());
  const auto lines = table.Take(At(10));
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_EQ(lines[0].kind, AuditKind::kRefusal);
  EXPECT_EQ(lines[0].outcome, "BAD_TOKEN");
  EXPECT_EQ(lines[0].actor, "");
  EXPECT_EQ(lines[0].from, "192.0.2.0/24");
  EXPECT_EQ(lines[0].object, "/v1/enroll");
  EXPECT_EQ(lines[0].detail, "unknown");
  EXPECT_EQ(lines[0].count, 1000U);
  EXPECT_EQ(lines[0].since, At(0));
  EXPECT_EQ(lines[1].actor, "anna");
  EXPECT_EQ(lines[1].count, 1U);
  EXPECT_THAT(table.Take(At(100)), IsEmpty());
}

TEST(RefusalTable, CountsByReasonWhatDoesNotFit) {
  RefusalTable table({.max_rows = 4});
  for (int i = 0; i < 50; ++i) {
    table.Note(i % 2 == 0 ? "NOT_FOUND" : "MALFORMED", "", "10.0." + std::to_string(i) + ".1:1", "other", "", At(0));
  }
  const auto lines = table.Take(At(10));
  EXPECT_THAT(lines, SizeIs(6));
  EXPECT_EQ(Total(lines), 50U);
  uint64_t others = 0;
  for (const AuditEvent& line : lines) others += line.from == "others" ? line.count : 0;
  EXPECT_EQ(others, 46U);
}

// Days of the worst that strangers can do.
TEST(RefusalTable, WritesFewLinesADayHoweverLongTheAttack) {
  RefusalTable table;
  uint64_t noted = 0, counted = 0, written = 0;
  const double days = 3;
  for (double now = 0; now < days * 86400; now += 10) {
    for (int i = 0; i < 70; ++i) {
      table.Note("NOT_FOUND", "", std::to_string(i) + ".0.0.1:1", "other", "", At(now));
      ++noted;
    }
    const auto lines = table.Take(At(now + 9.999));
    written += lines.size();
    counted += Total(lines);
  }
  counted += Total(table.Take(At(days * 86400), /*all=*/true));
  EXPECT_EQ(counted, noted);
  EXPECT_LE(written, static_cast<uint64_t>((days + 1) * 1000 + days * 1440));
}

TEST(RefusalTable, KeepsWhatCouldNotBeWritten) {
  RefusalTable table;
  table.Note("OVERLOADED", "anna", "192.0.2.1:1", "/v1/checkin", "", At(0), 3);
  table.GiveBack(table.Take(At(10)));
  table.Note("OVERLOADED", "anna", "192.0.2.1:1", "/v1/checkin", "", At(11), 2);
  const auto lines = table.Take(At(20));
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_EQ(lines[0].count, 5U);
  EXPECT_EQ(lines[0].since, At(0));
}

TEST(RefusalTable, GivesEverythingAtTheEndAndAfterAClockThatWentBack) {
  RefusalTable table;
  table.Note("REVOKED", "bert", "192.0.2.1:1", "/v1/checkin", "", At(1000));
  EXPECT_THAT(table.Take(At(0)), IsEmpty());
  EXPECT_THAT(table.Take(At(9)), IsEmpty());
  EXPECT_EQ(Total(table.Take(At(10))), 1U);
  table.Note("REVOKED", "bert", "192.0.2.1:1", "/v1/checkin", "", At(20));
  EXPECT_EQ(Total(table.Take(At(20), /*all=*/true)), 1U);
}

}  // namespace
}  // namespace heddle::coordinator
