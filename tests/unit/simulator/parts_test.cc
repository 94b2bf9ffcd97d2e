// Devices that have parts of the model, in whole runs with real tasks: what a round changes, what devices with
// different depths make together, and that a folder of a part's tensors alone trains to the same bits as the whole
// folder.
#include <gtest/gtest.h>

#include <iomanip>
#include <set>
#include <sstream>

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
  fs::path Recipe(const std::string& strategy, uint32_t rounds, const std::string& more, uint32_t cohort) const {
    return folder_.Write("recipe.toml", "name = \"test\"\nseed = 3\nmodel.base = \"" + kBase.string() +
                                            "\"\n[strategy]\n" + strategy +
                                            "num_layers = 4\nnum_server_rounds = " + std::to_string(rounds) + R"(
cohort_size = )" + std::to_string(cohort) + R"(
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
)" + more);
  }
  SimulationResult Run(const std::string& strategy, uint32_t rounds, const std::string& more = "",
                       uint32_t cohort = 3) {
    SimulationOptions options;
    options.recipe = Recipe(strategy, rounds, more, cohort);
    options.out = folder_ / "out";
    const auto result = Simulate(options);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : SimulationResult{};
  }
  // What the last run said that 1, 2, .. layers take.
  std::vector<uint64_t> Needs() const {
    const auto recipe = coordinator::Recipe::Load(folder_ / "recipe.toml");
    const auto material = coordinator::PrepareRun(recipe.value());
    return material.value().spec.layer_memory;
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

TEST_F(Parts, MemoryDecidesHowManyLayersADeviceTrains) {
  const std::string by_memory = "name = \"HeteroLayers\"\nlayers_by_memory = true\nworker_memory_mb = 10\n";
  const auto limit = [](const std::string& profile, double mb) {
    std::ostringstream text;
    text << "[simulation.profiles." << profile << "]\nmemory_limit_mb = " << std::setprecision(17) << mb << "\n";
    return text.str();
  };
  const SimulationResult free = Run(by_memory, 1);
  EXPECT_EQ(free.devices_without_memory, 0U) << "no limit was said";
  const auto needs = Needs();
  ASSERT_EQ(needs.size(), 4U);
  // The phone has just enough for two layers and a byte too little for a third; the watch for none.
  const double two = static_cast<double>(needs[1]) / (1 << 20), three = static_cast<double>(needs[2] - 1) / (1 << 20);
  for (const double phone : {two, three}) {
    const SimulationResult result = Run(by_memory, 2, limit("phone", phone) + limit("pc", 0) + limit("watch", 11), 2);
    EXPECT_EQ(result.devices_without_memory, 1U);
    EXPECT_EQ(Changed(Model(1), Model(2)), (std::set<uint32_t>{0, 1, 2, 3}));
    // What the devices' tasks estimate is what the coordinator thought they would.
    ASSERT_TRUE(result.costs.contains("phone") && result.costs.contains("pc"));
    EXPECT_EQ(result.costs.at("phone").memory_bytes + (10 << 20), needs[1]);
    EXPECT_EQ(result.costs.at("pc").memory_bytes + (10 << 20), needs[3]);
    EXPECT_FALSE(result.costs.contains("watch"));
  }
}

TEST_F(Parts, WhereTooFewDevicesHaveTheMemoryTheSimulationSaysSo) {
  SimulationOptions options;
  options.recipe = Recipe("name = \"HeteroLayers\"\nlayers_by_memory = true\n", 1, "memory_limit_mb = 5\n", 3);
  options.out = folder_ / "out";
  const auto result = Simulate(options);
  EXPECT_EQ(result.status().code(), Code::kResourceExhausted);
  EXPECT_NE(result.status().message().find("missing on 1 of 3 simulated devices"), std::string::npos)
      << result.status();
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
