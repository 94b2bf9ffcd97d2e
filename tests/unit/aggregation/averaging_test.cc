// Server optimizers and the server halves of client corrections, each against its formulas written down in double, over
// several rounds with the state handed on.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <numeric>

#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

const Shapes kAveraged = {{"a.lora_A.weight", {3, 17}}, {"a.lora_B.weight", {9, 3}}, {"bias", {5}}, {"one", {}}};

std::vector<double> WeightedMean(const std::vector<Sent>& sent) {
  const auto rows = FlatRows(sent);
  std::vector<double> mean(rows[0].size(), 0.0);
  double total = 0;
  for (const Sent& item : sent) total += static_cast<double>(item.info.num_examples);
  for (size_t k = 0; k < rows.size(); ++k) {
    for (size_t i = 0; i < mean.size(); ++i) {
      mean[i] += rows[k][i] * static_cast<double>(sent[k].info.num_examples) / total;
    }
  }
  return mean;
}

std::vector<double> PlainMean(const std::vector<std::vector<double>>& rows) {
  std::vector<double> mean(rows[0].size(), 0.0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += row[i] / static_cast<double>(rows.size());
  }
  return mean;
}

double AsFloat(double value) { return static_cast<double>(static_cast<float>(value)); }

// One element's round by the book: moves m and v, returns the step.
using Formula = std::function<double(double mean, double* m, double* v)>;

struct OptimizerCase {
  const char* method;
  Settings settings;
  double tau;  // v begins at its square
  Formula formula;
};

void PrintTo(const OptimizerCase& c, std::ostream* out) { *out << c.method; }

class ServerOptimizerFormulas : public testing::TestWithParam<OptimizerCase> {};

