// The folder that people read of a run: what becomes of it when it cannot be written.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <optional>
#include <sstream>

#include "common/file.h"
#include "coordinator/service/run_driver.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

// The folder that people read cannot be written for a while: rounds go on, and it tells everything when it can be.
class UnwritableFolder : public ::testing::Test {
 protected:
  UnwritableFolder() {
    EXPECT_TRUE(run_.Open().ok());
    run_.Create(folder_.path());
    run_.Round();
    EXPECT_TRUE(run_.core().folder_state().ok()) << run_.core().folder_state();
  }
  // A file where the folder of checkpoints should be: nothing can be made in it, by root neither.
  void Break() {
    std::filesystem::rename(Checkpoints(), Aside());
    std::ofstream(Checkpoints()) << "in the way";
  }
  void Mend() {
    std::filesystem::remove(Checkpoints());
    std::filesystem::rename(Aside(), Checkpoints());
  }
  std::filesystem::path Checkpoints() { return run_.folder() / "checkpoints"; }
  std::filesystem::path Aside() { return folder_.path() / "aside"; }

  void ExpectWholeAfter(uint32_t rounds, const char* state) {
    std::istringstream history(ReadFile(run_.folder() / "history.jsonl").value());
    uint32_t lines = 0;
    for (std::string line; std::getline(history, line);) {
      boost::json::error_code error;
      const boost::json::value value = boost::json::parse(line, error);
      ASSERT_FALSE(error) << line;
      EXPECT_EQ(value.at("round").as_int64(), ++lines);
      EXPECT_EQ(value.at("train_loss").as_double(), 2.5) << line;
    }
    EXPECT_EQ(lines, rounds);
    for (uint32_t round = 1; round <= rounds; ++round) {
      EXPECT_TRUE(RunFiles::AdapterDigest(run_.folder(), round).ok()) << round;
    }
    const std::string run = ReadFile(run_.folder() / "run.json").value();
    EXPECT_EQ(boost::json::parse(run).at("state").as_string(), state) << run;
    EXPECT_EQ(boost::json::parse(run).at("committed_rounds").as_int64(), rounds) << run;
  }
  // What moved for each round; a restart does not know it.
  std::vector<int64_t> BytesDown() {
    std::istringstream history(ReadFile(run_.folder() / "history.jsonl").value());
    std::vector<int64_t> bytes;
    for (std::string line; std::getline(history, line);) {
      bytes.push_back(boost::json::parse(line).at("bytes_down").as_int64());
    }
    return bytes;
  }

  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
};

TEST_F(UnwritableFolder, IsMendedWhenItCanBeWrittenAgain) {
  Break();
  run_.Round();
  EXPECT_EQ(run_.run().committed_rounds, 2u);
  EXPECT_FALSE(run_.core().folder_state().ok());
  for (int second = 0; second < 10; ++second) run_.Tick();
  EXPECT_FALSE(run_.core().folder_state().ok()) << "it is still in the way";
  Mend();
  // What a write that ran out of disk leaves.
  std::ofstream(run_.folder() / "history.jsonl", std::ios::app) << R"({"run_id":"upg)";
  for (int second = 0; second < 5; ++second) run_.Tick();
  EXPECT_TRUE(run_.core().folder_state().ok()) << run_.core().folder_state();
  ExpectWholeAfter(2, "running");
  run_.Round();
  ExpectWholeAfter(3, "complete");
  EXPECT_EQ(BytesDown(), (std::vector<int64_t>{12, 12, 57})) << "four events a round, 15 seconds in between";
}

TEST_F(UnwritableFolder, TakesFiguresOfAllRoundsThatItMissed) {
  std::filesystem::rename(run_.folder(), Aside());
  run_.Round();
  run_.Round();
  std::filesystem::rename(Aside(), run_.folder());
  for (int second = 0; second < 5; ++second) run_.Tick();
  ExpectWholeAfter(3, "complete");
  EXPECT_EQ(BytesDown(), (std::vector<int64_t>{12, 12, 12}));
}

// A disk that is not mounted: what is written in its place would be lost to the eye when it comes back.
TEST_F(UnwritableFolder, IsNotMadeAnewInItsPlace) {
  std::filesystem::rename(run_.folder(), Aside());
  run_.Round();
  for (int second = 0; second < 10; ++second) run_.Tick();
  EXPECT_FALSE(std::filesystem::exists(run_.folder()));
  std::filesystem::rename(Aside(), run_.folder());
  run_.Round();
  ExpectWholeAfter(3, "complete");
}

