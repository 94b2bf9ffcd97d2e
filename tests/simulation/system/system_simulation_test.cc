// Hostile worlds of the whole federation. By default 500 that nobody has seen before, from a first seed that is
// printed, and those that once found something (kept_seeds.txt).
//
//   HEDDLE_SIM_FIRST=<seed>    begins there: to see a failure again, with HEDDLE_SIM_SEEDS=1
//   HEDDLE_SIM_COMMIT=<seed>   begins there when nothing else is said: ./run test sets it from the commit
//   HEDDLE_SIM_SEEDS=<n>       plays so many
//   HEDDLE_SIM_MINUTES=<m>     plays for so long
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include "common/logging.h"
#include "common/test_hooks.h"
#include "tests/simulation/system/system_world.h"
#include "tests/unit/common/sanitized.h"

namespace heddle::system_simulation {
namespace {

constexpr uint64_t kNewSeeds = kSanitized ? 60 : 500;  // sanitizers are slow, and look for other things

using SteadyTime = std::chrono::steady_clock::time_point;

std::optional<uint64_t> FromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::strtoull(text, nullptr, 10);
}

std::string Replay(uint64_t seed) {
  std::error_code error;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", error).string();
  return "HEDDLE_SIM_FIRST=" + std::to_string(seed) + " HEDDLE_SIM_SEEDS=1 " +
         (error ? "test_system_simulation" : self) + " --gtest_filter='*EveryHostileWorld'";
}

void Add(const Counts& from, Counts* to) {
  for (auto field : {&Counts::answers, &Counts::refusals, &Counts::accepted, &Counts::late, &Counts::invalid,
                     &Counts::superseded, &Counts::noted, &Counts::repeated, &Counts::committed, &Counts::abandoned,
                     &Counts::restarts, &Counts::power_cuts, &Counts::storage_errors, &Counts::jumps, &Counts::rogue,
                     &Counts::patches, &Counts::short_forms, &Counts::tensors, &Counts::cleaned}) {
    to->*field += from.*field;
  }
  for (const auto& [what, times] : from.happened) to->happened[what] += times;
}

// What a number of worlds had in common.
struct Played {
  uint64_t worlds = 0, steps = 0;
  Counts counts;
  std::optional<uint64_t> failed;  // the smallest seed that was found to break the contract
  std::string report;
};

// Two at a time, each on its own stage. `more(i)`: whether the i-th is to be played; its seed is seeds(i).
Played Play(const std::function<uint64_t(uint64_t)>& seeds, const std::function<bool(uint64_t)>& more) {
  Played played;
  std::mutex mutex;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    Stage stage;
    for (uint64_t i = next++; more(i) && !failed; i = next++) {
      SystemWorld world(stage, seeds(i));
      const std::optional<std::string> breach = world.Run();
      std::lock_guard lock(mutex);
      ++played.worlds;
      played.steps += world.steps();
      Add(world.counts(), &played.counts);
      if (!breach || (played.failed && *played.failed < seeds(i))) continue;
      failed = true;
      played.failed = seeds(i);
      played.report = *breach + "\nseed " + std::to_string(seeds(i)) + ", again with: " + Replay(seeds(i)) +
                      "\nthe last events:\n" + world.Trace();
    }
  };
  std::thread other(work);
  work();
  other.join();
  return played;
}

void Print(const Played& played, SteadyTime since) {
  const double minutes = std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count() / 60;
  const Counts& c = played.counts;
  std::cout << played.worlds << " worlds, " << static_cast<uint64_t>(static_cast<double>(played.worlds) / minutes)
            << " a minute; " << played.steps << " steps, " << c.answers << " answers, " << c.refusals
            << " of them refusals, " << c.storage_errors << " for the disk; " << c.rogue
            << " rogue requests\nverdicts: " << c.accepted << " accepted, " << c.late << " late, " << c.invalid
            << " invalid, " << c.superseded << " superseded, " << c.noted << " noted, " << c.repeated
            << " repeated; attempts: " << c.committed << " committed, " << c.abandoned << " abandoned\n"
            << c.restarts << " restarts, " << c.power_cuts << " power cuts, " << c.jumps << " jumps of the clock, "
            << c.short_forms << " short assignments, " << c.patches << " patches of ledgers, " << c.tensors
            << " tensors of parts, " << c.cleaned << " blobs thrown away\n";
  for (const auto& [what, times] : c.happened) std::cout << what << ": " << times << "; ";
  std::cout << std::endl;
}

// Of each flaw and each kind of weather and trouble.
constexpr std::array kKinds = {"lost request",
                               "lost answer",
                               "break",
                               "half-open connection",
                               "duplicate",
                               "truncation",
                               "slow link",
                               "partition",
                               "twin",
                               "revocation",
                               "vanished device",
                               "backup",
                               "owner at work",
                               "stopped run",
                               "kill",
                               "orderly stop",
                               "armed crash",
                               "failing operation",
                               "full disk",
                               "read error",
                               "locked database",
                               "blocked run folder",
                               "cut answer",
                               "resumed download",
                               "torn download",
                               "torn file of a device",
                               "journal that is back",
                               "journal that cannot be read",
                               "device's power cut",
                               "device's full disk",
                               "device's read error",
                               "enrolment",
                               "task too large",
                               "weights in place of a replay",
                               "stolen token",
                               "used token",
                               "expired token"};

