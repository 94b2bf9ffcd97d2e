// The bench's rows of load and endurance in small, against the real coordinator over real TLS. The full sizes are
// `./run bench --only small-updates` and `./run bench --only soak-memory`.
#include "tests/bench/harness/load.h"

#include <gtest/gtest.h>

#include "tests/bench/harness/soak.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::bench {
namespace {

Context ContextOfThisBuild() {
  Context context;
  context.bin = std::filesystem::path(HEDDLE_BINARY_DIR) / "bin";
  context.source = HEDDLE_SOURCE_DIR;
  return context;
}

// A verdict that is not "accepted" is an error of SendSmallUpdates.
TEST(SmallUpdates, EachIsAcceptedAndCountedInTheRoundThatItIsOf) {
  TempDir folder;
  const SmallUpdateOptions options{.devices = 16, .rounds = 3};
  const Result<SmallUpdates> load = SendSmallUpdates(ContextOfThisBuild(), folder / "small", options);
  ASSERT_TRUE(load.ok()) << load.status().message();
  EXPECT_EQ(load->committed_rounds, 3) << "none was abandoned and tried again";
  EXPECT_EQ(load->accepted, 3 * 16);
  EXPECT_EQ(load->measured, 2 * 16) << "the first round is not measured";
}

// What is forgotten once a round, or once an update, comes to 80 or more over the rounds that are looked at. Memory is
// the bench's: over so few rounds caches still fill, and sanitizers keep what was freed.
TEST(Soak, NeitherDescriptorsNorThreadsGrowWithTheRounds) {
  TempDir folder;
  const SoakOptions options{.devices = 4, .rounds = 100, .settled = 20, .every = 10};
  const Result<SoakFindings> soak = RunSoak(ContextOfThisBuild(), folder / "soak", options);
  ASSERT_TRUE(soak.ok()) << soak.status().message();
  EXPECT_GT(soak->settled.resident_bytes, 1e6) << "it was looked at";
  EXPECT_GT(soak->settled.descriptors, 2);
  EXPECT_GT(soak->settled.threads, 0);
  EXPECT_LE(soak->most.descriptors, soak->settled.descriptors + 8);
  EXPECT_LE(soak->most.threads, soak->settled.threads + 8);
}

}  // namespace
}  // namespace heddle::bench
