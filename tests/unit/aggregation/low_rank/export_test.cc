// One PEFT adapter for a model whose base has been added to.
#include "aggregation/low_rank/export.h"

#include <gtest/gtest.h>

#include "tests/unit/aggregation/low_rank/round.h"

namespace heddle::aggregation::low_rank {
namespace {

TEST(Export, OfAModelWithABaseComputesTheSameLayers) {
  const auto layers = Layers();
  for (const double scaling : {0.5, 1.0, 8.0}) {
    StateDict model = Model(layers, 1, 0.3F);
    for (uint32_t round = 1; round <= 2; ++round) {
      model = Merged("FedEx-LoRA", model, ThreeDevices(model), WithFresh(model, scaling));
    }
    model.merge(RandomUpdate({{std::string(kControlPrefix) + AKey("h.0.up"), {4, 9}}}, 1));
    const auto exported = ExportAdapter(model, [&](std::string_view) { return scaling; });
    ASSERT_TRUE(exported.ok()) << exported.status();
    for (const auto& [key, tensor] : exported->tensors) EXPECT_FALSE(key.starts_with(kOwnPrefix)) << key;
    EXPECT_EQ(exported->tensors.size(), 2 * layers.size() + 1);
    for (const Layer& layer : layers) {
      const int64_t rank = exported->tensors.at(AKey(layer.path)).shape()[0];
      EXPECT_EQ(rank, layer.rank + BaseRank(model, layer)) << layer.path;
      EXPECT_EQ(exported->ranks.at(layer.path), rank);
      const Matrix whole = LayerOf(model, layer, scaling);
      EXPECT_LE(Distance(LayerOf(exported->tensors, layer, scaling), whole), 1e-6 * Norm(whole)) << layer.path;
    }
  }
}

TEST(Export, ScalesEachModuleByItsOwn) {
  const std::vector<Layer> layers = {{"a", 6, 8, 2}, {"b", 6, 8, 2}};
  StateDict model = Model(layers, 1, 0.3F, false);
  for (const char* path : {"a", "b"}) {
    model.merge(RandomUpdate({{BaseDeltaA(path), {3, 8}}, {BaseDeltaB(path), {6, 3}}}, 5));
  }
  const auto scaling = [](std::string_view path) { return path == "a" ? 2.0 : 0.5; };
  const auto exported = ExportAdapter(model, scaling);
  ASSERT_TRUE(exported.ok()) << exported.status();
  for (const Layer& layer : layers) {
    const Matrix whole = LayerOf(model, layer, scaling(layer.path));
    EXPECT_LE(Distance(LayerOf(exported->tensors, layer, scaling(layer.path)), whole), 1e-6 * Norm(whole))
        << layer.path;
  }
}

TEST(Export, OfAModelWithoutABaseIsTheAdapterItself) {
  StateDict model = Model(Layers(), 1, 0.3F);
  const auto exported = ExportAdapter(model, [](std::string_view) { return 1.0; });
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_TRUE(SameBytes(exported->tensors, model));
  EXPECT_TRUE(exported->ranks.empty());
  // Also of a model that has no factors at all.
  const StateDict biases{{"base_model.model.h.0.bias", model.at(kHead)}};
  EXPECT_TRUE(SameBytes(ExportAdapter(biases, [](std::string_view) { return 0.0; })->tensors, biases));
}

TEST(Export, RefusesABaseThatFitsNothingAndAScalingOfZero) {
  StateDict model = Model({{"a", 6, 8, 2}}, 1, 0.3F);
  model.merge(RandomUpdate({{BaseDeltaA("a"), {3, 8}}, {BaseDeltaB("a"), {6, 3}}}, 5));
  EXPECT_EQ(ExportAdapter(model, [](std::string_view) { return 0.0; }).status().code(), Code::kInvalidArgument);
  model.merge(RandomUpdate({{BaseDeltaA("b"), {3, 8}}, {BaseDeltaB("b"), {6, 3}}}, 5));
  EXPECT_EQ(ExportAdapter(model, [](std::string_view) { return 1.0; }).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::aggregation::low_rank
