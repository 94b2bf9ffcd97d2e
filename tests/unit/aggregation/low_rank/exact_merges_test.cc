// FLoRA and FedEx-LoRA against dense brute force: what the merged model adds to each layer is the mean of what the
// devices' models add.
#include <gtest/gtest.h>

#include "aggregation/low_rank/merge.h"
#include "tests/unit/aggregation/low_rank/round.h"

namespace heddle::aggregation::low_rank {
namespace {

constexpr double kExact = 1e-6;  // relative; factors are stored in float32

struct ExactCase {
  std::string method;
  double warm_start;
};

class ExactMerge : public testing::TestWithParam<ExactCase> {
 protected:
  AggregatorOptions Options(const StateDict& model) const {
    AggregatorOptions options = WithFresh(model, kScaling);
    if (GetParam().method == "FLoRA") options.method["warm_start"] = GetParam().warm_start;
    return options;
  }
  StateDict Merge(const StateDict& model, const std::vector<Device>& devices) const {
    return Merged(GetParam().method, model, devices, Options(model));
  }
};

TEST_P(ExactMerge, AddsTheTrueMeanOfTheProducts) {
  const auto layers = Layers();
  for (const float of_b : {0.0F, 0.4F}) {  // the first round, and a later one
    const StateDict model = Model(layers, 1, of_b);
    const auto devices = ThreeDevices(model);
    EXPECT_LE(WorstError(Merge(model, devices), model, devices, layers, kScaling), kExact);
  }
}

TEST_P(ExactMerge, AddsTheTrueMeanForDevicesOfDifferentRanks) {
  const auto layers = Layers(16);
  const StateDict model = Model(layers, 2, 0.3F);
  const auto devices = ThreeDevices(model, {4, 16, 8});
  EXPECT_LE(WorstError(Merge(model, devices), model, devices, layers, kScaling), kExact);
}

TEST_P(ExactMerge, AddsTheTrueMeanWhenNoDeviceHasTheModelsRank) {
  const auto layers = Layers(16);
  const StateDict model = Model(layers, 3, 0.3F);
  const auto devices = ThreeDevices(model, {2, 3, 2});
  EXPECT_LE(WorstError(Merge(model, devices), model, devices, layers, kScaling), kExact);
}

TEST_P(ExactMerge, RoundAfterRoundAddsToTheSameBase) {
  const auto layers = Layers();
  StateDict model = Model(layers, 4);
  for (uint32_t round = 1; round <= 6; ++round) {
    std::vector<Device> devices;
    for (uint64_t c = 0; c < 4; ++c) {
      devices.push_back(MakeDevice(model, "device-" + std::to_string(c), 100 * round + c, 0.3F, 1 + c * c));
    }
    AggregatorOptions options = Options(model);
    options.round = round;
    const StateDict next = Merged(GetParam().method, model, devices, options);
    ASSERT_LE(WorstError(next, model, devices, layers, kScaling), kExact) << "round " << round;
    for (const Layer& layer : layers) ASSERT_LE(BaseRank(next, layer), std::min(layer.d, layer.k)) << layer.path;
    model = next;
  }
}

// What every download carries. It grows by the devices' columns until the layer's smaller side, where it is more than
// the layer, and stays; max_base_rank is how to have less, at the price of what does not fit.
TEST_P(ExactMerge, TheBaseGrowsToMoreThanTheLayerAndNoFurtherUnlessItIsBounded) {
  const std::vector<Layer> layers = {{"h.0.q_proj", 24, 24, 4}, {"h.0.up", 40, 24, 4}};
  for (const int64_t bound : {int64_t{0}, int64_t{11}}) {
    StateDict model = Model(layers, 14);
    for (uint32_t round = 1; round <= 8; ++round) {
      std::vector<Device> devices;
      for (uint64_t c = 0; c < 2; ++c) {
        devices.push_back(MakeDevice(model, "device-" + std::to_string(c), 100 * round + c, 0.3F, 1 + c));
      }
      AggregatorOptions options = Options(model);
      options.round = round;
      options.method["max_base_rank"] = static_cast<double>(bound);
      const StateDict next = Merged(GetParam().method, model, devices, options);
      for (const Layer& layer : layers) {
        SCOPED_TRACE(layer.path + " in round " + std::to_string(round));
        const int64_t side = std::min(layer.d, layer.k), rank = BaseRank(next, layer);
        EXPECT_LE(rank, bound > 0 ? bound : side);
        if (round < 8) continue;
        EXPECT_EQ(rank, bound > 0 ? bound : side);
        const size_t bytes =
            next.at(BaseDeltaA(layer.path)).bytes().size() + next.at(BaseDeltaB(layer.path)).bytes().size();
        const auto dense = static_cast<size_t>(layer.d * layer.k) * sizeof(float);
        EXPECT_EQ(bytes, static_cast<size_t>((layer.d + layer.k) * rank) * sizeof(float));
        EXPECT_EQ(bytes > dense, bound == 0);
        EXPECT_LE(bytes, 2 * dense);
      }
      const double error = WorstError(next, model, devices, layers, kScaling);
      if (bound == 0) {
        EXPECT_LE(error, kExact);
      } else if (round == 8) {
        EXPECT_GT(error, kExact) << "of full rank, and cut";
      }
      model = next;
    }
  }
}

TEST_P(ExactMerge, ASingleDeviceGetsItsOwnModel) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 5, 0.2F);
  const std::vector<Device> one = {MakeDevice(model, "only", 9, 0.5F, 3)};
  EXPECT_LE(WorstError(Merge(model, one), model, one, layers, kScaling), kExact);
}

