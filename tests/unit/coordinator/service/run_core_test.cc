#include "coordinator/service/run_core.h"

#include <gtest/gtest.h>

#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

// A run of two devices that both ask for work; nothing is committed yet.
class RunCoreTest : public ::testing::Test {
 protected:
  RunCoreTest() {
    EXPECT_TRUE(run_.Open().ok());
    run_.Create(folder_.path());
    core().Take(Checkin(1, testing::SmallRun::kFirst));
    core().Take(Checkin(2, testing::SmallRun::kSecond));
  }

  static Event Checkin(PollToken token, const char* device) {
    return CheckinEvent{.token = token, .device = DeviceId(device), .local_tasks = {"lora_sft"}};
  }
  // Commits and returns the assignments that were given out.
  std::vector<AssignmentId> Assigned() {
    std::vector<AssignmentId> ids;
    const auto answers = core().Commit();
    EXPECT_TRUE(answers.ok()) << answers.status().ToString();
    if (!answers.ok()) return ids;
    for (const AddressedAnswer& item : *answers) {
      const auto* checkin = std::get_if<v1::CheckinResponse>(&item.answer);
      if (checkin != nullptr && checkin->has_assignment()) ids.emplace_back(checkin->assignment().assignment_id());
    }
    return ids;
  }
  RunCore& core() { return run_.core(); }

 private:
  testing::TempFolder folder_;
  testing::SmallRun run_{folder_.path() / "state"};
};

TEST_F(RunCoreTest, AnAssignmentIsOpenOnceItIsGivenOut) {
  const std::vector<AssignmentId> ids = Assigned();
  ASSERT_EQ(ids.size(), 2u);
  for (const AssignmentId& id : ids) EXPECT_TRUE(core().open_assignments()->Find(id).has_value());
}

TEST_F(RunCoreTest, AnAssignmentGivenOutAndClosedInOneCommitIsNotOpen) {
  core().Take(StopRunEvent{.reason = "enough"});
  const std::vector<AssignmentId> ids = Assigned();
  ASSERT_EQ(ids.size(), 2u);
  for (const AssignmentId& id : ids) EXPECT_FALSE(core().open_assignments()->Find(id).has_value());
}

}  // namespace
}  // namespace heddle::coordinator
