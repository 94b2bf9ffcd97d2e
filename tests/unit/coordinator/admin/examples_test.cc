// docs/examples: the files that people start from are whole, read by our own readers, and name what there is.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "client/daemon/config.h"
#include "coordinator/service/config.h"
#include "coordinator/service/metrics.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

const std::string kExamples = HEDDLE_SOURCE_DIR "/docs/examples/";

// "key = value  # source: file" lines, as key -> value; a line from elsewhere than the file is a failure.
std::map<std::string, std::string> Settings(const std::string& resolved, bool all_from_file) {
  std::map<std::string, std::string> out;
  std::istringstream lines(resolved);
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find(" = "), source = line.find("  # source: ");
    if (equals == std::string::npos || source == std::string::npos) {
      ADD_FAILURE() << "not a setting: " << line;
      continue;
    }
    if (all_from_file) {
      EXPECT_EQ(line.substr(source + 12), "file") << "not in the example: " << line;
    }
    out[line.substr(0, equals)] = line.substr(equals + 3, source - equals - 3);
  }
  return out;
}

std::set<std::string> Matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  std::set<std::string> out;
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it) out.insert(it->str());
  return out;
}

// The names that a scrape shows: of samples, so histograms as _bucket, _sum and _count.
std::set<std::string> ScrapedNames() {
  coordinator::Metrics metrics;
  metrics.CountRequest("/v1/checkin", 200);
  metrics.CountRefusal("UNSUPPORTED");
  metrics.CountAdminRefusal("NOT_FOUND");
  std::set<std::string> names;
  std::istringstream lines(metrics.Text({}));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line[0] != '#') names.insert(line.substr(0, line.find_first_of("{ ")));
  }
  return names;
}

constexpr const char* kMetric = R"(\b(heddle|process)_[a-z_]+[a-z]\b)";

TEST(Examples, CoordinatorTomlHasEveryKeyWithItsDefault) {
  const auto example = coordinator::CoordinatorConfig::Load(kExamples + "coordinator.toml", {});
  ASSERT_TRUE(example.ok()) << example.status();
  TempDir folder;
  const auto defaults = coordinator::CoordinatorConfig::Load(folder.Write("empty.toml", ""), {});
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(Settings(example->resolved, true), Settings(defaults->resolved, false));
}

TEST(Examples, ClientTomlHasEveryKeyWithItsDefaultWhereItHasOne) {
  const auto example = client::ClientConfig::Load(kExamples + "client.toml", {});
  ASSERT_TRUE(example.ok()) << example.status();
  TempDir folder;
  const auto path = folder.Write("least.toml",
                                 "coordinator.host = 'heddle.example.org'\n"
                                 "device.state_dir = '/var/lib/heddle-client/phone-17'\n"
                                 "data.path = '/srv/heddle/phone-17.txt'\n");
  const auto defaults = client::ClientConfig::Load(path, {});
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(Settings(example->resolved, true), Settings(defaults->resolved, false));
}

TEST(Examples, AlertsAskForMetricsThatThereAre) {
  const std::set<std::string> scraped = ScrapedNames();
  const auto asked = Matches(Slurp(kExamples + "heddle-alerts.yml"), kMetric);
  EXPECT_GE(asked.size(), 8U);
  for (const std::string& name : asked) {
    // "heddle_refusals_total and in the log" of a sentence is held to it too.
    EXPECT_TRUE(scraped.contains(name)) << name;
  }
}

TEST(Examples, TheDashboardIsJsonAndShowsEveryMetricAndNoOther) {
  const std::string text = Slurp(kExamples + "grafana-dashboard.json");
  boost::json::error_code error;
  const boost::json::value dashboard = boost::json::parse(text, error);
  ASSERT_FALSE(error) << error.message();
  ASSERT_TRUE(dashboard.is_object());
  std::set<int64_t> ids;
  std::string expressions;
  for (const auto& panel : dashboard.at("panels").as_array()) {
    EXPECT_TRUE(ids.insert(panel.at("id").as_int64()).second) << "two panels have one id";
    const auto& place = panel.at("gridPos").as_object();
    EXPECT_LE(place.at("x").as_int64() + place.at("w").as_int64(), 24) << panel.at("title").as_string();
    for (const auto& target : panel.at("targets").as_array()) {
      expressions += boost::json::value_to<std::string>(target.at("expr")) + "\n";
    }
  }
  const std::set<std::string> scraped = ScrapedNames(), shown = Matches(expressions, kMetric);
  for (const std::string& name : shown) EXPECT_TRUE(scraped.contains(name)) << name << " does not exist";
  for (const std::string& name : scraped) {
    const std::string base = std::regex_replace(name, std::regex("_(bucket|sum|count)$"), "");
    EXPECT_TRUE(shown.contains(name) || shown.contains(base + "_bucket")) << name << " is in no panel";
  }
}

// Sections, "key=value" lines and comments only, with the hardening of both, and Type=notify where READY=1 is sent.
TEST(Examples, UnitsAreHardenedAndRestartOnFailure) {
  for (const char* name : {"heddle-coordinator.service", "heddle-client@.service"}) {
    SCOPED_TRACE(name);
    std::istringstream lines(Slurp(kExamples + name));
    std::set<std::string> settings;
    for (std::string line; std::getline(lines, line);) {
      if (line.empty() || line[0] == '#' || line[0] == '[') continue;
      EXPECT_TRUE(std::regex_match(line, std::regex("[A-Z][A-Za-z]+=.*"))) << line;
      settings.insert(line);
    }
    for (const char* wanted : {"NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "Restart=on-failure",
                               "CapabilityBoundingSet="}) {
      EXPECT_TRUE(settings.contains(wanted)) << wanted;
    }
  }
  EXPECT_NE(Slurp(kExamples + "heddle-coordinator.service").find("\nType=notify\n"), std::string::npos);
  EXPECT_EQ(Slurp(kExamples + "heddle-client@.service").find("\nType=notify\n"), std::string::npos)
      << "the client does not say READY=1";
}

}  // namespace
}  // namespace heddle
