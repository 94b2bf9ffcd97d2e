// Methods that send or train only a part of a model still learn: whole runs with real tasks on the small base model,
// whose committed model is held against the base on text that no device has. And Offsite-Tuning from end to end: what
// devices tune around an emulator makes the model better that they never had.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "client/worker/local_task.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "peft/parts/emulator.h"
#include "simulator/world/simulation.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

const fs::path kWhole = fs::path(HEDDLE_SOURCE_DIR) / "model/pretrained/heddle-tiny";
constexpr uint32_t kLength = 16;

// Sentences of one form: all of it but the number and what is counted can be learned from any of them.
std::string Counted(int first, int count) {
  std::string text;
  const char* things[] = {"sheep", "goats", "stones"};
  for (int i = first; i < first + count; ++i) {
    text += "device number three counts " + std::to_string(i) + " " + things[i % 3] + " and goes home at noon.\n\n";
  }
  return text;
}

struct LearningCase {
  const char* name;
  bool offsite;  // around an emulator: its first, one middle and its last layer
  std::string strategy, tables, train;
  uint32_t rounds;
  double gain;  // nats a token that it must gain at least; what it gains is several times that
};

class Learning : public ::testing::Test {
 protected:
  Learning() {
    LogOptions quiet;
    quiet.level = "error";
    EXPECT_TRUE(InitLogging(quiet).ok());
    for (int device = 0; device < 3; ++device) {
      folder_.Write("data-" + std::to_string(device) + ".txt", Counted(10 + 20 * device, 20));
    }
    folder_.Write("test.txt", Counted(70, 20));
    const auto made = peft::MakeEmulator(kWhole, 1, 1, emulator_);
    EXPECT_TRUE(made.ok()) << made.status();
  }

  // The folder of the last round's model.
  fs::path Run(const fs::path& base, const LearningCase& one) {
    SimulationOptions options;
    options.recipe = folder_.Write(
        "recipe.toml", "name = \"test\"\nseed = 3\nmodel.base = \"" + base.string() + "\"\n[strategy]\n" +
                           one.strategy + "num_server_rounds = " + std::to_string(one.rounds) + "\ncohort_size = 3\n" +
                           one.tables + "[train]\n" + one.train + R"(batch_size = 4
sequence_length = 16
[simulation]
devices = ["phone", "tablet", "laptop"]
data = ["data-0.txt", "data-1.txt", "data-2.txt"]
)");
    options.out = folder_ / "out";
    const auto result = Simulate(options);
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) {
      EXPECT_EQ(result->run.committed_rounds, one.rounds);
    }
    return options.out / "checkpoints" / ("round-" + std::to_string(one.rounds));
  }

  double HeldOutLoss(const fs::path& base, const fs::path& adapter) {
    const auto evaluation = client::EvaluateModel(base, adapter, folder_ / "test.txt", kLength, *resources_);
    EXPECT_TRUE(evaluation.ok()) << evaluation.status();
    return evaluation.ok() ? evaluation->loss : 0;
  }

  TempDir folder_;
  const fs::path emulator_ = folder_ / "emulator";
  std::shared_ptr<client::TaskResources> resources_ = client::MakeTaskResources();
};