TEST_P(ServerOptimizerFormulas, FiveRoundsAreThoseOfTheFormulas) {
  const OptimizerCase& c = GetParam();
  AggregatorOptions options;
  options.method = c.settings;
  StateDict model = RandomUpdate(kAveraged, 3, 2.0F), state;
  const size_t count = Flat(model).size();
  std::vector<double> m(count, 0.0), v(count, c.tau * c.tau);
  for (uint32_t round = 1; round <= 5; ++round) {
    options.round = round;
    const auto sent = RandomSent(kAveraged, 1 + round * 2, round, 0.1F);
    const std::vector<double> mean = WeightedMean(sent);
    std::vector<double> expected = Flat(model);
    for (size_t i = 0; i < count; ++i) {
      expected[i] += c.formula(mean[i], &m[i], &v[i]);
      // What is handed on is float32.
      m[i] = AsFloat(m[i]);
      v[i] = AsFloat(v[i]);
    }
    RoundModel made = RunRound(c.method, model, sent, options, state);
    // Steps of an adaptive method are large where moments are small, and with them the last bits of the mean.
    ExpectRoundedFrom(expected, made.model, 1e-9);
    model = std::move(made.model);
    state = std::move(made.state);
    ASSERT_FALSE(state.empty());
    for (const auto& [name, tensor] : state) EXPECT_EQ(tensor.dtype(), DType::kF32) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Methods, ServerOptimizerFormulas,
    testing::Values(OptimizerCase{"FedAvgM",
                                  {{"server_learning_rate", 0.7}, {"server_momentum", 0.8}},
                                  0,
                                  [](double d, double* m, double*) {
                                    *m = 0.8 * *m + d;
                                    return 0.7 * *m;
                                  }},
                    OptimizerCase{"FedAvgM",
                                  {},
                                  0,
                                  [](double d, double* m, double*) {
                                    *m = 0.9 * *m + d;
                                    return *m;
                                  }},
                    OptimizerCase{"FedAdagrad",
                                  {{"server_learning_rate", 0.1}, {"tau", 0.01}},
                                  0.01,
                                  [](double d, double* m, double* v) {
                                    *m = d;
                                    *v += d * d;
                                    return 0.1 * *m / (std::sqrt(*v) + 0.01);
                                  }},
                    OptimizerCase{"FedAdagrad",
                                  {{"beta_1", 0.5}},
                                  1e-3,
                                  [](double d, double* m, double* v) {
                                    *m = 0.5 * *m + 0.5 * d;
                                    *v += d * d;
                                    return 0.01 * *m / (std::sqrt(*v) + 1e-3);
                                  }},
                    OptimizerCase{"FedAdam",
                                  {},
                                  1e-3,
                                  [](double d, double* m, double* v) {
                                    *m = 0.9 * *m + (1 - 0.9) * d;
                                    *v = 0.99 * *v + (1 - 0.99) * d * d;
                                    return 0.01 * *m / (std::sqrt(*v) + 1e-3);
                                  }},
                    OptimizerCase{"FedAdam",
                                  {{"beta_1", 0.0}, {"beta_2", 0.5}, {"tau", 0.1}, {"server_learning_rate", 1.0}},
                                  0.1,
                                  [](double d, double* m, double* v) {
                                    *m = d;
                                    *v = 0.5 * *v + 0.5 * d * d;
                                    return *m / (std::sqrt(*v) + 0.1);
                                  }},
                    OptimizerCase{"FedYogi",
                                  {{"beta_2", 0.9}},
                                  1e-3,
                                  [](double d, double* m, double* v) {
                                    *m = 0.9 * *m + (1 - 0.9) * d;
                                    const double sign = *v > d * d ? 1 : *v < d * d ? -1 : 0;
                                    *v -= (1 - 0.9) * d * d * sign;
                                    return 0.01 * *m / (std::sqrt(*v) + 1e-3);
                                  }}),
    [](const auto& info) { return std::string(info.param.method) + std::to_string(info.index); });

// One device; devices that agree; a round in which nobody moved, after one in which all did.
TEST_P(ServerOptimizerFormulas, HoldAtTheirEdges) {
  const OptimizerCase& c = GetParam();
  AggregatorOptions options;
  options.method = c.settings;
  for (const size_t devices : {size_t{1}, size_t{4}}) {
    StateDict model = RandomUpdate(kAveraged, 3, 2.0F), state;
    const size_t count = Flat(model).size();
    std::vector<double> m(count, 0.0), v(count, c.tau * c.tau);
    for (uint32_t round = 1; round <= 4; ++round) {
      SCOPED_TRACE(std::to_string(devices) + " devices, round " + std::to_string(round));
      options.round = round;
      auto sent = RandomSent(kAveraged, devices, round, 0.1F);
      const bool still = round == 1 || round == 3;
      for (Sent& item : sent) item.update = RandomUpdate(kAveraged, round, still ? 0.0F : 0.1F);
      const std::vector<double> all = Flat(sent[0].update), before = Flat(model);
      std::vector<double> expected = before;
      for (size_t i = 0; i < count; ++i) {
        expected[i] += c.formula(all[i], &m[i], &v[i]);
        m[i] = AsFloat(m[i]);
        v[i] = AsFloat(v[i]);
      }
      RoundModel made = RunRound(c.method, model, sent, options, state);
      ExpectRoundedFrom(expected, made.model, 1e-9);
      if (round == 1) {
        EXPECT_EQ(Flat(made.model), before) << "nobody has moved yet";
      }
      model = std::move(made.model);
      state = std::move(made.state);
    }
  }
}

// sign(0) = 0: neither towards the square nor away.
TEST(FedYogi, AMomentThatIsTheSquareAlreadyStays) {
  AggregatorOptions options;
  const double tau = 0x1p-10;  // of which the square is exact
  options.method = {{"tau", tau}, {"beta_2", 0.75}, {"server_learning_rate", 1}};
  const auto d = static_cast<float>(tau);
  const StateDict model = Single({0, 0, 0, 0});
  const Sent sent{Single({d, -d, 2 * d, d / 2}), {.num_examples = 3, .device = "anna"}};
  const RoundModel made = RunRound("FedYogi", model, {sent}, options);
  std::vector<double> moments, expected_model;
  const std::vector<double> expected = {tau * tau, tau * tau, tau * tau * (1 + 0.25 * 4), tau * tau * (1 - 0.25 / 4)};
  for (const auto& [name, tensor] : made.state) {
    if (name.starts_with("v.")) moments = Flat({{name, tensor}});
  }
  EXPECT_EQ(moments, expected);
  const std::vector<double> moved = Flat(sent.update);
  for (size_t i = 0; i < 4; ++i) expected_model.push_back(0.1 * moved[i] / (std::sqrt(expected[i]) + tau));
  ExpectRoundedFrom(expected_model, made.model);
}

TEST(ServerOptimizers, AStateOfAnotherModelOrMethodIsRefused) {
  const StateDict model = RandomUpdate(kAveraged, 1);
  const auto sent = RandomSent(kAveraged, 3, 1);
  const StateDict momentum = RunRound("FedAvgM", model, sent).state;
  const auto status = MakeAggregator("FedAdam", model, {}, momentum).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("'v."), std::string::npos) << status;
  StateDict reshaped = momentum;
  reshaped["m.bias"] = Tensor::FromFloats({1, 5}, std::vector<float>(5, 0.0F));
  EXPECT_EQ(MakeAggregator("FedAvgM", model, {}, reshaped).status().code(), Code::kInvalidArgument);
}

