// FedPepTAO: which layers are chosen, what then travels, and the momentum, against the formulas in double.
#include <gtest/gtest.h>

#include <cmath>

#include "aggregation/figures.h"
#include "aggregation/layer_choice.h"
#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

TEST(LayerChoice, TheLayersAboveTheWidestGapAreChosen) {
  const std::vector<double> scores = {0.9, 0.1, 0.8, 0.2, 0.15};
  EXPECT_EQ(ChooseLayers(scores, 0), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(ChooseLayers(scores, 3), (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ(ChooseLayers(scores, 9).size(), 5U);
  const std::vector<double> equal = {0.5, 0.5, 0.5}, one = {0.1};
  EXPECT_EQ(ChooseLayers(equal, 0), (std::vector<int64_t>{0}));
  EXPECT_EQ(ChooseLayers(one, 0), (std::vector<int64_t>{0}));
}

TEST(LayerChoice, NamesOfTheModelSayWhichColumnsTravel) {
  StateDictSpec model = {{"prompt_embeddings", {DType::kF32, {2, 12}}}};
  EXPECT_EQ(LayerChoiceOf(model).layers, 0);
  EXPECT_EQ(UpdateSpec(model, {}, 0), model);
  const std::string scores(kLayerScoresName);
  model[scores] = {DType::kF32, {3}};
  EXPECT_TRUE(LayerChoiceOf(model).scoring());
  EXPECT_EQ(UpdateSpec(model, {}, 0), model) << "all columns, and the scores";
  model["heddle.travels.2"] = model["heddle.travels.0"] = {DType::kF32, {1}};
  model["heddle.travels.7"] = model["heddle.travels.x"] = {DType::kF32, {1}};  // no layers
  const LayerChoice choice = LayerChoiceOf(model);
  EXPECT_EQ(choice.travels, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(TravellingColumns(choice, 12), (std::vector<int64_t>{0, 1, 2, 3, 8, 9, 10, 11}));
  EXPECT_EQ(UpdateSpec(model, {}, 0), (StateDictSpec{{"prompt_embeddings", {DType::kF32, {2, 8}}}}));
}

TEST(FedPepTao, RoundsAreThoseOfTheFormulas) {
  constexpr size_t kRows = 2, kWidth = 12;
  AggregatorOptions options;
  options.method = {{"server_momentum", 0.6}, {"server_learning_rate", 1.5}};
  options = WithLayers("FedPepTAO", options, 3);
  const StateDict adapter = RandomUpdate({{"prompt_embeddings", {2, 12}}, {"score.weight", {2, 3}}}, 3, 1.0F);
  auto first = FirstModel("FedPepTAO", adapter, options);
  ASSERT_TRUE(first.ok()) << first.status();
  RoundModel made{*first, {}};
  std::vector<double> x = Flat(adapter), m(x.size(), 0.0);
  for (uint32_t round = 1; round <= 3; ++round) {
    options.round = round;
    Shapes shapes = {{"prompt_embeddings", {2, round == 1 ? 12 : 4}}, {"score.weight", {2, 3}}};
    if (round == 1) shapes.push_back({"heddle.layer_scores", {3}});
    std::vector<Sent> sent = RandomSent(shapes, 4, round);
    if (round == 1) {
      for (Sent& one : sent) {  // the middle layer does most
        const std::array<float, 3> scores = {0.1F, 0.9F, 0.2F};
        one.update["heddle.layer_scores"] = Tensor::FromFloats({3}, scores);
      }
    }
    double total = 0;
    for (const Sent& one : sent) total += static_cast<double>(one.info.num_examples);
    std::vector<double> mean(x.size(), 0.0);
    std::vector<bool> moved(x.size(), false);
    for (const Sent& one : sent) {
      const double share = static_cast<double>(one.info.num_examples) / total;
      const auto prefix = one.update.at("prompt_embeddings").values<float>();
      const size_t width = round == 1 ? kWidth : 4, begin = round == 1 ? 0 : 4;
      for (size_t row = 0; row < kRows; ++row) {
        for (size_t c = 0; c < width; ++c) {
          mean[row * kWidth + begin + c] += share * static_cast<double>(prefix[row * width + c]);
          moved[row * kWidth + begin + c] = true;
        }
      }
      const auto head = one.update.at("score.weight").values<float>();
      for (size_t i = 0; i < head.size(); ++i) {
        mean[kRows * kWidth + i] += share * static_cast<double>(head[i]);
        moved[kRows * kWidth + i] = true;
      }
    }
    for (size_t i = 0; i < x.size(); ++i) {
      m[i] = moved[i] ? 0.6 * m[i] + 0.4 * mean[i] : 0;
      if (moved[i]) x[i] += 1.5 * m[i];
    }
    made = RunRound("FedPepTAO", made.model, sent, options, made.state);
    std::vector<double> after;
    for (const char* name : {"prompt_embeddings", "score.weight"}) {
      for (const float value : made.model.at(name).values<float>()) after.push_back(value);
    }
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(after[i], x[i], 2e-6) << "round " << round << ", element " << i;
    EXPECT_EQ(LayerChoiceOf(SpecOf(made.model)).travels, (std::vector<int64_t>{1}));
    EXPECT_EQ(FiguresOf(made.model).size(), round == 1 ? 1U : 0U);
  }
  // A device that sends what it should have kept is refused.
  options.round = 4;
  const auto aggregator = MakeMethod("FedPepTAO", made.model, options, made.state);
  const Validity validity = aggregator->Validate(adapter, {.num_examples = 1});
  EXPECT_EQ(validity.refusal, Refusal::kWrongShape) << validity.message;
}

TEST(FedPepTao, WhatHasNoPrefixIsRefused) {
  AggregatorOptions options;
  options = WithLayers("FedPepTAO", options, 2);
  const StateDict factors = RandomUpdate({{"a.lora_A.weight", {2, 4}}}, 1, 1.0F);
  EXPECT_NE(FirstModel("FedPepTAO", factors, options).status().message().find("prefix-tuning"), std::string::npos);
  EXPECT_TRUE(WithLayers("FedAvg", {}, 5).method.empty());
  options = WithLayers("FedPepTAO", options, 5);  // does not divide the columns
  EXPECT_FALSE(FirstModel("FedPepTAO", RandomUpdate({{"prompt_embeddings", {2, 12}}}, 1, 1.0F), options).ok());
}

}  // namespace
}  // namespace heddle::aggregation
