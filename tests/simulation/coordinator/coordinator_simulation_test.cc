// Thousands of hostile worlds. HEDDLE_SIM_SEEDS=<count> runs more (or fewer) of them, HEDDLE_SIM_FIRST=<seed> starts
// elsewhere: to look at one that failed, HEDDLE_SIM_FIRST=<seed> HEDDLE_SIM_SEEDS=1.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "tests/simulation/coordinator/coordinator_world.h"

namespace heddle::coordinator::testing {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 10);
}

void Add(const WorldCounts& from, WorldCounts* to) {
  for (auto field : {&WorldCounts::steps, &WorldCounts::crashes_before, &WorldCounts::crashes_after,
                     &WorldCounts::disk_faults, &WorldCounts::power_cuts, &WorldCounts::found_after_error,
                     &WorldCounts::accepted, &WorldCounts::late, &WorldCounts::invalid, &WorldCounts::superseded,
                     &WorldCounts::noted, &WorldCounts::repeated, &WorldCounts::unknown, &WorldCounts::committed,
                     &WorldCounts::abandoned, &WorldCounts::complete, &WorldCounts::failed, &WorldCounts::stopped}) {
    to->*field += from.*field;
  }
}

TEST(CoordinatorSimulation, KeepsItsContractInEveryHostileWorld) {
  constexpr uint64_t kSeeds = 3000;
  uint64_t seeds = FromEnvironment("HEDDLE_SIM_SEEDS", kSeeds);
  uint64_t first = FromEnvironment("HEDDLE_SIM_FIRST", 1);
  WorldCounts all;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    CoordinatorWorld world(seed);
    std::optional<std::string> breach = world.Run();
    ASSERT_FALSE(breach) << *breach << "\nseed " << seed << " (HEDDLE_SIM_FIRST=" << seed
                         << " HEDDLE_SIM_SEEDS=1), the last events:\n"
                         << world.Trace();
    Add(world.counts(), &all);
  }
  std::cout << "steps " << all.steps << ", crashes " << all.crashes_before << " before and " << all.crashes_after
            << " after a write, disk faults " << all.disk_faults << ", power cuts " << all.power_cuts
            << ", found after an error " << all.found_after_error << "\nverdicts: accepted " << all.accepted
            << ", late " << all.late << ", invalid " << all.invalid << ", superseded " << all.superseded << ", noted "
            << all.noted << ", repeated " << all.repeated << ", unknown " << all.unknown << "\nattempts: committed "
            << all.committed << ", abandoned " << all.abandoned << "; runs: complete " << all.complete << ", failed "
            << all.failed << ", stopped " << all.stopped << "\n";
  if (seeds < kSeeds) return;
  // Worlds in which nothing happens prove nothing.
  for (auto field : {&WorldCounts::crashes_before, &WorldCounts::crashes_after, &WorldCounts::disk_faults,
                     &WorldCounts::power_cuts, &WorldCounts::late, &WorldCounts::invalid, &WorldCounts::superseded,
                     &WorldCounts::noted, &WorldCounts::repeated, &WorldCounts::unknown, &WorldCounts::abandoned,
                     &WorldCounts::failed, &WorldCounts::stopped}) {
    EXPECT_GT(all.*field, seeds / 100);
  }
  EXPECT_GT(all.complete, seeds / 3);
  EXPECT_GT(all.found_after_error, 10U);
}

TEST(CoordinatorSimulation, PlaysTheSameWorldForTheSameSeed) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    CoordinatorWorld one(seed);
    EXPECT_FALSE(one.Run());
    CoordinatorWorld two(seed + 1'000'000);  // something else in between
    (void)two.Run();
    CoordinatorWorld again(seed);
    EXPECT_FALSE(again.Run());
    EXPECT_EQ(one.Fingerprint(), again.Fingerprint()) << seed;
  }
}

}  // namespace
}  // namespace heddle::coordinator::testing