TEST(ServerOptimizers, WithoutMomentumAndWithALearningRateOfOneFedAvgMIsFedAvg) {
  const StateDict model = RandomUpdate(kAveraged, 1);
  const auto sent = RandomSent(kAveraged, 6, 2);
  AggregatorOptions options;
  options.method = {{"server_momentum", 0}};
  EXPECT_EQ(SerializeSafetensors(RunRound("FedAvgM", model, sent, options).model),
            SerializeSafetensors(RunRound("FedAvg", model, sent).model));
}

TEST(FedProx, TheServerIsFedAvgsAndDevicesAreToldTheirMu) {
  const StateDict model = RandomUpdate(kAveraged, 1);
  const auto sent = RandomSent(kAveraged, 6, 2);
  AggregatorOptions options;
  options.method = {{"proximal_mu", 0.25}};
  EXPECT_EQ(SerializeSafetensors(RunRound("FedProx", model, sent, options).model),
            SerializeSafetensors(RunRound("FedAvg", model, sent).model));
  const auto rules = RulesOf("FedProx", options);
  ASSERT_TRUE(rules.ok()) << rules.status();
  EXPECT_EQ(rules->proximal_mu, 0.25);
}

// ---- what a round's updates may look like ----

enum class Crowd { kDiffer, kOne, kEqual, kStill };
constexpr Crowd kCrowds[] = {Crowd::kDiffer, Crowd::kOne, Crowd::kEqual, Crowd::kStill};
std::string Trace(Crowd crowd) {
  return std::array{"devices differ", "one device", "all devices equal", "nobody moved"}[static_cast<size_t>(crowd)];
}

std::vector<Sent> SentBy(Crowd crowd, size_t devices, uint32_t round) {
  auto sent = RandomSent(kAveraged, crowd == Crowd::kOne ? 1 : devices, round);
  if (crowd == Crowd::kDiffer || crowd == Crowd::kOne) return sent;
  for (Sent& item : sent) item.update = RandomUpdate(kAveraged, round, crowd == Crowd::kStill ? 0.0F : 1.0F);
  return sent;
}

// ---- SCAFFOLD ----

// What devices send: the change of the model and that of their control variates.
std::vector<Sent> WithControls(std::vector<Sent> sent, uint64_t seed) {
  for (Sent& item : sent) {
    for (const auto& [name, shape] : kAveraged) {
      StateDict change = RandomUpdate({{name, shape}}, seed++, 0.5F);
      item.update.emplace(std::string(kControlPrefix) + name, std::move(change.at(name)));
    }
  }
  return sent;
}

