#include "simulator/report/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "tests/unit/common/temp_dir.h"
#include "tests/unit/simulator/markup.h"

namespace heddle::simulator {
namespace {

const std::string kRun = R"({"run_id":"test-00000001","state":"complete","seed":7,"rounds":2,"committed_rounds":2,)"
                         R"("adapter_sha256":"feedfacefeedfacefeedfacefeedface","started_at":100.5,"ended_at":103.5,)"
                         R"("bytes_down":2000000,"bytes_up":1000,"version":"1.0","recipe":{"name":"test"}})";
const std::string kHistory =
    R"({"round":1,"attempt":1,"outcome":"abandoned","reason":"too few devices","num_assigned":2,"num_accepted":0,)"
    R"("seconds":9,"bytes_down":1,"bytes_up":1,"devices":[{"device":"a","state":"failed"}]})"
    "\n"
    R"({"round":1,"attempt":2,"outcome":"committed","num_assigned":2,"num_accepted":2,"num_examples":20,)"
    R"("train_loss":3.25,"seconds":1,"bytes_down":1,"bytes_up":1,"model_sha256":"0123456789abcdef","devices":)"
    R"([{"device":"a","state":"accepted","train_loss":3},{"device":"b","state":"accepted","train_loss":3.5}]})"
    "\n"
    R"({"round":2,"attempt":1,"outcome":"committed","num_assigned":2,"num_accepted":2,"num_examples":20,)"
    R"("train_loss":2.5,"seconds":1,"bytes_down":1,"bytes_up":1,"model_sha256":"feedfacefeedface","devices":)"
    R"([{"device":"a","state":"accepted","train_loss":2},{"device":"b","state":"accepted","train_loss":3}]})"
    "\n";
const std::string kSummary = R"({"base_perplexity":40,"local_only_perplexity":30,"federated_perplexity":20,)"
                             R"("centralised_perplexity":19})";

std::string Render(const std::string& run, const std::string& history, const std::string& summary) {
  auto page = RenderReport(run, history, summary);
  EXPECT_TRUE(page.ok()) << page.status();
  if (!page.ok()) return "";
  EXPECT_EQ(Malformed(*page), "");
  // It needs no network: no addresses, and nothing that loads anything.
  for (const char* loads :
       {"http:", "https:", "//", " src=", " href=", "@import", "url(", "<script", "<link", "<img"}) {
    EXPECT_EQ(page->find(loads), std::string::npos) << loads;
  }
  for (const char* name : {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "points"}) {
    for (const std::string& value : Attributes(*page, name)) {
      EXPECT_EQ(value.find_first_not_of("-0123456789., "), std::string::npos) << name << "=" << value;
    }
  }
  return *page;
}

TEST(Report, ShowsHowGoodTheModelsOfTestedRoundsAre) {
  const auto line = [](int round, const std::string& figures) {
    return R"({"round":)" + std::to_string(round) + R"(,"attempt":1,"outcome":"committed","train_loss":1)" + figures +
           "}\n";
  };
  const std::string tested = line(1, R"(,"test_accuracy":0.5,"device_accuracy":0.25)") + line(2, "") +
                             line(3, R"(,"test_accuracy":0.75,"device_accuracy":0.375)");
  const std::string page = Render(kRun, tested, R"({"test_accuracy":0.75,"centralised_accuracy":0.875})");
  for (const char* shown : {"Tests of the rounds", "Test: accuracy", "held out from all", "mean of devices", "0.875"}) {
    EXPECT_NE(page.find(shown), std::string::npos) << shown;
  }
  EXPECT_EQ(page.find("worst device"), std::string::npos) << "a line without points";
  EXPECT_EQ(Render(kRun, kHistory, kSummary).find("Tests of the rounds"), std::string::npos);
}

TEST(Report, ShowsWhatTasksCostEachKindOfDevice) {
  const std::string page = Render(kRun, kHistory,
                                  R"({"profiles":{"phone":{"tasks":4,"compute_seconds":12.5,)"
                                  R"("memory_bytes":73400320},"<hub>":{"tasks":1},"odd":7}})");
  for (const char* shown : {"Kinds of devices", "phone", "12.5", "73", "&lt;hub&gt;"}) {
    EXPECT_NE(page.find(shown), std::string::npos) << shown;
  }
  EXPECT_EQ(Render(kRun, kHistory, R"({"profiles":{}})").find("Kinds of devices"), std::string::npos);
  EXPECT_EQ(Render(kRun, kHistory, R"({"profiles":3})").find("Kinds of devices"), std::string::npos);
}

TEST(Report, ShowsTheRunItsRoundsAndItsPerplexities) {
  const std::string page = Render(kRun, kHistory, kSummary);
  for (const char* shown :
       {"test-00000001", "complete", "seed 7", "too few devices", "0123456789ab", "feedfacefeedfacefeedfacefeedface",
        "3.25", "-50.0 %", "Held-out perplexity", "federated adapter", ">a</text>", ">b</text>"}) {
    EXPECT_NE(page.find(shown), std::string::npos) << shown;
  }
  // A line for each device and one for their mean; the abandoned attempt is no point of any.
  const auto lines = Attributes(page, "points");
  ASSERT_EQ(lines.size(), 3U);
  for (const std::string& line : lines) EXPECT_EQ(std::count(line.begin(), line.end(), ','), 2) << line;
}

TEST(Report, WithoutASummaryItHasNoPerplexitiesAndTheRestAllTheSame) {
  const std::string page = Render(kRun, kHistory, "");
  EXPECT_EQ(page.find("perplexity"), std::string::npos);
  EXPECT_NE(page.find("too few devices"), std::string::npos);
  EXPECT_EQ(Attributes(page, "points").size(), 3U);
}

TEST(Report, ARunThatHasJustBegunHasOne) {
  EXPECT_NE(Render(R"({"run_id":"test-00000001","state":"running"})", "", "").find("running"), std::string::npos);
  Render("{}", "{}\n\n{}", "{}");
}

TEST(Report, NamesAndReasonsOfOthersAreTextAndNothingElse) {
  const std::string evil = R"(\"><script>alert(1)</script><img src=x onerror='alert(2)'>&lt;)";
  const auto put = [&](std::string text, const std::string& what) {
    const size_t at = text.find(what);
    EXPECT_NE(at, std::string::npos) << what;
    return text.replace(at, what.size(), evil);
  };
  std::string run = put(put(put(put(kRun, "test-00000001"), "complete"), "1.0"), "feedfacefeedfacefeedfacefeedface");
  run = put(run, "test");  // in the recipe
  std::string history = put(put(put(kHistory, "too few devices"), "0123456789abcdef"), "abandoned");
  for (int i = 0; i < 5; ++i) {
    const size_t at = history.find("\"device\":\"a\"");
    if (at != std::string::npos) history.replace(at, 12, "\"device\":\"" + evil + "\"");
  }
  auto page = RenderReport(run, history, kSummary);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(Malformed(*page), "");
  EXPECT_EQ(page->find("<script"), std::string::npos);
  EXPECT_EQ(page->find("<img"), std::string::npos);
  EXPECT_NE(page->find("&lt;script&gt;alert(1)&lt;/script&gt;"), std::string::npos);
  // Fields that are numbers when we write them are text as well when another did.
  auto numbers = RenderReport(R"({"committed_rounds":"<script>","seed":{"<script>":1},"bytes_up":"<script>"})",
                              R"({"round":"<script>","attempt":["<script>"],"num_accepted":"<b>","outcome":1})", "");
  ASSERT_TRUE(numbers.ok()) << numbers.status();
  EXPECT_EQ(Malformed(*numbers), "");
  EXPECT_EQ(numbers->find("<script"), std::string::npos);
}

TEST(Report, LossesThatAreNoNumbersLeaveGaps) {
  std::string history = kHistory;
  history.replace(history.find("3.25"), 4, "null");
  history.replace(history.find("\"train_loss\":2.5"), 16, "\"train_loss\":1e17");
  history.replace(history.find("\"train_loss\":3}"), 15, "\"train_loss\":\"NaN\"}");
  const std::string page = Render(kRun, history, R"({"base_perplexity":null,"federated_perplexity":1e300})");
  ASSERT_NE(page, "");
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_EQ(page.find(">inf"), std::string::npos);
}

TEST(Report, ACrowdOfDevicesIsOneLine) {
  std::string devices;
  for (int i = 0; i < 100; ++i) {
    devices += (i == 0 ? "" : ",") + std::string(R"({"device":"d)") + std::to_string(i) +
               R"(","state":"accepted","train_loss":)" + std::to_string(i) + "}";
  }
  std::string history;
  for (const char* round : {"1", "2"}) {
    history +=
        std::string(R"({"round":)") + round + R"(,"outcome":"committed","train_loss":2,"devices":[)" + devices + "]}\n";
  }
  const std::string page = Render(kRun, history, "");
  EXPECT_EQ(Attributes(page, "points").size(), 1U);
  EXPECT_NE(page.find("<b>100</b>"), std::string::npos);
}

