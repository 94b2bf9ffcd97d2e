// A crowd that is not well-behaved, against the real coordinator over real TLS. The full size is a row of the bench
// (`./run bench --only round-1000-devices`).
#include <gtest/gtest.h>

#include "tests/bench/harness/crowd.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::bench {
namespace {

TEST(Crowd, ARoundWithHostileDevicesCommitsAtItsDeadlineWhatTheOthersSent) {
  TempDir folder;
  Context context;
  context.bin = std::filesystem::path(HEDDLE_BINARY_DIR) / "bin";
  context.source = HEDDLE_SOURCE_DIR;
  CrowdOptions options;
  options.devices = 80;
  options.deadline_s = 4;
  ASSERT_TRUE(AllowDescriptors(300).ok());
  const Result<CrowdRound> round = RunCrowdRound(context, folder / "crowd", options);
  ASSERT_TRUE(round.ok()) << round.status().message();
  EXPECT_EQ(round->vanished, 24);
  EXPECT_EQ(round->refused, 4);
  EXPECT_EQ(round->accepted + round->late, 52);
  EXPECT_GE(round->late, 8);
  EXPECT_GE(round->seconds, options.deadline_s) << "it waits for those who vanished";
}

}  // namespace
}  // namespace heddle::bench