StateDict Part(const StateDict& dict, bool controls) {
  StateDict part;
  for (const auto& [name, tensor] : dict) {
    if (name.starts_with(kControlPrefix) == controls) part.emplace(name, tensor);
  }
  return part;
}

TEST(Scaffold, ModelAndControlVariateFollowTheFormulasForThreeRounds) {
  AggregatorOptions options;
  options.method = {{"num_devices", 20}, {"server_learning_rate", 0.5}};
  for (const Crowd crowd : kCrowds) {
    SCOPED_TRACE(Trace(crowd));
    StateDict model = RandomUpdate(kAveraged, 1);
    std::vector<double> c(Flat(model).size(), 0.0);
    for (uint32_t round = 1; round <= 3; ++round) {
      const auto sent = WithControls(SentBy(crowd, 4 + round, round), 100 * round);
      std::vector<std::vector<double>> changes, control_changes;
      for (const Sent& item : sent) {
        changes.push_back(Flat(Part(item.update, false)));
        control_changes.push_back(Flat(Part(item.update, true)));
      }
      std::vector<double> x = Flat(Part(model, false));
      const auto mean = PlainMean(changes), control_mean = PlainMean(control_changes);
      const double part = static_cast<double>(sent.size()) / 20;
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] += 0.5 * mean[i];
        c[i] += part * control_mean[i];
      }
      model = RunRound("SCAFFOLD", model, sent, options).model;
      ExpectRoundedFrom(x, Part(model, false));
      ExpectRoundedFrom(c, Part(model, true));
      for (double& value : c) value = AsFloat(value);
    }
  }
}

TEST(Scaffold, AsksDevicesForTheirControlVariates) {
  EXPECT_EQ(RulesOf("SCAFFOLD", {})->correction, Correction::kScaffold);
  const StateDict model = RandomUpdate(kAveraged, 1);
  const auto plain = RandomSent(kAveraged, 1, 1);
  const auto aggregator = MakeMethod("SCAFFOLD", model);
  EXPECT_EQ(aggregator->Validate(plain[0].update, plain[0].info).refusal, Refusal::kWrongTensors);
  EXPECT_EQ(aggregator->Fold(plain[0].update, plain[0].info).code(), Code::kInvalidArgument);
  EXPECT_EQ(aggregator->num_folded(), 0U);
}

TEST(Scaffold, APopulationSmallerThanTheRoundCountsAsTheRound) {
  const StateDict model = RandomUpdate(kAveraged, 1);
  const auto sent = WithControls(RandomSent(kAveraged, 3, 1), 9);
  AggregatorOptions two;
  two.method = {{"num_devices", 2}};
  EXPECT_EQ(BytesOf(RunRound("SCAFFOLD", model, sent, two)), BytesOf(RunRound("SCAFFOLD", model, sent)));
}

TEST(Scaffold, AControlVariateOfNoTensorIsRefused) {
  StateDict model = RandomUpdate(kAveraged, 1);
  model.emplace("heddle.control.other", Tensor::FromFloats({1}, std::vector<float>{1}));
  EXPECT_EQ(MakeAggregator("SCAFFOLD", model, {}).status().code(), Code::kInvalidArgument);
}

// ---- FedNova ----

double LocalSum(uint32_t steps, double rho) {
  // The definition, not the closed form: a gradient of step i counts in all later steps with powers of rho.
  double sum = 0, run = 0;
  for (uint32_t i = 0; i < steps; ++i) {
    run = rho * run + 1;
    sum += run;
  }
  return sum;
}

