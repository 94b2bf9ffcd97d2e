// Appending: what was answered with ok stays, whatever the disk, the power and other processes do, and the chain is
// whole afterwards.
#include "coordinator/audit/audit_log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <thread>

#include "tests/unit/coordinator/audit/audit_fixture.h"
#include "tests/unit/coordinator/store/faulty_files.h"

namespace heddle::coordinator::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSubsetOf;

class AuditLogTest : public AuditTest {};

TEST_F(AuditLogTest, GoesOnWhereItEndedOverFilesAndRestarts) {
  for (int start = 0; start < 3; ++start) {
    auto log = Open();
    for (int i = 1; i <= 3; ++i) ASSERT_TRUE(log->Append(AnEvent(std::to_string(3 * start + i))).ok());
    EXPECT_EQ(log->stats().lines, 3U);
    EXPECT_EQ(log->stats().last_sequence, static_cast<uint64_t>(3 * start + 3));
  }
  ExpectWhole(9);
  EXPECT_THAT(Objects(), ElementsAre("1", "2", "3", "4", "5", "6", "7", "8", "9"));
  EXPECT_GE(Files().size(), 3U);
  for (const fs::path& file : Files()) {
    EXPECT_EQ(file, AuditFilePath(folder(), ParseRecord(LinesOf(file).at(0))->sequence));
  }
  EXPECT_EQ(fs::status(folder()).permissions(), fs::perms::owner_all);
}

TEST_F(AuditLogTest, WritesOneLineForEachEventOfACall) {
  auto log = Open();
  const std::vector<AuditEvent> events = {AnEvent("a"), AnEvent("b"), AnEvent("c")};
  ASSERT_TRUE(log->Append(events).ok());
  ASSERT_TRUE(log->Append(std::span<const AuditEvent>()).ok());
  EXPECT_THAT(Objects(), ElementsAre("a", "b", "c"));
  ExpectWhole(3);
}

