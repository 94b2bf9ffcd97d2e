// FedBPT: means and sigmas of the devices' searches, against the formulas in double.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

TEST(FedBpt, AveragesMeansAndSquaresOfSigmasWithAFloor) {
  const std::vector<float> mean = {0.5F, -1, 2}, variance = {1.44F};
  const StateDict parent = {{"prompt_coordinates", Tensor::FromFloats({3}, mean)},
                            {"prompt_variance", Tensor::FromFloats({1}, variance)}};
  std::vector<Sent> sent = RandomSent({{"prompt_coordinates", {3}}, {"prompt_variance", {1}}}, 5, 9, 0.9F);
  std::vector<double> expected = {0.5, -1, 2};
  double squares = variance[0];
  for (const Sent& one : sent) {  // whatever numbers of examples they tell
    const auto way = one.update.at("prompt_coordinates").values<float>();
    for (size_t i = 0; i < 3; ++i) expected[i] += static_cast<double>(way[i]) / 5;
    squares += static_cast<double>(one.update.at("prompt_variance").values<float>()[0]) / 5;
  }
  for (const double min_sigma : {0.0, 0.5, 5.0}) {
    AggregatorOptions options;
    options.method = {{"min_sigma", min_sigma}};
    const RoundModel made = RunRound("FedBPT", parent, sent, options);
    const auto after = made.model.at("prompt_coordinates").values<float>();
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(after[i], expected[i], 1e-6);
    EXPECT_NEAR(made.model.at("prompt_variance").values<float>()[0], std::max(squares, min_sigma * min_sigma), 1e-6);
  }
  // A device that says that its sigma^2 fell below zero leaves the next search one all the same.
  for (Sent& one : sent) {
    const std::vector<float> below = {-10};
    one.update.insert_or_assign("prompt_variance", Tensor::FromFloats({1}, below));
  }
  AggregatorOptions options;
  options.method = {{"min_sigma", 0}};
  EXPECT_GT(RunRound("FedBPT", parent, sent, options).model.at("prompt_variance").values<float>()[0], 0);
}

}  // namespace
}  // namespace heddle::aggregation