TEST(FedNova, UpdatesAreNormalisedByTheirSteps) {
  for (const double rho : {0.0, 0.9}) {
    for (const Crowd crowd : kCrowds) {
      SCOPED_TRACE(Trace(crowd));
      AggregatorOptions options;
      options.method = {{"local_momentum", rho}};
      const StateDict model = RandomUpdate(kAveraged, 1);
      const auto sent = SentBy(crowd, 7, 4);
      const auto rows = FlatRows(sent);
      std::vector<double> expected = Flat(model);
      double total = 0, effective = 0;
      for (const Sent& item : sent) total += static_cast<double>(item.info.num_examples);
      for (const Sent& item : sent) {
        effective += static_cast<double>(item.info.num_examples) / total * LocalSum(item.info.num_steps, rho);
      }
      for (size_t i = 0; i < expected.size(); ++i) {
        double step = 0;
        for (size_t k = 0; k < rows.size(); ++k) {
          const double p = static_cast<double>(sent[k].info.num_examples) / total;
          step += p * rows[k][i] / LocalSum(sent[k].info.num_steps, rho);
        }
        expected[i] += effective * step;
      }
      // The parts of 2^-20 in which steps are counted.
      ExpectRoundedFrom(expected, RunRound("FedNova", model, sent, options).model, 1e-6 * (rho > 0 ? 1 : 1e-6));
    }
  }
}

TEST(FedNova, WithEqualStepsItIsFedAvg) {
  const StateDict model = RandomUpdate(kAveraged, 1);
  auto sent = RandomSent(kAveraged, 7, 4);
  for (Sent& item : sent) item.info.num_steps = 10;
  const auto expected = Flat(RunRound("FedAvg", model, sent).model);
  ExpectRoundedFrom(expected, RunRound("FedNova", model, sent).model, 1e-7);
}

TEST(FedNova, AnUpdateThatDoesNotSayItsStepsOrSaysTooManyIsRefused) {
  const StateDict model = RandomUpdate(kAveraged, 1);
  AggregatorOptions options;
  options.method = {{"max_local_steps", 50}};
  const auto aggregator = MakeMethod("FedNova", model, options);
  for (const uint32_t steps : {0U, 51U, ~0U}) {
    const UpdateInfo info{.num_examples = 5, .num_steps = steps};
    const Validity validity = aggregator->Validate(RandomUpdate(kAveraged, 2), info);
    EXPECT_FALSE(validity.ok()) << steps;
    EXPECT_NE(validity.message.find("num_steps"), std::string::npos) << validity.message;
    EXPECT_EQ(aggregator->Fold(RandomUpdate(kAveraged, 2), info).code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(aggregator->num_folded(), 0U);
  EXPECT_TRUE(aggregator->Fold(RandomUpdate(kAveraged, 2), {.num_examples = 5, .num_steps = 50}).ok());
}

// ---- FedDyn ----

TEST(FedDyn, ModelAndHFollowTheFormulasForThreeRounds) {
  const double alpha = 0.3;
  AggregatorOptions options;
  options.method = {{"feddyn_alpha", alpha}, {"num_devices", 12}};
  for (const Crowd crowd : kCrowds) {
    SCOPED_TRACE(Trace(crowd));
    StateDict model = RandomUpdate(kAveraged, 1), state;
    std::vector<double> h(Flat(model).size(), 0.0);
    for (uint32_t round = 1; round <= 3; ++round) {
      const auto sent = SentBy(crowd, 3 + round, round);
      const auto rows = FlatRows(sent);
      const auto mean = PlainMean(rows);
      std::vector<double> expected = Flat(model);
      for (size_t i = 0; i < expected.size(); ++i) {
        double sum = 0;
        for (const auto& row : rows) sum += row[i];
        h[i] -= alpha / 12 * sum;
        expected[i] += mean[i] - h[i] / alpha;  // the mean of the devices' models, without h
      }
      RoundModel made = RunRound("FedDyn", model, sent, options, state);
      ExpectRoundedFrom(expected, made.model, 2e-7);  // h is handed on in float32
      model = std::move(made.model);
      state = std::move(made.state);
    }
  }
  const auto rules = RulesOf("FedDyn", options);
  EXPECT_EQ(rules->correction, Correction::kFedDyn);
  EXPECT_EQ(rules->feddyn_alpha, alpha);
}

}  // namespace
}  // namespace heddle::aggregation
