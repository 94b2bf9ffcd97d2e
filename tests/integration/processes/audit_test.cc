// The audit log of real processes: `heddle audit` beside a running coordinator, and several processes that append, one
// of which is killed while it does.
#include <gtest/gtest.h>

#include <fstream>

#include "common/file.h"
#include "coordinator/audit/audit_head.h"
#include "tests/integration/processes/keeper.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

class AuditOfProcesses : public testing::Test {
 protected:
  AuditOfProcesses() {
    const Status started = keeper_.Start();
    EXPECT_TRUE(started.ok()) << started;
  }
  // What `heddle … ` printed; its error has what it said on standard error.
  Result<std::string> Heddle(std::vector<std::string> arguments,
                             const simulator::Fleet::Environment& environment = {}) {
    arguments.insert(arguments.begin(), {"heddle", "--config", (fleet().folder() / "coordinator.toml").string()});
    return fleet().RunTool(arguments, environment);
  }
  simulator::Fleet& fleet() { return keeper_.world().fleet(); }
  static bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

  Keeper keeper_{KeeperOptions{}};
};

TEST_F(AuditOfProcesses, IsVerifiedByTheCommandLineAndAnAlteredLineIsNamed) {
  auto verified = Heddle({"audit", "verify"});
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_TRUE(Has(*verified, "The chain is whole: ")) << *verified;
  auto shown = Heddle({"audit", "show", "--last", "3"});
  ASSERT_TRUE(shown.ok()) << shown.status();
  EXPECT_TRUE(Has(*shown, "device_enrolled  done  ")) << *shown;

  const fs::path file = coordinator::ListAuditFiles(fleet().config().audit())->at(0);
  const std::string good = *ReadFile(file);
  std::string altered = good;
  altered.replace(altered.find("token_made"), 10, "token_mada");
  std::ofstream(file, std::ios::binary) << altered;
  const auto found = Heddle({"audit", "verify"});
  EXPECT_FALSE(found.ok());
  EXPECT_TRUE(Has(found.status().message(), file.filename().string() + ", line 3: ")) << found.status();
  std::ofstream(file, std::ios::binary) << good;
  EXPECT_TRUE(Heddle({"audit", "verify"}).ok());
}

TEST_F(AuditOfProcesses, StaysWholeWhenOneOfThemIsKilledWhileItAppends) {
  // The database's first transaction is of its opening, the second the token's.
  for (const char* point : {"audit-written", "audit-synced", "audit-written:2", "file-unsynced", "file-synced",
                            "uncommitted", "committed", "uncommitted:2", "committed:2"}) {
    EXPECT_FALSE(Heddle({"device", "token", "dora"}, {std::string("HEDDLE_FAILPOINT=") + point}).ok()) << point;
    EXPECT_TRUE(Heddle({"device", "token", "dora"}).ok());
    EXPECT_TRUE(Heddle({"device", "revoke", keeper_.world().fleet().devices().front().first}).ok());
  }
  const auto verified = Heddle({"audit", "verify"});
  EXPECT_TRUE(verified.ok()) << verified.status();
}

}  // namespace
}  // namespace heddle
