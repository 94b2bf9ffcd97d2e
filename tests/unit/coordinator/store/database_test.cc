// The file under the store: whose it is, which schema it has, and what is left of it when its disk fails.
#include <SQLiteCpp/SQLiteCpp.h>
#include <gmock/gmock.h>

#include <fstream>

#include "coordinator/store/migrations.h"
#include "tests/simulation/coordinator/memory_disk.h"
#include "tests/unit/coordinator/store/rows.h"
#include "tests/unit/coordinator/store/temp_folder.h"

namespace heddle::coordinator::testing {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class DatabaseTest : public ::testing::Test {
 protected:
  fs::path path() const { return folder_.path() / "coordinator.db"; }
  Result<std::unique_ptr<Store>> Open() { return Store::Open(path(), {.busy_timeout = Seconds(0.02), .vfs = {}}); }
  SQLite::Database Raw() { return {path().string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE}; }

  TempFolder folder_;
};

TEST_F(DatabaseTest, IsMadeWithTheNewestSchemaWhenTheFileIsAbsentOrEmpty) {
  std::ofstream(path()).flush();
  for (int time = 0; time < 2; ++time) {
    ASSERT_TRUE(Open().ok());
    SQLite::Database raw = Raw();
    EXPECT_EQ(raw.execAndGet("SELECT count(*) FROM schema_versions").getInt(), static_cast<int>(Migrations().size()));
    EXPECT_EQ(raw.execAndGet("SELECT max(version) FROM schema_versions").getInt(),
              static_cast<int>(Migrations().size()));
    EXPECT_EQ(raw.execAndGet("PRAGMA application_id").getInt(), kApplicationId);
    EXPECT_EQ(raw.execAndGet("PRAGMA journal_mode").getString(), "wal");
  }
}

TEST_F(DatabaseTest, IsBroughtUpToDateFromEveryOlderSchema) {
  for (size_t version = 1; version < Migrations().size(); ++version) {
    fs::remove(path());
    {
      SQLite::Database raw = Raw();
      raw.exec("PRAGMA application_id = " + std::to_string(kApplicationId));
      raw.exec("CREATE TABLE schema_versions (version INTEGER PRIMARY KEY NOT NULL, what TEXT NOT NULL) STRICT");
      for (size_t i = 0; i < version; ++i) {
        raw.exec(Migrations()[i].sql);
        raw.exec("INSERT INTO schema_versions VALUES (" + std::to_string(i + 1) + ", 'x')");
      }
      raw.exec("INSERT INTO meta VALUES ('old', 'kept')");
    }
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ(**(*store)->GetMeta("old"), "kept");
    EXPECT_TRUE((*store)->CreateToken(Sha256("t"), DeviceId("phone"), At(1)).ok());
  }
}

TEST_F(DatabaseTest, WithANewerSchemaIsRefusedAndLeftAlone) {
  ASSERT_TRUE(Open().ok());
  Raw().exec("INSERT INTO schema_versions VALUES (99, 'from the future')");
  Status status = Open().status();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("has schema version 99"));
  EXPECT_EQ(Raw().execAndGet("SELECT max(version) FROM schema_versions").getInt(), 99);
}

TEST_F(DatabaseTest, OfAnotherProgramIsRefusedAndLeftAlone) {
  Raw().exec("CREATE TABLE bookmarks (url TEXT)");
  EXPECT_EQ(Open().status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Raw().execAndGet("SELECT count(*) FROM sqlite_schema").getInt(), 1);
  EXPECT_NE(Raw().execAndGet("PRAGMA journal_mode").getString(), "wal");
}

TEST_F(DatabaseTest, ThatIsNoDatabaseIsRefused) {
  std::ofstream(path()) << std::string(5000, 'x');
  EXPECT_EQ(Open().status().code(), Code::kDataLoss);
  EXPECT_EQ(fs::file_size(path()), 5000U);
}

TEST_F(DatabaseTest, InAFolderThatIsAbsentIsRefused) {
  EXPECT_EQ(Store::Open(folder_.path() / "none" / "coordinator.db").status().code(), Code::kNotFound);
}

TEST_F(DatabaseTest, LockedByAnotherProcessIsUnavailableUntilThatEnds) {
  auto store = Open();
  ASSERT_TRUE(store.ok());
  SQLite::Database other = Raw();
  other.exec("BEGIN IMMEDIATE");
  EXPECT_EQ((*store)->SetMeta("a", "b").code(), Code::kUnavailable);
  EXPECT_TRUE((*store)->GetMeta("a").ok());  // readers do not wait
  other.exec("ROLLBACK");
  EXPECT_TRUE((*store)->SetMeta("a", "b").ok());
}

