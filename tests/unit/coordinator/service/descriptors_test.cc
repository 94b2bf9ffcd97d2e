// The limit of descriptors is the process's, so each case looks at it in a child of its own.
#include "coordinator/service/descriptors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace heddle::coordinator {
namespace {

// Runs `body` in a child whose limits are these; what it returns is its exit status.
int InChild(rlim_t soft, rlim_t hard, const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{soft, hard};
    ::_exit(::setrlimit(RLIMIT_NOFILE, &limit) == 0 ? body() : 99);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

rlim_t Soft() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

TEST(Descriptors, TheSoftLimitIsRaisedAsFarAsTheConnectionsNeed) {
  EXPECT_EQ(InChild(64, 4096,
                    [] {
                      const auto connections = ReserveDescriptors(1000);
                      return connections.ok() && *connections == 1000 && Soft() == 2 * 1000 + kOwnDescriptors ? 0 : 1;
                    }),
            0);
}

TEST(Descriptors, AHigherLimitStaysAsItIs) {
  EXPECT_EQ(InChild(4000, 4096,
                    [] {
                      const auto connections = ReserveDescriptors(1000);
                      return connections.ok() && *connections == 1000 && Soft() == 4000 ? 0 : 1;
                    }),
            0);
}

TEST(Descriptors, ALowHardLimitLeavesAsManyConnectionsAsItHasRoomFor) {
  EXPECT_EQ(InChild(64, 1024,
                    [] {
                      const auto connections = ReserveDescriptors(10'000);
                      return connections.ok() && *connections == 1024 - kOwnDescriptors && Soft() == 1024 ? 0 : 1;
                    }),
            0);
}

TEST(Descriptors, AHardLimitWithRoomForNoDeviceIsSaidWithWhatToDo) {
  EXPECT_EQ(InChild(64, 256,
                    [] {
                      const Status status = ReserveDescriptors(10'000).status();
                      return status.code() == Code::kResourceExhausted &&
                                     status.message().find("LimitNOFILE") != std::string::npos
                                 ? 0
                                 : 1;
                    }),
            0);
}

}  // namespace
}  // namespace heddle::coordinator
