// The eligibility hook: commands, files, time limits.
#include "client/daemon/eligibility.h"

#include <gmock/gmock.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <fstream>
#include <thread>

#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::client {
namespace {

namespace asio = boost::asio;
using protocol::TempDir;

Eligible Check(const EligibilityOptions& options) {
  asio::io_context io;
  Eligible result;
  asio::co_spawn(io, CheckEligibility(options), [&](std::exception_ptr, Eligible found) { result = found; });
  io.run();
  return result;
}

// As /proc tells it; 0: there is no such process.
char StateOf(int pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/stat");
  std::string number, name;
  char state = 0;
  return status >> number >> name >> state ? state : char{0};
}

TEST(Eligibility, WithoutAHookTheDeviceMayAlwaysTrain) { EXPECT_TRUE(Check({}).eligible); }

TEST(Eligibility, CommandSpeaksThroughItsExitStatus) {
  EXPECT_TRUE(Check({.command = "true"}).eligible);
  const Eligible no = Check({.command = "exit 3"});
  EXPECT_FALSE(no.eligible);
  EXPECT_THAT(no.reason, testing::HasSubstr("3"));
  EXPECT_FALSE(Check({.command = "kill -9 $$"}).eligible);
  EXPECT_FALSE(Check({.command = "/nonexistent/command"}).eligible);
  EXPECT_TRUE(Check({.command = "test 1 -lt 2 && echo printed"}).eligible);
}

TEST(Eligibility, CommandThatHangsCountsAsNo) {
  const Eligible no = Check({.command = "exec sleep 1000", .time_limit = Seconds(0.05)});
  EXPECT_FALSE(no.eligible);
  EXPECT_THAT(no.reason, testing::HasSubstr("time limit"));
}

// What it started is ended with it: a hook that hangs at each check would fill the device's process table.
TEST(Eligibility, CommandThatHangsLeavesNoProcessBehind) {
  TempDir temp;
  const std::string child = (temp.path() / "child").string();
  EXPECT_FALSE(Check({.command = "sleep 1000 & echo $! > " + child + "; wait", .time_limit = Seconds(0.2)}).eligible);
  int pid = 0;
  ASSERT_TRUE(std::ifstream(child) >> pid);
  // The system's first process reaps it: until then it is there as a zombie.
  for (int i = 0; i < 500 && StateOf(pid) != 'Z' && StateOf(pid) != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_THAT(StateOf(pid), testing::AnyOf('Z', 0));
}

TEST(Eligibility, FileSpeaksThroughItsExistence) {
  TempDir temp;
  const auto file = temp.path() / "may-train";
  EXPECT_FALSE(Check({.file = file}).eligible);
  std::ofstream(file) << "";
  EXPECT_TRUE(Check({.file = file}).eligible);
  EXPECT_FALSE(Check({.command = "false", .file = file}).eligible) << "both must agree";
}

TEST(Eligibility, WatchTellsEachCheckUntilItIsCancelled) {
  TempDir temp;
  const auto file = temp.path() / "may-train";
  asio::io_context io;
  asio::cancellation_signal stop;
  std::vector<bool> told;
  asio::co_spawn(io,
                 WatchEligibility({.file = file, .interval = Seconds(0.001)},
                                  [&](const Eligible& found) {
                                    told.push_back(found.eligible);
                                    if (told.size() == 3) std::ofstream(file) << "";
                                    if (told.size() == 6) stop.emit(asio::cancellation_type::terminal);
                                  }),
                 asio::bind_cancellation_slot(stop.slot(), [](std::exception_ptr) {}));
  io.run();  // returns only when the watch has ended
  ASSERT_GE(told.size(), 6u);
  EXPECT_EQ(std::vector<bool>(told.begin(), told.begin() + 6),
            (std::vector<bool>{false, false, false, true, true, true}));
}

TEST(Eligibility, WatchWithoutAHookTellsOnce) {
  asio::io_context io;
  int told = 0;
  asio::co_spawn(io, WatchEligibility({}, [&](const Eligible& found) { told += found.eligible ? 1 : 100; }),
                 [](std::exception_ptr) {});
  io.run();
  EXPECT_EQ(told, 1);
}

}  // namespace
}  // namespace heddle::client