TEST_F(UnwritableFolder, GetsAMissingLineInItsPlace) {
  run_.Round();
  const std::string history = ReadFile(run_.folder() / "history.jsonl").value();
  ASSERT_TRUE(WriteFileAtomically(run_.folder() / "history.jsonl", history.substr(history.find('\n') + 1)).ok());
  run_.Resume();
  ExpectWholeAfter(2, "running");
  // Another file than the one that is known: looked through at the end at the latest.
  ASSERT_TRUE(WriteFileAtomically(run_.folder() / "history.jsonl", history.substr(history.find('\n') + 1)).ok());
  run_.Round();
  ExpectWholeAfter(3, "complete");
}

TEST_F(UnwritableFolder, DoublesNothingWhenItIsMendedInVainTwice) {
  run_.Round();
  const auto path = run_.folder() / "history.jsonl";
  const std::string history = ReadFile(path).value();
  ASSERT_TRUE(WriteFileAtomically(path, history.substr(history.find('\n') + 1)).ok());
  std::filesystem::create_directories(path.string() + ".tmp/in the way");
  run_.Resume();
  for (int second = 0; second < 15; ++second) run_.Tick();
  EXPECT_FALSE(run_.core().folder_state().ok());
  std::filesystem::remove_all(path.string() + ".tmp");
  for (int second = 0; second < 5; ++second) run_.Tick();
  ExpectWholeAfter(2, "running");
}

