// The members of the family that are not exact, or exact in their own way: how near they come, and that the one which
// everybody uses does not come near.
#include <gtest/gtest.h>

#include "aggregation/figures.h"
#include "aggregation/low_rank/linear_algebra.h"
#include "common/dotted_name.h"
#include "tests/unit/aggregation/low_rank/round.h"

namespace heddle::aggregation::low_rank {
namespace {

// Padded mean of one factor with these weights, element by element in double.
std::vector<double> PaddedMean(const StateDict& model, const std::vector<Device>& devices, const std::string& key,
                               const std::vector<double>& weights) {
  const Tensor& start = model.at(key);
  const auto wide = static_cast<size_t>(start.shape()[1]);
  std::vector<double> mean(start.values<float>().size());
  for (size_t c = 0; c < devices.size(); ++c) {
    const Tensor& update = devices[c].update.at(key);
    const auto narrow = static_cast<size_t>(update.shape()[1]);
    for (size_t i = 0; i < update.values<float>().size(); ++i) {
      const size_t at = i / narrow * wide + i % narrow;
      mean[at] += weights[c] * (double{start.values<float>()[at]} + double{update.values<float>()[i]});
    }
  }
  return mean;
}

std::vector<double> Shares(const std::vector<Device>& devices) {
  double total = 0;
  std::vector<double> shares;
  for (const Device& device : devices) total += static_cast<double>(device.info.num_examples);
  for (const Device& device : devices) shares.push_back(static_cast<double>(device.info.num_examples) / total);
  return shares;
}

void ExpectNear(const Tensor& tensor, const std::vector<double>& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(tensor.values<float>().size(), expected.size()) << what;
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(tensor.values<float>()[i], expected[i], tolerance) << what;
}

// ---- product averaging ----

class ProductAveraging : public testing::TestWithParam<const char*> {};

TEST_P(ProductAveraging, IsTheBestApproximationOfTheRank) {
  for (const std::vector<int64_t>& ranks : {std::vector<int64_t>{0, 0, 0}, {4, 16, 8}, {3, 2, 3}}) {
    const auto layers = Layers(16);
    const StateDict model = Model(layers, 1, 0.2F);
    const auto devices = ThreeDevices(model, ranks);
    const StateDict next = Merged(GetParam(), model, devices, WithFresh(model, kScaling));
    for (const Layer& layer : layers) {
      const Matrix mean = TrueMean(model, devices, layer, kScaling);
      const auto values = SingularValues(mean);
      EXPECT_NEAR(Distance(LayerOf(next, layer, kScaling), mean), Tail(values, static_cast<size_t>(layer.rank)),
                  1e-6 * values[0])
          << layer.path;
    }
  }
}

TEST_P(ProductAveraging, EachSliceIsTheBestOfItsRank) {
  const std::vector<Layer> layers = {{"wide", 30, 24, 16}, {"high", 24, 30, 16}};
  const StateDict model = Model(layers, 2, 0.3F);
  const auto devices = ThreeDevices(model, {4, 16, 8});
  const StateDict next = Merged(GetParam(), model, devices, WithFresh(model, kScaling));
  for (const Layer& layer : layers) {
    const Matrix mean = TrueMean(model, devices, layer, kScaling);
    const auto values = SingularValues(mean);
    for (const int64_t rank : {1, 4, 8, 16}) {
      const StateDict given = DeviceModel(next, rank);
      const Matrix slice = DenseOf(given.at(BKey(layer.path)), given.at(AKey(layer.path)), kScaling);
      EXPECT_NEAR(Distance(slice, mean), Tail(values, static_cast<size_t>(rank)), 1e-6 * values[0]) << rank;
    }
  }
}

TEST_P(ProductAveraging, OfFullRankIsExact) {
  const std::vector<Layer> layers = {{"a", 6, 9, 6}, {"b", 9, 6, 6}, {"c", 6, 6, 6}};
  const StateDict model = Model(layers, 3, 0.3F);
  const auto devices = ThreeDevices(model);
  EXPECT_LE(
      WorstError(Merged(GetParam(), model, devices, WithFresh(model, kScaling)), model, devices, layers, kScaling),
      1e-6);
}

TEST_P(ProductAveraging, DirectionsThatNobodyTrainedStayTrainable) {
  // Three devices of rank one in a model of rank 16: at most three directions. The others keep a row of A and no B.
  const std::vector<Layer> layers = {{"wide", 40, 50, 16}};
  const StateDict model = Model(layers, 4);
  const StateDict next = Merged(GetParam(), model, ThreeDevices(model, {1, 1, 1}), WithFresh(model, kScaling));
  const auto a = next.at(AKey("wide")).values<float>(), b = next.at(BKey("wide")).values<float>();
  const auto start = model.at(AKey("wide")).values<float>();
  for (size_t n = 3; n < 16; ++n) {
    for (size_t j = 0; j < 50; ++j) EXPECT_EQ(a[n * 50 + j], start[n * 50 + j]);
    for (size_t i = 0; i < 40; ++i) EXPECT_EQ(b[i * 16 + n], 0.0F);
  }
  // And when nobody trained at all, nothing moves.
  const StateDict still = Merged(GetParam(), model, ThreeDevices(model, {0, 0, 0}, 0.0F), WithFresh(model));
  for (const auto& [key, tensor] : model) {
    const auto values = tensor.values<float>();
    ExpectNear(still.at(key), {values.begin(), values.end()}, 0, key);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, ProductAveraging, testing::Values("FlexLoRA", "HLoRA"));

TEST(FlexLora, DividesTheProductsScalingOut) {
  // Twice the scaling halves B and leaves A: the layer is the same.
  const std::vector<Layer> layers = {{"q", 20, 16, 4}};
  const StateDict model = Model(layers, 5, 0.3F);
  const auto devices = ThreeDevices(model);
  const StateDict once = Merged("FlexLoRA", model, devices, WithFresh(model, 1));
  const StateDict twice = Merged("FlexLoRA", model, devices, WithFresh(model, 2));
  EXPECT_LE(Distance(DenseOf(once.at(BKey("q")), once.at(AKey("q")), 1),
                     DenseOf(twice.at(BKey("q")), twice.at(AKey("q")), 1)),
            1e-6 * Norm(DenseOf(once.at(BKey("q")), once.at(AKey("q")), 1)));
}

// ---- factor averaging ----

TEST(FactorAveraging, TellsByHowMuchItMissesTheMeanOfTheProducts) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 1, 0.3F);
  AggregatorOptions options = WithFresh(model, kScaling);
  options.method["measure_residual"] = 1;
  for (const std::vector<int64_t>& ranks : {std::vector<int64_t>{0, 0, 0}, {1, 3, 0}}) {
    const auto devices = ThreeDevices(model, ranks);
    StateDict measured = Merged("FedIT", model, devices, options);
    const auto figures = FiguresOf(measured);
    ASSERT_EQ(figures.size(), 1U);
    EXPECT_EQ(figures[0].first, "product_residual");
    double rest = 0, whole = 0;
    for (const Layer& layer : layers) {
      const Matrix mean = TrueMean(model, devices, layer, kScaling);
      rest += std::pow(Distance(LayerOf(measured, layer, kScaling), mean), 2);
      whole += std::pow(Norm(mean), 2);
    }
    EXPECT_GT(figures[0].second, 0.01) << "devices that disagree";
    EXPECT_NEAR(figures[0].second, std::sqrt(rest / whole), 1e-5);
    // The measure changes nothing else, and is of its own round.
    AggregatorOptions plain = options;
    plain.method.clear();
    StateDict next = Merged("FedIT", measured, devices, plain);
    EXPECT_TRUE(FiguresOf(next).empty());
    EraseFigures(&measured);
    EXPECT_TRUE(SameBytes(measured, Merged("FedIT", model, devices, plain)));
  }
  const auto alone = ThreeDevices(model);
  EXPECT_LT(FiguresOf(Merged("FedIT", model, {alone[0]}, options)).at(0).second, 1e-6) << "one device misses nothing";
}

TEST(FedIt, IsTheMeanOfEachFactor) {
  const auto layers = Layers(16);
  for (const std::vector<int64_t>& ranks : {std::vector<int64_t>{0, 0, 0}, {4, 16, 8}}) {
    const StateDict model = Model(layers, 1, 0.3F);
    const auto devices = ThreeDevices(model, ranks);
    const StateDict next = Merged("FedIT", model, devices, {});
    for (const Layer& layer : layers) {
      for (const std::string& key : {AKey(layer.path), BKey(layer.path)}) {
        ExpectNear(next.at(key), PaddedMean(model, devices, key, Shares(devices)), 2e-7, key);
      }
    }
  }
}

TEST(FedIt, IsFedAvgToTheBitWhereAllRanksAreEqual) {
  const StateDict model = Model(Layers(), 2, 0.3F);
  const auto devices = ThreeDevices(model);
  EXPECT_TRUE(SameBytes(Merged("FedIT", model, devices, {}), Merged("FedAvg", model, devices, {})));
}

TEST(FedIt, EveryDeviceCountsNotOnlyTheFirst) {
  // A published baseline kept p_0 times the first device: halving the weight of the others would change nothing then.
  const StateDict model = Model(Layers(), 3, 0.3F);
  auto devices = ThreeDevices(model);
  const StateDict all = Merged("FedIT", model, devices, {});
  devices[1].update = devices[0].update;
  devices[2].update = devices[0].update;
  EXPECT_FALSE(SameBytes(all, Merged("FedIT", model, devices, {})));
  // And when all did the same, the mean is what the first did, whatever it weighs.
  const std::vector<Device> first = {devices[0]};
  const StateDict same = Merged("FedIT", model, devices, {}), alone = Merged("FedIT", model, first, {});
  for (const auto& [key, tensor] : same) {
    for (size_t i = 0; i < tensor.values<float>().size(); ++i) {
      ASSERT_FLOAT_EQ(tensor.values<float>()[i], alone.at(key).values<float>()[i]) << key;
    }
  }
}

// The mean over many draws of the relative error of averaged factors, when devices deviate from a shared point by a
// part of its size.
double FactorError(float deviation) {
  double sum = 0;
  constexpr int kDraws = 20;
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    const std::vector<Layer> layers = {{"q", 32, 32, 8}};
    const StateDict model = Model(layers, 1000 + draw, 0.5F);
    std::vector<Device> devices;
    for (uint64_t c = 0; c < 10; ++c) {
      devices.push_back(MakeDevice(model, std::to_string(c), 50 * draw + c, 0.5F * deviation, 1));
    }
    sum += WorstError(Merged("FedIT", model, devices, WithFresh(model, kScaling)), model, devices, layers, kScaling);
  }
  return sum / kDraws;
}