TEST_F(AuditLogTest, TakesLinesOfManyThreadsAndLosesNone) {
  auto log = Open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log, t] {
      for (int i = 0; i < 25; ++i) {
        EXPECT_TRUE(log->Append(AnEvent(std::to_string(t) + "." + std::to_string(i))).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectWhole(100);
  const auto objects = Objects();
  EXPECT_EQ(std::set<std::string>(objects.begin(), objects.end()).size(), 100U);
}

TEST_F(AuditLogTest, TakesLinesOfSeveralProcessesInOneChain) {
  Fill(1);
  std::vector<pid_t> children;
  for (int child = 0; child < 3; ++child) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      AuditOptions options = Options();
      options.lock_timeout = Seconds(60);
      auto log = AuditLog::Open(options);
      bool good = log.ok();
      for (int i = 0; good && i < 30; ++i) {
        good = (*log)->Append(AnEvent(std::to_string(child) + "." + std::to_string(i))).ok();
      }
      ::_exit(good ? 0 : 1);
    }
    children.push_back(pid);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  ExpectWhole(91);
  const auto objects = Objects();
  EXPECT_EQ(std::set<std::string>(objects.begin(), objects.end()).size(), 91U);
}

TEST_F(AuditLogTest, IsUnavailableWhileAnotherProcessHoldsItsLock) {
  Fill(1);
  AuditOptions options = Options();
  options.lock_timeout = Seconds(0.01);
  auto log = *AuditLog::Open(options);
  {
    UniqueFd other(::open((folder() / "lock").c_str(), O_RDWR));
    ASSERT_EQ(::flock(other.get(), LOCK_EX), 0);
    const Status status = log->Append(AnEvent("2"));
    EXPECT_EQ(status.code(), Code::kUnavailable);
    EXPECT_THAT(status.message(), HasSubstr("another process holds"));
    EXPECT_EQ(log->stats().failures, 1U);
  }
  EXPECT_TRUE(log->Append(AnEvent("3")).ok());
  EXPECT_THAT(Objects(), ElementsAre("1", "3"));
}

TEST_F(AuditLogTest, InAFolderThatCannotBeMadeIsRefused) {
  Write(folder(), "a file in its place");
  EXPECT_FALSE(AuditLog::Open(Options()).ok());
}

// ---- a damaged end ----

TEST_F(AuditLogTest, MovesATornLineAsideAndSaysSo) {
  Fill(3);
  const fs::path file = Files().back();
  const std::string torn = "{\"seq\":4,\"time\":\"2025-";
  Write(file, *ReadFile(file) + torn);
  ExpectFault(file.filename().string(), LinesOf(file).size(), "has no end");
  Open();
  const AuditReport report = Check();
  EXPECT_FALSE(report.fault);
  EXPECT_EQ(report.repairs, 1U);
  EXPECT_EQ(*ReadFile(folder() / "torn-4.bin"), torn);
  EXPECT_THAT(LastAuditLines(folder(), 1)->at(0), HasSubstr("22 bytes after line 3 were moved to torn-4.bin"));
  ASSERT_TRUE(Open()->Append(AnEvent("after")).ok());
  EXPECT_THAT(Objects(), ElementsAre("1", "2", "3", "after"));
}

TEST_F(AuditLogTest, TakesLinesOfGarbageAtTheEndForTorn) {
  Fill(3);
  const fs::path file = Files().back();
  Write(file, *ReadFile(file) + std::string(700, '\0') + "\n" + std::string(100, '\0'));
  Open();
  const AuditReport report = Check();
  EXPECT_FALSE(report.fault);
  EXPECT_EQ(report.repairs, 1U);
  EXPECT_EQ(fs::file_size(folder() / "torn-4.bin"), 801U);
}

TEST_F(AuditLogTest, TakesUpAFileThatWasBegunAndHasNoLine) {
  Fill(2);
  Write(AuditFilePath(folder(), 3), "");
  ASSERT_TRUE(Open()->Append(AnEvent("3")).ok());
  ExpectWhole(3);
  EXPECT_EQ(LinesOf(AuditFilePath(folder(), 3)).size(), 1U);
}

// Lines that were answered for are gone: the log goes on, and the gap stays to be seen.
TEST_F(AuditLogTest, GoesOnAfterAnEndThatWasCutOffButNeverHidesIt) {
  Fill(5);
  fs::remove(Files().back());
  const uint64_t left = Check().lines;
  ASSERT_LT(left, 5U);
  ASSERT_TRUE(Open()->Append(AnEvent("after")).ok());
  const AuditReport report = Check();
  ASSERT_TRUE(report.fault);
  EXPECT_EQ(report.lines, left);
  EXPECT_THAT(report.fault->what, HasSubstr("line 6 of the log where line " + std::to_string(left + 1) + " is due"));
  EXPECT_THAT(LastAuditLines(folder(), 2)->at(0), HasSubstr("but line 5 had been written"));
}

TEST_F(AuditLogTest, SaysWhenItsHeadWasLostOrDoesNotFit) {
  Fill(2);
  fs::remove(AuditHeadPath(folder()));
  Open();
  EXPECT_THAT(LastAuditLines(folder(), 1)->at(0), HasSubstr("the head of the log was missing"));
  ExpectWhole(3);
  AuditHead head = **ReadHead(folder());
  head.hash = Sha256("another");
  Write(AuditHeadPath(folder()), FormatSlot(head));
  Open();
  EXPECT_THAT(LastAuditLines(folder(), 1)->at(0), HasSubstr("line 3 is not the one that had been written"));
}

// ---- a failing disk ----

TEST_F(AuditLogTest, KeepsWhatItAnsweredForWhenAnyCallOfTheDiskFails) {
  for (const bool stay : {false, true}) {
    bool met = true;
    for (uint64_t at = 1; met; ++at) {
      SCOPED_TRACE("call " + std::to_string(at) + (stay ? " and all after it" : ""));
      fs::remove_all(folder());
      FaultyFiles disk;
      auto log = Open(&disk);
      std::vector<std::string> kept;
      const auto append = [&](const std::string& object) {
        const Status status = log->Append(AnEvent(object));
        if (status.ok()) kept.push_back(object);
        return status;
      };
      ASSERT_TRUE(append("1").ok());
      disk.FailAt(at, ENOSPC, stay);
      for (const char* object : {"2", "3", "4"}) {
        const Status status = append(object);
        EXPECT_TRUE(status.ok() || status.code() == Code::kResourceExhausted) << status;
      }
      met = disk.failed();
      EXPECT_EQ(log->stats().failures > 0, met);
      disk.Heal();
      ASSERT_TRUE(append("5").ok());
      const AuditReport report = Check();
      EXPECT_FALSE(report.fault) << report.fault->file << ":" << report.fault->line << " " << report.fault->what;
      if (!stay) {
        EXPECT_EQ(report.repairs, 0U);  // it took back what it had written
      }
      EXPECT_THAT(kept, IsSubsetOf(Objects()));
    }
  }
}

TEST_F(AuditLogTest, KeepsWhatItAnsweredForWhenThePowerGoesAtAnyCall) {
  bool met = true;
  for (uint64_t at = 1; met; ++at) {
    SCOPED_TRACE("call " + std::to_string(at));
    fs::remove_all(folder());
    FaultyFiles disk;
    auto log = Open(&disk);
    std::vector<std::string> kept;
    disk.FailAt(at, EIO, /*stay=*/true);
    for (const char* object : {"1", "2", "3", "4", "5"}) {
      if (!log->Append(AnEvent(object)).ok()) break;
      kept.emplace_back(object);
    }
    met = disk.failed();
    log.reset();
    disk.PowerCut();
    log = Open(&disk);
    ASSERT_NE(log, nullptr);
    ASSERT_TRUE(log->Append(AnEvent("after")).ok());
    const AuditReport report = Check();
    EXPECT_FALSE(report.fault) << report.fault->file << ":" << report.fault->line << " " << report.fault->what;
    EXPECT_THAT(kept, IsSubsetOf(Objects()));
  }
}

TEST_F(AuditLogTest, NeverLosesATornLineWithoutSayingSoWhenThePowerGoesInItsRepair) {
  bool met = true;
  for (uint64_t at = 1; met; ++at) {
    SCOPED_TRACE("call " + std::to_string(at));
    fs::remove_all(folder());
    Fill(3);
    const std::string torn(500, 'x');
    Write(Files().back(), *ReadFile(Files().back()) + torn);
    FaultyFiles disk;
    disk.FailAt(at, EIO, /*stay=*/true);
    (void)AuditLog::Open(Options(&disk));
    met = disk.failed();
    disk.PowerCut();
    ASSERT_TRUE(Open(&disk)->Append(AnEvent("after")).ok());
    const AuditReport report = Check();
    EXPECT_FALSE(report.fault) << report.fault->what;
    EXPECT_GE(report.repairs, 1U);
    bool found = false;
    for (const auto& entry : fs::directory_iterator(folder())) {
      found = found || (entry.path().extension() == ".bin" && *ReadFile(entry.path()) == torn);
    }
    EXPECT_TRUE(found);
  }
}

// ---- acts ----

TEST_F(AuditLogTest, OfAnActHasItsBeginningBeforeAndItsEndAfterIt) {
  auto log = Open();
  const Status done = Audited(*log, AnEvent("recipe", AuditKind::kRunSubmitted), [&](AuditEvent& event) {
    EXPECT_THAT(Objects(), ElementsAre("recipe"));  // on the disk already
    event.object = "run-1";
    return OkStatus();
  });
  EXPECT_TRUE(done.ok());
  const Status failed = Audited(*log, AnEvent("phone", AuditKind::kDeviceRevoked),
                                [](AuditEvent&) { return NotFound("there is no such device"); });
  EXPECT_EQ(failed.code(), Code::kNotFound);
  std::vector<std::string> said;
  const auto lines = LastAuditLines(folder(), 9);
  for (const std::string& line : *lines) {
    const auto record = ParseRecord(line);
    said.push_back(record->event.object + " " + record->event.outcome + " " + record->event.detail);
  }
  EXPECT_THAT(said, ElementsAre("recipe begun because", "run-1 done because", "phone begun because",
                                "phone failed there is no such device"));
}

TEST_F(AuditLogTest, ThatCannotBeWrittenForbidsTheAct) {
  FaultyFiles disk;
  auto log = Open(&disk);
  disk.FailAt(1, ENOSPC, /*stay=*/true);
  const Status refused = Audited(*log, AnEvent("phone"), [](AuditEvent&) -> Status {
    ADD_FAILURE() << "the act was done";
    return OkStatus();
  });
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_THAT(refused.message(), HasSubstr("nothing was changed"));
  disk.Heal();
  const Status half = Audited(*log, AnEvent("phone"), [&](AuditEvent&) {
    disk.FailAt(1, ENOSPC, /*stay=*/true);
    return OkStatus();
  });
  EXPECT_EQ(half.code(), Code::kUnavailable);
  EXPECT_THAT(half.message(), HasSubstr("it was done, but"));
}

}  // namespace
}  // namespace heddle::coordinator::testing
