// A disk that changes or loses what was stored: nothing of it goes into a model, and the run says so.
#include <gtest/gtest.h>

#include <fstream>

#include "common/file.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

class DamagedBlobs : public ::testing::Test {
 protected:
  DamagedBlobs() {
    EXPECT_TRUE(run_.Open().ok());
    run_.Create(folder_.path());
    run_.Round();
  }
  // One bit of a value.
  void Damage(const Sha256Digest& digest) {
    std::string bytes = ReadFile(run_.blobs().Path(digest)).value();
    bytes.back() ^= 1;
    std::ofstream(run_.blobs().Path(digest), std::ios::binary) << bytes;
    EXPECT_EQ(ReadFile(run_.blobs().Path(digest)).value(), bytes);
  }
  RoundRecord LastRound() { return run_.store().ListRounds(run_.core().id()).value().back(); }
  Sha256Digest AcceptedUpdate() {
    const RoundRecord round = LastRound();
    const auto rows = run_.store().ListAssignments(round.run, round.round, round.attempt).value();
    for (const AssignmentRecord& row : rows) {
      if (row.state == AssignmentState::kAccepted) return row.update;
    }
    ADD_FAILURE() << "none";
    return {};
  }

  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
};

TEST_F(DamagedBlobs, ADamagedModelEndsTheRunInsteadOfBeingTrainedOn) {
  const Sha256Digest model = run_.run().model;
  Damage(model);
  run_.Resume();
  EXPECT_EQ(run_.run().state, RunState::kFailed);
  EXPECT_NE(run_.run().reason.find("damaged"), std::string::npos) << run_.run().reason;
  EXPECT_EQ(run_.run().committed_rounds, 1u);
  EXPECT_EQ(LastRound().phase, RoundPhase::kAbandoned);
}

TEST_F(DamagedBlobs, ALostModelEndsTheRun) {
  std::filesystem::remove(run_.blobs().Path(run_.run().model));
  run_.Resume();
  EXPECT_EQ(run_.run().state, RunState::kFailed);
}

// A disk that is not mounted may be.
TEST_F(DamagedBlobs, WithoutTheFolderOfBlobsTheRunIsTakenUpLater) {
  const auto folder = run_.blobs().Path(run_.run().model).parent_path();
  std::filesystem::rename(folder, folder_.path() / "aside");
  run_.Resume();
  EXPECT_FALSE(run_.core().ready());
  std::filesystem::rename(folder_.path() / "aside", folder);
  run_.Round();
  EXPECT_EQ(run_.run().committed_rounds, 2u);
}

// The next start makes the folders.
TEST_F(DamagedBlobs, WithoutAnyBlobTheRunIsTakenUpLater) {
  const auto blobs = run_.blobs().Path(run_.run().model).parent_path().parent_path();
  std::filesystem::rename(blobs, folder_.path() / "aside");
  testing::SmallRun empty(folder_.path() / "state");
  ASSERT_TRUE(empty.Open().ok());
  empty.Resume();
  EXPECT_FALSE(empty.core().ready());
  std::filesystem::remove_all(blobs);
  std::filesystem::rename(folder_.path() / "aside", blobs);
  testing::SmallRun mounted(folder_.path() / "state");
  ASSERT_TRUE(mounted.Open().ok());
  mounted.Resume();
  mounted.Round();
  EXPECT_EQ(mounted.run().committed_rounds, 2u);
}

TEST_F(DamagedBlobs, ADamagedBlobIsReplacedWhenItsBytesComeAgain) {
  const Sha256Digest digest = run_.blobs().Put("right").value();
  Damage(digest);
  EXPECT_EQ(run_.blobs().MapChecked(digest).status().code(), Code::kDataLoss);
  EXPECT_EQ(run_.blobs().Put("right").value(), digest);
  EXPECT_TRUE(run_.blobs().MapChecked(digest).ok());
}

TEST_F(DamagedBlobs, ADamagedUpdateIsNotFoldedAgain) {
  run_.CheckinBoth();
  run_.Report(testing::SmallRun::kFirst);
  Damage(AcceptedUpdate());
  run_.Resume();
  const auto rounds = run_.store().ListRounds(run_.core().id()).value();
  ASSERT_EQ(rounds.size(), 3u);
  EXPECT_EQ(rounds[1].phase, RoundPhase::kAbandoned);
  EXPECT_NE(rounds[1].reason.find("damaged"), std::string::npos) << rounds[1].reason;
  EXPECT_EQ(run_.run().state, RunState::kRunning) << "the next attempt does without it";
  run_.Round();
  EXPECT_EQ(run_.run().committed_rounds, 2u);
}

}  // namespace
}  // namespace heddle::coordinator
