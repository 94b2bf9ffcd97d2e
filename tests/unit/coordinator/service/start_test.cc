// A coordinator that cannot begin says why in one sentence, and leaves nothing behind.
#include <gmock/gmock.h>

#include "coordinator/store/state_lock.h"
#include "tests/unit/coordinator/service/service_fixture.h"

namespace heddle::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ServiceStartTest : public ServiceTest {
 protected:
  // Another coordinator's settings, whose ports are free ones.
  CoordinatorConfig Other() {
    CoordinatorConfig other = config_;
    other.state_dir = (temp_.path() / "other").string();
    other.listen_port = other.admin_port = 0;
    other.listen_port_file = other.admin_port_file = "";
    return other;
  }
  Status StartOf(const CoordinatorConfig& config) {
    if (const Status made = InitCoordinator(config); !made.ok()) return made;
    ::testing::internal::CaptureStderr();
    const Status status = Service::Start(config, {}).status();
    said_ = ::testing::internal::GetCapturedStderr();
    return status;
  }
  std::string said_;
};

TEST_F(ServiceStartTest, APortThatIsTakenIsToldAtOnce) {
  CoordinatorConfig devices = Other();
  devices.listen_port = service_->device_port();
  const Status taken = StartOf(devices);
  EXPECT_THAT(taken.message(), HasSubstr("listen.address and listen.port"));
  EXPECT_THAT(taken.message(), HasSubstr(std::to_string(devices.listen_port)));
  EXPECT_THAT(said_, Not(HasSubstr("does not end"))) << "the listener that had begun is stopped in order";
  EXPECT_TRUE(LockState(devices.state_dir).ok());

  CoordinatorConfig admin = Other();
  admin.state_dir = (temp_.path() / "third").string();
  admin.admin_port = service_->admin_port();
  EXPECT_THAT(StartOf(admin).message(), HasSubstr("admin.address and admin.port"));
  EXPECT_THAT(said_, Not(HasSubstr("does not end")));
}

TEST_F(ServiceStartTest, AStateFolderIsOfOneCoordinator) {
  CoordinatorConfig same = Other();
  same.state_dir = config_.state_dir;
  const Status second = Service::Start(same, {}).status();
  EXPECT_EQ(second.code(), Code::kFailedPrecondition);
  EXPECT_THAT(second.message(), HasSubstr("another coordinator uses"));
  service_->Stop();
  EXPECT_TRUE(LockState(config_.state_dir).ok());
}

}  // namespace
}  // namespace heddle::coordinator