TEST_P(ExactMerge, UpdatesOfZeroLeaveEveryLayerAsItWas) {
  const auto layers = Layers();
  for (const float of_b : {0.0F, 0.2F}) {
    const StateDict model = Model(layers, 6, of_b);
    const auto devices = ThreeDevices(model, {0, 0, 0}, 0.0F);
    const StateDict next = Merge(model, devices);
    for (const Layer& layer : layers) {
      const Matrix before = LayerOf(model, layer, kScaling);
      EXPECT_LE(Distance(LayerOf(next, layer, kScaling), before), kExact * Norm(before)) << layer.path;
    }
  }
}

TEST_P(ExactMerge, TensorsThatAreNotFactorsAreAveraged) {
  const StateDict model = Model(Layers(), 7);
  const auto devices = ThreeDevices(model);
  const StateDict next = Merge(model, devices);
  StateDict heads{{kHead, model.at(kHead)}};
  std::vector<Device> of_heads;
  for (const Device& device : devices) of_heads.push_back({{{kHead, device.update.at(kHead)}}, device.info});
  EXPECT_TRUE(SameBytes({{kHead, next.at(kHead)}}, Merged("FedAvg", heads, of_heads, {})));
}

TEST_P(ExactMerge, TheLargerScalingIsThatOfTheProductNotOfTheBase) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 8, 0.1F);
  const auto devices = ThreeDevices(model);
  for (const double scaling : {0.25, 1.0, 16.0}) {
    AggregatorOptions options = Options(model);
    options.scaling = scaling;
    EXPECT_LE(WorstError(Merged(GetParam().method, model, devices, options), model, devices, layers, scaling), kExact);
  }
}

TEST_P(ExactMerge, EachModuleHasItsOwnScalingWhereTheyDiffer) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 9, 0.2F);
  const auto devices = ThreeDevices(model);
  AggregatorOptions options = Options(model);
  options.scaling_of = [](std::string_view path) { return path.ends_with("up") ? 4.0 : 0.5; };
  const StateDict next = Merged(GetParam().method, model, devices, options);
  for (const Layer& layer : layers) {
    EXPECT_LE(WorstError(next, model, devices, {layer}, options.scaling_of(layer.path)), kExact) << layer.path;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, ExactMerge,
                         testing::Values(ExactCase{"FLoRA", 0}, ExactCase{"FLoRA", 1}, ExactCase{"FedEx-LoRA", 0}),
                         [](const auto& info) {
                           return info.param.method == "FLoRA" ? (info.param.warm_start == 0 ? "Flora" : "FloraWarm")
                                                               : "FedEx";
                         });

TEST(Flora, StartsDevicesFromTheFreshAdapterOfTheRound) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 1);
  AggregatorOptions options = WithFresh(model);
  options.round = 3;
  const StateDict next = Merged("FLoRA", model, ThreeDevices(model), options);
  const StateDict fresh = *options.fresh_adapter(3);
  for (const Layer& layer : layers) {
    for (const std::string& key : {AKey(layer.path), BKey(layer.path)}) {
      EXPECT_TRUE(SameBytes({{key, next.at(key)}}, {{key, fresh.at(key)}}));
    }
  }
}

TEST(Flora, TakesWhatFreshFactorsAddOffTheBase) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 1, 0.2F);
  const auto devices = ThreeDevices(model);
  AggregatorOptions options = WithFresh(model, kScaling);
  options.fresh_adapter = [&](uint32_t) -> Result<StateDict> { return Model(layers, 50, 0.7F); };  // B is not zero
  EXPECT_LE(WorstError(Merged("FLoRA", model, devices, options), model, devices, layers, kScaling), kExact);
}

