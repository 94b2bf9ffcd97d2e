// FedAdapter: sizes side by side, the choice by progress for each second, and growing without a change.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "aggregation/figures.h"
#include "aggregation/growing/trials.h"
#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

constexpr const char* kMethod = "FedAdapter";
constexpr int64_t kHidden = 6, kWidth = 10, kLayers = 3;

std::string Key(int64_t layer, const std::string& part) {
  return "base_model.model.model.layers." + std::to_string(layer) + ".adapter_mlp." + part;
}

// The largest adapter as it is first drawn: what comes second is zero.
StateDict Largest() {
  StateDict out;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    out.merge(RandomUpdate({{Key(layer, "down.weight"), {kWidth, kHidden}}}, 1 + static_cast<uint64_t>(layer)));
    out.merge(RandomUpdate({{Key(layer, "down.bias"), {kWidth}},
                            {Key(layer, "up.weight"), {kHidden, kWidth}},
                            {Key(layer, "up.bias"), {kHidden}}},
                           9, 0.0F));
  }
  out.merge(RandomUpdate({{"base_model.model.classifier.weight", {2, kHidden}}}, 5));
  return out;
}

// up relu(down x + bias) + bias of one layer; nothing where it has no adapter.
std::vector<double> Compute(const StateDict& adapter, int64_t layer, const std::vector<double>& x) {
  std::vector<double> out(kHidden);
  if (!adapter.contains(Key(layer, "down.weight"))) return out;
  const auto values = [&](const char* part) { return adapter.at(Key(layer, part)).values<float>(); };
  const auto down = values("down.weight"), down_bias = values("down.bias"), up = values("up.weight"),
             up_bias = values("up.bias");
  const size_t width = down_bias.size();
  for (size_t i = 0; i < kHidden; ++i) out[i] = up_bias[i];
  for (size_t w = 0; w < width; ++w) {
    double sum = down_bias[w];
    for (size_t j = 0; j < kHidden; ++j) sum += double{down[w * kHidden + j]} * x[j];
    for (size_t i = 0; i < kHidden; ++i) out[i] += double{up[i * width + w]} * std::max(0.0, sum);
  }
  return out;
}

class FedAdapterTest : public testing::Test {
 protected:
  FedAdapterTest() {
    options_.method = {{"trial_rounds", 2},     {"start_width", 4},       {"width_step", 3},
                       {"seconds_per_step", 1}, {"seconds_per_layer", 1}, {"bytes_per_second", 0}};
    auto first = FirstModel(kMethod, Largest(), options_);
    EXPECT_TRUE(first.ok()) << first.status();
    model_ = *std::move(first);
  }

  // One device a group, with that loss before it trained.
  std::vector<Sent> Updates(const std::map<uint32_t, double>& losses, uint64_t seed = 1) const {
    std::vector<Sent> sent;
    for (const auto& [group, loss] : losses) {
      Shapes shapes;
      for (const auto& [key, tensor] : GroupModel(model_, group)) shapes.emplace_back(key, tensor.shape());
      sent.push_back({RandomUpdate(shapes, seed * 10 + group, 0.5F),
                      {.num_examples = 10 + group,
                       .num_steps = 5,
                       .device = "device-" + std::to_string(group),
                       .group = group,
                       .first_loss = loss}});
    }
    return sent;
  }

  void Round(uint32_t round, const std::map<uint32_t, double>& losses) {
    options_.round = round;
    RoundModel made = RunRound(kMethod, model_, Updates(losses, round), options_, state_);
    model_ = std::move(made.model);
    state_ = std::move(made.state);
  }

  GrownSize Size(uint32_t group = 0) const { return SizeOfAdapters(GroupModel(model_, group)).value_or(GrownSize{}); }
  double Figure(const std::string& name) const {
    for (const auto& [key, value] : FiguresOf(model_)) {
      if (key == name) return value;
    }
    return std::nan("");
  }

  AggregatorOptions options_;
  StateDict model_, state_;
};

