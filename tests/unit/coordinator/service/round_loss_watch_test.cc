#include "coordinator/service/round_loss_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <vector>

#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "tests/unit/coordinator/store/temp_folder.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The rounds, from 1, that a stall begins with.
std::vector<int> StallsOf(int rounds, const std::function<double(int round)>& loss) {
  RoundLossWatch watch;
  std::vector<int> stalls;
  for (int round = 1; round <= rounds; ++round) {
    if (watch.Add(loss(round))) stalls.push_back(round);
  }
  return stalls;
}

// Between -0.5 and 0.5, of the rounds of one seed.
std::function<double(int round)> Noise(uint64_t seed) {
  return [random = PhiloxStream(seed)](int) mutable { return static_cast<double>(random.NextUniform()) - 0.5; };
}

TEST(RoundLossWatch, ALossThatStandsStillIsToldOnce) {
  EXPECT_THAT(StallsOf(200, [](int) { return 2.5; }), ElementsAre(16));
  EXPECT_THAT(StallsOf(15, [](int) { return 2.5; }), IsEmpty()) << "too few to say";
  EXPECT_THAT(StallsOf(200, [](int round) { return 2 + 0.01 * round; }), ElementsAre(16)) << "it rises";
}

TEST(RoundLossWatch, ALossThatFallsIsNoStall) {
  EXPECT_THAT(StallsOf(200, [](int round) { return 2.5 - 0.001 * round; }), IsEmpty());
  EXPECT_THAT(StallsOf(200, [](int round) { return 1 / std::sqrt(round); }), IsEmpty());
}

TEST(RoundLossWatch, NoiseHidesNeitherAStallNorAFall) {
  int stalled = 0, falling = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    // Falls by the noise's width in ten rounds; or not at all.
    falling += StallsOf(64, [noise = Noise(seed)](int round) { return 5 - round / 10.0 + noise(round); }).empty();
    stalled += !StallsOf(64, [noise = Noise(seed)](int round) { return 5 + noise(round); }).empty();
  }
  EXPECT_GE(falling, 90);
  EXPECT_EQ(stalled, 100);
}

TEST(RoundLossWatch, AStallThatComesAgainIsToldAgain) {
  const auto loss = [](int round) {
    return round > 80 && round <= 160 ? 3 - 0.01 * (round - 80) : round > 160 ? 2 : 3;
  };
  const std::vector<int> stalls = StallsOf(300, loss);
  ASSERT_EQ(stalls.size(), 2U);
  EXPECT_EQ(stalls[0], 16);
  EXPECT_GT(stalls[1], 160);
  EXPECT_LE(stalls[1], 160 + 48);
}

TEST(RoundLossWatch, RoundsWithoutALossDoNotCount) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(StallsOf(64, [&](int round) { return round % 2 == 0 ? nan : 2.5; }), ElementsAre(31));
  EXPECT_THAT(StallsOf(64, [&](int) { return nan; }), IsEmpty());
  EXPECT_THAT(StallsOf(64, [&](int round) { return round % 2 == 0 ? nan : 5 - 0.01 * round; }), IsEmpty());
}

TEST(RoundLossWatch, SaysWhatTheLossesWereAndWhatToTry) {
  RoundLossWatch watch;
  for (int round = 0; round < 16; ++round) watch.Add(round < 8 ? 2 : 3);
  EXPECT_EQ(watch.Sentence(true),
            "the training loss does not fall: 2.000000 in the first half of the last 16 committed rounds, 3.000000 in "
            "the second; unless the run has learnt what it can, another train.learning_rate, another zo.zo_eps or more "
            "zo.num_perturbations may help");
  EXPECT_THAT(watch.Sentence(false), ::testing::EndsWith("another train.learning_rate may help"));
}

// Through the code that the coordinator and the simulator share; each device of the run always tells a loss of 2.5.
TEST(RoundLossWatch, ARunThatStallsWarnsOnceWhateverIsRestarted) {
  testing::TempFolder folder;
  const auto log = folder.path() / "log";
  LogOptions options;
  options.level = "warning";
  options.file = log.string();
  ASSERT_TRUE(InitLogging(options).ok());
  testing::SmallRun run(folder.path() / "state");
  ASSERT_TRUE(run.Open().ok());
  run.Create(folder.path(), {{"strategy.num_server_rounds", "100"}});
  for (int round = 1; round <= 70; ++round) {
    // In the middle of a window, on its edge, right after the warning.
    if (round == 5 || round == 16 || round == 17 || round == 65) run.Resume();
    run.Round();
    EXPECT_EQ(run.core().Progress().loss_stalled, round >= 16) << round;
  }
  run.Resume();
  EXPECT_TRUE(run.core().Progress().loss_stalled);
  ASSERT_TRUE(InitLogging({}).ok());
  const Result<std::string> text = ReadFile(log);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("the training loss does not fall: 2.500000 in the first half of the last 16 committed"));
  EXPECT_EQ(text->find("does not fall"), text->rfind("does not fall")) << *text;
}

}  // namespace
}  // namespace heddle::coordinator