TEST(Flora, AWarmStartKeepsTheBestPartInTheAdapter) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 1, 0.2F);
  const auto devices = ThreeDevices(model);
  AggregatorOptions options = WithFresh(model, kScaling);
  options.method["warm_start"] = 1;
  options.fresh_adapter = nullptr;  // not needed
  const StateDict next = Merged("FLoRA", model, devices, options);
  for (const Layer& layer : layers) {
    const Matrix adapter = DenseOf(next.at(BKey(layer.path)), next.at(AKey(layer.path)), kScaling);
    const Matrix mean = TrueMean(model, devices, layer, kScaling);
    const auto values = SingularValues(mean);
    EXPECT_NEAR(Distance(adapter, mean), Tail(values, static_cast<size_t>(layer.rank)), 1e-6 * values[0]) << layer.path;
  }
}

TEST(Flora, WithoutAFreshAdapterIsRefusedBeforeTheRound) {
  const StateDict model = Model(Layers(), 1);
  AggregatorOptions options = WithFresh(model);
  options.fresh_adapter = nullptr;
  EXPECT_EQ(MakeAggregator("FLoRA", model, options).status().code(), Code::kInvalidArgument);
  options.fresh_adapter = [](uint32_t) -> Result<StateDict> { return StateDict{}; };
  EXPECT_EQ(MakeAggregator("FLoRA", model, options).status().code(), Code::kInvalidArgument);
  options.fresh_adapter = [](uint32_t) -> Result<StateDict> { return DataLoss("gone"); };
  EXPECT_EQ(MakeAggregator("FLoRA", model, options).status().code(), Code::kDataLoss);
}

TEST(Flora, ALimitOfTheBasesRankKeepsItsLargestPart) {
  const std::vector<Layer> layers = {{"wide", 30, 40, 4}};
  const StateDict model = Model(layers, 1);
  std::vector<Device> devices;
  for (uint64_t c = 0; c < 5; ++c) devices.push_back(MakeDevice(model, std::to_string(c), c + 1, 0.5F, 10));
  AggregatorOptions options = WithFresh(model, kScaling);
  options.method["max_base_rank"] = 6;
  const StateDict next = Merged("FLoRA", model, devices, options);
  EXPECT_EQ(BaseRank(next, layers[0]), 6);
  const Matrix mean = TrueMean(model, devices, layers[0], kScaling);
  const auto values = SingularValues(mean);
  EXPECT_NEAR(Distance(LayerOf(next, layers[0], kScaling), mean), Tail(values, 6), 1e-6 * values[0]);
}

TEST(FedEx, LeavesTheAdapterToFedIt) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 1, 0.2F);
  const auto devices = ThreeDevices(model);
  const StateDict next = Merged("FedEx-LoRA", model, devices, WithFresh(model));
  const StateDict mean = Merged("FedIT", model, devices, {});
  for (const Layer& layer : layers) {
    for (const std::string& key : {AKey(layer.path), BKey(layer.path)}) {
      for (size_t i = 0; i < mean.at(key).values<float>().size(); ++i) {
        ASSERT_FLOAT_EQ(next.at(key).values<float>()[i], mean.at(key).values<float>()[i]) << key;
      }
    }
  }
}

TEST(FedEx, ASingleDeviceLeavesNothingToTheBase) {
  const auto layers = Layers();
  const StateDict model = Model(layers, 1, 0.2F);
  const StateDict next =
      Merged("FedEx-LoRA", model, {MakeDevice(model, "only", 9, 0.5F, 3)}, WithFresh(model, kScaling));
  for (const Layer& layer : layers) EXPECT_EQ(BaseRank(next, layer), 0) << layer.path;
}

TEST(FedEx, TheResidualIsAtMostOfTheDevicesRanksTogether) {
  const std::vector<Layer> layers = {{"wide", 50, 60, 4}};
  const StateDict model = Model(layers, 1, 0.2F);
  const StateDict next = Merged("FedEx-LoRA", model, ThreeDevices(model), WithFresh(model));
  EXPECT_GT(BaseRank(next, layers[0]), 0);
  EXPECT_LE(BaseRank(next, layers[0]), 12);
}

// ---- ranks that add up to more than the layer's smaller side ----

bool IsIdentity(const Matrix& m) {
  if (m.rows() != m.cols()) return false;
  for (size_t j = 0; j < m.cols(); ++j) {
    for (size_t i = 0; i < m.rows(); ++i) {
      if (m(i, j) != (i == j ? 1.0 : 0.0)) return false;
    }
  }
  return true;
}

// The largest deviation of what the merge holds of a layer from dense brute force in double, relative to the mean.
struct Gathering {
  size_t sum_columns = 0, residual_columns = 0;
  bool dense = false;  // the sum itself, beside an identity
  double sum_error = 0, residual_error = 0;
};