TEST(FedIt, MissesTheMeanOfTheProductsByHowFarDevicesAreApart) {
  // Independent deviations of relative size x make the mean product differ by about x^2 / sqrt(n) of a product's own
  // size; with ten devices that is 0.3 % at a tenth, 8 % at a half and 30 % when they deviate as much as they share.
  const double tenth = FactorError(0.1F), half = FactorError(0.5F), whole = FactorError(1.0F);
  EXPECT_GT(tenth, 0.002);
  EXPECT_LT(tenth, 0.005);
  EXPECT_GT(half, 0.05);
  EXPECT_LT(half, 0.11);
  EXPECT_GT(whole, 0.16);
  EXPECT_LT(whole, 0.34);
}

TEST(FactorMeans, OneFactorThatIsTheSameEverywhereMakesThemExact) {
  const auto layers = Layers();
  for (const auto& [method, round, held] : {std::tuple("FFA-LoRA", 1U, "lora_A"), std::tuple("FFA-LoRA", 2U, "lora_A"),
                                            std::tuple("RoLoRA", 1U, "lora_A"), std::tuple("RoLoRA", 2U, "lora_B")}) {
    const StateDict model = Model(layers, 6, 0.3F);
    AggregatorOptions options;
    options.round = round;
    const DeviceRules rules = *RulesOf(method, options);
    EXPECT_EQ(rules.frozen, std::vector<std::string>{held}) << method << " " << round;
    auto devices = ThreeDevices(model, {0, 0, 0}, 0.5F, rules);
    const StateDict next = Merged(method, model, devices, options);
    for (Device& device : devices) {  // what did not travel did not move
      for (const auto& [key, tensor] : model) {
        if (!device.update.contains(key)) device.update.merge(RandomUpdate({{key, tensor.shape()}}, 0, 0.0F));
      }
    }
    EXPECT_LE(WorstError(next, model, devices, layers, kScaling), 1e-6) << method << " in round " << round;
    for (const auto& [key, tensor] : model) {
      if (!HasComponents(key, held)) continue;
      EXPECT_TRUE(SameBytes({{key, tensor}}, {{key, next.at(key)}})) << key;
    }
  }
}

