// The program itself: exit statuses, sentences, signals.
#include <gmock/gmock.h>
#include <signal.h>

#include "common/subprocess.h"
#include "tests/unit/client/fake_coordinator.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;
using protocol::Eventually;
using protocol::ReadAllOf;
using protocol::TempDir;
using testing::HasSubstr;

class ProgramTest : public testing::Test {
 protected:
  void WriteConfig(uint16_t port, const std::string& extra = {}) {
    std::ofstream(config_) << "[coordinator]\nhost = \"localhost\"\nport = " << port
                           << "\n[device]\nstate_dir = \"state\"\n[data]\npath = \"data.txt\"\n[worker]\nbinary = \""
                           << (fs::path(HEDDLE_BINARY_DIR) / "bin" / "fake_worker").string() << "\"\n"
                           << extra;
    std::ofstream(temp_.path() / "data.txt") << "slow";
  }
  Result<Subprocess> Start(std::vector<std::string> arguments) {
    SubprocessOptions options;
    options.argv = {(fs::path(HEDDLE_BINARY_DIR) / "bin" / "heddle-client").string()};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    options.stdout_file = temp_.path() / "out";
    options.stderr_file = temp_.path() / "err";
    return Subprocess::Start(options);
  }
  int Run(std::vector<std::string> arguments) {
    fs::remove(temp_.path() / "out");
    fs::remove(temp_.path() / "err");
    auto process = Start(std::move(arguments));
    if (!process.ok()) return -1;
    return process->WaitFor(Seconds(60)).value_or(-2);
  }
  std::string Out() const { return ReadAllOf(temp_.path() / "out"); }
  std::string Err() const { return ReadAllOf(temp_.path() / "err"); }

  TempDir temp_;
  const fs::path config_ = temp_.path() / "client.toml";
};

TEST_F(ProgramTest, UsageMistakesExitWithTwo) {
  EXPECT_EQ(Run({}), 2);
  EXPECT_EQ(Run({"--no-such-flag"}), 2);
  WriteConfig(7443);
  EXPECT_EQ(Run({"--config", config_, "--set", "novalue"}), 2);
  EXPECT_EQ(Run({"enroll", "--config", config_}), 2) << "without a token";
  EXPECT_EQ(Run({"--help"}), 0);
}

TEST_F(ProgramTest, ConfigurationMistakesAreAllNamed) {
  WriteConfig(7443, "keep_alive = 3\n[cache]\nmax_bytes = 0\n");
  EXPECT_EQ(Run({"--config", config_, "--check-config"}), 1);
  EXPECT_THAT(Err(), HasSubstr("keep_alive_s"));
  EXPECT_THAT(Err(), HasSubstr("max_bytes"));
  EXPECT_EQ(Run({"--config", temp_.path() / "nowhere.toml"}), 1);
  EXPECT_THAT(Err(), HasSubstr("nowhere.toml"));
}

TEST_F(ProgramTest, CheckConfigShowsWhatIsInForce) {
  WriteConfig(7443);
  EXPECT_EQ(Run({"--config", config_, "--set", "worker.threads=3", "--check-config"}), 0);
  EXPECT_THAT(Out(), HasSubstr("worker.threads = 3"));
  EXPECT_THAT(Out(), HasSubstr((temp_.path() / "state").string()));
}

TEST_F(ProgramTest, EnrolsAndTrainsAndEndsWithinAStepOnSigterm) {
  FakeCoordinator coordinator;
  WriteConfig(coordinator.port());
  const std::string token = coordinator.IssueToken("phone-1");
  EXPECT_EQ(Run({"--config", config_}), 1) << "not enrolled";
  EXPECT_THAT(Err(), HasSubstr("enroll"));
  ASSERT_EQ(Run({"enroll", "--config", config_, "--token", token}), 0) << Err();
  EXPECT_EQ(Out(), "enrolled as phone-1\n");
  EXPECT_EQ(Run({"enroll", "--config", config_, "--token", "bad"}), 1);

  coordinator.Offer(coordinator.MakeAssignment(1));
  auto process = Start({"--config", config_});
  ASSERT_TRUE(process.ok());
  ASSERT_TRUE(Eventually([&] { return Err().find("training") != std::string::npos; })) << Err();
  process->Signal(SIGTERM);
  EXPECT_EQ(process->WaitFor(Seconds(30)), 0) << Err();
  const auto reports = coordinator.reports();
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].outcome(), v1::TASK_OUTCOME_INTERRUPTED);
}

TEST_F(ProgramTest, IdleDaemonIsSmall) {
  FakeCoordinator coordinator;
  WriteConfig(coordinator.port());
  ASSERT_EQ(Run({"enroll", "--config", config_, "--token", coordinator.IssueToken("phone-1")}), 0) << Err();
  auto process = Start({"--config", config_});
  ASSERT_TRUE(process.ok());
  ASSERT_TRUE(Eventually([&] { return coordinator.CountRequests("/v1/checkin") == 1; })) << Err();
  const auto memory = ReadProcessMemory(process->pid());
  ASSERT_TRUE(memory.ok());
  RecordProperty("rss_bytes", std::to_string(memory->rss_bytes));
#if !defined(HEDDLE_SANITIZED)
  EXPECT_LT(memory->rss_bytes, 25u << 20);
#endif
  process->Signal(SIGTERM);
  EXPECT_EQ(process->WaitFor(Seconds(30)), 0) << Err();
}

}  // namespace
}  // namespace heddle::client