void ExpectEveryKind(const Counts& counts) {
  const auto times = [&counts](const std::string& what) {
    const auto found = counts.happened.find(what);
    return found == counts.happened.end() ? 0 : found->second;
  };
  for (const char* what : kKinds) EXPECT_GT(times(what), 0U) << what;
  EXPECT_GE(times("stopped run that stood still"), kSanitized ? 0U : 1U);
  for (uint32_t flaw = 1; flaw < kNumFlaws; ++flaw) {
    EXPECT_GT(times(FlawName(static_cast<Flaw>(flaw))), 0U) << "the flaw: " << FlawName(static_cast<Flaw>(flaw));
  }
}

class SystemSimulation : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    LogOptions options;
    options.level = "error";
    options.file = "/dev/null";  // the worlds are full of errors
    ASSERT_TRUE(InitLogging(options).ok());
    // Else both threads count what SQLite allocates under one mutex.
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
  }
};

TEST_F(SystemSimulation, KeepsItsContractInEveryHostileWorld) {
  const uint64_t now = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  // `./run test` gives each commit worlds of its own, so that CI and whoever looks at it see the same ones.
  const uint64_t fresh = FromEnvironment("HEDDLE_SIM_COMMIT").value_or(now / 1000 % 1'000'000'000'000);
  const uint64_t first = FromEnvironment("HEDDLE_SIM_FIRST").value_or(fresh);
  const auto minutes = FromEnvironment("HEDDLE_SIM_MINUTES");
  const uint64_t count = FromEnvironment("HEDDLE_SIM_SEEDS").value_or(kNewSeeds);
  std::cout << "first seed " << first << std::endl;
  const SteadyTime begin = std::chrono::steady_clock::now();
  const SteadyTime end = begin + std::chrono::minutes(minutes.value_or(0));
  const Played played = Play([first](uint64_t i) { return first + i; },
                             [&](uint64_t i) { return minutes ? std::chrono::steady_clock::now() < end : i < count; });
  Print(played, begin);
  ASSERT_FALSE(played.failed) << played.report;
  if (played.worlds < kNewSeeds) return;
  // Worlds in which nothing happens prove nothing.
  const Counts& c = played.counts;
  ExpectEveryKind(c);
  EXPECT_GT(c.superseded, 0U);
  for (const uint64_t happened :
       {c.refusals, c.late, c.invalid, c.noted, c.repeated, c.abandoned, c.restarts, c.power_cuts, c.storage_errors,
        c.jumps, c.rogue, c.patches, c.short_forms, c.cleaned}) {
    EXPECT_GT(happened, played.worlds / 10);
  }
  EXPECT_GE(c.committed, 8 * played.worlds);  // of ten; some are stopped before
  // Of few worlds all may have devices with whole models.
  EXPECT_GE(c.tensors, kSanitized ? 0 : 5 * played.worlds);
}

TEST_F(SystemSimulation, KeepsItsContractInTheWorldsThatOnceFoundADefect) {
  std::ifstream file(HEDDLE_SOURCE_DIR "/tests/simulation/system/kept_seeds.txt");
  ASSERT_TRUE(file);
  std::vector<uint64_t> seeds;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') seeds.push_back(std::stoull(line));
  }
  ASSERT_FALSE(seeds.empty());
  const Played played = Play([&](uint64_t i) { return seeds.at(i); }, [&](uint64_t i) { return i < seeds.size(); });
  EXPECT_FALSE(played.failed) << played.report;
  EXPECT_EQ(played.worlds, seeds.size());
}

// The proof that a defect would be noticed.
TEST_F(SystemSimulation, FindsEveryPlantedBug) {
  if (!test_hooks::Enabled()) GTEST_SKIP() << "this build has no test hooks";
  constexpr uint64_t kMost = 300;
  ASSERT_GE(test_hooks::NumPlantedBugs(), 16);
  for (int number = 1; number <= test_hooks::NumPlantedBugs(); ++number) {
    const auto bug = static_cast<test_hooks::PlantedBug>(number);
    test_hooks::Plant(bug);
    const Played played = Play([](uint64_t i) { return 1 + i; }, [](uint64_t i) { return i < kMost; });
    test_hooks::Plant(test_hooks::PlantedBug::kNone);
    EXPECT_TRUE(played.failed) << "a coordinator that " << test_hooks::DescriptionOf(bug) << " is not noticed";
    std::cout << (played.failed ? "found in " : "NOT FOUND in ") << played.worlds << " worlds: the coordinator "
              << test_hooks::DescriptionOf(bug) << "\n    as, with seed " << played.failed.value_or(0) << ": "
              << played.report.substr(0, played.report.find('\n')) << std::endl;
  }
}

TEST_F(SystemSimulation, PlaysTheSameWorldForTheSameSeed) {
  Stage one, two;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SystemWorld world(one, seed);
    EXPECT_FALSE(world.Run());
    SystemWorld again(two, seed);
    EXPECT_FALSE(again.Run());
    EXPECT_EQ(world.fingerprint(), again.fingerprint()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace heddle::system_simulation
