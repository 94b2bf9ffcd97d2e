// What a device keeps between its tasks: it changes with an accepted update only.
#include "client/daemon/personal_state.h"

#include <gtest/gtest.h>

#include "common/file.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::client {
namespace {

class PersonalStateTest : public testing::Test {
 protected:
  PersonalState::Paths Begin(const std::string& run) {
    auto paths = state_.Begin(run);
    EXPECT_TRUE(paths.ok()) << paths.status();
    return paths.ok() ? *paths : PersonalState::Paths{};
  }
  void Write(const std::filesystem::path& path, const std::string& content) {
    ASSERT_TRUE(WriteFileAtomically(path, content).ok());
  }
  static std::string Read(const std::filesystem::path& path) {
    const auto content = ReadFile(path);
    return content.ok() ? *content : "none";
  }

  TempDir folder_;
  PersonalState state_{folder_ / "personal"};
};

TEST_F(PersonalStateTest, AnAcceptedTaskReplacesWhatWasKept) {
  const auto first = Begin("run-1");
  EXPECT_EQ(Read(first.now), "none");
  Write(first.next, "one");
  ASSERT_TRUE(state_.End(true).ok());
  EXPECT_EQ(Read(Begin("run-1").now), "one");
  EXPECT_EQ(Read(Begin("run-2").now), "none") << "another run has its own";
}

TEST_F(PersonalStateTest, AnyOtherEndLeavesWhatWasKept) {
  Write(Begin("run").next, "one");
  ASSERT_TRUE(state_.End(true).ok());
  Write(Begin("run").next, "two");
  ASSERT_TRUE(state_.End(false).ok());
  ASSERT_TRUE(state_.End(true).ok()) << "there is nothing to put in place";
  EXPECT_EQ(Read(Begin("run").now), "one");
}

TEST_F(PersonalStateTest, WhatACrashLeftIsNotTakenForTheNextTasks) {
  Write(Begin("run").next, "half a task");
  const PersonalState::Paths paths = *PersonalState(folder_ / "personal").Begin("run");  // the daemon started again
  EXPECT_EQ(Read(paths.next), "none");
  ASSERT_TRUE(state_.End(true).ok());
  EXPECT_EQ(Read(paths.now), "none");
}

// The coordinator counts on it: a device must not go on from what it had before.
TEST_F(PersonalStateTest, WhatWasAcceptedIsPutInPlaceWhenItCanBe) {
  const auto paths = Begin("run");
  Write(paths.next, "one");
  std::filesystem::create_directories(paths.now / "in the way");
  EXPECT_FALSE(state_.End(true).ok());
  EXPECT_FALSE(state_.Begin("run").ok()) << "a task would begin from the state before";
  EXPECT_FALSE(state_.End(false).ok()) << "that of the task that could not begin";
  std::filesystem::remove_all(paths.now);
  EXPECT_EQ(Read(Begin("run").now), "one");
  Write(paths.next, "two");
  ASSERT_TRUE(state_.End(false).ok());
  EXPECT_EQ(Read(Begin("run").now), "one");
}

TEST_F(PersonalStateTest, AReportThatIsAnsweredAfterARestartStillCounts) {
  Write(Begin("run").next, "one");
  PersonalState after_restart(folder_ / "personal");
  ASSERT_TRUE(after_restart.End(true).ok());
  EXPECT_EQ(Read(after_restart.Begin("run")->now), "one");
}

TEST_F(PersonalStateTest, NamesOfRunsAreNoPaths) {
  const auto paths = Begin("../../etc/passwd");
  EXPECT_EQ(paths.now.parent_path(), folder_ / "personal");
  Write(paths.next, "x");
  ASSERT_TRUE(state_.End(true).ok());
  EXPECT_EQ(Read(Begin("../../etc/passwd").now), "x");
}

TEST_F(PersonalStateTest, OnlyTheNewestRunsAreKept) {
  for (size_t i = 0; i < PersonalState::kMaxRuns + 3; ++i) {
    Write(Begin("run-" + std::to_string(i)).next, "x");
    ASSERT_TRUE(state_.End(true).ok());
  }
  size_t kept = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "personal")) kept += entry.is_regular_file();
  EXPECT_EQ(kept, PersonalState::kMaxRuns);
  EXPECT_EQ(Read(Begin("run-" + std::to_string(PersonalState::kMaxRuns + 2)).now), "x");
}

TEST_F(PersonalStateTest, AFolderThatCannotBeMadeIsAnError) {
  folder_.Write("personal", "a file where the folder should be");
  EXPECT_FALSE(state_.Begin("run").ok());
}

}  // namespace
}  // namespace heddle::client
