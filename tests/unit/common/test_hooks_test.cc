#include "common/test_hooks.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace heddle {
namespace {

TEST(TestHooks, NamesOfFailpointsAreDistinctAndOnlyWithTheTests) {
  EXPECT_TRUE(test_hooks::Enabled());
  std::set<std::string_view> names;
  for (const std::string_view name : test_hooks::FailpointNames()) {
    EXPECT_FALSE(name.empty());
    EXPECT_TRUE(names.insert(name).second) << name;
  }
}

TEST(TestHooks, ABugIsPlantedUntilItIsTakenOut) {
  for (int i = 1; i <= test_hooks::NumPlantedBugs(); ++i) {
    const auto bug = static_cast<test_hooks::PlantedBug>(i);
    EXPECT_FALSE(test_hooks::DescriptionOf(bug).empty());
    EXPECT_FALSE(test_hooks::IsPlanted(bug));
    test_hooks::Plant(bug);
    EXPECT_TRUE(test_hooks::IsPlanted(bug));
    test_hooks::Plant(test_hooks::PlantedBug::kNone);
    EXPECT_FALSE(test_hooks::IsPlanted(bug));
  }
}

}  // namespace
}  // namespace heddle
