// The load of many devices that check in at a steady rate, in small. The full size is a row of the bench
// (`./run bench --only checkin-p99`).
#include "tests/bench/harness/checkins.h"

#include <gtest/gtest.h>

#include "tests/unit/common/temp_dir.h"

namespace heddle::bench {
namespace {

TEST(Checkins, EveryDeviceIsConnectedAndNoneIsRefusedWhoDidNotAskForIt) {
  TempDir folder;
  Context context;
  context.bin = std::filesystem::path(HEDDLE_BINARY_DIR) / "bin";
  context.source = HEDDLE_SOURCE_DIR;
  constexpr int kDevices = 300;
  const Result<CheckinLoad> load = RunCheckinLoad(context, folder / "checkins", kDevices);
  ASSERT_TRUE(load.ok()) << load.status().message();
  EXPECT_EQ(load->connected, kDevices);
  EXPECT_EQ(load->measured, 2 * kDevices);
  EXPECT_EQ(load->resumed, 1) << "each connection after a device's first";
  EXPECT_GT(load->per_s, 0);
  EXPECT_GT(load->p99_ms, 0);
  EXPECT_GT(load->memory_mb, 1);
}

}  // namespace
}  // namespace heddle::bench
