// A run whose storage fails: what is said of it, how it goes on, and that its owner can end it meanwhile.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <optional>

#include "common/file.h"
#include "coordinator/service/run_driver.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;

// A clock that is set by hand, and a driver without a thread, over a run of which both devices have a task.
class StandingStill : public ::testing::Test {
 protected:
  StandingStill() {
    EXPECT_TRUE(state_.Open().ok());
    state_.Create(folder_.path());
    state_.CheckinBoth();
    run_ = state_.core().id();
    clock_.now = state_.Now();
  }
  void Start() {
    RunDriverOptions options;
    options.own_thread = false;
    options.core.store = &state_.store();
    options.core.blobs = &state_.blobs();
    options.core.clock = &clock_;
    options.core.runs_folder = state_.folder().parent_path();
    driver_.emplace(std::move(options));
    ASSERT_TRUE(driver_->Start().ok());
    driver_->RunPending();
  }
  // As when the disk that holds the blobs is not there.
  void TakeBlobsAway() { fs::rename(Blobs(), folder_.path() / "aside"); }
  void BringBlobsBack() {
    fs::remove_all(Blobs());
    fs::rename(folder_.path() / "aside", Blobs());
  }
  fs::path Blobs() { return state_.blobs().Path(Sha256("any")).parent_path().parent_path(); }
  Answer Checkin(const char* device) {
    std::optional<Answer> heard;
    driver_->Checkin(DeviceId(device), {"lora_sft"}, 0, [&heard](Answer answer) { heard = std::move(answer); });
    driver_->RunPending();
    return heard ? *std::move(heard) : Answer(Internal("nothing was heard"));
  }

  testing::HandClock clock_;
  testing::TempFolder folder_;
  testing::SmallRun state_{folder_.path() / "state"};
  RunId run_;
  std::optional<RunDriver> driver_;
};

TEST_F(StandingStill, IsSaidAndEndsByItselfWhenTheStorageIsBack) {
  TakeBlobsAway();
  Start();
  auto progress = driver_->Progress();
  ASSERT_TRUE(progress.has_value());
  EXPECT_NE(progress->storage_error, "");
  EXPECT_EQ(progress->run.state, RunState::kRunning);
  EXPECT_EQ(progress->run.id, run_);
  EXPECT_EQ(progress->round, 1u);
  EXPECT_TRUE(driver_->busy());
  EXPECT_TRUE(driver_->IsNeeded(Sha256("what its method remembers"))) << "nothing is thrown away meanwhile";
  const Answer refused = Checkin("carl");
  const auto* status = std::get_if<Status>(&refused);
  ASSERT_NE(status, nullptr);
  EXPECT_EQ(status->code(), Code::kUnavailable) << *status;

  BringBlobsBack();
  ASSERT_TRUE(driver_->NextWake().has_value());
  clock_.now = *driver_->NextWake();
  driver_->RunPending();
  progress = driver_->Progress();
  EXPECT_EQ(progress->storage_error, "");
  EXPECT_FALSE(driver_->IsNeeded(Sha256("what its method remembers")));
  EXPECT_EQ(progress->open, 2u) << "both devices are still at work";
  const Answer task = Checkin(testing::SmallRun::kFirst);
  ASSERT_TRUE(std::holds_alternative<v1::CheckinResponse>(task));
  EXPECT_EQ(std::get<v1::CheckinResponse>(task).assignment().assignment_id(),
            state_.task(testing::SmallRun::kFirst).assignment_id());
  driver_->Stop();
}

TEST_F(StandingStill, DoesNotKeepItsOwnerFromStoppingIt) {
  TakeBlobsAway();
  Start();
  EXPECT_EQ(driver_->StopRun(RunId("another"), "enough").code(), Code::kNotFound);
  const Status stopped = driver_->StopRun(run_, "enough");
  ASSERT_TRUE(stopped.ok()) << stopped;
  EXPECT_FALSE(driver_->busy());
  EXPECT_FALSE(driver_->Progress().has_value());
  const StoredRun stored = state_.store().GetRun(run_).value();
  EXPECT_EQ(stored.run.state, RunState::kStopped);
  EXPECT_EQ(stored.run.reason, "enough");
  EXPECT_EQ(stored.run.ended_at, clock_.now);
  const RoundRecord round = state_.store().ListRounds(run_).value().back();
  EXPECT_EQ(round.phase, RoundPhase::kAbandoned);
  const auto rows = state_.store().ListAssignments(run_, round.round, round.attempt).value();
  EXPECT_EQ(rows.size(), 2u);
  for (const AssignmentRecord& row : rows) {
    EXPECT_NE(row.state, AssignmentState::kOpen) << row.device.value();
  }
  const std::string json = ReadFile(state_.folder() / "run.json").value();
  EXPECT_EQ(boost::json::parse(json).at("state").as_string(), "stopped") << json;
  EXPECT_EQ(driver_->StopRun(run_, "again").code(), Code::kNotFound);

  BringBlobsBack();
  const auto next = driver_->Submit(testing::SmallRun::Prepare(folder_.path(), {{"seed", "12"}}));
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(driver_->Progress()->run.id, *next);
  driver_->Stop();
}

// Devices are at work on what they were given, a step fails, and then the model is gone for good.
TEST_F(StandingStill, EndsWhenWhatItStartedFromIsLost) {
  const fs::path model = state_.blobs().Path(state_.run().model);
  Sha256Digest update;
  for (int i = 0; i == 0 || state_.blobs().Path(update).parent_path() == model.parent_path(); ++i) {
    update = state_.blobs().Put("an update " + std::to_string(i)).value();
  }
  const fs::path shelf = state_.blobs().Path(update).parent_path();
  fs::rename(shelf, folder_.path() / "aside");
  ReportEvent report;
  report.token = 77;
  report.assignment = AssignmentId(state_.task(testing::SmallRun::kFirst).assignment_id());
  report.device = DeviceId(testing::SmallRun::kFirst);
  report.completed = true;
  report.update = update;
  report.update_bytes = 11;
  report.metrics = {.num_examples = 4, .num_tokens = 64, .steps = 2, .train_loss = 2.5};
  EXPECT_FALSE(state_.core().Handle(report).ok());
  ASSERT_FALSE(state_.core().ready());
  EXPECT_FALSE(state_.core().storage_state().ok());

  fs::rename(folder_.path() / "aside", shelf);
  fs::remove(model);
  state_.Tick();
  EXPECT_TRUE(state_.core().ready());
  EXPECT_TRUE(state_.core().storage_state().ok());
  EXPECT_EQ(state_.run().state, RunState::kFailed);
  EXPECT_NE(state_.run().reason, "");
}

}  // namespace
}  // namespace heddle::coordinator
