// No promise without a test.
#include "tests/tidy/promises.h"

#include <gmock/gmock.h>

namespace heddle::tidy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Promises, OfTheThreatModelEachHaveTheirTests) {
  const Violations violations = CheckPromises(ReadTree(HEDDLE_SOURCE_DIR));
  for (const std::string& violation : violations) ADD_FAILURE() << violation;
}

Tree Sources(const std::string& table) {
  return {{"docs/threat-model.md", "# Threats\n\n| who | what |\n|---|---|\n| a | `not a test` |\n\n" + table},
          {"tests/unit/a_test.cc",
           "TEST(Suite, Holds) {}\nTEST_F(\n    Fixture,\n    HoldsToo) {}\nMY_TEST(No, Test) {}\n"
           "RC_GTEST_PROP(Property, IsKept, (int x)) {}\n// TEST(\n"},
          {"tests/fuzz/CMakeLists.txt", "heddle_fuzz_target(fuzz_thing thing.cc DEPENDS x)\n"},
          {"common/b.cc", "TEST(Not, InTheTests)\n"}};
}

TEST(Promises, NameTestsOfEveryKind) {
  EXPECT_THAT(TestNames(Sources("")), ElementsAre("Fixture.HoldsToo", "Property.IsKept", "Suite.Holds", "fuzz_thing"));
  EXPECT_THAT(
      CheckPromises(Sources("| promise | test |\n|---|---|\n| `x` | `Suite.Holds`, `Fixture.HoldsToo` |\n"
                            "| y | `fuzz_thing`, `Property.IsKept` |\n\n| who | what |\n|---|---|\n| z | none |\n")),
      IsEmpty());
}

TEST(Promises, WithoutATestOrWithOneThatIsGoneAreFound) {
  EXPECT_THAT(CheckPromises(Sources("| promise | test |\n|---|---|\n| `Suite.Holds` | by thinking |\n"
                                    "| y | `Suite.Held`, `Not.InTheTests` |\n| z |\n")),
              ElementsAre("docs/threat-model.md:9: a promise without a test",
                          "docs/threat-model.md:10: there is no test Suite.Held",
                          "docs/threat-model.md:10: there is no test Not.InTheTests",
                          "docs/threat-model.md:11: a promise without a test"));
  EXPECT_THAT(CheckPromises(Sources("| promise | test |\n|---|---|\n| x | `Suite.Holds` |\n\n| y | `Suite.Holds` |\n")),
              ElementsAre("docs/threat-model.md:11: a row outside any table"));
  EXPECT_THAT(CheckPromises(Sources("")), ElementsAre(HasSubstr("it has no table")));
  EXPECT_THAT(CheckPromises({}), ElementsAre(HasSubstr("does not exist")));
}

}  // namespace
}  // namespace heddle::tidy
