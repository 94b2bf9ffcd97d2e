// State folders that earlier versions left (tests/data) open, migrate and continue their run; one of a later version is
// refused; and a migration that is cut off anywhere leaves the schema before it or the one after it.
#include <SQLiteCpp/SQLiteCpp.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "common/file.h"
#include "coordinator/store/migrations.h"
#include "tests/simulation/coordinator/memory_disk.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator::testing {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

const int kNewest = static_cast<int>(Migrations().size());
constexpr const char* kData = HEDDLE_SOURCE_DIR "/tests/data";

int VersionOf(const fs::path& fixture) { return std::stoi(fixture.filename().string().substr(7)); }

// schema-<n> folders, oldest first.
std::vector<fs::path> Fixtures() {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(kData)) {
    if (entry.path().filename().string().starts_with("schema-")) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return VersionOf(a) < VersionOf(b); });
  return found;
}

// The model of a run that nothing interrupted.
RunRecord Undisturbed() {
  TempFolder folder;
  SmallRun run(folder.path() / "state");
  EXPECT_TRUE(run.Open().ok());
  run.Create(folder.path());
  while (run.running()) run.Round();
  return run.run();
}

TEST(Upgrade, HasAFixtureOfTheSchemaBeforeTheNewest) {
  std::set<int> versions;
  for (const fs::path& fixture : Fixtures()) versions.insert(VersionOf(fixture));
  EXPECT_TRUE(versions.contains(kNewest) || versions.contains(kNewest - 1))
      << "the schema is at version " << kNewest << "; see tests/data/README.md for how to make the missing fixture";
}

TEST(Upgrade, ContinuesTheRunOfEveryEarlierSchemaToTheModelOfAnUndisturbedOne) {
  const RunRecord expected = Undisturbed();
  ASSERT_EQ(expected.state, RunState::kComplete);
  for (const fs::path& fixture : Fixtures()) {
    SCOPED_TRACE(fixture);
    TempFolder folder;
    const fs::path state = folder.path() / "state";
    fs::copy(fixture, state, fs::copy_options::recursive);
    SmallRun run(state);
    ASSERT_TRUE(run.Open().ok());
    run.Resume();
    EXPECT_EQ(run.run().committed_rounds, 1U);
    run.Checkin(SmallRun::kSecond);  // whose task is still open
    run.Report(SmallRun::kSecond);
    EXPECT_EQ(run.run().committed_rounds, 2U);
    run.Round();
    EXPECT_EQ(run.run().state, RunState::kComplete);
    EXPECT_EQ(run.run().model, expected.model);

    std::ifstream history(run.folder() / "history.jsonl");
    EXPECT_EQ(std::count(std::istreambuf_iterator<char>(history), {}, '\n'), 3);
    for (const char* name : {"round-1", "round-2", "round-3"}) {
      EXPECT_TRUE(fs::exists(run.folder() / "checkpoints" / name / "adapter_model.safetensors")) << name;
    }
    EXPECT_THAT(*ReadFile(run.folder() / "run.json"), HasSubstr(expected.model.ToHex()));
  }
}

TEST(Upgrade, KeepsDevicesRevocationsTokensAndNotes) {
  for (const fs::path& fixture : Fixtures()) {
    SCOPED_TRACE(fixture);
    TempFolder folder;
    fs::copy(fixture / "coordinator.db", folder.path() / "coordinator.db");
    auto opened = Store::Open(folder.path() / "coordinator.db");
    ASSERT_TRUE(opened.ok()) << opened.status();
    Store& store = **opened;
    const auto devices = store.ListDevices();
    ASSERT_TRUE(devices.ok()) << devices.status();
    ASSERT_EQ(devices->size(), 3U);
    for (const DeviceRecord& device : *devices) {
      EXPECT_EQ(device.revoked_at.has_value(), device.device == DeviceId("carl"));
      EXPECT_FALSE(device.serial.empty());
    }
    const Time now = FromUnixMicros(1'764'000'000'000'000);
    EXPECT_EQ(*store.CheckToken(Sha256("token of dora"), now), DeviceId("dora"));
    EXPECT_EQ(store.CheckToken(Sha256("token of anna"), now).status().code(), Code::kUnauthenticated);  // used
    EXPECT_EQ(**store.GetMeta("fixture"), "kept");
  }
}

TEST(Upgrade, RefusesANewerSchemaInOneSentenceAndChangesNothing) {
  TempFolder folder;
  const fs::path state = folder.path() / "state";
  fs::copy(Fixtures().back(), state, fs::copy_options::recursive);
  {
    SQLite::Database raw((state / "coordinator.db").string(), SQLite::OPEN_READWRITE);
    raw.exec("INSERT INTO schema_versions VALUES (" + std::to_string(kNewest + 1) + ", 'from the future')");
    raw.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  }
  const std::string before = *ReadFile(state / "coordinator.db");
  SmallRun run(state);
  const Status status = run.Open();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("has schema version " + std::to_string(kNewest + 1)));
  EXPECT_THAT(status.message(), HasSubstr("run the newer program"));
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  EXPECT_EQ(*ReadFile(state / "coordinator.db"), before);
}

