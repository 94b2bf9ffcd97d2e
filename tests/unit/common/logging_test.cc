#include "common/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace json = boost::json;

class Logging : public ::testing::Test {
 protected:
  ~Logging() override { EXPECT_TRUE(InitLogging({}).ok()); }
  void Start(const std::string& format, const std::string& level = "debug") {
    Status status = InitLogging({.level = level, .format = format, .file = (dir_ / "log").string()});
    ASSERT_TRUE(status.ok()) << status;
  }
  std::vector<std::string> Lines() {
    std::ifstream in(dir_ / "log");
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  std::string OnlyLine() {
    auto lines = Lines();
    EXPECT_EQ(lines.size(), 1U);
    return lines.empty() ? "" : lines[0];
  }
  TempDir dir_;
};

TEST_F(Logging, AJsonLineIsAnObjectWithTheEventAndItsFields) {
  Start("json");
  Log(Severity::kWarning, "round committed",
      {{"run_id", "r-1"}, {"round", 3}, {"loss", 0.25}, {"final", true}, {"seed", ~uint64_t{0}}, {"delta", -5}});
  json::object line = json::parse(OnlyLine()).as_object();
  EXPECT_EQ(line.at("event"), json::value("round committed"));
  EXPECT_EQ(line.at("level"), json::value("warning"));
  EXPECT_EQ(line.at("run_id"), json::value("r-1"));
  EXPECT_EQ(line.at("round"), json::value(3));
  EXPECT_EQ(line.at("loss"), json::value(0.25));
  EXPECT_EQ(line.at("final"), json::value(true));
  EXPECT_EQ(line.at("seed").to_number<uint64_t>(), ~uint64_t{0});
  EXPECT_EQ(line.at("delta"), json::value(-5));
  EXPECT_GT(line.at("time").to_number<double>(), 1.6e9);
}

TEST_F(Logging, TextOfAPeerCannotBreakOutOfAJsonLine) {
  Start("json");
  std::string hostile = "a\"b\\c\nd\re\tf\x01\x1B[31m{}%s";
  Log(Severity::kInfo, "refused", {{"reason", hostile}, {"key \"quoted\"", "x"}});
  json::object line = json::parse(OnlyLine()).as_object();
  EXPECT_EQ(line.at("reason"), json::value(json::string(hostile)));
  EXPECT_EQ(line.at("key \"quoted\""), json::value("x"));
}

TEST_F(Logging, BytesThatAreNotUtf8BecomeReplacementCharacters) {
  Start("json");
  const std::string r = "\xEF\xBF\xBD";
  Log(Severity::kInfo, "x",
      {{"good", "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80"},
       {"lone", "a\x80z\xFF"},
       {"overlong", "\xC0\xAF\xE0\x80\xAF"},
       {"surrogate", "\xED\xA0\x80"},
       {"beyond", "\xF4\x90\x80\x80"},
       {"cut", "\xE2\x82"}});
  json::object line = json::parse(OnlyLine()).as_object();
  EXPECT_EQ(line.at("good"), json::value("\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80"));
  EXPECT_EQ(line.at("lone"), json::value(json::string("a" + r + "z" + r)));
  EXPECT_EQ(line.at("overlong"), json::value(json::string(r + r + r + r + r)));
  EXPECT_EQ(line.at("surrogate"), json::value(json::string(r + r + r)));
  EXPECT_EQ(line.at("beyond"), json::value(json::string(r + r + r + r)));
  EXPECT_EQ(line.at("cut"), json::value(json::string(r + r)));
}

TEST_F(Logging, NumbersThatJsonLacksAreTexts) {
  Start("json");
  double infinity = std::numeric_limits<double>::infinity();
  Log(Severity::kInfo, "x", {{"a", std::nan("")}, {"b", infinity}, {"c", -infinity}, {"d", 1e-300}});
  json::object line = json::parse(OnlyLine()).as_object();
  EXPECT_EQ(line.at("a"), json::value("nan"));
  EXPECT_EQ(line.at("b"), json::value("inf"));
  EXPECT_EQ(line.at("c"), json::value("-inf"));
  EXPECT_EQ(line.at("d"), json::value(1e-300));
}

TEST_F(Logging, ATextLineQuotesWhatIsNotAPlainWord) {
  Start("text");
  Log(Severity::kInfo, "device enrolled",
      {{"device", "phone-1"}, {"note", "two words\nand a line"}, {"empty", ""}, {"n", 4}});
  EXPECT_THAT(OnlyLine(), HasSubstr("device enrolled device=phone-1 note=\"two words\\nand a line\" empty=\"\" n=4"));
}

TEST_F(Logging, EventsBelowTheLevelAreDropped) {
  Start("text", "warning");
  Log(Severity::kDebug, "one");
  Log(Severity::kInfo, "two");
  Log(Severity::kWarning, "three");
  Log(Severity::kError, "four");
  auto lines = Lines();
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_THAT(lines[0], HasSubstr("three"));
  EXPECT_THAT(lines[1], HasSubstr("four"));
}

TEST_F(Logging, AFileIsAppendedTo) {
  dir_.Write("log", "before\n");
  Start("text");
  Log(Severity::kInfo, "after");
  auto lines = Lines();
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0], "before");
}

TEST_F(Logging, LinesOfManyThreadsStayWhole) {
  Start("json");
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i) Log(Severity::kInfo, "tick", {{"thread", t}, {"i", i}});
    });
  }
  threads.clear();
  auto lines = Lines();
  EXPECT_EQ(lines.size(), 800U);
  for (const std::string& line : lines) EXPECT_EQ(json::parse(line).as_object().at("event"), "tick");
}

TEST_F(Logging, UnknownLevelsAndFormatsAndBadFilesAreErrors) {
  EXPECT_THAT(InitLogging({.level = "loud"}).message(), HasSubstr("use debug, info, warning or error"));
  EXPECT_THAT(InitLogging({.format = "xml"}).message(), HasSubstr("use text or json"));
  Status status = InitLogging({.file = dir_.path().string()});
  EXPECT_EQ(status.code(), Code::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr(dir_.path().string()));
}

}  // namespace
}  // namespace heddle
