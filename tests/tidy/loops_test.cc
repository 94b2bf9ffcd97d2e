#include "tests/tidy/loops.h"

#include <gmock/gmock.h>

namespace heddle::tidy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Loops, OfTheTreeWalkOverWhatLives) {
  for (const std::string& violation : CheckLoops(ReadTree(HEDDLE_SOURCE_DIR))) ADD_FAILURE() << violation;
}

Violations Check(const std::string& range) {
  return CheckLoops({{"common/a.cc", "\n  for (const auto& [x, y] : " + range + ") Use(x);\n"}});
}

TEST(Loops, ThroughACallsResultAreFound) {
  for (const char* range : {"f()->items", "Read(path).value()", "world.Read(path, 3)->items()", "*Read(path)",
                            "Make()[0]", "(*Read(path))->items", "(f())->items", "*(f())", "Make().part.items()",
                            "Make().part.items", "a.Get<Deep<int>>(b).items()", "ns::Make(F(1), \")\")->x",
                            "* world.rows(1)", "Read(\n      path)\n      .value()"}) {
    EXPECT_THAT(Check(range), ElementsAre(HasSubstr("common/a.cc:2: the loop walks over a part"))) << range;
  }
}

TEST(Loops, OverWhatLivesAreLeftAlone) {
  for (const char* range : {"items",
                            "f()",
                            "world.rows(f()->x)",
                            "a->b.c",
                            "*rows",
                            "rows->items()",
                            "f().items",
                            "{f()->x, g().value()}",
                            "std::set<int>{1}",
                            "Sorted(g().value())",
                            "json.at(\"a\").as_array()",
                            "task.plan().tensors()",
                            "a ? b : c",
                            "(*rows)->items",
                            "(a)",
                            "(f())",
                            "static_cast<const T&>(a).items",
                            "a.good() ? b.c : d",
                            "std::array{1, 2}",
                            "text(one).substr(2)",
                            "\"f()->x\""}) {
    EXPECT_THAT(Check(range), IsEmpty()) << range;
  }
}

TEST(Loops, OtherLoopsAndTextsAreNone) {
  EXPECT_THAT(CheckLoops({{"common/a.cc",
                           "for (auto i = f()->x; i < 3; ++i) {}\nwhile (f()->x) {}\n"
                           "// for (a : f()->x)\nconst char* s = \"for (a : f()->x)\";\n"
                           "auto r = R\"(for (a : f()->x))\"; char c = '\"'; int n = 1'000;\n"}}),
              IsEmpty());
  EXPECT_THAT(CheckLoops({{"docs/a.md", "for (a : f()->x)\n"}}), IsEmpty());
}

TEST(Loops, AreSeenBehindTextsThatMightHideThem) {
  EXPECT_THAT(CheckLoops({{"common/a.cc",
                           "/* \" */ for (auto a : f()->x) {}\nchar c = '\\''; for (auto a : f()->x) {}\n"
                           "int n = 1'000; for (auto a : f()->x) {}\n"}}),
              ElementsAre(HasSubstr(":1:"), HasSubstr(":2:"), HasSubstr(":3:")));
}

}  // namespace
}  // namespace heddle::tidy
