// Distillation of emulators: its loss against brute force in float64 for every architecture, its gradient against
// differences, and what of the model it leaves alone.
#include "peft/parts/distil.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/config/registry.h"
#include "model/parts/sub_model.h"
#include "tests/unit/model/tiny_model.h"
#include "tests/unit/peft/model_examples.h"

namespace heddle::peft {
namespace {

using model::BaseWeights;

constexpr int64_t kWholeLayers = 6;

// A deep model of random weights, and an emulator of it.
struct World {
  explicit World(const std::string& folder, int64_t kept = 2) {
    whole = *model::ReadModelConfig(std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests/data" / folder);
    whole.num_hidden_layers = kWholeLayers;
    weights = model::RandomWeights(whole, 3);
    base = Loaded(whole, weights);
    emulator = {*model::EmulatorLayers(kWholeLayers, 1, kept), kWholeLayers, 1, {}};
    example = ExampleFor(whole);
  }
  Distiller Make() const {
    auto made = Distiller::Make(base, weights, emulator, {.type = at::kDouble});
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  // The emulator as the model of its own that its folder is.
  std::shared_ptr<const BaseWeights> Alone() const {
    model::ModelSpec alone = whole;
    alone.num_hidden_layers = static_cast<int64_t>(emulator.layers.size());
    alone.full_attention_layers = std::count_if(emulator.layers.begin(), emulator.layers.end(),
                                                [&](int64_t i) { return i < whole.full_attention_layers; });
    return Loaded(alone, *model::TensorsOfLayers(whole, weights, emulator.layers));
  }

  model::ModelSpec whole;
  StateDict weights;
  std::shared_ptr<const BaseWeights> base;
  Emulator emulator;
  Example example;
};

// KD by its formula, a number at a time.
double DistanceByLoops(const torch::Tensor& teacher, const torch::Tensor& student, const torch::Tensor& mask) {
  const auto t = teacher.accessor<double, 3>(), s = student.accessor<double, 3>();
  double squares = 0, sum = 0;
  int64_t count = 0;
  for (int pass = 0; pass < 2; ++pass) {
    const double rms = std::sqrt(squares / static_cast<double>(std::max<int64_t>(count, 1)));
    count = 0;
    for (int64_t i = 0; i < t.size(0); ++i) {
      for (int64_t j = 0; j < t.size(1); ++j) {
        if (mask.defined() && mask[i][j].item<int64_t>() == 0) continue;
        for (int64_t k = 0; k < t.size(2); ++k, ++count) {
          if (pass == 0) squares += t[i][j][k] * t[i][j][k];
          if (pass == 1) sum += std::pow((t[i][j][k] - s[i][j][k]) / rms, 2);
        }
      }
    }
  }
  return sum / static_cast<double>(count);
}

class DistillerOf : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Architectures, DistillerOf, ::testing::ValuesIn(ModelFolders()), NameOfFolder);

TEST_P(DistillerOf, HasTheLossOfTheEmulatorAloneAndItsDistanceToTheModelsMiddle) {
  const World world(GetParam());
  Distiller distiller = world.Make();
  const auto loss = distiller.LossOf(world.example.input, world.example.targets, 2, 7);
  model::Transformer teacher(world.base, model::ComputeOptions{.type = at::kDouble});
  model::Transformer student(world.Alone(), model::ComputeOptions{.type = at::kDouble});
  torch::NoGradGuard no_grad;
  const double kd = DistanceByLoops(teacher->HiddenStates(world.example.input)[5],
                                    student->HiddenStates(world.example.input)[3], world.example.input.mask);
  const double lm = student->Loss(world.example.input, world.example.targets).item<double>();
  EXPECT_GT(kd, 1e-4);
  EXPECT_NEAR(loss.kd, kd, 1e-9 * kd);
  EXPECT_NEAR(loss.lm, lm, 1e-9 * lm);
  EXPECT_NEAR(loss.total.item<double>(), 2 * lm + 7 * kd, 1e-8 * (2 * lm + 7 * kd));
}

TEST_P(DistillerOf, WithNoLayerDroppedIsNoDistanceAway) {
  const World world(GetParam(), kWholeLayers - 2);
  Distiller distiller = world.Make();
  EXPECT_EQ(distiller.LossOf(world.example.input, world.example.targets, 1, 30).kd, 0);
}

TEST_P(DistillerOf, TrainsAllOfTheKeptMiddleAndNothingElse) {
  const World world(GetParam());
  Distiller distiller = world.Make();
  distiller.LossOf(world.example.input, world.example.targets, 1, 30).total.backward();
  for (const torch::Tensor& parameter : distiller.parameters()) {
    ASSERT_TRUE(parameter.grad().defined());
    torch::NoGradGuard no_grad;
    parameter.add_(0.5);
  }
  const StateDict values = distiller.Values();
  StateDictSpec expected;
  for (const auto& [name, spec] : world.whole.WeightSpec()) {
    const bool middle = name.starts_with(world.whole.LayerPath(1)) || name.starts_with(world.whole.LayerPath(4));
    if (middle) expected.emplace(name, spec);
  }
  EXPECT_EQ(SpecOf(values), expected);
  for (const auto& [name, value] : values) {  // the model itself has what it had
    EXPECT_NE(value.values<float>()[0], world.weights.find(name)->second.values<float>()[0]) << name;
    EXPECT_TRUE(torch::equal(world.base->tensors.at(name), ToTorchTensor(world.weights.find(name)->second))) << name;
  }
}

TEST(Distiller, ItsGradientIsThatOfDifferences) {
  const World world("models/llama");
  Distiller distiller = world.Make();
  const auto total = [&] { return distiller.LossOf(world.example.input, world.example.targets, 0.1, 0.9).total; };
  total().backward();
  torch::NoGradGuard no_grad;
  double slope = 0;
  std::vector<torch::Tensor> along;
  for (const torch::Tensor& parameter : distiller.parameters()) {
    along.push_back(parameter.grad().clone());
    slope += along.back().to(at::kDouble).square().sum().item<double>();
  }
  ASSERT_GT(slope, 0);
  // Values are float32, so the step must be large against their rounding, and small for the formula.
  const double step = 1e-3 / std::sqrt(slope);
  const auto moved = [&](double by) {
    const auto parameters = distiller.parameters();
    for (size_t i = 0; i < along.size(); ++i) parameters[i].add_(along[i], by);
    return total().item<double>();
  };
  const double ahead = moved(step), behind = moved(-2 * step);
  EXPECT_NEAR((ahead - behind) / (2 * step), slope, 1e-3 * slope);
}

TEST(Distiller, WhatIsPaddingDoesNotCount) {
  const torch::Tensor teacher = torch::tensor({{{3.0, 4.0}, {1e9, 1e9}}}),
                      student = torch::tensor({{{3.0, 2.0}, {0.0, 5.0}}});
  EXPECT_NEAR(RelativeDistance(teacher, student, torch::tensor({{1, 0}})).item<double>(), 4.0 / 25.0, 1e-6);
  EXPECT_GT(RelativeDistance(teacher, student, {}).item<double>(), 0.9);
}

TEST(Distiller, AnEmulatorWithoutAMiddleIsRefused) {
  World world("models/llama");
  world.emulator.layers = {0, 5};
  EXPECT_EQ(Distiller::Make(world.base, world.weights, world.emulator).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::peft
