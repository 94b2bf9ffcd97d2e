#include "common/ids.h"

#include <gtest/gtest.h>

#include <sstream>
#include <type_traits>
#include <unordered_set>

#include "common/config.h"

namespace heddle {
namespace {

static_assert(!std::is_convertible_v<DeviceId, RunId> && !std::is_constructible_v<DeviceId, RunId>);
static_assert(!std::is_convertible_v<std::string, DeviceId>, "only on purpose");

TEST(Ids, AreValues) {
  DeviceId a("phone-1");
  DeviceId b("phone-2");
  EXPECT_LT(a, b);
  EXPECT_NE(a, b);
  EXPECT_TRUE(DeviceId().empty());
  std::unordered_set<DeviceId> set{a, b, a};
  EXPECT_EQ(set.size(), 2U);
  std::ostringstream out;
  out << a;
  EXPECT_EQ(out.str(), "phone-1");
}

TEST(Ids, ADevicesNameIsShortLowerCaseAndStartsWithALetterOrDigit) {
  for (const std::string& good :
       {std::string("a"), std::string("0"), std::string("phone-7.lab_2"), std::string(63, 'z')}) {
    EXPECT_TRUE(IsValidDeviceName(good)) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string(64, 'z'), std::string("Phone"), std::string("-a"), std::string(".a"),
        std::string("_a"), std::string("a b"), std::string("a/b"), std::string("a\n"), std::string("a\0b", 3),
        std::string("\xC3\xA4"), std::string("../x"), std::string("a:b")}) {
    EXPECT_FALSE(IsValidDeviceName(bad)) << bad;
  }
}

TEST(ParseSettings, SplitsAtTheFirstEqualsSignAndTheLastOfAKeyCounts) {
  const auto settings = ParseSettings({"lora.r=16", "name=a=b", "seed=", "lora.r=8"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(*settings, (std::map<std::string, std::string>{{"lora.r", "8"}, {"name", "a=b"}, {"seed", ""}}));
}

TEST(ParseSettings, RefusesWhatHasNoKeyOrNoValue) {
  for (const char* bad : {"", "lora.r", "=16"}) {
    const auto settings = ParseSettings({"seed=1", bad});
    EXPECT_EQ(settings.status().code(), Code::kInvalidArgument) << bad;
    EXPECT_NE(settings.status().message().find("'" + std::string(bad) + "'"), std::string::npos) << settings.status();
  }
}

TEST(NearestName, FindsASlipOfTheFingers) {
  std::vector<std::string> names = {"learning_rate", "local_steps", "rounds", "round_timeout_s"};
  EXPECT_EQ(NearestName("learning_rat", names), "learning_rate");
  EXPECT_EQ(NearestName("lerning_rate", names), "learning_rate");
  EXPECT_EQ(NearestName("round", names), "rounds");
  EXPECT_EQ(NearestName("rounds", names), "rounds");
}

TEST(NearestName, SaysNothingRatherThanSomethingFar) {
  EXPECT_EQ(NearestName("zzzzzzzz", {"rounds", "local_steps"}), std::nullopt);
  EXPECT_EQ(NearestName("x", {}), std::nullopt);
  EXPECT_EQ(NearestName(std::string(100'000, 'r'), {"rounds"}), std::nullopt);
}

TEST(NearestName, TheDistanceMayBeAThirdOfTheWordAndOne) {
  // Six letters: at most three edits.
  EXPECT_EQ(NearestName("abcdef", {"abcxyz"}), "abcxyz");
  EXPECT_EQ(NearestName("abcdef", {"abwxyz"}), std::nullopt);
}

}  // namespace
}  // namespace heddle
