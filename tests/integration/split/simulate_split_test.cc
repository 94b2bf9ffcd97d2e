// heddle-simulate-split as a person runs it: what it prints and leaves behind, and what it says of mistakes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <sstream>

#include "common/subprocess.h"
#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

namespace json = boost::json;
using testing::HasSubstr;

class SimulateSplit : public testing::Test {
 protected:
  struct Ended {
    int status = -1;
    std::string out, said;
  };

  SimulateSplit() {
    std::ofstream(PathOf("plan.toml")) << kPlan;
    std::ofstream(PathOf("heldout.txt")) << model::SampleText(2000, 9);
  }
  std::string PathOf(const std::string& name) const { return (world_.folder() / name).string(); }

  Ended Run(const std::vector<std::string>& arguments) {
    const std::string out = PathOf("stdout"), said = PathOf("stderr");
    std::filesystem::remove(out);
    std::filesystem::remove(said);
    std::vector<std::string> argv = {std::string(HEDDLE_BINARY_DIR) + "/bin/heddle-simulate-split"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    auto process = Subprocess::Start({.argv = argv, .stderr_file = said, .stdout_file = out});
    EXPECT_TRUE(process.ok()) << process.status();
    if (!process.ok()) return {};
    const auto status = process->WaitFor(Seconds(100));
    return {status.value_or(-1), *ReadFile(out), *ReadFile(said)};
  }
  std::vector<std::string> Good(const std::string& folder) const {
    return {PathOf("plan.toml"),
            "--folder",
            PathOf(folder),
            "--device",
            "device-0=" + PathOf("device-0.txt"),
            "--device",
            "device-1=" + PathOf("device-1.txt"),
            "--test",
            PathOf("heldout.txt"),
            "--set",
            "split.server=per_device"};
  }
  static std::vector<json::object> Lines(const std::string& out) {
    std::vector<json::object> lines;
    std::istringstream text(out);
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line).as_object());
    return lines;
  }
  static double Number(const json::object& line, const char* key) { return line.at(key).to_number<double>(); }

  // The same plan and data, in this process; whose outcome does not depend on who is first.
  SplitWorld world_{Settings{{"split.server", "per_device"}}};
};

TEST_F(SimulateSplit, PrintsALineARoundAndLeavesWhatTheMachinesMakeInThisProcess) {
  const Ended ended = Run(Good("first"));
  ASSERT_EQ(ended.status, 0) << ended.said;
  const std::vector<json::object> lines = Lines(ended.out);
  ASSERT_EQ(lines.size(), 3U) << ended.out;
  for (size_t round = 0; round < lines.size(); ++round) {
    const json::object& line = lines[round];
    EXPECT_EQ(Number(line, "round"), round);
    EXPECT_EQ(Number(line, "steps"), round * 2 * 3) << "two devices, three steps";
    EXPECT_EQ(Number(line, "examples") > 0, round > 0);
    EXPECT_NEAR(Number(line, "perplexity"), std::exp(Number(line, "test_loss")),
                1e-3 * std::exp(Number(line, "test_loss")));
    // Four tensors of 3 x 16 tokens of 32 float32 cross the cut in a step: two up, two down.
    const double tensors = static_cast<double>(round) * 2 * 3 * 2 * 3 * 16 * 32 * 4;
    for (const char* way : {"bytes_up", "bytes_down"}) {
      EXPECT_GE(Number(line, way), tensors);
      EXPECT_LE(Number(line, way), 1.05 * tensors);
    }
  }
  EXPECT_LT(Number(lines[2], "test_loss"), Number(lines[0], "test_loss"));

  world_.OneAfterTheOther();
  StateDict left;
  for (const char* part : {"device", "server"}) {
    const auto made = ReadSafetensors(PathOf("first/round-2/" + std::string(part) + ".safetensors"));
    ASSERT_TRUE(made.ok()) << made.status();
    left.insert(made->tensors.begin(), made->tensors.end());
  }
  ExpectSameBits(left, world_.Outcome());

  EXPECT_EQ(Run(Good("second")).out, ended.out) << "a run replays";
}

TEST_F(SimulateSplit, SettingsGoOverTheFile) {
  auto arguments = Good("other");
  for (const char* setting :
       {"rounds=1", "split.topology=label_sharing", "split.encoding=bf16", "privacy.distance_correlation=true"}) {
    arguments.insert(arguments.end(), {"--set", setting});
  }
  const Ended ended = Run(arguments);
  ASSERT_EQ(ended.status, 0) << ended.said;
  const std::vector<json::object> lines = Lines(ended.out);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_GT(Number(lines[1], "distance_correlation"), 0);
  EXPECT_LE(Number(lines[1], "distance_correlation"), 1);
  // One tensor of two bytes an element each way, and masks, segments and targets up.
  const double tensor = 2.0 * 3 * 3 * 16 * 32 * 2;
  EXPECT_GE(Number(lines[1], "bytes_down"), tensor);
  EXPECT_LE(Number(lines[1], "bytes_down"), 1.1 * tensor);
}

TEST_F(SimulateSplit, SaysWhatIsWrongInOneSentence) {
  const auto expect = [&](const std::vector<std::string>& arguments, const std::string& what) {
    const Ended ended = Run(arguments);
    EXPECT_EQ(ended.status, 1) << what;
    EXPECT_THAT(ended.said, testing::StartsWith("heddle-simulate-split: "));
    EXPECT_THAT(ended.said, HasSubstr(what));
    EXPECT_LE(std::count(ended.said.begin(), ended.said.end(), '\n'), 3) << ended.said;
  };
  const auto with = [&](const std::string& setting) {
    auto arguments = Good("other");
    arguments.insert(arguments.end(), {"--set", setting});
    return arguments;
  };
  auto nowhere = Good("other");
  nowhere[0] = PathOf("nowhere.toml");
  expect(nowhere, "nowhere.toml");
  expect(with("split.cutt=1"), "split.cut");
  expect(with("split.cut=7"), "cut");
  expect(with("base_model=nowhere"), "nowhere");
  expect(with("split.memory_limit_mb=0.01"), "split.memory_limit_mb");
  expect(with("strategy.name=NoSuchMethod"), "NoSuchMethod");
  auto unknown = Good("other");
  unknown.insert(unknown.end(), {"--compute-device", "tpu"});
  expect(unknown, "there is no device 'tpu'");
  expect(with("devices_per_round=3"), "a round needs 3 devices, and there are 2");
  auto no_data = Good("other");
  no_data[4] = "device-0=" + PathOf("nothing.txt");
  expect(no_data, "nothing.txt");
}

}  // namespace
}  // namespace heddle
