// Sweeps: the combinations, the seeds, and the arithmetic of means and spreads.
#include "simulator/sweep/sweep.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>

#include "tests/unit/common/temp_dir.h"

namespace heddle::simulator {
namespace {

namespace json = boost::json;

TEST(Sweep, EveryCombinationIsACellAndListsStayWhole) {
  const auto cells = MakeCells({"strategy.name=FedAvg,FLoRA", R"(lora.target_modules=["query","value"],["query"])"});
  ASSERT_TRUE(cells.ok()) << cells.status();
  ASSERT_EQ(cells->size(), 4U);
  EXPECT_EQ((*cells)[0].overrides.at("strategy.name"), "FedAvg");
  EXPECT_EQ((*cells)[0].overrides.at("lora.target_modules"), R"(["query","value"])");
  EXPECT_EQ((*cells)[1].overrides.at("lora.target_modules"), R"(["query"])");
  EXPECT_EQ((*cells)[3].name, R"(strategy.name=FLoRA lora.target_modules=["query"])");
  EXPECT_EQ(MakeCells({"lora.rank_pattern={up_proj=2, down_proj=4},{}"})->size(), 2U);
  ASSERT_EQ(MakeCells({})->size(), 1U);
  EXPECT_TRUE(MakeCells({})->front().overrides.empty());
}

TEST(Sweep, WhatCannotBeVariedIsRefused) {
  for (const std::vector<std::string>& vary : std::vector<std::vector<std::string>>{
           {"lora.r"}, {"=4"}, {"lora.r="}, {"lora.r=4,,8"}, {"lora.r=4", "lora.r=8"}, {"seed=1,2"}}) {
    EXPECT_EQ(MakeCells(vary).status().code(), Code::kInvalidArgument) << vary[0];
  }
  std::string hundred = "=1";
  for (int i = 2; i <= 101; ++i) hundred += "," + std::to_string(i);
  EXPECT_FALSE(MakeCells({"a" + hundred, "b" + hundred}).ok());
}

TEST(Sweep, SeedsAreNumbersAndRanges) {
  EXPECT_EQ(*ParseSeeds("3"), (std::vector<uint64_t>{3}));
  EXPECT_EQ(*ParseSeeds("7,1-3"), (std::vector<uint64_t>{7, 1, 2, 3}));
  for (const char* wrong : {"", "a", "1,", "1-", "3-1", "1,1", "2,1-3", "1-5000", "-1", "0-18446744073709551615"}) {
    EXPECT_EQ(ParseSeeds(wrong).status().code(), Code::kInvalidArgument) << wrong;
  }
  EXPECT_EQ(*ParseSeeds("18446744073709551615"), (std::vector<uint64_t>{18446744073709551615U}));
}

std::vector<SweepRun> Runs() {
  return {{0, 1, {{"accuracy", 0.8}, {"loss", 2.0}}, ""},
          {0, 2, {{"accuracy", 0.9}, {"loss", 4.0}}, ""},
          {0, 3, {{"accuracy", 0.7}, {"loss", NAN}}, ""},
          {1, 1, {{"accuracy", 0.5}}, ""},
          {1, 2, {}, "it broke"}};
}

TEST(Sweep, RunsOfAnEarlierSweepAreReplacedAndOthersRefused) {
  const TempDir out;
  EXPECT_TRUE(CheckOldRuns(out / "new", 2, {1}).ok());
  for (const size_t cell : {0, 1}) {
    for (const uint64_t seed : {1, 2}) std::filesystem::create_directories(FolderOf(out.path(), cell, seed));
  }
  out.Write("sweep.json", "{}");
  EXPECT_TRUE(CheckOldRuns(out.path(), 2, {1, 2}).ok());
  EXPECT_TRUE(CheckOldRuns(out.path(), 3, {1, 2, 3}).ok());
  const auto refused = [&](size_t cells, const std::vector<uint64_t>& seeds) {
    const Status status = CheckOldRuns(out.path(), cells, seeds);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    return status.message();
  };
  EXPECT_EQ(refused(2, {1}).find((out / "cell-1/seed-2").string()), 0U);
  EXPECT_EQ(refused(1, {1, 2}).find((out / "cell-2/seed-1").string()), 0U);
}

TEST(Sweep, SpreadsAreThoseOfASample) {
  const Spread accuracy = SpreadOf(Runs(), 0, "accuracy");
  EXPECT_EQ(accuracy.runs, 3U);
  EXPECT_NEAR(accuracy.mean, 0.8, 1e-12);
  EXPECT_NEAR(accuracy.deviation, 0.1, 1e-12);
  EXPECT_EQ(accuracy.least, 0.7);
  EXPECT_EQ(accuracy.most, 0.9);
  EXPECT_EQ(SpreadOf(Runs(), 0, "loss").runs, 2U) << "what is no number does not count";
  EXPECT_EQ(SpreadOf(Runs(), 1, "loss").runs, 0U);
  EXPECT_TRUE(std::isnan(SpreadOf(Runs(), 1, "accuracy").deviation)) << "one run has no spread";
}

TEST(Sweep, TheTableHasALineACellAndTellsWhatFailed) {
  const auto cells = *MakeCells({"lora.r=4,8"});
  EXPECT_EQ(SweepTable(cells, Runs()),
            "settings  runs   accuracy       loss\n"
            "lora.r=4     3  0.8 ± 0.1  3 ± 1.414\n"
            "lora.r=8     1        0.5          -\n"
            "lora.r=8 seed=2: it broke\n");
}

TEST(Sweep, JsonHasTheSameFiguresAndEveryRun) {
  const json::object all = json::parse(SweepJson(*MakeCells({"lora.r=4,8"}), Runs())).as_object();
  const json::object& cell = all.at("cells").as_array().at(0).as_object();
  EXPECT_EQ(cell.at("settings").at("lora.r"), "4");
  EXPECT_NEAR(cell.at("figures").at("accuracy").at("deviation").as_double(), 0.1, 1e-12);
  ASSERT_EQ(all.at("runs").as_array().size(), 5U);
  EXPECT_TRUE(all.at("runs").as_array().at(2).at("figures").at("loss").is_null());
  EXPECT_EQ(all.at("runs").as_array().at(4).at("error"), "it broke");
}

}  // namespace
}  // namespace heddle::simulator
