// What simulated tasks cost: the sums, against sums done by hand, and the line of history that they join.
#include "simulator/world/meter.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>

#include "tests/unit/common/temp_dir.h"

namespace heddle::simulator {
namespace {

namespace json = boost::json;

coordinator::DeviceProfile Phone() {
  return {.name = "phone",
          .share = 1,
          .seconds_per_step = 2,
          .download_bytes_per_s = 1000,
          .upload_bytes_per_s = 250,
          .watts = 4,
          .radio_watts = 1.5};
}

TEST(Meter, ComputingAndTransferCostTimeAndEnergy) {
  const DeviceCost cost = CostOf(Phone(), 10, 640, 3000, 500);
  EXPECT_DOUBLE_EQ(cost.transfer_seconds, 3000.0 / 1000 + 500.0 / 250);
  EXPECT_DOUBLE_EQ(cost.compute_joules, 40);
  EXPECT_DOUBLE_EQ(cost.radio_joules, 7.5);
  EXPECT_DOUBLE_EQ(cost.Granularity(), 10.0 / 5);
  // Tokens per second, per watt.
  EXPECT_DOUBLE_EQ(cost.TokensPerJoule(), 640.0 / 10 / 4);
  DeviceCost both = cost;
  both.Add(CostOf(Phone(), 5, 160, 0, 0));
  EXPECT_EQ(both.tasks, 2U);
  EXPECT_EQ(both.tokens, 800U);
  EXPECT_DOUBLE_EQ(both.Granularity(), 15.0 / 5);
  EXPECT_DOUBLE_EQ(both.TokensPerJoule(), 800.0 / 60);
  // Memory does not add up: one task runs at a time.
  EXPECT_FALSE(json::parse("{" + CostJson(both) + "}").as_object().contains("memory_bytes"));
  DeviceCost large;
  large.memory_bytes = 700;
  both.memory_bytes = 500;
  both.Add(large);
  EXPECT_EQ(json::parse("{" + CostJson(both) + "}").as_object().at("memory_bytes").to_number<double>(), 700);
}

TEST(Meter, WithoutRatesAndWattsTheRatiosMeanNothingAndAreLeftOut) {
  const DeviceCost cost = CostOf({}, 10, 640, 3000, 500);
  EXPECT_EQ(cost.transfer_seconds, 0);
  EXPECT_TRUE(std::isnan(cost.Granularity()));
  EXPECT_TRUE(std::isnan(cost.TokensPerJoule()));
  const json::object all = json::parse("{" + CostJson(cost) + "}").as_object();
  EXPECT_EQ(all.at("compute_seconds").to_number<double>(), 10);
  EXPECT_FALSE(all.contains("granularity"));
  EXPECT_FALSE(all.contains("tokens_per_joule"));
  EXPECT_TRUE(json::parse("{" + CostJson(CostOf(Phone(), 1, 1, 1, 1)) + "}").as_object().contains("granularity"));
}

TEST(Meter, FiguresJoinTheLastLineOfTheHistory) {
  const TempDir folder;
  const std::string path = folder.Write("history.jsonl", "{\"round\":1}\n{\"round\":2}\n").string();
  ASSERT_TRUE(AddToLastLine(path, "\"a\":1,\"b\":2").ok());
  EXPECT_EQ(Slurp(path), "{\"round\":1}\n{\"round\":2,\"a\":1,\"b\":2}\n");
  ASSERT_TRUE(AddToLastLine(path, "").ok());
  EXPECT_EQ(Slurp(path), "{\"round\":1}\n{\"round\":2,\"a\":1,\"b\":2}\n");
  EXPECT_EQ(AddToLastLine((folder / "absent").string(), "\"a\":1").code(), Code::kNotFound);
  for (const char* torn : {"", "{\"round\":1", "[]\n"}) {
    EXPECT_EQ(AddToLastLine(folder.Write("torn", torn).string(), "\"a\":1").code(), Code::kFailedPrecondition) << torn;
  }
}

}  // namespace
}  // namespace heddle::simulator
