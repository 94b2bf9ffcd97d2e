// Devices that have parts of the model, in whole runs with real tasks: what a round changes, what devices with
// different depths make together, and that a folder of a part's tensors alone trains to the same bits as the whole
// folder.
#include <gtest/gtest.h>

#include <set>

#include "aggregation/layer_groups.h"
#include "client/worker/local_task.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "model/parts/tensor_tree.h"
#include "peft/adapter/adapter.h"
#include "simulator/world/simulation.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

const fs::path kBase = fs::path(HEDDLE_SOURCE_DIR) / "model/pretrained/heddle-tiny";

class Parts : public ::testing::Test {
 protected:
  Parts() {
    LogOptions quiet;
    quiet.level = "error";
    EXPECT_TRUE(InitLogging(quiet).ok());
    std::string text;
    for (int i = 0; i < 60; ++i) text += "the shepherd counts " + std::to_string(i * 7) + " sheep on the hill.\n\n";
    folder_.Write("data.txt", text);
  }
  // Three devices, four layers.
  SimulationResult Run(const std::string& strategy, uint32_t rounds) {
    const fs::path recipe = folder_.Write(
        "recipe.toml", "name = \"test\"\nseed = 3\nmodel.base = \"" + kBase.string() + "\"\n[strategy]\n" + strategy +
                           "num_layers = 4\nnum_server_rounds = " + std::to_string(rounds) + R"(
cohort_size = 3
[tuning]
method = "full"
[train]
learning_rate = 1e-3
local_steps = 2
batch_size = 2
sequence_length = 16
[simulation]
devices = ["phone", "tablet", "laptop"]
data = ["data.txt", "data.txt", "data.txt"]
)");
    SimulationOptions options;
    options.recipe = recipe;
    options.out = folder_ / "out";
    const auto result = Simulate(options);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : SimulationResult{};
  }
  StateDict Model(uint32_t round) const {
    const auto adapter = peft::ReadAdapter(folder_ / "out" / "checkpoints" / ("round-" + std::to_string(round)));
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    return adapter.ok() ? adapter->tensors : StateDict{};
  }
  // Layers whose tensors differ between two rounds' models.
  std::set<uint32_t> Changed(const StateDict& before, const StateDict& after) const {
    std::set<uint32_t> layers;
    EXPECT_EQ(SpecOf(before), SpecOf(after));
    for (const auto& [key, tensor] : before) {
      if (std::ranges::equal(tensor.bytes(), after.at(key).bytes())) continue;
      layers.insert(aggregation::LayerOfKey(key).value_or(99));
    }
    return layers;
  }

  TempDir folder_;
};

TEST_F(Parts, FedBfptTrainsALayerARoundFromShallowToDeep) {
  Run("name = \"FedBFPT\"\nsampled_layers = 1\n", 5);
  for (uint32_t round = 2; round <= 5; ++round) {
    EXPECT_EQ(Changed(Model(round - 1), Model(round)), (std::set<uint32_t>{std::min(round - 1, 3U)})) << round;
  }
}

TEST_F(Parts, FreezeLayersTrainsOneLayerFewerEachTime) {
  Run("name = \"FreezeLayers\"\n", 4);
  EXPECT_EQ(Changed(Model(1), Model(2)), (std::set<uint32_t>{1, 2, 3}));
  EXPECT_EQ(Changed(Model(2), Model(3)), (std::set<uint32_t>{2, 3}));
  EXPECT_EQ(Changed(Model(3), Model(4)), (std::set<uint32_t>{3}));
}

TEST_F(Parts, DevicesOfDifferentDepthsTrainOneModel) {
  const SimulationResult deep = Run("name = \"HeteroLayers\"\n", 2);
  const SimulationResult mixed = Run("name = \"HeteroLayers\"\ndevice_layers = [\"phone:1\", \"tablet:2\"]\n", 2);
  EXPECT_EQ(Changed(Model(1), Model(2)), (std::set<uint32_t>{0, 1, 2, 3})) << "the laptop has all of them";
  EXPECT_LT(mixed.traffic.up, deep.traffic.up * 7 / 10) << "1 + 2 + 4 of 12 layers travel";
  EXPECT_LT(mixed.traffic.down, deep.traffic.down);
  EXPECT_LT(mixed.base_model_bytes, deep.base_model_bytes) << "the base's tensors of their layers alone";
}

TEST_F(Parts, APartsTensorsAloneTrainToTheSameBits) {
  // The files as a device's daemon links them.
  const model::ModelSpec whole = *model::ReadModelConfig(kBase);
  const std::string file = *ReadFile(kBase / "model.safetensors", size_t{1} << 30);
  const auto tree = model::MakeTensorTree(std::as_bytes(std::span(file)), Sha256(file));
  ASSERT_TRUE(tree.ok()) << tree.status();
  model::ModelSpec part = whole;
  part.part.layers = {0, 2};
  const auto files = model::FilesOfPart(part, {{"model.safetensors", *tree}});
  ASSERT_TRUE(files.ok()) << files.status();
  const fs::path alone = folder_ / "alone";
  fs::create_directories(alone);
  for (const model::TensorFile& one : *files) {
    ASSERT_TRUE(WriteFileAtomically(alone / one.name, one.head + file.substr(one.begin, one.bytes)).ok());
  }
  ASSERT_TRUE(WriteFileAtomically(alone / "model.safetensors.index.json", model::PartIndexJson(*files)).ok());
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    fs::copy_file(kBase / name, alone / name);
  }

  peft::AdapterConfig config;
  config.peft_type = "LORA";
  config.r = 2;
  config.target_modules = {"q_proj", "down_proj"};
  config.layers_to_transform = {0, 2};
  const auto tensors = peft::MakeInitialAdapter(whole, config, {}, 5);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config, *tensors).ok());
  client::TaskInput input;
  input.train.local_steps = 3;
  input.train.batch_size = 2;
  input.train.sequence_length = 16;
  input.train.layers = {0, 2};
  input.seed = 9;
  input.adapter_dir = folder_ / "adapter";
  input.data_path = folder_ / "data.txt";
  const auto task = client::FindLocalTask("part_sft");
  ASSERT_TRUE(task.ok()) << task.status();
  std::vector<std::string> updates;
  for (const fs::path& base : {kBase, alone}) {
    input.base_model_dir = base;
    const auto resources = client::MakeTaskResources();
    const auto output = (*task)->Run(input, *resources, {});
    ASSERT_TRUE(output.ok()) << output.status();
    updates.push_back(SerializeSafetensors(output->update));
  }
  EXPECT_EQ(updates[0], updates[1]);
  // A part is not the whole, and a layer that is not there is refused.
  input.train.layers = {0, 4};
  const auto resources = client::MakeTaskResources();
  EXPECT_EQ((*task)->Run(input, *resources, {}).status().code(), Code::kInvalidArgument);
  input.train.layers = {0, 1};
  EXPECT_FALSE((*task)->Run(input, *resources, {}).ok()) << "layer 1 is not among the files";
}

}  // namespace
}  // namespace heddle::simulator