TEST(FedSa, AveragesWhatTravelsAndLeavesTheRest) {
  const StateDict model = Model(Layers(), 7, 0.3F);
  for (const double keep_head : {1.0, 0.0}) {
    AggregatorOptions options;
    options.method["keep_head"] = keep_head;
    const DeviceRules rules = *RulesOf("FedSA-LoRA", options);
    EXPECT_EQ(MatchesAny(rules.kept, kHead), keep_head != 0);
    const auto devices = ThreeDevices(model, {0, 0, 0}, 0.5F, rules);
    EXPECT_EQ(devices[0].update.contains(kHead), keep_head == 0);
    const StateDict next = Merged("FedSA-LoRA", model, devices, options);
    ASSERT_EQ(SpecOf(next), SpecOf(model));
    for (const auto& [key, tensor] : model) {
      if (devices[0].update.contains(key)) {
        ExpectNear(next.at(key), PaddedMean(model, devices, key, Shares(devices)), 2e-7, key);
      } else {
        EXPECT_TRUE(SameBytes({{key, tensor}}, {{key, next.at(key)}})) << key;
      }
    }
  }
}

// ---- HetLoRA ----

TEST(HetLora, WeighsEachModuleByTheNormOfItsProduct) {
  const auto layers = Layers(8);
  const StateDict model = Model(layers, 8, 0.3F);
  auto devices = ThreeDevices(model, {2, 8, 4});
  // A device that pruned: fewer columns than it was given.
  const StateDict given = DeviceModel(model, 3);
  devices[1].update = MakeDevice(given, "", 55, 0.5F, 1).update;
  const StateDict next = Merged("HetLoRA", model, devices, WithFresh(model, kScaling));
  for (const Layer& layer : layers) {
    std::vector<double> weights;
    double sum = 0;
    for (const Device& device : devices) sum += weights.emplace_back(Norm(DeviceLayer(model, device, layer, 1)));
    for (double& weight : weights) weight /= sum;
    for (const std::string& key : {AKey(layer.path), BKey(layer.path)}) {
      ExpectNear(next.at(key), PaddedMean(model, devices, key, weights), 2e-7, key);
    }
  }
}

