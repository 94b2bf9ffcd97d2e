// The running coordinator's side of the log: refusals wait for their window and for a disk that works.
#include "coordinator/audit/audit_trail.h"

#include <gmock/gmock.h>

#include <cerrno>

#include "tests/unit/coordinator/audit/audit_fixture.h"
#include "tests/unit/coordinator/store/faulty_files.h"

namespace heddle::coordinator::testing {
namespace {

class AuditTrailTest : public AuditTest {
 protected:
  class MovedClock final : public Clock {
   public:
    Time Now() const override { return now; }
    Time now = FromUnixMicros(1'764'000'000'000'000);
  };
  uint64_t LinesWritten() const { return Check().lines; }

  MovedClock clock_of_trail_;
};

TEST_F(AuditTrailTest, WritesRefusalsWhenTheirWindowHasPassedOrAtTheEnd) {
  AuditOptions options = Options();
  options.clock = &clock_of_trail_;
  auto trail = *AuditTrail::Open(options);
  trail->Refused("NOT_FOUND", "anna", "192.0.2.1:1", "other", "nothing there");
  trail->Refused("NOT_FOUND", "anna", "192.0.2.1:1", "other", "nothing there");
  EXPECT_TRUE(trail->Flush().ok());
  EXPECT_EQ(LinesWritten(), 0U);
  clock_of_trail_.now += Seconds(10);
  EXPECT_TRUE(trail->Flush().ok());
  EXPECT_EQ(LinesWritten(), 1U);
  trail->Refused("REVOKED", "bert", "192.0.2.1:1", "/v1/checkin", "");
  EXPECT_TRUE(trail->Flush(AuditTrail::What::kAll).ok());
  ExpectWhole(2);
  const auto record = ParseRecord(LastAuditLines(folder(), 2)->at(0));
  EXPECT_EQ(record->event.count, 2U);
  EXPECT_EQ(record->event.since + Seconds(10), record->time);
}

TEST_F(AuditTrailTest, KeepsRefusalsWhileTheDiskIsFullAndWritesThemAfterwards) {
  FaultyFiles disk;
  AuditOptions options = Options(&disk);
  options.clock = &clock_of_trail_;
  auto trail = *AuditTrail::Open(options);
  disk.FailAt(1, ENOSPC, /*stay=*/true);
  for (int i = 0; i < 5; ++i) {
    trail->Refused("OVERLOADED", "anna", "192.0.2.1:1", "/v1/uploads", "");
    clock_of_trail_.now += Seconds(20);
    EXPECT_EQ(trail->Flush().code(), Code::kResourceExhausted);
  }
  disk.Heal();
  EXPECT_TRUE(trail->Flush().ok());
  ExpectWhole(1);
  EXPECT_EQ(ParseRecord(LastAuditLines(folder(), 1)->at(0))->event.count, 5U);
}

}  // namespace
}  // namespace heddle::coordinator::testing