// ---- cut off in a migration ----

// Tables and indexes, as the statements that made them.
std::set<std::string> SchemaOf(SQLite::Database& database) {
  std::set<std::string> all;
  SQLite::Statement query(database, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'");
  while (query.executeStep()) all.insert(query.getColumn(0).getString());
  return all;
}

// A database of an earlier version, with rows in it.
void MakeOld(SQLite::Database& database, int version) {
  database.exec("PRAGMA application_id = " + std::to_string(kApplicationId));
  database.exec("CREATE TABLE schema_versions (version INTEGER PRIMARY KEY NOT NULL, what TEXT NOT NULL) STRICT");
  for (int i = 0; i < version; ++i) {
    database.exec(Migrations()[static_cast<size_t>(i)].sql);
    database.exec("INSERT INTO schema_versions VALUES (" + std::to_string(i + 1) + ", 'x')");
  }
  database.exec("INSERT INTO meta VALUES ('fixture', 'kept')");
}

// The bytes of databases to migrate, by version.
std::map<int, std::string> OldDatabases() {
  std::map<int, std::string> all;
  for (int version = 1; version < kNewest; ++version) {
    TempFolder folder;
    const fs::path path = folder.path() / "old.db";
    {
      SQLite::Database database(path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
      MakeOld(database, version);
    }
    all[version] = *ReadFile(path);
  }
  for (const fs::path& fixture : Fixtures()) {  // those with runs in them take the place of the empty ones
    if (VersionOf(fixture) < kNewest) all[VersionOf(fixture)] = *ReadFile(fixture / "coordinator.db");
  }
  return all;
}

TEST(Upgrade, CutOffAnywhereLeavesOneOfTheSchemasWholeAndGoesOnFromThere) {
  constexpr const char* kFile = "coordinator.db";
  std::vector<std::set<std::string>> schemas(1);
  for (int version = 1; version <= kNewest; ++version) {
    SQLite::Database database(":memory:", SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    MakeOld(database, version);
    schemas.push_back(SchemaOf(database));
  }
  for (const auto& [old, bytes] : OldDatabases()) {
    std::set<int> seen;
    bool cut = true;
    for (uint64_t at = 1; cut; ++at) {
      SCOPED_TRACE("from version " + std::to_string(old) + ", cut at operation " + std::to_string(at));
      for (uint64_t seed = 0; seed < 4; ++seed) {  // 0: killed; else without power, with other writes lost
        MemoryDisk disk("migration");
        disk.SetContent(kFile, bytes);
        disk.FailAt(at, SQLITE_IOERR_WRITE, /*stay=*/true);
        auto store = Store::Open(kFile, {.busy_timeout = Seconds(0), .vfs = disk.name()});
        cut = !store.ok();
        if (seed == 0) {
          disk.Kill();
        } else {
          disk.PowerCut(seed);
        }
        store = Unavailable("closed");
        disk.Heal();
        {
          SQLite::Database raw(std::string(kFile), SQLite::OPEN_READWRITE, 0, disk.name());
          const int version = raw.execAndGet("SELECT max(version) FROM schema_versions").getInt();
          ASSERT_GE(version, old);
          ASSERT_LE(version, kNewest);
          EXPECT_EQ(SchemaOf(raw), schemas[static_cast<size_t>(version)]);
          seen.insert(version);
        }
        store = Store::Open(kFile, {.busy_timeout = Seconds(0), .vfs = disk.name()});
        ASSERT_TRUE(store.ok()) << store.status();
        EXPECT_EQ(**(*store)->GetMeta("fixture"), "kept");
        EXPECT_TRUE((*store)->ListDevices().ok());
      }
    }
    // The cuts fell before, between and after the migrations.
    EXPECT_EQ(static_cast<int>(seen.size()), kNewest - old + 1) << "from version " << old;
  }
}

}  // namespace
}  // namespace heddle::coordinator::testing