TEST(Report, TextsThatAreNotWhatARunFolderHoldsAreRefusedByName) {
  for (const auto& [run, history, summary, name] :
       std::vector<std::array<std::string, 4>>{{"", "", "", "run.json"},
                                               {"[]", "", "", "run.json"},
                                               {kRun, "{}\n[1]\n", "", "history.jsonl"},
                                               {kRun, "{\"round\":1", "", "history.jsonl"},
                                               {kRun, kHistory, "nonsense", "summary.json"}}) {
    const auto page = RenderReport(run, history, summary);
    ASSERT_FALSE(page.ok()) << name;
    EXPECT_EQ(page.status().code(), Code::kInvalidArgument);
    EXPECT_NE(page.status().message().find(name), std::string::npos) << page.status();
  }
}

TEST(Report, IsWrittenBesideTheFilesThatItIsMadeFrom) {
  TempDir folder;
  EXPECT_EQ(WriteReport(folder.path()).code(), Code::kNotFound);
  folder.Write("run.json", kRun);
  ASSERT_TRUE(WriteReport(folder.path()).ok()) << "history.jsonl and summary.json may be missing";
  EXPECT_EQ(Slurp(folder / "report.html"), Render(kRun, "", ""));
  folder.Write("history.jsonl", kHistory);
  folder.Write("summary.json", kSummary);
  ASSERT_TRUE(WriteReport(folder.path()).ok());
  EXPECT_EQ(Slurp(folder / "report.html"), Render(kRun, kHistory, kSummary));
}

}  // namespace
}  // namespace heddle::simulator
