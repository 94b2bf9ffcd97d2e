// kill -9 of the real coordinator and of the real client at every point of common/test_hooks.h, and at random times.
// What was killed is started again, as systemd would, and the run must commit what arithmetic says.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstdlib>
#include <random>
#include <set>
#include <thread>

#include "common/random.h"
#include "common/test_hooks.h"
#include "coordinator/audit/audit_check.h"
#include "tests/integration/processes/keeper.h"

namespace heddle {
namespace {

#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const Status ok_status = (expression);                                     \
    ASSERT_TRUE(ok_status.ok()) << #expression << ": " << ok_status.message(); \
  } while (false)

TEST(Kills, AnUndisturbedRunCommitsWhatArithmeticSays) {
  Keeper keeper({});
  ASSERT_OK(keeper.Start());
  ASSERT_OK(keeper.Submit());
  ASSERT_OK(keeper.Finish());
  ASSERT_OK(keeper.world().fleet().Stop());
}

// In front of a point: the updates travel inside their reports, and there are no uploads.
constexpr std::string_view kInline = "inline-updates-";
// In front of a point of every program: the one that dies of it. Else it is the coordinator.
constexpr std::string_view kOfDaemon = "daemon-", kOfEnrolment = "enrolling-";

bool TakePrefix(std::string_view prefix, std::string* point) {
  if (!point->starts_with(prefix)) return false;
  point->erase(0, prefix.size());
  return true;
}

// The points where something becomes durable or is said, whatever it is: of files, of all.
const std::set<std::string> kFilePoints = {"file-unsynced", "file-synced",     "unrenamed",
                                           "renamed",       "folder-unsynced", "folder-synced"};
const std::set<std::string> kOtherPoints = {"uncommitted", "committed", "unanswered", "answered"};
// Lives of a coordinator that end at such a point, each one passing later than the one before.
constexpr int kKillsAtEveryKind = 9;

class Failpoint : public testing::TestWithParam<std::string> {};

TEST_P(Failpoint, IsReachedAndTheRunCommitsTheSame) {
  std::string point = GetParam();
  KeeperOptions options;
  options.inline_updates = TakePrefix(kInline, &point);
  const bool recovery = point.starts_with("recovery-");
  const bool enrol = TakePrefix(kOfEnrolment, &point) || point.starts_with("enroll-");
  const bool device = TakePrefix(kOfDaemon, &point) || point.starts_with("client-");
  const std::string name = point.substr(0, point.find(':'));
  const bool of_all = kFilePoints.contains(name) || kOtherPoints.contains(name);
  if (of_all && !enrol && !device) options.kills = kKillsAtEveryKind;
  if (enrol) {
    options.enrol_point = point;
  } else if (device) {
    options.device_point = point;
  } else if (!recovery) {
    options.coordinator_point = point;
  }
  Keeper keeper(options);
  ASSERT_OK(keeper.Start());
  ASSERT_OK(keeper.Submit());
  if (recovery) {  // a start on what is there: kills within the recovery from a kill
    ASSERT_OK(keeper.TendUntil([&] { return keeper.CommittedRounds() >= 1; }, "a round is committed"));
    keeper.Arm(point);
    keeper.KillCoordinator();
  }
  ASSERT_OK(keeper.Finish());
  const int deaths = enrol ? keeper.enrol_deaths() : device ? keeper.device_deaths() : keeper.coordinator_deaths();
  EXPECT_GE(deaths, 1) << "nothing was killed: is " << point << " never passed?";
  RecordProperty("deaths", deaths);
  // It stays so after one more kill.
  keeper.KillCoordinator();
  ASSERT_OK(keeper.Finish());
  const auto audit = coordinator::CheckAudit(keeper.world().fleet().config().audit());
  ASSERT_OK(audit.status());
  EXPECT_FALSE(audit->fault) << audit->fault->what;
}

std::vector<std::string> Points() {
  const auto names = test_hooks::FailpointNames();
  std::vector<std::string> points(names.begin(), names.end());
  // The first passings of these are of the submission: five blobs. Then come, each round, two updates and a model. Of
  // the steps: tasks given out, two reports, the commit.
  points.insert(points.end(), {"blob-synced:6", "blob-renamed:7", "blob-durable:6", "blob-synced:8", "blob-renamed:8",
                               "blob-durable:8", "step-written:4", "step-committed:3", "step-committed:4"});
  // The passings after those, of what a life does after its start.
  for (const char* point : {"file-unsynced:10", "file-synced:10", "renamed:10", "folder-synced:10", "uncommitted:10",
                            "committed:10", "unanswered:10", "answered:10", "unanswered:19", "answered:19"}) {
    points.emplace_back(point);
  }
  for (const std::string& point : kFilePoints) {
    points.push_back(std::string(kOfDaemon) + point);
    points.push_back(std::string(kOfEnrolment) + point);
  }
  for (const char* point :
       {"step-written:2", "step-committed:2", "step-committed:4", "update-folded", "model-stored", "verdict-unsent",
        "verdict-answered", "client-journal-written", "client-report-unsent", "client-report-answered"}) {
    points.push_back(std::string(kInline) + point);
  }
  return points;
}

std::string CaseName(const testing::TestParamInfo<std::string>& info) {
  std::string name;
  bool upper = true;
  for (const char c : info.param) {
    if (c == ':') name += "AtPassing";
    if (c != '-' && c != ':') name += upper && c >= 'a' ? static_cast<char>(c - 'a' + 'A') : c;
    upper = c == '-';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Kills, Failpoint, testing::ValuesIn(Points()), CaseName);

uint64_t NumberFrom(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// HEDDLE_KILL_SOAK_SECONDS=n: for how long; HEDDLE_KILL_SOAK_SEED=n: the times of the kills, as a failure prints it.
TEST(Kills, AtRandomTimesTheRunCommitsTheSame) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(NumberFrom("HEDDLE_KILL_SOAK_SECONDS", 4));
  const uint64_t first_seed = NumberFrom("HEDDLE_KILL_SOAK_SEED", std::random_device()());
  int kills = 0;
  // On a slow machine the time is over before the first run is up.
  const auto more = [&] { return kills == 0 || std::chrono::steady_clock::now() < end; };
  for (uint64_t seed = first_seed; more(); ++seed) {
    SCOPED_TRACE("HEDDLE_KILL_SOAK_SEED=" + std::to_string(seed));
    PhiloxStream random(seed);
    KeeperOptions options;
    options.devices = {"anna", "bert", "cora"};
    options.rounds = 20;
    options.inline_updates = seed % 2 == 0;
    Keeper keeper(options);
    ASSERT_OK(keeper.Start());
    ASSERT_OK(keeper.Submit());
    while (more() && TextOf(keeper.Progress(), "state") == "running") {
      std::this_thread::sleep_for(std::chrono::milliseconds(1 + random.NextBelow(150)));
      const uint32_t victim = random.NextBelow(6);
      if (victim < 3) {
        keeper.KillDevice(victim);
      } else {
        keeper.KillCoordinator();
      }
      ++kills;
      ASSERT_OK(keeper.Tend());
    }
    ASSERT_OK(keeper.Finish());
  }
  EXPECT_GE(kills, 1);
  RecordProperty("kills", kills);
}

}  // namespace
}  // namespace heddle
