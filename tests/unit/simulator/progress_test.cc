// What the demo's live progress is made of.
#include "simulator/demo/progress.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

namespace heddle::simulator {
namespace {

TEST(Progress, BarIsAsFullAsTheShare) {
  EXPECT_EQ(BarText(0, 10), "[----------]");
  EXPECT_EQ(BarText(0.5, 10), "[#####-----]");
  EXPECT_EQ(BarText(1, 10), "[##########]");
  EXPECT_EQ(BarText(1.7, 4), "[####]");
  EXPECT_EQ(BarText(-1, 4), "[----]");
}

TEST(Progress, TimeAndBytesAreWrittenForPeople) {
  EXPECT_EQ(Minutes(187), "3:07");
  EXPECT_EQ(Minutes(59.6), "1:00");
  EXPECT_EQ(Minutes(-3), "0:00");
  EXPECT_EQ(Minutes(std::nan("")), "-");
  EXPECT_EQ(Minutes(std::numeric_limits<double>::infinity()), "-");
  EXPECT_EQ(Bytes(4'249'000), "4.2 MB");
  EXPECT_EQ(Bytes(1.5e9), "1.50 GB");
}

TEST(Progress, TimeLeftFollowsFromWhatIsDone) {
  const TimeLeft time;
  EXPECT_TRUE(std::isnan(time.Left(0)));
  EXPECT_EQ(time.Left(1), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(time.Left(0.2), 4 * 0.02);  // 4 times what has passed
  EXPECT_GE(time.Left(0.8), 0.02 / 4);
}

TEST(Progress, WithoutATerminalOnlyMilestonesAreLines) {
  testing::internal::CaptureStderr();
  {
    ProgressLine line;
    line.Show("a step", false);
    line.Show("a round", true);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "a round\n");
}

}  // namespace
}  // namespace heddle::simulator