TEST_F(UnwritableFolder, KeepsWhatSomebodyElseWroteIntoTheHistory) {
  run_.Resume();  // it knows the file from now on
  const std::string note = R"({"note":"mine"})";
  std::ofstream(run_.folder() / "history.jsonl", std::ios::app) << note << "\n";
  run_.Round();
  run_.Round();
  std::istringstream history(ReadFile(run_.folder() / "history.jsonl").value());
  std::vector<std::string> lines;
  for (std::string line; std::getline(history, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[1], note);
  EXPECT_EQ(boost::json::parse(lines[3]).at("round").as_int64(), 3);
}

TEST_F(UnwritableFolder, LacksOnlyTheCheckpointOfAModelThatIsGone) {
  const auto lost = RunFiles::CheckpointFolder(run_.folder(), 1);
  const Sha256Digest model = RunFiles::AdapterDigest(run_.folder(), 1).value();
  Break();
  run_.Round();
  std::filesystem::remove(run_.blobs().Path(model));
  std::filesystem::remove_all(Aside() / "round-1");
  Mend();
  run_.Round();
  EXPECT_FALSE(std::filesystem::exists(lost));
  EXPECT_TRUE(RunFiles::AdapterDigest(run_.folder(), 2).ok());
  EXPECT_TRUE(RunFiles::AdapterDigest(run_.folder(), 3).ok());
  EXPECT_EQ(BytesDown().size(), 3u);
  EXPECT_NE(ReadFile(run_.folder() / "run.json").value().find("complete"), std::string::npos);
}

// A model that cannot be opened now is not lost.
TEST_F(UnwritableFolder, WaitsForAModelThatCannotBeRead) {
  const auto blob = run_.blobs().Path(RunFiles::AdapterDigest(run_.folder(), 1).value());
  Break();
  run_.Round();
  std::filesystem::remove_all(Aside() / "round-1");
  std::filesystem::rename(blob, folder_.path() / "model");
  std::filesystem::create_symlink(blob, blob);
  Mend();
  for (int second = 0; second < 5; ++second) run_.Tick();
  EXPECT_FALSE(run_.core().folder_state().ok());
  std::filesystem::rename(folder_.path() / "model", blob);
  for (int second = 0; second < 5; ++second) run_.Tick();
  ExpectWholeAfter(2, "running");
}

TEST_F(UnwritableFolder, IsMendedWhenTheClockWasSetBack) {
  run_.Round();
  Break();
  run_.Round();
  Mend();
  run_.SetClockBack(Seconds(3600));
  ASSERT_TRUE(run_.core().NextDeadline().has_value());
  EXPECT_LE(*run_.core().NextDeadline(), run_.Now());
  run_.Tick();
  ExpectWholeAfter(3, "complete");
}

// A clock that is set by hand, and a driver without a thread.
class FoldersOfTwoRuns : public ::testing::Test {
 protected:
  FoldersOfTwoRuns() {
    EXPECT_TRUE(state_.Open().ok());
    driver_.emplace(Options());
    EXPECT_TRUE(driver_->Start().ok());
  }
  RunDriverOptions Options() {
    RunDriverOptions options;
    options.own_thread = false;
    options.core.store = &state_.store();
    options.core.blobs = &state_.blobs();
    options.core.clock = &clock_;
    options.core.runs_folder = Runs();
    return options;
  }
  std::filesystem::path Runs() const { return folder_.path() / "state" / "runs"; }
  std::string StateTold(const RunId& run) {
    const auto text = ReadFile(Runs() / run.value() / "run.json");
    return text.ok() ? std::string(boost::json::parse(*text).at("state").as_string()) : "none";
  }

  testing::HandClock clock_;
  testing::TempFolder folder_;
  testing::SmallRun state_{folder_.path() / "state"};
  std::optional<RunDriver> driver_;
};

TEST_F(FoldersOfTwoRuns, AreMendedAlsoWhenTheNextRunHasBegun) {
  const RunId first = driver_->Submit(testing::SmallRun::Prepare(folder_.path())).value();
  const auto away = folder_.path() / "away";
  std::filesystem::rename(Runs() / first.value(), away);
  ASSERT_TRUE(driver_->StopRun(first, "enough").ok());
  const RunId second = driver_->Submit(testing::SmallRun::Prepare(folder_.path(), {{"seed", "12"}})).value();
  std::filesystem::rename(away, Runs() / first.value());
  EXPECT_EQ(StateTold(first), "running");
  EXPECT_EQ(StateTold(second), "running");
  EXPECT_EQ(driver_->FolderErrors().count(first), 1u);
  EXPECT_EQ(driver_->FolderErrors().size(), 1u);
  driver_->RunPending();  // it is tried at once, and then every minute at first
  ASSERT_TRUE(driver_->NextWake().has_value());
  clock_.now += Seconds(61);
  driver_->RunPending();
  EXPECT_EQ(StateTold(first), "stopped");
  EXPECT_TRUE(driver_->FolderErrors().empty());
  driver_->Stop();
}

TEST_F(FoldersOfTwoRuns, AreMendedAtOnceWhenTheClockWasSetBack) {
  const RunId run = driver_->Submit(testing::SmallRun::Prepare(folder_.path())).value();
  const auto away = folder_.path() / "away";
  std::filesystem::rename(Runs() / run.value(), away);
  std::ofstream(Runs() / run.value()) << "in the way";
  ASSERT_TRUE(driver_->StopRun(run, "enough").ok());
  ASSERT_TRUE(driver_->Submit(testing::SmallRun::Prepare(folder_.path(), {{"seed", "12"}})).ok());
  driver_->RunPending();
  EXPECT_EQ(driver_->FolderErrors().count(run), 1u);
  std::filesystem::remove(Runs() / run.value());
  std::filesystem::rename(away, Runs() / run.value());
  clock_.now -= Seconds(1800);
  driver_->RunPending();
  EXPECT_EQ(StateTold(run), "stopped");
  EXPECT_TRUE(driver_->FolderErrors().empty());
  driver_->Stop();
}

// An operator makes room.
TEST_F(FoldersOfTwoRuns, ThatWereThrownAwayStayAway) {
  const RunId run = driver_->Submit(testing::SmallRun::Prepare(folder_.path())).value();
  ASSERT_TRUE(driver_->StopRun(run, "enough").ok());
  EXPECT_EQ(StateTold(run), "stopped");
  driver_->Stop();
  std::filesystem::remove_all(Runs() / run.value());
  RunDriver again(Options());
  ASSERT_TRUE(again.Start().ok());
  EXPECT_FALSE(std::filesystem::exists(Runs() / run.value()));
  again.Stop();
}

TEST_F(FoldersOfTwoRuns, ThatCannotBeMadeAreSaidBeforeAnythingIsStored) {
  std::filesystem::create_directories(Runs().parent_path());
  std::ofstream(Runs()) << "in the way";
  EXPECT_FALSE(driver_->Submit(testing::SmallRun::Prepare(folder_.path())).ok());
  std::filesystem::remove(Runs());
  EXPECT_TRUE(driver_->Submit(testing::SmallRun::Prepare(folder_.path())).ok()) << "the same recipe, again";
  driver_->Stop();
}

TEST_F(UnwritableFolder, IsWholeAtTheLatestWithTheEndOfTheRun) {
  Break();
  run_.Round();
  Mend();
  run_.Round();
  EXPECT_FALSE(run_.running());
  ExpectWholeAfter(3, "complete");
}

TEST_F(UnwritableFolder, IsMendedAfterTheEndOfTheRun) {
  run_.Round();
  Break();
  run_.Round();
  EXPECT_FALSE(run_.running());
  ASSERT_TRUE(run_.core().NextDeadline().has_value()) << "nothing would wake it";
  Mend();
  for (int second = 0; second < 5; ++second) run_.Tick();
  ExpectWholeAfter(3, "complete");
  EXPECT_FALSE(run_.core().NextDeadline().has_value());
}

TEST_F(UnwritableFolder, DoesNotKeepARunFromBeingTakenUp) {
  Break();
  run_.Resume();
  EXPECT_FALSE(run_.core().folder_state().ok());
  run_.Round();
  EXPECT_EQ(run_.run().committed_rounds, 2u);
  Mend();
  run_.Round();
  ExpectWholeAfter(3, "complete");
}

}  // namespace
}  // namespace heddle::coordinator