// Settings as in the recipes of the methods' names, but for sizes and steps.
const LearningCase kCases[] = {
    {"FedBFPT", false, "name = \"FedBFPT\"\nnum_layers = 4\nrounds_per_layer = 2\nsampled_layers = 2\n",
     "[tuning]\nmethod = \"full\"\n", "learning_rate = 2e-3\nlocal_steps = 4\n", 8, 0.2},
    {"FreezeLayers", false, "name = \"FreezeLayers\"\nnum_layers = 4\nrounds_per_layer = 2\n",
     "[tuning]\nmethod = \"full\"\n", "learning_rate = 1e-3\nlocal_steps = 4\n", 6, 0.3},
    {"HeteroLayers", false, "name = \"HeteroLayers\"\nnum_layers = 4\ndevice_layers = [\"phone:2\", \"tablet:3\"]\n",
     "[lora]\nr = 8\nlora_alpha = 16\ntarget_modules = [\"q_proj\", \"v_proj\", \"down_proj\"]\n",
     "learning_rate = 1e-2\nlocal_steps = 4\n", 8, 0.2},
    {"FedOBD", false, "name = \"FedAvg\"\nfirst_stage_rounds = 4\n",
     "[tuning]\nmethod = \"full\"\n[compression]\nupload = [\"blocks:0.7\", \"nnadq:0.001\"]\nupload_rounds = 4\n"
     "later_upload = [\"nnadq:0.001\"]\ndownload = \"nnadq:0.001\"\n",
     "learning_rate = 1e-3\nlocal_steps = 6\nlater_local_steps = 2\n", 6, 0.2},
    {"Offsite", true, "name = \"FedAvg\"\n", "[tuning]\nmethod = \"full\"\nlayers_to_transform = [0, 2]\n",
     "learning_rate = 1e-3\nlocal_steps = 4\n", 6, 0.3},
    {"FedOT", true, "name = \"FedAvg\"\n",
     "[lora]\nr = 8\nlora_alpha = 16\ntarget_modules = [\"all-linear\"]\n[tuning]\nlayers_to_transform = [0, 2]\n",
     "learning_rate = 1e-2\nlocal_steps = 4\n", 6, 0.3},
    {"OffsitePrivate", true, "name = \"FFA-LoRA\"\n",
     "[lora]\nr = 4\nlora_alpha = 16\ntarget_modules = [\"q_proj\", \"v_proj\"]\n"
     "[tuning]\nlayers_to_transform = [0, 2]\n"
     "[privacy]\nupdate_clip = 2.0\nnoise_multiplier = 0.01\ndelta = 1e-5\n",
     "learning_rate = 1e-2\nlocal_steps = 4\n", 8, 0.1}};

class LearningOf : public Learning, public ::testing::WithParamInterface<LearningCase> {};

TEST_P(LearningOf, TextsThatNoDeviceHasAreBetterKnownAfterSomeRounds) {
  const LearningCase& one = GetParam();
  const fs::path base = one.offsite ? emulator_ : kWhole;
  const double before = HeldOutLoss(base, {}), after = HeldOutLoss(base, Run(base, one));
  EXPECT_LT(after, before - one.gain);
  EXPECT_GT(before, 2) << "there was something to learn";
}

INSTANTIATE_TEST_SUITE_P(Methods, LearningOf, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(Learning, WhatWasTunedAroundAnEmulatorMakesTheModelBetterThatNoDeviceHas) {
  // The emulator is the model without one of its layers, to the byte.
  const StateDict whole = ReadSafetensors(kWhole / "model.safetensors").value().tensors;
  const StateDict there = ReadSafetensors(emulator_ / "model.safetensors").value().tensors;
  const auto plan = peft::ReadEmulator(emulator_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->layers.size(), 3U);
  ASSERT_EQ(plan->num_layers, 4);
  uint64_t layer = 0;
  for (const auto& [name, tensor] : whole) {
    if (name.starts_with("model.layers.1.")) layer += tensor.bytes().size();
  }
  ASSERT_GT(layer, TotalBytes(whole) / 10);
  EXPECT_EQ(TotalBytes(there), TotalBytes(whole) - layer);

  const double zero_shot = HeldOutLoss(kWhole, {});
  for (const LearningCase& one : kCases) {
    if (!one.offsite || std::string(one.name) == "OffsitePrivate") continue;
    SCOPED_TRACE(one.name);
    LearningCase few = one;
    few.rounds = 4;
    const fs::path tuned = Run(emulator_, few), plugged = folder_ / (std::string("plugged-") + one.name);
    const Status status = peft::PlugInFolder(emulator_, tuned, kWhole, plugged);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_LT(HeldOutLoss(kWhole, plugged), zero_shot - 0.1);
  }
}

}  // namespace
}  // namespace heddle::simulator
