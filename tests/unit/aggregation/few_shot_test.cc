// The pace of learning from few labels, and a mean in which devices that took no step weigh nothing.
#include <gtest/gtest.h>

#include <cmath>

#include "aggregation/averaging/few_shot.h"
#include "aggregation/figures.h"
#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

const Shapes kFewShot = {{"a.weight", {3, 5}}, {"b", {7}}};

PseudoLabelling LabelsOfRound(const std::string& method, uint32_t round, const Settings& settings = {}) {
  AggregatorOptions options;
  options.round = round;
  options.cohort = 10;
  options.method = settings;
  return LabellingOf(method, options);
}

TEST(FewShotPace, EveryFRoundsDevicesLabelAndTheCurriculumGrows) {
  const Settings pace = {
      {"warmup_rounds", 2}, {"infer_every", 3}, {"infer_devices", 4}, {"infer_samples", 5}, {"max_samples", 12}};
  const std::map<uint32_t, uint32_t> samples = {{1, 0},  {2, 0},  {3, 5},  {4, 5},  {5, 5},
                                                {6, 10}, {8, 10}, {9, 12}, {90, 12}};
  for (const auto& [round, expected] : samples) {
    const PseudoLabelling labels = LabelsOfRound("FeS", round, pace);
    EXPECT_TRUE(labels.on);
    EXPECT_EQ(labels.samples, expected) << "round " << round;
    EXPECT_EQ(labels.share, round > 2 && round % 3 == 0 ? 0.4 : 0) << "round " << round;
  }
}

TEST(FewShotPace, LpFlLabelsEverythingSoftlyAfterTheWarmUp) {
  EXPECT_EQ(LabelsOfRound("LP-FL", 3).share, 0);
  const PseudoLabelling labels = LabelsOfRound("LP-FL", 4);
  EXPECT_EQ(labels.share, 1);
  EXPECT_TRUE(labels.soft);
  EXPECT_FALSE(labels.min_logit.has_value());
  EXPECT_EQ(labels.neighbours, 0U);
}

TEST(FewShotPace, WhoLabelsIsDrawnAnewForEachRoundAndDoesNotDependOnOthers) {
  PseudoLabelling labels = LabelsOfRound("FeS", 2);
  ASSERT_EQ(labels.share, 0.5);
  int chosen = 0, same = 0;
  for (int device = 0; device < 2000; ++device) {
    const std::string name = "device-" + std::to_string(device);
    const bool now = LabelsNow(labels, 1, 2, name);
    chosen += now;
    same += now == LabelsNow(labels, 1, 3, name);
    EXPECT_EQ(now, LabelsNow(labels, 1, 2, name));
  }
  // Five standard deviations of 2000 tosses.
  EXPECT_NEAR(chosen, 1000, 112);
  EXPECT_NEAR(same, 1000, 112);
  labels.share = 1;
  EXPECT_TRUE(LabelsNow(labels, 1, 2, "any"));
  EXPECT_FALSE(LabelsOfRound("FedAvg", 2).on);
  labels.on = false;
  EXPECT_FALSE(LabelsNow(labels, 1, 2, "any"));
}

TEST(FewShotMean, IsThatOfTheDevicesThatTookSteps) {
  const StateDict parent = RandomUpdate(kFewShot, 1, 2.0F);
  std::vector<Sent> sent = RandomSent(kFewShot, 4, 5);
  sent[1].info.num_steps = sent[2].info.num_steps = 0;  // whatever they send
  std::vector<double> expected = Flat(parent);
  const double total = static_cast<double>(sent[0].info.num_examples + sent[3].info.num_examples);
  for (const size_t k : {size_t{0}, size_t{3}}) {
    const std::vector<double> row = Flat(sent[k].update);
    for (size_t i = 0; i < row.size(); ++i)
      expected[i] += row[i] * static_cast<double>(sent[k].info.num_examples) / total;
  }
  RoundModel made = RunRound("FeS", parent, sent);
  const auto figures = FiguresOf(made.model);
  ASSERT_EQ(figures.size(), 1U);
  EXPECT_EQ(figures[0], (std::pair<std::string, double>{"devices_with_labels", 2}));
  EraseFigures(&made.model);
  ExpectRoundedFrom(expected, made.model);
}

TEST(FewShotMean, LeavesTheModelWhenNobodyHadALabel) {
  const StateDict parent = RandomUpdate(kFewShot, 1, 2.0F);
  std::vector<Sent> sent = RandomSent(kFewShot, 3, 5);
  for (Sent& one : sent) one.info.num_steps = 0;
  RoundModel made = RunRound("LP-FL", parent, sent);
  EraseFigures(&made.model);
  EXPECT_EQ(SerializeSafetensors(made.model), SerializeSafetensors(parent));
}

}  // namespace
}  // namespace heddle::aggregation
