// The main job by the real programs, made short: what scripts rely on is there, and the simulator commits the same
// model.
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <regex>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/subprocess.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

const std::vector<std::string> kShort = {
    "--set", "strategy.num_server_rounds=2", "--set", "strategy.cohort_size=2",
    "--set", "train.local_steps=1",          "--set", "simulation.devices=[\"law\",\"wisdom\"]"};

class DemoTest : public testing::Test {
 protected:
  int Run(std::vector<std::string> arguments) {
    SubprocessOptions options;
    arguments[0] = (fs::path(HEDDLE_BINARY_DIR) / "bin" / arguments[0]).string();
    options.argv = std::move(arguments);
    options.stdout_file = temp_ / "stdout";
    options.stderr_file = temp_ / "stderr";
    auto process = Subprocess::Start(options);
    if (!process.ok()) throw std::runtime_error(process.status().message());
    return process->WaitFor(Seconds(240)).value_or(-1);
  }
  json::object Json(const std::string& name) { return json::parse(Slurp(temp_ / name)).as_object(); }

  TempDir temp_;
};

TEST_F(DemoTest, LeavesWhatScriptsRelyOnAndTheSimulatorCommitsTheSameAdapter) {
  std::vector<std::string> demo = {"heddle-demo", "--out", (temp_ / "demo").string(), "--source", HEDDLE_SOURCE_DIR};
  demo.insert(demo.end(), kShort.begin(), kShort.end());
  ASSERT_EQ(Run(demo), 0) << Slurp(temp_ / "stderr");
  for (const char* file : {"run.json", "report.html", "checkpoints/round-1/adapter_model.safetensors",
                           "checkpoints/round-2/adapter_config.json"}) {
    EXPECT_TRUE(fs::exists(temp_ / "demo" / file)) << file;
  }
  const std::string history = Slurp(temp_ / "demo/history.jsonl");
  EXPECT_EQ(std::count(history.begin(), history.end(), '\n'), 2);

  // Live progress, of which without a terminal a line remains for each round that ended.
  const std::string shown = Slurp(temp_ / "stderr");
  EXPECT_TRUE(std::regex_search(
      shown, std::regex(R"(\[#{20}\] round 2/2  devices \d at work, \d of 2 done  loss \d\.\d+  )"
                        R"((0\.[1-9]|[1-9]\d*\.\d) MB down, (0\.[1-9]|[1-9]\d*\.\d) MB up  left 0:00)")))
      << shown;

  const json::object summary = Json("demo/summary.json");
  for (const char* key : {"base_perplexity", "local_only_perplexity", "federated_perplexity", "centralised_perplexity",
                          "bytes_down", "bytes_up"}) {
    ASSERT_TRUE(summary.contains(key)) << key;
    EXPECT_GT(summary.at(key).to_number<double>(), 0) << key;
  }
  EXPECT_EQ(summary.at("rounds").to_number<int>(), 2);
  EXPECT_EQ(summary.at("devices").to_number<int>(), 2);
  // The small model before any tuning; its card tells how good it is on other text.
  EXPECT_NEAR(summary.at("base_perplexity").to_number<double>(), 67.8, 0.1);
  EXPECT_LT(summary.at("federated_perplexity").to_number<double>(), 0.99 * summary.at("base_perplexity").as_double());
  const std::string adapter = json::value_to<std::string>(summary.at("adapter_sha256"));
  const auto digest = Sha256File(temp_ / "demo/checkpoints/round-2/adapter_model.safetensors");
  ASSERT_TRUE(digest.ok());
  EXPECT_EQ(adapter, digest->ToHex());
  for (const char* number : {"base_perplexity", "federated_perplexity"}) {  // the table of what was printed
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", summary.at(number).as_double());
    EXPECT_NE(Slurp(temp_ / "stdout").find(text), std::string::npos) << number;
  }

  std::vector<std::string> simulate = {"heddle-simulate", HEDDLE_SOURCE_DIR "/recipes/fedavg-lora.toml", "--out",
                                       (temp_ / "simulated").string()};
  simulate.insert(simulate.end(), kShort.begin(), kShort.end());
  ASSERT_EQ(Run(simulate), 0) << Slurp(temp_ / "stderr");
  const json::object run = Json("demo/run.json"), simulated = Json("simulated/run.json");
  EXPECT_EQ(json::value_to<std::string>(run.at("adapter_sha256")), adapter);
  EXPECT_EQ(simulated.at("adapter_sha256"), run.at("adapter_sha256"));
  EXPECT_EQ(simulated.at("model_sha256"), run.at("model_sha256"));
  EXPECT_NE(run.at("model_sha256"), run.at("adapter_sha256")) << "the model names the momentum of its server";
}

TEST_F(DemoTest, LeavesAFolderAloneThatIsNotADemos) {
  fs::create_directories(temp_ / "mine");
  temp_.Write("mine/letter.txt", "dear anna\n");
  EXPECT_EQ(Run({"heddle-demo", "--out", (temp_ / "mine").string(), "--source", HEDDLE_SOURCE_DIR}), 1);
  EXPECT_NE(Slurp(temp_ / "stderr").find("name another folder with --out"), std::string::npos);
  EXPECT_EQ(Slurp(temp_ / "mine/letter.txt"), "dear anna\n");
}

}  // namespace
}  // namespace heddle
