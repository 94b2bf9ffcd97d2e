// The real coordinator on the state folder of a version before, and on one of a version to come.
#include <SQLiteCpp/SQLiteCpp.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <map>

#include "common/file.h"
#include "coordinator/store/migrations.h"
#include "tests/integration/federation/federation_world.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

const int kNewest = static_cast<int>(coordinator::Migrations().size());

fs::path FixtureBeforeTheNewest() { return HEDDLE_SOURCE_DIR "/tests/data/schema-" + std::to_string(kNewest - 1); }

int SchemaVersion(const fs::path& database) {
  SQLite::Database raw(database.string(), SQLite::OPEN_READONLY);
  return raw.execAndGet("SELECT max(version) FROM schema_versions").getInt();
}

class UpgradeOfProcesses : public testing::Test {
 protected:
  // A coordinator's folder with an authority, an administrator's token and an audit log, which no version changes, and
  // with the fixture's database, blobs and runs.
  UpgradeOfProcesses() {
    Expect(fleet().StartCoordinator());
    Expect(fleet().Stop());
    for (const char* part : {"coordinator.db", "coordinator.db-wal", "coordinator.db-shm", "blobs", "runs"}) {
      fs::remove_all(state() / part);
    }
    fs::copy(FixtureBeforeTheNewest(), state(), fs::copy_options::recursive);
    run_ = fs::directory_iterator(state() / "runs")->path().filename();
  }
  static void Expect(const Status& status) { EXPECT_TRUE(status.ok()) << status; }
  std::string Heddle(const std::vector<std::string>& arguments) {
    auto said = world_.Heddle(arguments);
    EXPECT_TRUE(said.ok()) << said.status();
    return said.ok() ? *said : "";
  }
  json::object Shown() { return json::parse(Heddle({"--format", "json", "run", "show", run_})).as_object(); }
  simulator::Fleet& fleet() { return world_.fleet(); }
  fs::path state() { return fleet().config().state_dir; }
  fs::path database() { return fleet().config().database(); }

  FederationWorld world_{{"anna"}};
  std::string run_;
};

TEST_F(UpgradeOfProcesses, TakesUpTheRunOfTheVersionBefore) {
  EXPECT_EQ(SchemaVersion(database()), kNewest - 1);
  for (int start = 1; start <= 2; ++start) {  // that it has migrated, too
    SCOPED_TRACE(start);
    const Status started = fleet().RestartCoordinator();
    ASSERT_TRUE(started.ok()) << started;
    EXPECT_EQ(SchemaVersion(database()), kNewest);
    const json::object run = Shown();
    EXPECT_EQ(TextOf(run, "state"), "running") << json::serialize(run);
    EXPECT_EQ(NumberOf(run, "committed_rounds"), 1);
    EXPECT_EQ(NumberOf(run, "round"), 2);
    EXPECT_EQ(NumberOf(run, "rounds"), 3);
    EXPECT_FALSE(run.contains("folder_error")) << json::serialize(run);
    const auto answer = fleet().admin().Get("/v1/clients");
    ASSERT_TRUE(answer.ok()) << answer.status();
    std::map<std::string, bool> revoked;
    for (const json::value& device : answer->at("clients").as_array()) {
      revoked[TextOf(device.as_object(), "device")] = device.as_object().contains("revoked_at");
    }
    EXPECT_EQ(revoked, (std::map<std::string, bool>{{"anna", false}, {"bert", false}, {"carl", true}}));
    EXPECT_NE(Heddle({"audit", "verify"}).find("The chain is whole: "), std::string::npos);
    if (start == 2) {
      Heddle({"run", "stop", run_});
      EXPECT_EQ(TextOf(Shown(), "state"), "stopped");
    }
    Expect(fleet().Stop());
  }
  EXPECT_NE(Heddle({"audit", "verify"}).find("The chain is whole: "), std::string::npos);
}

TEST_F(UpgradeOfProcesses, EndsWithASentenceOnTheStateOfANewerVersionAndChangesNothing) {
  {
    SQLite::Database raw(database().string(), SQLite::OPEN_READWRITE);
    raw.exec("INSERT INTO schema_versions VALUES (" + std::to_string(kNewest + 1) + ", 'from the future')");
    raw.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  }
  const std::string before = *ReadFile(database());
  for (int start = 1; start <= 2; ++start) {  // as systemd would
    const Status refused = fleet().RestartCoordinator();
    const std::string& said = refused.message();
    EXPECT_NE(said.find("heddle-coordinator ended with status 1: "), std::string::npos) << refused;
    EXPECT_NE(said.find("heddle-coordinator: the database " + database().string() + " has schema version " +
                        std::to_string(kNewest + 1) + " but this program knows versions up to " +
                        std::to_string(kNewest) + "; run the newer program that wrote it\n"),
              std::string::npos)
        << refused;
    EXPECT_EQ(*ReadFile(database()), before);
  }
  EXPECT_FALSE(world_.Heddle({"device", "token", "dora"}).ok());
  EXPECT_EQ(*ReadFile(database()), before);
}

}  // namespace
}  // namespace heddle
