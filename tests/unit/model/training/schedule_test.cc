// Names and worked values.
#include "model/training/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/training/optimizer_kind.h"

namespace heddle::model {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<double> Factors(std::string_view name, uint32_t total, uint32_t warmup) {
  const auto schedule = LearningRateSchedule::Make(name, total, warmup);
  EXPECT_TRUE(schedule.ok()) << schedule.status();
  std::vector<double> out;
  for (uint32_t step = 1; step <= total; ++step) out.push_back(schedule->Factor(step));
  return out;
}

TEST(Schedule, ConstantWithWarmupIsTheDefault) {
  EXPECT_THAT(Factors("", 6, 4), ElementsAre(0.25, 0.5, 0.75, 1, 1, 1));
  EXPECT_EQ(Factors("constant_with_warmup", 6, 4), Factors("", 6, 4));
  EXPECT_THAT(Factors("", 3, 0), ElementsAre(1, 1, 1));
  EXPECT_EQ(ScheduleNames().front(), "constant_with_warmup");
}

TEST(Schedule, ConstantKnowsNoWarmup) { EXPECT_THAT(Factors("constant", 3, 2), ElementsAre(1, 1, 1)); }

TEST(Schedule, LinearFallsByEqualSteps) {
  EXPECT_THAT(Factors("linear", 7, 2), ElementsAre(0.5, 1, 1, 0.8, DoubleNear(0.6, 1e-15), 0.4, 0.2));
  EXPECT_THAT(Factors("linear", 4, 0), ElementsAre(1, 0.75, 0.5, 0.25));
}

TEST(Schedule, CosineFallsAlongHalfAWave) {
  const double half = std::sqrt(0.5);
  EXPECT_THAT(Factors("cosine", 6, 2), ElementsAre(0.5, 1, 1, DoubleNear((1 + half) / 2, 1e-15), DoubleNear(0.5, 1e-15),
                                                   DoubleNear((1 - half) / 2, 1e-15)));
}

TEST(Schedule, AWarmupLongerThanTheTaskIsAllThereIs) {
  for (const char* name : {"constant_with_warmup", "linear", "cosine"}) {
    EXPECT_THAT(Factors(name, 3, 4), ElementsAre(0.25, 0.5, 0.75)) << name;
    EXPECT_THAT(Factors(name, 2, 2), ElementsAre(0.5, 1)) << name;
  }
}

TEST(Schedule, StepsOutsideAreTheNearestInside) {
  const auto schedule = LearningRateSchedule::Make("linear", 4, 0);
  EXPECT_EQ(schedule->Factor(0), schedule->Factor(1));
  EXPECT_EQ(schedule->Factor(9), schedule->Factor(4));
}

TEST(Schedule, EveryNameCanBeMadeAndOthersAreRefusedWithTheKnown) {
  for (const std::string& name : ScheduleNames()) EXPECT_TRUE(LearningRateSchedule::Make(name, 1, 0).ok()) << name;
  const Status status = LearningRateSchedule::Make("polynomial", 1, 0).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("'polynomial'; known are constant_with_warmup, constant, linear, cosine"));
}

TEST(OptimizerKind, EveryNameIsKnownAndOthersAreRefusedWithTheKnown) {
  EXPECT_EQ(*OptimizerKindFromName(""), OptimizerKind::kAdamW);
  EXPECT_EQ(*OptimizerKindFromName("AdamW"), OptimizerKind::kAdamW);
  EXPECT_EQ(*OptimizerKindFromName("AdamW8bit"), OptimizerKind::kAdamW8bit);
  EXPECT_EQ(*OptimizerKindFromName("SGD"), OptimizerKind::kSgd);
  for (const std::string& name : OptimizerNames()) EXPECT_TRUE(OptimizerKindFromName(name).ok()) << name;
  EXPECT_THAT(OptimizerKindFromName("sgd").status().message(), HasSubstr("'sgd'; known are AdamW, AdamW8bit, SGD"));
}

}  // namespace
}  // namespace heddle::model