TEST_F(DatabaseTest, WithADamagedDigestIsDataLossAndNoCrash) {
  auto store = Open();
  std::vector<Record> writes = {ARun("run-1")};
  ASSERT_TRUE((*store)->CreateRun(AnOrigin("run-1"), writes).ok());
  Raw().exec("PRAGMA ignore_check_constraints = ON; UPDATE runs SET spec = '{'");
  EXPECT_EQ((*store)->GetRun(RunId("run-1")).status().code(), Code::kDataLoss);
  {
    SQLite::Database raw = Raw();
    raw.exec("PRAGMA ignore_check_constraints = ON");
    raw.exec("UPDATE runs SET model = x'00'");
  }
  EXPECT_EQ((*store)->LoadSnapshot(RunId("run-1")).status().code(), Code::kDataLoss);
}

TEST_F(DatabaseTest, WithANumberOrATimeBeyondOurTypesIsDataLoss) {
  for (const char* damage :
       {"UPDATE runs SET committed_rounds = 4294967297", "UPDATE runs SET state = 4294967296",
        "UPDATE runs SET started_at = -9223372036854775808", "UPDATE runs SET ended_at = 9223372036854775807",
        "UPDATE runs SET committed_rounds = -1"}) {
    fs::remove(path());
    auto store = Open();
    std::vector<Record> writes = {ARun("run-1")};
    ASSERT_TRUE((*store)->CreateRun(AnOrigin("run-1"), writes).ok());
    EXPECT_TRUE((*store)->GetRun(RunId("run-1")).ok());
    Raw().exec(damage);
    EXPECT_EQ((*store)->GetRun(RunId("run-1")).status().code(), Code::kDataLoss) << damage;
  }
}

TEST_F(DatabaseTest, WithoutATableOfItsSchemaIsDataLoss) {
  ASSERT_TRUE(Open().ok());
  {
    SQLite::Database raw = Raw();
    raw.exec("DROP TABLE assignments");
  }
  auto store = Open();
  const Status status =
      store.ok() ? (*store)->FindAssignment(AssignmentId(std::string(32, 'a'))).status() : store.status();
  EXPECT_EQ(status.code(), Code::kDataLoss) << status;
}

// ---- a failing disk ----

constexpr const char* kFile = "coordinator.db";

