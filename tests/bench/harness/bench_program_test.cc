// The program that measures, run as people run it, on its cheapest row. Whether targets are met is not tested here.
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>

#include "common/file.h"
#include "common/subprocess.h"

namespace heddle::bench {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::string Contents(const fs::path& path) {
  auto text = ReadFile(path);
  return text.ok() ? *text : "";
}

class BenchProgram : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("heddle-bench-test-" + std::to_string(::getpid()));
    ASSERT_TRUE(MakeDirectories(folder_).ok());
  }
  void TearDown() override { fs::remove_all(folder_); }

  int Run(const std::vector<std::string>& arguments) {
    SubprocessOptions options;
    options.argv = {std::string(HEDDLE_BINARY_DIR) + "/bin/heddle_bench", "--work", folder_ / "work", "--demo",
                    folder_ / "demo"};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    options.stdout_file = folder_ / "out";
    options.stderr_file = folder_ / "err";
    auto program = Subprocess::Start(options);
    if (!program.ok()) return -1;
    return program->Wait();
  }
  std::string Text(const std::string& name) { return Contents(folder_ / name); }

  fs::path folder_;
};

TEST_F(BenchProgram, WritesItsRowsAsJson) {
  ASSERT_EQ(Run({"--only", "fold-rate", "--json", folder_ / "rows.json"}), 0) << Text("err");
  const json::value rows = json::parse(Text("rows.json"));
  ASSERT_EQ(rows.as_array().size(), 1U);
  const json::object& row = rows.as_array()[0].as_object();
  ASSERT_EQ(row.size(), 6U);
  EXPECT_EQ(row.at("id"), "fold-rate");
  EXPECT_EQ(row.at("unit"), "ratio");
  EXPECT_EQ(row.at("better"), "higher");
  EXPECT_EQ(row.at("target").to_number<double>(), 0.5);
  const double value = row.at("value").to_number<double>();
  EXPECT_GT(value, 0);
  EXPECT_EQ(row.at("pass").as_bool(), value >= 0.5);
}

TEST_F(BenchProgram, ReadsWhatTheDemoLeft) {
  fs::create_directories(folder_ / "demo");
  ASSERT_TRUE(WriteFileAtomically(folder_ / "demo" / "summary.json",
                                  R"({"base_perplexity": 40.0, "local_only_perplexity": 25.0,
                                      "federated_perplexity": 20, "centralised_perplexity": 16.0})")
                  .ok());
  ASSERT_EQ(Run({"--only", "quality-central", "--json", folder_ / "rows.json"}), 0) << Text("err");
  const json::value rows = json::parse(Text("rows.json"));
  ASSERT_EQ(rows.as_array().size(), 1U);
  EXPECT_DOUBLE_EQ(rows.as_array()[0].at("value").to_number<double>(), 1.25);
  EXPECT_FALSE(rows.as_array()[0].at("pass").as_bool()) << "a missed target is said, and is no failure of the program";
}

TEST_F(BenchProgram, SkipsWhatNeedsADemoBeforeThereWasOne) {
  ASSERT_EQ(Run({"--only", "quality-base", "--json", folder_ / "rows.json"}), 0) << Text("err");
  EXPECT_TRUE(json::parse(Text("rows.json")).as_array().empty());
  EXPECT_NE(Text("out").find("./run demo"), std::string::npos);
}

TEST_F(BenchProgram, FailsWhenAMeasurementFails) {
  fs::create_directories(folder_ / "demo");
  ASSERT_TRUE(WriteFileAtomically(folder_ / "demo" / "summary.json", "{}").ok());
  EXPECT_EQ(Run({"--only", "quality-base"}), 1);
  EXPECT_NE(Text("err").find("base_perplexity"), std::string::npos) << Text("err");
}

TEST_F(BenchProgram, RefusesNamesItDoesNotKnow) {
  EXPECT_EQ(Run({"--only", "fold-rat"}), 2);
  EXPECT_NE(Text("err").find("fold-rate"), std::string::npos) << "the names that exist are given";
  EXPECT_EQ(Run({"--group", "nothing"}), 2);
  EXPECT_NE(Text("err").find("spine"), std::string::npos);
  EXPECT_EQ(Run({"--nonsense"}), 2);
}

}  // namespace
}  // namespace heddle::bench
