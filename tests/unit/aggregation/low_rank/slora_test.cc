// SLoRA: rounds on a sparse part of the weights, the turn to factors, and the rounds after it.
#include <gtest/gtest.h>

#include <cmath>

#include "aggregation/figures.h"
#include "aggregation/low_rank/export.h"
#include "common/sparse_delta.h"
#include "tests/unit/aggregation/low_rank/round.h"

namespace heddle::aggregation::low_rank {
namespace {

constexpr const char* kMethod = "SLoRA";

std::string DenseKey(const std::string& path) { return std::string(kDensePrefix) + path; }

class SLora : public testing::Test {
 protected:
  SLora() {
    options_.scaling = kScaling;
    options_.seed = 11;
    options_.method = {{"sparse_rounds", 2}, {"sparse_density", 0.2}};
    first_ = Begin();
  }

  StateDict Begin() const {
    auto first = FirstModel(kMethod, Model(layers_, 1), options_);
    EXPECT_TRUE(first.ok()) << first.status();
    return first.ok() ? *std::move(first) : StateDict{};
  }

  DeviceRules Rules() const { return *RulesOf(kMethod, options_); }

  StateDict Round(const StateDict& model, uint32_t round, const std::vector<int64_t>& ranks = {0, 0, 0}) {
    options_.round = round;
    return Merged(kMethod, model, ThreeDevices(model, ranks, 0.5F, Rules()), options_);
  }

  // What the values under heddle.dense add to a layer.
  static Matrix SparsePart(const StateDict& model, const Layer& layer) {
    Matrix out(static_cast<size_t>(layer.d), static_cast<size_t>(layer.k));
    const auto deltas =
        FindSparseDeltas(model, [](std::string_view path) -> std::optional<std::pair<int64_t, int64_t>> {
          for (const Layer& one : Layers()) {
            if (one.path == path) return std::pair(one.d, one.k);
          }
          return std::nullopt;
        });
    EXPECT_TRUE(deltas.ok()) << deltas.status();
    for (const SparseDelta& delta : *deltas) {
      if (delta.path != layer.path) continue;
      for (size_t i = 0; i < delta.places.size(); ++i) {
        const size_t k = out.cols();
        out(delta.places[i] / k, delta.places[i] % k) += double{delta.values.values<float>()[i]};
      }
    }
    return out;
  }