Gathering Gather(const StateDict& model, const std::vector<Device>& devices, const Layer& layer) {
  Gathering out;
  const auto pairs = FactorPairs(model);
  auto store = UpdateStore::Make(*pairs, {});
  std::vector<double> shares;
  double total = 0;
  for (const Device& device : devices) {
    EXPECT_TRUE(store->Append(device.update, device.info).ok());
    total += static_cast<double>(device.info.num_examples);
  }
  EXPECT_TRUE(store->Sort().ok());  // by name, as they come here
  for (const Device& device : devices) shares.push_back(static_cast<double>(device.info.num_examples) / total);
  AggregatorOptions options;
  options.scaling = kScaling;
  const Merge merge(*store, pairs->front(), 0, shares, options, nullptr);
  const auto sum = merge.WeightedSum();
  const auto mean = merge.MeanFactors(shares);
  EXPECT_TRUE(sum.ok() && mean.ok());
  const auto residual = ResidualOfMean(merge, *mean);
  EXPECT_TRUE(residual.ok());
  const Matrix expected = TrueMean(model, devices, layer, kScaling);
  Matrix missed = expected;
  AddScaled(&missed, Dense(*mean), -kScaling);
  out.sum_columns = sum->rank();
  out.residual_columns = residual->rank();
  out.dense = IsIdentity(layer.d <= layer.k ? sum->left : sum->right);
  out.sum_error = Distance(Dense(*sum), expected) / Norm(expected);
  out.residual_error = Distance(Dense(*residual), missed) / Norm(expected);
  return out;
}

TEST(RanksAboveTheLayer, AreAddedUpAndThoseBelowStackedWithTheSameOutcome) {
  for (const auto& [d, k] : std::vector<std::pair<int64_t, int64_t>>{{12, 12}, {19, 9}, {9, 19}, {40, 9}}) {
    const int64_t side = std::min(d, k);
    const Layer layer{"q", d, k, 8};
    const StateDict model = Model({layer}, 21, 0.3F, /*head=*/false);
    for (const int64_t columns : {side - 1, side, side + 1, int64_t{24}}) {
      SCOPED_TRACE(std::to_string(d) + " x " + std::to_string(k) + ", " + std::to_string(columns) + " columns");
      const auto devices = ThreeDevices(model, {columns - 2 * (columns / 3), columns / 3, columns / 3});
      const Gathering gathered = Gather(model, devices, layer);
      EXPECT_EQ(gathered.sum_columns, static_cast<size_t>(std::min(columns, side)));
      EXPECT_LE(gathered.residual_columns, static_cast<size_t>(side));
      EXPECT_EQ(gathered.dense, columns > side);
      EXPECT_LE(gathered.sum_error, 1e-12);
      EXPECT_LE(gathered.residual_error, kExact) << "the mean that it is of is rounded to float32";
      // And what is made of it: the best approximation of the adapter's rank, or all of it.
      const Matrix mean = TrueMean(model, devices, layer, kScaling);
      const auto values = SingularValues(mean);
      const AggregatorOptions options = WithFresh(model, kScaling);
      EXPECT_NEAR(Distance(LayerOf(Merged("FlexLoRA", model, devices, options), layer, kScaling), mean),
                  Tail(values, static_cast<size_t>(layer.rank)), 1e-6 * values[0]);
      for (const char* method : {"FLoRA", "FedEx-LoRA"}) {
        EXPECT_LE(WorstError(Merged(method, model, devices, options), model, devices, {layer}, kScaling), kExact)
            << method;
      }
    }
  }
}

TEST(RanksAboveTheLayer, ManyDevicesHoldNoMoreColumnsThanTheLayersSmallerSide) {
  const Layer layer{"q", 9, 30, 4};
  const StateDict model = Model({layer}, 22, 0.3F, /*head=*/false);
  std::vector<Device> devices;
  for (uint64_t c = 0; c < 40; ++c) {
    const std::string number = std::to_string(c);
    devices.push_back(MakeDevice(model, "device-" + std::string(2 - number.size(), '0') + number, 300 + c, 0.5F, 1 + c,
                                 static_cast<int64_t>(1 + c % 4)));
  }
  const Gathering gathered = Gather(model, devices, layer);
  EXPECT_EQ(gathered.sum_columns, 9U);
  EXPECT_LE(gathered.residual_columns, 9U);
  EXPECT_LE(gathered.sum_error, 1e-12);
  EXPECT_LE(gathered.residual_error, kExact);
}

}  // namespace
}  // namespace heddle::aggregation::low_rank
