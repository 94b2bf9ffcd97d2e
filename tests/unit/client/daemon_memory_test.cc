// The daemon and its worker's memory: what a task takes, and what the device tells of it.
#include <gmock/gmock.h>

#include "client/daemon/daemon.h"
#include "tests/unit/client/fake_coordinator.h"
#include "tests/unit/client/one_device.h"

namespace heddle::client {
namespace {

class DaemonMemory : public OneDevice {
 protected:
  DaemonMemory() : OneDevice(HEDDLE_BINARY_DIR) {}
};

TEST_F(DaemonMemory, WorkerBeyondItsMemoryIsStoppedAndReportedAsInterrupted) {
  EnrollDevice();
  Mode("big");
  config_.memory_limit_bytes = uint64_t{100} << 20;
  coordinator_.Offer(coordinator_.MakeAssignment(1));
  EXPECT_TRUE(RunTasks(1).ok());
  ASSERT_EQ(coordinator_.reports().size(), 1U);
  EXPECT_EQ(coordinator_.reports()[0].outcome(), v1::TASK_OUTCOME_INTERRUPTED);
  EXPECT_THAT(coordinator_.reports()[0].message(), testing::HasSubstr("memory"));
}

TEST_F(DaemonMemory, TellsLessMemoryAfterATaskThatTookMoreThanItWasThoughtToNeed) {
  EnrollDevice();
  Mode("big");
  config_.memory_limit_bytes = uint64_t{100} << 20;
  config_.backoff_base = config_.backoff_max = Seconds(0.02);
  for (int i = 1; i <= 3; ++i) {
    v1::TaskAssignment assignment = coordinator_.MakeAssignment(i);
    assignment.mutable_plan()->set_memory_bytes(i == 1 ? 0 : (uint64_t{100} << 20) - static_cast<uint64_t>(i));
    coordinator_.Offer(assignment);
  }
  EXPECT_TRUE(RunTasks(3).ok());
  std::vector<uint64_t> told;
  for (const v1::CheckinRequest& checkin : coordinator_.checkins()) told.push_back(checkin.memory_bytes());
  EXPECT_THAT(told, testing::ElementsAre(uint64_t{100} << 20, uint64_t{100} << 20, (uint64_t{100} << 20) - 3));
}

TEST_F(DaemonMemory, AKilledWorkerWasTooLargeWhereItHasNoLimit) {
  EnrollDevice();
  Mode("kill");
  config_.backoff_base = config_.backoff_max = Seconds(0.02);
  const uint64_t needed = uint64_t{1} << 30;
  for (const uint64_t limit : {uint64_t{0}, 2 * needed}) {
    config_.memory_limit_bytes = limit;
    for (int i = 1; i <= 2; ++i) {
      v1::TaskAssignment assignment = coordinator_.MakeAssignment(i);
      assignment.mutable_plan()->set_memory_bytes(needed);
      coordinator_.Offer(assignment);
    }
    EXPECT_TRUE(RunTasks(2).ok());
    EXPECT_EQ(coordinator_.checkins().back().memory_bytes(), limit == 0 ? needed - 1 : limit);
  }
}

}  // namespace
}  // namespace heddle::client