  AggregatorOptions options_;
  const std::vector<Layer> layers_ = Layers();
  StateDict first_;
};

TEST_F(SLora, BeginsWithZerosAtAsManyPlacesAsTheDensitySays) {
  for (const Layer& layer : layers_) {
    const Tensor& values = first_.at(DenseKey(layer.path));
    EXPECT_EQ(values.shape(), (Shape{static_cast<int64_t>(0.2 * static_cast<double>(layer.d * layer.k))}));
    for (const float value : values.values<float>()) EXPECT_EQ(value, 0);
  }
  const auto places = [&](uint64_t seed) {
    options_.seed = seed;
    return FindSparseDeltas(Begin(), [](std::string_view) { return std::pair<int64_t, int64_t>(30, 30); })
        ->at(0)
        .places;
  };
  EXPECT_EQ(places(1), places(1));
  EXPECT_NE(places(1), places(2)) << "the run's seed draws the mask";
  options_.method["sparse_density"] = 1e-6;
  EXPECT_EQ(Begin().at(DenseKey("h.0.up")).shape(), (Shape{1}));
}

TEST_F(SLora, SparseRoundsAreMeansOfTheValuesAndOfTheHeadAndNoFactorMoves) {
  const auto devices = ThreeDevices(first_, {0, 0, 0}, 0.5F, Rules());
  EXPECT_EQ(devices[0].update.size(), layers_.size() + 1);
  const StateDict next = Merged(kMethod, first_, devices, options_);
  for (const Layer& layer : layers_) {
    EXPECT_TRUE(SameBytes({{"a", next.at(AKey(layer.path))}}, {{"a", first_.at(AKey(layer.path))}}));
    EXPECT_TRUE(SameBytes({{"b", next.at(BKey(layer.path))}}, {{"b", first_.at(BKey(layer.path))}}));
  }
  for (const std::string& key : {DenseKey("h.0.up"), std::string(kHead)}) {
    const auto values = next.at(key).values<float>(), before = first_.at(key).values<float>();
    for (size_t i = 0; i < values.size(); ++i) {
      double mean = 0;
      for (const Device& device : devices) {
        mean += double{device.update.at(key).values<float>()[i]} * static_cast<double>(device.info.num_examples) / 40;
      }
      EXPECT_NEAR(values[i], before[i] + mean, 1e-6) << key;
    }
  }
}

TEST_F(SLora, TheLastSparseRoundMakesTheBestFactorsOfWhatAddedUp) {
  const StateDict second = Round(first_, 1);
  options_.method["keep_residual"] = 1;
  const StateDict kept = Round(second, 2);  // has the values of the end of the stage
  options_.method["keep_residual"] = 0;
  const StateDict turned = Round(second, 2);
  double lost = 0, all = 0;
  for (const Layer& layer : layers_) {
    const Matrix sum = SparsePart(kept, layer), made = LayerOf(turned, layer, kScaling);
    const double best = Tail(SingularValues(sum), static_cast<size_t>(layer.rank));
    EXPECT_NEAR(Distance(made, sum), best, 1e-6 * Norm(sum)) << layer.path;
    EXPECT_FALSE(turned.contains(DenseKey(layer.path)));
    lost += best * best;
    all += Norm(sum) * Norm(sum);
  }
  EXPECT_FALSE(turned.contains(kDenseSeedName));
  const auto figures = FiguresOf(turned);
  ASSERT_EQ(figures.size(), 1U);
  EXPECT_EQ(figures[0].first, "sparse_residual");
  EXPECT_GT(figures[0].second, 0.05) << "six layers of full rank do not fit into rank 4";
  EXPECT_NEAR(figures[0].second, std::sqrt(lost / all), 1e-5);
}

TEST_F(SLora, WithTheResidualKeptTheTurnChangesNoLayer) {
  options_.method["keep_residual"] = 1;
  const StateDict turned = Round(Round(first_, 1), 2);
  for (const Layer& layer : layers_) {
    // The factors' part is taken off the base, which has the values.
    EXPECT_LE(Norm(LayerOf(turned, layer, kScaling)), 1e-6) << layer.path;
    EXPECT_GT(Norm(SparsePart(turned, layer)), 0.1);
  }
  const StateDict next = Round(turned, 3);
  EXPECT_TRUE(SameBytes({{"d", next.at(DenseKey("h.0.up"))}}, {{"d", turned.at(DenseKey("h.0.up"))}}))
      << "from then on it is frozen";
}

TEST_F(SLora, FactorsThatDoNotBeginAtZeroAreAPartOfWhatIsTurned) {
  first_ = *FirstModel(kMethod, Model(layers_, 1, 0.5F), options_);
  options_.method["keep_residual"] = 1;
  const StateDict second = Round(first_, 1), turned = Round(second, 2);
  for (const Layer& layer : layers_) {
    const Matrix before = LayerOf(second, layer, kScaling), after = LayerOf(turned, layer, kScaling);
    EXPECT_LE(Distance(after, before), 1e-5 * Norm(before)) << layer.path;
  }
}

TEST_F(SLora, AfterTheTurnItIsFedIt) {
  const StateDict turned = Round(Round(first_, 1), 2);
  options_.round = 3;
  const auto devices = ThreeDevices(turned, {0, 2, 1});
  AggregatorOptions plain = options_;
  plain.method.clear();
  EXPECT_TRUE(SameBytes(Merged(kMethod, turned, devices, options_), Merged("FedIT", turned, devices, plain)));
}

TEST_F(SLora, AStageWithoutAnyChangeLeavesFactorsThatCanBeTrained) {
  options_.round = 2;
  auto devices = ThreeDevices(first_, {0, 0, 0}, 0.0F, Rules());
  const StateDict turned = Merged(kMethod, first_, devices, options_);
  for (const Layer& layer : layers_) {
    EXPECT_EQ(Norm(LayerOf(turned, layer, kScaling)), 0);
    EXPECT_TRUE(SameBytes({{"a", turned.at(AKey(layer.path))}}, {{"a", first_.at(AKey(layer.path))}}));
  }
  EXPECT_EQ(FiguresOf(turned).at(0).second, 0);
}

TEST_F(SLora, UpdatesOfTheOtherStageAreRefused) {
  const auto sparse = ThreeDevices(first_, {0, 0, 0}, 0.5F, Rules());
  const StateDict turned = Round(Round(first_, 1), 2);
  options_.round = 3;
  const auto factors = ThreeDevices(turned, {0, 0, 0}, 0.5F, Rules());
  const auto late = MakeOrFail(kMethod, turned, options_);
  EXPECT_EQ(late->Validate(sparse[0].update, sparse[0].info).refusal, Refusal::kWrongTensors);
  options_.round = 1;
  const auto early = MakeOrFail(kMethod, first_, options_);
  EXPECT_EQ(early->Validate(factors[0].update, factors[0].info).refusal, Refusal::kWrongTensors);
  StateDict both = sparse[0].update;
  both.emplace(AKey("h.0.up"), factors[0].update.at(AKey("h.0.up")));
  EXPECT_EQ(early->Validate(both, sparse[0].info).refusal, Refusal::kWrongTensors)
      << "a factor that should have stayed";
}

TEST_F(SLora, ModelsWhoseValuesDoNotFitTheirLayersAreRefused) {
  const auto refused = [&](const StateDict& model) {
    const Status status = MakeAggregator(kMethod, model, options_).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    return status.message();
  };
  EXPECT_NE(refused(Model(layers_, 1)).find("no values of one (heddle.dense)"), std::string::npos);
  StateDict model = first_;
  model.erase(std::string(kDenseSeedName));
  EXPECT_NE(refused(model).find("heddle.dense_seed"), std::string::npos);
  model = first_;
  model.merge(RandomUpdate({{DenseKey("h.9.up"), {3}}}, 1));
  EXPECT_NE(refused(model).find("h.9.up"), std::string::npos);
  for (const Shape& shape : {Shape{12 * 12 + 1}, Shape{2, 3}, Shape{0}}) {
    model = first_;
    model.insert_or_assign(DenseKey("h.0.q_proj"), RandomUpdate({{"x", shape}}, 1).at("x"));
    EXPECT_NE(refused(model).find("h.0.q_proj"), std::string::npos);
  }
  model = Model(layers_, 1);
  model.merge(RandomUpdate({{"base_model.model.h.0.up.lora_magnitude_vector", {19}}}, 1));
  EXPECT_EQ(FirstModel(kMethod, model, options_).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(FirstModel(kMethod, {{kHead, model.at(kHead)}}, options_).status().code(), Code::kInvalidArgument);
}

TEST_F(SLora, CheckpointsOfEveryStageAreTheWholeLayersAsAnAdapter) {
  for (const double keep : {0.0, 1.0}) {
    options_.method["keep_residual"] = keep;
    StateDict model = first_;
    for (uint32_t round = 1; round <= 3; ++round) {
      model = Round(model, round);
      const auto exported = ExportAdapter(model, [](std::string_view) { return kScaling; });
      ASSERT_TRUE(exported.ok()) << exported.status();
      for (const auto& [key, tensor] : exported->tensors) EXPECT_FALSE(key.starts_with(kOwnPrefix)) << key;
      for (const Layer& layer : layers_) {
        Matrix whole = LayerOf(model, layer, kScaling);
        AddScaled(&whole, SparsePart(model, layer), 1);
        EXPECT_LE(Distance(LayerOf(exported->tensors, layer, kScaling), whole), 1e-6 * Norm(whole)) << layer.path;
        EXPECT_LE(exported->tensors.at(AKey(layer.path)).shape()[0], 2 * layer.rank + std::min(layer.d, layer.k));
      }
    }
  }
}

}  // namespace
}  // namespace heddle::aggregation::low_rank