std::unique_ptr<Store> MustOpen(const MemoryDisk& disk) {
  auto store = Store::Open(kFile, {.busy_timeout = Seconds(0), .vfs = disk.name()});
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

std::vector<Record> BigStep(int number) {
  std::vector<Record> writes = {ARound("run-1", 1, 1)};
  for (int i = 0; i < 40; ++i) {
    AssignmentRecord row = AnAssignment("run-1", 1, 1, "device-" + std::to_string(i));
    row.message = "step " + std::to_string(number) + std::string(500, '.');
    writes.emplace_back(row);
  }
  return writes;
}

// Which step is visible: all rows must agree.
int VisibleStep(Store& store) {
  auto rows = store.ListAssignments(RunId("run-1"), 1, 1);
  EXPECT_TRUE(rows.ok()) << rows.status();
  if (!rows.ok() || rows->size() != 40) {
    ADD_FAILURE() << "half a step is visible";
    return -1;
  }
  for (const AssignmentRecord& row : *rows) EXPECT_EQ(row.message, rows->at(0).message);
  return rows->at(0).message[5] - '0';
}

std::unique_ptr<Store> StoreWithOneStep(const MemoryDisk& disk) {
  auto store = MustOpen(disk);
  std::vector<Record> writes = {ARun("run-1")};
  EXPECT_TRUE(store->CreateRun(AnOrigin("run-1"), writes).ok());
  EXPECT_TRUE(store->Apply(BigStep(1)).ok());
  return store;
}

// How many operations one step takes, so that the sweeps below know where to end.
uint64_t OperationsOfAStep() {
  MemoryDisk disk("count");
  auto store = StoreWithOneStep(disk);
  uint64_t before = disk.operations();
  EXPECT_TRUE(store->Apply(BigStep(2)).ok());
  return disk.operations() - before;
}

struct Fault {
  int code;
  Code status;
};

TEST(FailingDisk, AtAnyOperationOfAStepLeavesTheWholeStepOrNothingAndTheStoreUsable) {
  uint64_t operations = OperationsOfAStep();
  ASSERT_GT(operations, 10U);
  for (Fault fault : {Fault{SQLITE_FULL, Code::kResourceExhausted}, Fault{SQLITE_IOERR_WRITE, Code::kUnavailable}}) {
    for (uint64_t at = 1; at <= operations; ++at) {
      SCOPED_TRACE(at);
      MemoryDisk disk("failing");
      auto store = StoreWithOneStep(disk);
      disk.FailAt(at, fault.code, /*stay=*/false);
      Status status = store->Apply(BigStep(2));
      EXPECT_TRUE(status.ok() || status.code() == fault.status) << status;
      EXPECT_EQ(VisibleStep(*store), status.ok() ? 2 : 1);
      EXPECT_TRUE(store->Apply(BigStep(3)).ok());  // the same call may be tried again
      EXPECT_EQ(VisibleStep(*store), 3);
    }
  }
}

TEST(FailingDisk, ThatStaysFullRefusesStepsUntilThereIsRoom) {
  MemoryDisk disk("full");
  auto store = StoreWithOneStep(disk);
  disk.FailAt(1, SQLITE_FULL, /*stay=*/true);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(store->Apply(BigStep(2)).code(), Code::kResourceExhausted);
  EXPECT_EQ(VisibleStep(*store), 1);
  disk.Heal();
  EXPECT_TRUE(store->Apply(BigStep(2)).ok());
  EXPECT_EQ(VisibleStep(*store), 2);
}

TEST(FailingDisk, ThatLosesItsPowerInAStepKeepsAllEarlierStepsAndAWholeOne) {
  uint64_t operations = OperationsOfAStep();
  for (uint64_t at = 1; at <= operations; ++at) {
    for (uint64_t seed = 1; seed <= 6; ++seed) {
      SCOPED_TRACE(std::to_string(at) + " seed " + std::to_string(seed));
      MemoryDisk disk("power");
      auto store = StoreWithOneStep(disk);
      disk.FailAt(at, SQLITE_IOERR_WRITE, /*stay=*/true);
      Status status = store->Apply(BigStep(2));
      disk.PowerCut(seed);
      store.reset();
      store = MustOpen(disk);
      int visible = VisibleStep(*store);
      // One that failed in its last fsync may be there after all, as a whole; the others may not.
      EXPECT_TRUE(visible == (status.ok() ? 2 : 1) || (at == operations && visible == 2)) << visible << " " << status;
      EXPECT_TRUE(store->Apply(BigStep(3)).ok());
    }
  }
}

TEST(FailingDisk, ThatLosesItsPowerAfterAnOkLosesNothing) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    MemoryDisk disk("after");
    auto store = StoreWithOneStep(disk);
    for (int step = 2; step <= 7; ++step) {
      ASSERT_TRUE(store->Apply(BigStep(step)).ok());
      disk.PowerCut(seed * 100 + static_cast<uint64_t>(step));
      store.reset();
      store = MustOpen(disk);
      ASSERT_EQ(VisibleStep(*store), step);
    }
  }
}

TEST(FailingDisk, TakesNothingBackThatWasReadAfterAKill) {
  // Killed between the write of a commit and its fsync: the next process reads it and may answer a device with it.
  uint64_t operations = OperationsOfAStep();
  int read_again = 0;
  for (uint64_t at = 1; at <= operations; ++at) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      MemoryDisk disk("read");
      auto store = StoreWithOneStep(disk);
      disk.FailAt(at, SQLITE_IOERR_WRITE, /*stay=*/true);
      (void)store->Apply(BigStep(2));
      disk.Kill();
      store.reset();
      store = MustOpen(disk);
      int visible = VisibleStep(*store);
      read_again += visible == 2 ? 1 : 0;
      disk.PowerCut(seed);
      store.reset();
      store = MustOpen(disk);
      ASSERT_EQ(VisibleStep(*store), visible) << at << " seed " << seed;
    }
  }
  EXPECT_GT(read_again, 0);
}

TEST(FailingDisk, AtAnyOperationOfTheMigrationsIsOpenedByTheNextTry) {
  for (uint64_t at = 1;; ++at) {
    SCOPED_TRACE(at);
    MemoryDisk disk("migrating");
    disk.FailAt(at, SQLITE_IOERR_WRITE, /*stay=*/true);
    auto first = Store::Open(kFile, {.busy_timeout = Seconds(0), .vfs = disk.name()});
    bool opened = first.ok();
    disk.PowerCut(at);
    first = Internal("closed");
    auto store = MustOpen(disk);
    ASSERT_TRUE(store);
    EXPECT_TRUE(store->SetMeta("a", "b").ok());
    if (opened) break;
    ASSERT_LT(at, 1000U);
  }
}

}  // namespace
}  // namespace heddle::coordinator::testing
