// Some layers of a model as a smaller one: for every architecture the part with the layers' own numbers computes what a
// model of those layers alone does, and the way back changes nothing that was not trained.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>

#include "model/config/registry.h"
#include "model/parts/sub_model.h"
#include "model/transformer/transformer.h"
#include "peft/adapter/initial.h"
#include "peft/tuning/tuning.h"
#include "tests/unit/model/tiny_model.h"
#include "tests/unit/peft/model_examples.h"

namespace heddle::peft {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLayers = 5;

model::ModelSpec DeepSpec(const std::string& folder) {
  model::ModelSpec spec = *model::ReadModelConfig(fs::path(HEDDLE_SOURCE_DIR) / "tests/data" / folder);
  spec.num_hidden_layers = kLayers;
  return spec;
}

AdapterConfig FullOf(std::vector<int64_t> layers) {
  AdapterConfig config;
  config.peft_type = "FULL";
  config.layers_to_transform = std::move(layers);
  return config;
}

class SubModelOf : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Architectures, SubModelOf, ::testing::ValuesIn(ModelFolders()), NameOfFolder);

TEST_P(SubModelOf, APartWithChosenLayersIsTheModelOfThoseLayersToTheBit) {
  const model::ModelSpec whole = DeepSpec(GetParam());
  const StateDict weights = model::RandomWeights(whole, 3);
  const Example example = ExampleFor(whole);
  for (const std::vector<int64_t>& layers : {std::vector<int64_t>{0, 3}, {4}, {0, 1, 2, 3, 4}}) {
    model::ModelSpec part = whole, alone = whole;
    part.part.layers = layers;
    alone.num_hidden_layers = static_cast<int64_t>(layers.size());
    alone.full_attention_layers =  // a layer has the window that its own number gives it
        std::count_if(layers.begin(), layers.end(), [&](int64_t i) { return i < whole.full_attention_layers; });
    ASSERT_TRUE(part.Check().ok()) << part.Check();
    const auto renumbered = model::TensorsOfLayers(whole, weights, layers);
    ASSERT_TRUE(renumbered.ok()) << renumbered.status();
    model::Transformer a(Loaded(part, weights)), b(Loaded(alone, *renumbered));
    a->eval();
    b->eval();
    EXPECT_TRUE(torch::equal(a->forward(example.input), b->forward(example.input)));
    EXPECT_EQ(a->Loss(example.input, example.targets).item<double>(),
              b->Loss(example.input, example.targets).item<double>());
  }
}

TEST_P(SubModelOf, TrainingALayerOfItLeavesTheOthersToTheBitAndCarriesTheWholesNames) {
  const model::ModelSpec whole = DeepSpec(GetParam());
  const StateDict weights = model::RandomWeights(whole, 3);
  const Example example = ExampleFor(whole);
  model::ModelSpec part = whole;
  part.part.layers = {0, 1, 4};
  const auto base = Loaded(part, weights);
  const AdapterConfig config = FullOf({1});
  const auto adapter = MakeInitialAdapter(part, config, weights, 7);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  model::Transformer network(base);
  const auto tuning = Tuning::Inject(network, config, *adapter);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  network->train();
  network->Loss(example.input, example.targets).backward();
  const std::string layer = whole.LayerPath(1);
  size_t trained = 0;
  for (const TunedParameter& one : tuning->parameters()) {
    EXPECT_EQ(one.key.rfind("base_model.model." + layer, 0), 0U) << one.key;
    ASSERT_TRUE(one.tensor.grad().defined()) << one.key;
    torch::NoGradGuard no_grad;
    one.tensor.sub_(one.tensor.grad(), 0.5);
    ++trained;
  }
  EXPECT_GT(trained, 0U);
  // The same adapter on the whole model: its layer changes, every other parameter keeps its bytes.
  const auto back = MergedWeights(Loaded(whole, weights), config, tuning->Extract());
  ASSERT_TRUE(back.ok()) << back.status();
  size_t changed = 0;
  for (const auto& [name, tensor] : *back) {
    const bool same = std::ranges::equal(tensor.bytes(), weights.find(name)->second.bytes());
    EXPECT_TRUE(same || name.rfind(layer, 0) == 0) << name;
    changed += same ? 0 : 1;
  }
  EXPECT_EQ(back->size(), weights.size());
  EXPECT_GT(changed, 0U);
}

TEST(SubModelErrors, LayersThatAreNotThereOrDoNotRiseAreRefused) {
  model::ModelSpec spec = DeepSpec("models/llama");
  for (const std::vector<int64_t>& layers : {std::vector<int64_t>{5}, {-1}, {2, 2}, {3, 1}}) {
    spec.part.layers = layers;
    EXPECT_EQ(spec.Check().code(), Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace heddle::peft