TEST_F(FedAdapterTest, BeginsSmallInTheTopLayerWithADeeperAndAWiderGroup) {
  EXPECT_EQ(Size(0).layers, (std::vector<int64_t>{2}));
  EXPECT_EQ(Size(0).width, 4);
  EXPECT_EQ(Size(1).layers, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(Size(1).width, 4);
  EXPECT_EQ(Size(2).layers, (std::vector<int64_t>{2}));
  EXPECT_EQ(Size(2).width, 7);
  EXPECT_TRUE(GroupModel(model_, 2).contains("base_model.model.classifier.weight")) << "each group has a head";
  for (uint32_t group = 0; group < 3; ++group) {
    for (const auto& [key, tensor] : GroupModel(model_, group)) EXPECT_FALSE(key.starts_with(kOwnPrefix)) << key;
  }
}

TEST_F(FedAdapterTest, EachGroupIsAMeanOfItsOwnDevices) {
  const StateDict before = model_;
  auto sent = Updates({{0, 1.0}, {1, 1.0}, {2, 1.0}});
  Sent second = sent[1];
  second.info.device = "another";
  second.info.num_examples = 33;
  for (auto& [key, tensor] : second.update) {
    tensor = Tensor::FromFloats(tensor.shape(), std::vector<float>(static_cast<size_t>(tensor.numel()), 0.25F));
  }
  sent.push_back(second);
  options_.round = 1;
  const RoundModel made = RunRound(kMethod, model_, sent, options_);
  for (uint32_t group = 0; group < 3; ++group) {
    const StateDict next = GroupModel(made.model, group), start = GroupModel(before, group);
    ASSERT_EQ(SpecOf(next), SpecOf(start));
    for (const auto& [key, tensor] : next) {
      for (size_t i = 0; i < tensor.values<float>().size(); ++i) {
        double step = sent[group].update.at(key).values<float>()[i];
        if (group == 1) step = (step * 11 + 0.25 * 33) / 44;
        EXPECT_NEAR(tensor.values<float>()[i], double{start.at(key).values<float>()[i]} + step, 1e-6) << key;
      }
    }
  }
}

// Of one layer a step costs 2 seconds, of two 3.
TEST_F(FedAdapterTest, TheGroupWithTheMostProgressForEachSecondIsGoneOnWith) {
  Round(1, {{0, 10.0}, {1, 10.0}, {2, 10.0}});
  Round(2, {{0, 9.0}, {1, 8.4}, {2, 9.1}});  // 0.1, 0.107, 0.09 a second
  EXPECT_EQ(Size(0).layers, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(Size(0).width, 4);
  EXPECT_EQ(Size(1).layers, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(Size(2).width, 7);
  EXPECT_NEAR(Figure("progress_as_it_is"), 0.1, 1e-6);
  EXPECT_NEAR(Figure("progress_deeper"), 1.6 / 15, 1e-6);
  EXPECT_NEAR(Figure("progress_wider"), 0.09, 1e-6);
  EXPECT_EQ(Figure("adapter_depth"), 2);
  EXPECT_EQ(Figure("adapter_width"), 4);
  EXPECT_TRUE(state_.empty()) << "the next trial has its own beginning";
  // Time counts: with layers that cost nothing more the deeper group's lead is larger, with dear ones it loses.
  for (const auto& [seconds, depth] : std::map<double, size_t>{{0.0, 2}, {3.0, 1}}) {
    auto again = FirstModel(kMethod, Largest(), options_);
    model_ = *again;
    state_.clear();
    options_.method["seconds_per_layer"] = seconds;
    Round(1, {{0, 10.0}, {1, 10.0}, {2, 10.0}});
    Round(2, {{0, 9.0}, {1, 8.4}, {2, 9.1}});
    EXPECT_EQ(Size(0).layers.size(), depth) << seconds;
  }
}

// The published code compares the texts of the figures: "9.5" is above "10.5".
TEST_F(FedAdapterTest, ComparesNumbersAsNumbers) {
  options_.method["seconds_per_layer"] = 0;
  Round(1, {{0, 20.0}, {1, 20.0}, {2, 20.0}});
  Round(2, {{0, 10.5}, {1, 9.5}, {2, 11.0}});  // falls of 9.5, 10.5 and 9
  EXPECT_EQ(Size(0).layers.size(), 2U);
  Round(3, {{0, 200.0}, {1, 200.0}, {2, 200.0}});
  Round(4, {{0, 102.0}, {1, 101.5}, {2, 100.0}});  // 98, 98.5 and 100
  EXPECT_EQ(Size(0).layers.size(), 2U);
  EXPECT_EQ(Size(0).width, 7);
}

TEST_F(FedAdapterTest, EqualProgressStaysSmallAndAGroupWithoutAReportIsNotChosen) {
  options_.method["seconds_per_layer"] = 0;
  Round(1, {{0, 10.0}, {1, 10.0}, {2, 10.0}});
  const StateDict model = model_, state = state_;
  Round(2, {{0, 9.0}, {1, 9.0}, {2, 9.0}});
  EXPECT_EQ(Size(0).layers.size(), 1U);
  EXPECT_EQ(Size(0).width, 4);
  model_ = model;
  state_ = state;
  Round(2, {{1, 9.9}});
  EXPECT_EQ(Size(0).layers.size(), 2U);
  // Nobody tells a loss: the trial decides nothing.
  model_ = model;
  state_ = state;
  Round(2, {{0, std::nan("")}, {2, INFINITY}});
  EXPECT_EQ(Size(0).width, 4);
  EXPECT_EQ(Size(0).layers.size(), 1U);
}

TEST_F(FedAdapterTest, AllGroupsOfATrialBeginWithWhatTheWinnerComputes) {
  Round(1, {{0, 10.0}, {1, 10.0}, {2, 10.0}});
  Round(2, {{0, 9.0}, {1, 5.0}, {2, 9.0}});
  const std::vector<double> x = {0.3, -1.2, 0.7, 2.1, -0.4, 0.9};
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const auto winner = Compute(GroupModel(model_, 0), layer, x);
    for (uint32_t group = 1; group < 3; ++group) {
      const auto other = Compute(GroupModel(model_, group), layer, x);
      for (size_t i = 0; i < other.size(); ++i) EXPECT_DOUBLE_EQ(other[i], winner[i]) << layer << " group " << group;
    }
  }
  EXPECT_GT(std::abs(Compute(GroupModel(model_, 0), 1, x)[0]), 1e-3) << "there is something to compute";
  // What grew can learn: its first matrix is not zero.
  const auto bias = GroupModel(model_, 2).at(Key(2, "down.weight")).values<float>();
  EXPECT_NE(bias[4 * kHidden], 0);
}

TEST_F(FedAdapterTest, AtItsLargestItGoesOnWithoutTheGroupsThatWouldGrow) {
  Round(1, {{0, 10.0}, {1, 10.0}, {2, 10.0}});
  for (uint32_t round = 2; round <= 12; ++round) {
    const bool deeper = Size(0).layers.size() < 3;
    Round(round, {{0, 9.0}, {1, deeper ? 1.0 : 9.0}, {2, deeper ? 9.0 : 1.0}});
  }
  EXPECT_EQ(Size(0).layers.size(), 3U);
  EXPECT_EQ(Size(0).width, kWidth);
  EXPECT_EQ(SpecOf(GroupModel(model_, 1)), SpecOf(GroupModel(model_, 0))) << "such devices train the adapter as it is";
  for (const auto& [key, tensor] : model_) EXPECT_FALSE(key.starts_with(kTrialPrefix)) << key;
}

TEST_F(FedAdapterTest, DevicesAreDealtToGroupsAnewForEachTrial) {
  const auto groups = [&](uint32_t round) {
    options_.round = round;
    const DeviceRules rules = *RulesOf(kMethod, options_);
    std::vector<uint32_t> out;
    for (int i = 0; i < 300; ++i) out.push_back(GroupOf(rules, 7, "device-" + std::to_string(i)));
    return out;
  };
  EXPECT_EQ(groups(1), groups(2)) << "of one trial";
  EXPECT_NE(groups(2), groups(3));
  for (uint32_t group = 0; group < 3; ++group) {
    const auto dealt = groups(1);
    const auto count = std::count(dealt.begin(), dealt.end(), group);
    EXPECT_GT(count, 60) << group;
    EXPECT_LT(count, 140) << group;
  }
  EXPECT_EQ(GroupOf({}, 7, "anybody"), 0U);
}

TEST_F(FedAdapterTest, UpdatesOfAnotherGroupsSizeAndModelsOfAnotherKindAreRefused) {
  auto sent = Updates({{0, 1.0}, {1, 1.0}});
  const auto aggregator = MakeMethod(kMethod, model_, options_);
  EXPECT_EQ(aggregator->Validate(sent[1].update, sent[0].info).refusal, Refusal::kWrongTensors);
  EXPECT_EQ(aggregator->Validate(sent[0].update, sent[1].info).refusal, Refusal::kWrongTensors);
  EXPECT_TRUE(aggregator->Validate(sent[0].update, sent[0].info).ok());
  const StateDict factors = RandomUpdate({{"m.q.lora_A.weight", {2, 3}}, {"m.q.lora_B.weight", {3, 2}}}, 1);
  EXPECT_NE(FirstModel(kMethod, factors, options_).status().message().find("tuning.method = \"bottleneck\""),
            std::string::npos);
  EXPECT_EQ(MakeAggregator(kMethod, Largest(), options_).status().code(), Code::kInvalidArgument);
  options_.round = 2;
  EXPECT_NE(MakeAggregator(kMethod, model_, options_).status().message().find("loss at which its trial began"),
            std::string::npos);
}

}  // namespace
}  // namespace heddle::aggregation