TEST(HetLora, WhenNoProductHasANormExamplesAreTheWeights) {
  const StateDict model = Model(Layers(), 9);  // B is zero, and nobody moves it
  auto devices = ThreeDevices(model);
  for (Device& device : devices) {
    for (auto& [key, tensor] : device.update) {
      if (IsLoraB(key)) tensor = RandomUpdate({{key, tensor.shape()}}, 0, 0.0F).at(key);
    }
  }
  const StateDict next = Merged("HetLoRA", model, devices, WithFresh(model));
  for (const Layer& layer : Layers()) {
    const std::string key = AKey(layer.path);
    ExpectNear(next.at(key), PaddedMean(model, devices, key, Shares(devices)), 2e-7, key);
  }
}

// ---- LoRA-FAIR ----

TEST(LoraFair, IsTheMinimumOfItsObjective) {
  const std::vector<Layer> layers = {{"q", 14, 11, 4}, {"thin", 4, 11, 4}};
  const StateDict model = Model(layers, 10, 0.4F);
  const auto devices = ThreeDevices(model, {2, 4, 3});
  for (const double lambda : {0.01, 1.0}) {
    AggregatorOptions options = WithFresh(model, kScaling);
    options.method["fair_lambda"] = lambda;
    const StateDict next = Merged("LoRA-FAIR", model, devices, options);
    const StateDict mean = Merged("FedIT", model, devices, {});
    for (const Layer& layer : layers) {
      const std::string key = BKey(layer.path);
      const Matrix target = TrueMean(model, devices, layer, 1);
      const auto objective = [&](const Tensor& b) {
        Matrix moved(1, b.values<float>().size());
        for (size_t i = 0; i < moved.cols(); ++i) {
          moved(0, i) = double{b.values<float>()[i]} - double{mean.at(key).values<float>()[i]};
        }
        const double miss = Distance(DenseOf(b, next.at(AKey(layer.path)), 1), target);
        return miss * miss + lambda * Norm(moved) * Norm(moved);
      };
      const double least = objective(next.at(key));
      EXPECT_LT(least, objective(mean.at(key)));
      // A convex objective: where no step along an axis lowers it, it is at its minimum.
      const std::vector<float> values(next.at(key).values<float>().begin(), next.at(key).values<float>().end());
      for (size_t i = 0; i < values.size(); ++i) {
        for (const float step : {-0.01F, 0.01F}) {
          std::vector<float> other = values;
          other[i] += step;
          ASSERT_GT(objective(Tensor::FromFloats(next.at(key).shape(), other)), least) << key << " " << i;
        }
      }
    }
  }
}

TEST(LoraFair, ComesNearerToTheMeanOfTheProductsThanFactorAveraging) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 11, 0.4F);
  const auto devices = ThreeDevices(model);
  const AggregatorOptions options = WithFresh(model, kScaling);
  const StateDict fair = Merged("LoRA-FAIR", model, devices, options);
  const StateDict mean = Merged("FedIT", model, devices, {});
  for (const Layer& layer : layers) {
    const Matrix target = TrueMean(model, devices, layer, kScaling);
    EXPECT_LT(Distance(LayerOf(fair, layer, kScaling), target), Distance(LayerOf(mean, layer, kScaling), target));
  }
}

TEST(LoraFair, WithoutARidgeAndWithAZeroAStaysFinite) {
  StateDict model = Model({{"q", 6, 7, 3}}, 12, 0.3F);
  model[AKey("q")] = RandomUpdate({{"a", {3, 7}}}, 0, 0.0F).at("a");
  auto devices = ThreeDevices(model, {0, 0, 0}, 0.0F);
  AggregatorOptions options = WithFresh(model, kScaling);
  options.method["fair_lambda"] = 0;
  const StateDict next = Merged("LoRA-FAIR", model, devices, options);
  for (size_t i = 0; i < 18; ++i) {
    EXPECT_FLOAT_EQ(next.at(BKey("q")).values<float>()[i], model.at(BKey("q")).values<float>()[i]);
  }
}

}  // namespace
}  // namespace heddle::aggregation::low_rank
