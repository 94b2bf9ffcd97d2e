// Making an aggregator: names, settings and parents.
#include <gtest/gtest.h>

#include <limits>

#include "aggregation/aggregator.h"
#include "aggregation/layer_choice.h"
#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation {
namespace {

Status MakeStatus(std::string_view method, const StateDict& parent, const AggregatorOptions& options = {}) {
  return MakeAggregator(method, parent, options).status();
}

TEST(AggregatorRegistry, EveryNameMakesAnAggregator) {
  const auto names = AggregatorNames();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  ASSERT_FALSE(names.empty());
  // A model that suits every method: factors, a network, a prefix of two layers, and a tensor that is none of them.
  const StateDict parent = RandomUpdate({{"q.lora_A.weight", {2, 5}},
                                         {"q.lora_B.weight", {3, 2}},
                                         {"h.0.adapter_mlp.down.weight", {2, 5}},
                                         {"h.0.adapter_mlp.up.weight", {5, 2}},
                                         {"prompt_embeddings", {3, 8}},
                                         {"classifier.weight", {2, 3}}},
                                        1);
  AggregatorOptions options;
  options.fresh_adapter = [&](uint32_t) -> Result<StateDict> { return parent; };
  for (const std::string& name : names) {
    const AggregatorOptions own = WithLayers(name, options, 2);
    const auto first = FirstModel(name, parent, own);
    ASSERT_TRUE(first.ok()) << name << ": " << first.status();
    const Status status = MakeStatus(name, *first, own);
    EXPECT_TRUE(status.ok()) << name << ": " << status;
  }
}

TEST(AggregatorRegistry, UnknownMethodGetsTheNearestName) {
  const Status status = MakeStatus("FedAvgg", Single({1.0F}));
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("did you mean 'FedAvg'"), std::string::npos) << status;
  const Status far = MakeStatus("SomethingElseEntirely", Single({1.0F}));
  EXPECT_EQ(far.code(), Code::kInvalidArgument);
  EXPECT_EQ(far.message().find("did you mean"), std::string::npos) << far;
}

TEST(AggregatorRegistry, FedAvgHasNoSettingsOfItsOwn) {
  AggregatorOptions options;
  options.method["momentum"] = 0.9;
  const Status status = MakeStatus("FedAvg", Single({1.0F}), options);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("'momentum'"), std::string::npos) << status;
}

TEST(AggregatorRegistry, BoundsOutOfRangeAreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  AggregatorOptions options;
  options.max_norm = nan;
  EXPECT_EQ(MakeStatus("FedAvg", Single({1.0F}), options).code(), Code::kInvalidArgument);
  options.max_norm = -1;
  EXPECT_EQ(MakeStatus("FedAvg", Single({1.0F}), options).code(), Code::kInvalidArgument);
  options = {};
  options.max_abs = nan;
  EXPECT_EQ(MakeStatus("FedAvg", Single({1.0F}), options).code(), Code::kInvalidArgument);
}

TEST(AggregatorRegistry, AParentMustBeFiniteFloat32) {
  EXPECT_EQ(MakeStatus("FedAvg", {}).code(), Code::kInvalidArgument);
  EXPECT_EQ(MakeStatus("FedAvg", Single({1.0F, std::numeric_limits<float>::quiet_NaN()})).code(),
            Code::kInvalidArgument);
  EXPECT_EQ(MakeStatus("FedAvg", Single({-std::numeric_limits<float>::infinity()})).code(), Code::kInvalidArgument);
  StateDict half;
  std::span<std::byte> bytes;
  half.emplace("h", Tensor::Allocate({DType::kF16, {2}}, &bytes));
  const Status status = MakeStatus("FedAvg", half);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("'h'"), std::string::npos) << status;
}

}  // namespace
}  // namespace heddle::aggregation
