#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/unit/coordinator/engine/engine_world.h"

namespace heddle::coordinator::testing {
namespace {

using ::testing::HasSubstr;

struct Mistake {
  const char* name;
  void (*make)(RunSpec&);
  const char* sentence;
};

TEST(RunSpecCheck, FindsEachMistakeAndNamesIt) {
  const std::vector<Mistake> mistakes = {
      {"id", [](RunSpec& s) { s.id = RunId(); }, "the run has no id"},
      {"local task", [](RunSpec& s) { s.local_task.clear(); }, "local_task is empty"},
      {"no rounds", [](RunSpec& s) { s.rounds = 0; }, "num_server_rounds is 0"},
      {"many rounds", [](RunSpec& s) { s.rounds = 1'000'001; }, "num_server_rounds is 1000001"},
      {"no cohort", [](RunSpec& s) { s.cohort_size = 0; }, "cohort_size is 0"},
      {"no devices", [](RunSpec& s) { s.min_available_devices = 0; }, "min_available_devices is 0"},
      {"attempts", [](RunSpec& s) { s.max_abandoned_attempts = 1'000'001; }, "max_abandoned_attempts is 1000001"},
      {"over-selection below 1", [](RunSpec& s) { s.over_selection = 0.99; }, "over_selection is 0.99"},
      {"over-selection NaN", [](RunSpec& s) { s.over_selection = std::nan(""); }, "over_selection is"},
      {"over-selection inf", [](RunSpec& s) { s.over_selection = std::numeric_limits<double>::infinity(); },
       "over_selection is inf"},
      {"no reports", [](RunSpec& s) { s.min_reports = 0; },
       "min_reports is 0 but must be between 1 and cohort_size (2)"},
      {"more reports than the cohort", [](RunSpec& s) { s.min_reports = 3; }, "min_reports is 3"},
      {"fewer devices than reports", [](RunSpec& s) { s.min_available_devices = 1; },
       "min_available_devices is 1 but must be at least min_reports (2)"},
      {"many first rounds", [](RunSpec& s) { s.first_stage_rounds = 1'000'001; }, "first_stage_rounds is 1000001"},
      {"no later cohort", [](RunSpec& s) { s.first_stage_rounds = 1; },
       "later_cohort_size is 0 but must be between 1 and 1000000; later_min_available_devices is 0"},
      {"more later reports than the later cohort",
       [](RunSpec& s) {
         s.first_stage_rounds = 1;
         s.later_cohort_size = s.later_min_available_devices = 4;
         s.later_min_reports = 5;
       },
       "later_min_reports is 5 but must be between 1 and later_cohort_size (4); later_min_available_devices is 4 but "
       "must be at least later_min_reports (5)"},
      {"selection timeout", [](RunSpec& s) { s.selection_timeout = {}; }, "selection_timeout is 0 s"},
      {"report deadline", [](RunSpec& s) { s.report_deadline = Seconds(-1); }, "report_deadline is -1 s"},
      {"long deadline", [](RunSpec& s) { s.report_deadline = Duration::max(); }, "report_deadline is"},
      {"poll hold", [](RunSpec& s) { s.max_poll_hold = {}; }, "max_poll_hold is 0 s"},
      {"min retry", [](RunSpec& s) { s.min_retry_after = {}; }, "min_retry_after is 0 s"},
      {"max retry", [](RunSpec& s) { s.max_retry_after = Seconds(86401); }, "max_retry_after is 86401 s"},
      {"retry order", [](RunSpec& s) { s.min_retry_after = Seconds(10); }, "min_retry_after is above max_retry_after"},
      {"examples", [](RunSpec& s) { s.max_num_examples = 0; }, "max_num_examples is 0"},
  };
  EXPECT_TRUE(CheckRunSpec(SmallSpec()).ok());
  for (const Mistake& mistake : mistakes) {
    SCOPED_TRACE(mistake.name);
    RunSpec spec = SmallSpec();
    mistake.make(spec);
    Status status = CheckRunSpec(spec);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(mistake.sentence));
    Step step;
    EXPECT_EQ(Engine::Create(spec, DigestOf("m"), Time{}, &step).status().code(), Code::kInvalidArgument);
  }
}

TEST(RunSpecCheck, TellsAllMistakesAtOnce) {
  RunSpec spec = SmallSpec();
  spec.id = RunId();
  spec.rounds = 0;
  spec.over_selection = 0;
  std::string message = CheckRunSpec(spec).message();
  EXPECT_THAT(message, HasSubstr("the run has no id; num_server_rounds"));
  EXPECT_THAT(message, HasSubstr("; over_selection is"));
}

TEST(RunSpecCheck, TakesTheOuterLimits) {
  RunSpec spec = SmallSpec();
  spec.rounds = spec.cohort_size = spec.min_available_devices = spec.min_reports = 1'000'000;
  spec.over_selection = 100;
  spec.report_deadline = std::chrono::hours(24 * 366);
  EXPECT_TRUE(CheckRunSpec(spec).ok()) << CheckRunSpec(spec);
  spec.rounds = spec.cohort_size = spec.min_available_devices = spec.min_reports = 1;
  spec.report_deadline = Duration(1);
  EXPECT_TRUE(CheckRunSpec(spec).ok()) << CheckRunSpec(spec);
}

TEST(RunSpecCheck, WantsAnInitialModel) {
  Step step;
  EXPECT_EQ(Engine::Create(SmallSpec(), Sha256Digest(), Time{}, &step).status().code(), Code::kInvalidArgument);
}

TEST(SelectionTarget, RoundsUpButNotForAnErrorOfTheLastBit) {
  RunSpec spec = SmallSpec();
  auto target = [&](uint32_t cohort, double over) {
    spec.cohort_size = cohort;
    spec.over_selection = over;
    return SelectionTarget(spec, 1);
  };
  EXPECT_EQ(target(10, 1), 10U);
  EXPECT_EQ(target(10, 1.1), 11U);  // 10 * 1.1 is 11.000000000000002
  EXPECT_EQ(target(10, 1.01), 11U);
  EXPECT_EQ(target(3, 1.5), 5U);
  EXPECT_EQ(target(1, 100), 100U);
}

TEST(SelectionTarget, IsThatOfTheRoundsStage) {
  RunSpec spec = SmallSpec();
  spec.over_selection = 1.5;
  spec.first_stage_rounds = 3;
  spec.later_cohort_size = 5;
  spec.later_min_available_devices = 7;
  spec.later_min_reports = 4;
  EXPECT_TRUE(CheckRunSpec(spec).ok()) << CheckRunSpec(spec);
  EXPECT_EQ(SelectionTarget(spec, 1), 3U);
  EXPECT_EQ(SelectionTarget(spec, 3), 3U);
  EXPECT_EQ(SelectionTarget(spec, 4), 8U);
  EXPECT_EQ(SizesOf(spec, 3), (RoundSizes{2, 2, 2}));
  EXPECT_EQ(SizesOf(spec, 4), (RoundSizes{5, 7, 4}));
  spec.first_stage_rounds = 0;
  EXPECT_EQ(SizesOf(spec, 4), (RoundSizes{2, 2, 2}));
}

}  // namespace
}  // namespace heddle::coordinator::testing
