// Runs whose devices make their updates smaller, with real tasks on the small base model: they learn, send fewer bytes,
// do not depend on threads, and go with what else a method asks of devices.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <map>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "coordinator/store/blob_store.h"
#include "simulator/world/simulation.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

struct Ran {
  std::string model;
  uint64_t up = 0, down = 0;
  std::vector<double> losses;  // of the rounds
};

class CompressedRun : public ::testing::Test {
 protected:
  CompressedRun() {
    LogOptions quiet;
    quiet.level = "error";
    EXPECT_TRUE(InitLogging(quiet).ok());
    std::string devices, data;
    for (int device = 0; device < 3; ++device) {
      const std::string name = "device-" + std::to_string(device);
      std::string text;
      for (int i = 0; i < 40; ++i) text += name + " counts " + std::to_string(i % 5) + " sheep and goes home.\n\n";
      folder_.Write(name + ".txt", text);
      devices += (device == 0 ? "\"" : ", \"") + name + "\"";
      data += (device == 0 ? "\"" : ", \"") + name + ".txt\"";
    }
    recipe_ = folder_.Write("recipe.toml", std::string("name = \"test\"\nseed = 3\nmodel.base = \"") +
                                               HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny\"\n" + R"(
[lora]
r = 4
lora_alpha = 8
[strategy]
num_server_rounds = 5
cohort_size = 3
[train]
learning_rate = 0.01
local_steps = 4
batch_size = 2
sequence_length = 16
[simulation]
seconds_per_step = 1
)" + "devices = [" + devices + "]\ndata = [" + data +
                                               "]\n");
  }

  Ran Run(const std::string& out, std::map<std::string, std::string> overrides) {
    Ran ran;
    SimulationOptions options;
    options.recipe = recipe_;
    options.overrides = std::move(overrides);
    options.out = folder_ / out;
    options.progress = [&](const coordinator::RunProgress& progress) {
      if (progress.last_train_loss) ran.losses.push_back(*progress.last_train_loss);
      return true;
    };
    const auto result = Simulate(options);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return ran;
    ran.model = result->run.model.ToHex();
    ran.up = result->traffic.up;
    ran.down = result->traffic.down - result->base_model_bytes;
    return ran;
  }

  TempDir folder_;
  fs::path recipe_;
};

class Compression : public CompressedRun, public ::testing::WithParamInterface<const char*> {};

TEST_P(Compression, ARunLearnsAndSendsLess) {
  const std::string upload = GetParam();
  const Ran plain = Run("plain", {}), small = Run("small", {{"compression.upload", upload}}),
            again = Run("again", {{"compression.upload", upload}, {"simulation.threads", "3"}});
  EXPECT_EQ(small.model, again.model);
  EXPECT_EQ(small.up, again.up);
  EXPECT_NE(small.model, plain.model);
  EXPECT_LT(small.up, 0.55 * static_cast<double>(plain.up));
  ASSERT_GE(small.losses.size(), 5U);
  EXPECT_LT(small.losses.back(), small.losses.front() - 0.1)
      << "what it was: " << plain.losses.front() << " to " << plain.losses.back() << " without";
}

INSTANTIATE_TEST_SUITE_P(All, Compression,
                         testing::Values(R"(["bf16"])", R"(["int8"])", R"(["int4"])", R"(["int2"])",
                                         R"(["sign", "error_feedback"])", R"(["top_k:0.05", "error_feedback"])",
                                         R"(["random_mask:0.25"])", R"(["random_mask:0.25", "error_feedback"])",
                                         R"(["top_k:0.05", "int4", "error_feedback"])",
                                         R"(["random_mask:0.5", "top_k:0.2", "int8", "error_feedback"])"));

TEST_F(CompressedRun, GoesWithWhatElseAMethodAsksOfDevices) {
  const std::string upload = R"(["top_k:0.2", "int8", "error_feedback"])";
  const std::map<std::string, std::map<std::string, std::string>> methods = {
      // Control variates travel beside the update.
      {"SCAFFOLD", {{"train.optimizer", "SGD"}, {"train.weight_decay", "0.0"}}},
      // One factor a round: what is left of the other waits.
      {"RoLoRA", {}},
      // One factor stays on the device.
      {"FedSA-LoRA", {}},
      // Devices of different ranks.
      {"FlexLoRA", {{"lora.device_ranks", R"(["device-0:1", "device-1:2"])"}}}};
  for (const auto& [method, more] : methods) {
    SCOPED_TRACE(method);
    std::map<std::string, std::string> overrides = more;
    overrides.insert({{"strategy.name", method}, {"compression.upload", upload}, {"strategy.num_server_rounds", "3"}});
    const Ran one = Run(method, overrides);
    overrides["simulation.threads"] = "3";
    EXPECT_EQ(Run(method + "-again", overrides).model, one.model);
    EXPECT_EQ(one.losses.size(), 3U);
  }
}

TEST_F(CompressedRun, DevicesThatPruneTheirRankSendWhatIsLeftOfItSmaller) {
  const std::map<std::string, std::string> method = {
      {"strategy.name", "HetLoRA"},
      {"strategy.prune_gamma", "0.5"},
      {"strategy.prune_lambda", "1000.0"},
      {"compression.upload", R"(["top_k:0.5", "int8", "error_feedback"])"}};
  const Ran one = Run("one", method);
  EXPECT_EQ(one.losses.size(), 5U);
  std::map<std::string, std::string> threads = method;
  threads["simulation.threads"] = "3";
  EXPECT_EQ(Run("again", threads).model, one.model);
  // Each gave up half of its rank at least once, and what is left of its updates is of the rank that it has.
  for (int device = 0; device < 3; ++device) {
    const auto file =
        ReadSafetensors(folder_ / "one" / "personal" / ("device-" + std::to_string(device) + ".safetensors"));
    ASSERT_TRUE(file.ok()) << file.status();
    const auto rank = static_cast<int64_t>(file->tensors.at("heddle.rank").values<float>()[0]);
    EXPECT_LT(rank, 4);
    int factors = 0;
    for (const auto& [name, tensor] : file->tensors) {
      if (!name.starts_with("heddle.residual.") || !name.ends_with("lora_A.weight")) continue;
      EXPECT_EQ(tensor.shape()[0], rank) << name;
      ++factors;
    }
    EXPECT_GT(factors, 0);
  }
}

// The canonical model stays float32: a round's model is the one before and the mean of what devices sent, which are
// differences from the rounded start.
class RoundedRun : public CompressedRun, public ::testing::WithParamInterface<std::pair<const char*, double>> {};

TEST_P(RoundedRun, TheModelIsTheOneBeforeAndTheMeanOfDifferencesFromItsRounding) {
  const auto& [word, share] = GetParam();
  const Ran plain = Run("plain", {}), rounded = Run("rounded", {{"compression.download", word}});
  EXPECT_EQ(Run("again", {{"compression.download", word}, {"simulation.threads", "3"}}).model, rounded.model);
  EXPECT_NE(rounded.model, plain.model);
  EXPECT_EQ(rounded.up, plain.up);
  EXPECT_LT(rounded.down, share * static_cast<double>(plain.down));
  EXPECT_LT(rounded.losses.back(), rounded.losses.front() - 0.1);
  EXPECT_NEAR(rounded.losses.back(), plain.losses.back(), 0.1);

  const fs::path out = folder_ / "rounded";
  const auto read = [](const fs::path& file) {
    auto tensors = ReadSafetensors(file);
    EXPECT_TRUE(tensors.ok()) << tensors.status();
    return tensors.ok() ? std::move(tensors->tensors) : StateDict();
  };
  const auto history = ReadFile(out / "history.jsonl", size_t{1} << 20);
  ASSERT_TRUE(history.ok()) << history.status();
  std::vector<boost::json::value> lines;
  for (size_t begin = 0, end = 0; (end = history->find('\n', begin)) != std::string::npos; begin = end + 1) {
    lines.push_back(boost::json::parse(std::string_view(*history).substr(begin, end - begin)));
  }
  ASSERT_EQ(lines.size(), 5U);
  const StateDict before = read(out / "checkpoints" / "round-4" / "adapter_model.safetensors"),
                  after = read(out / "checkpoints" / "round-5" / "adapter_model.safetensors");
  std::map<std::string, std::vector<double>> sums;
  double weight = 0;
  const boost::json::array& devices = lines.back().at("devices").as_array();
  for (const boost::json::value& device : devices) {
    const double examples = device.at("num_examples").to_number<double>();
    weight += examples;
    const auto digest = Sha256Digest::FromHex(std::string(device.at("update_sha256").as_string()));
    ASSERT_TRUE(digest.ok());
    coordinator::BlobStoreOptions options;
    options.root = out / "state";
    auto blobs = coordinator::BlobStore::Open(std::move(options));
    ASSERT_TRUE(blobs.ok()) << blobs.status();
    for (const auto& [key, tensor] : read((*blobs)->Path(*digest))) {
      const auto values = tensor.values<float>();
      std::vector<double>& sum = sums[key];
      sum.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) sum[i] += examples * static_cast<double>(values[i]);
    }
  }
  for (const auto& [key, tensor] : after) {
    ASSERT_EQ(tensor.dtype(), DType::kF32);
    const auto start = before.at(key).values<float>(), end = tensor.values<float>();
    const std::vector<double>& sum = sums.at(key);
    for (size_t i = 0; i < end.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(end[i]), static_cast<double>(start[i]) + sum[i] / weight, 1e-6) << key;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RoundedRun, testing::Values(std::pair{"bf16", 0.55}, std::pair{"nnadq:0.001", 0.4}),
                         [](const auto& info) { return std::string(info.param.first).substr(0, 4); });

// ---- clipping and noise ----

TEST_F(CompressedRun, ClippedUpdatesLearnAndNoisedOnesAreTheSameEachTimeAndTellNoLosses) {
  const Ran plain = Run("plain", {}), clipped = Run("clipped", {{"privacy.update_clip", "0.3"}});
  EXPECT_NE(clipped.model, plain.model);
  ASSERT_EQ(clipped.losses.size(), 5U);
  EXPECT_LT(clipped.losses.back(), clipped.losses.front() - 0.1);
  std::map<std::string, std::string> noise = {
      {"privacy.update_clip", "0.3"}, {"privacy.noise_multiplier", "0.01"}, {"compression.upload", R"(["int8"])"}};
  const Ran noised = Run("noised", noise);
  EXPECT_NE(noised.model, clipped.model);
  EXPECT_TRUE(noised.losses.empty());
  const std::string history = Slurp(folder_ / "noised" / "history.jsonl"), run = Slurp(folder_ / "noised" / "run.json");
  EXPECT_NE(history.find("\"train_loss\":null"), std::string::npos);
  EXPECT_NE(run.find("\"epsilon_of_the_run\""), std::string::npos);
  noise["simulation.threads"] = "3";
  EXPECT_EQ(Run("again", noise).model, noised.model);
  noise["seed"] = "4";
  EXPECT_NE(Run("another", noise).model, noised.model);
}

TEST_F(CompressedRun, AnAttackerNeitherClipsNorNoisesWhatItSends) {
  const std::map<std::string, std::string> attack = {{"privacy.update_clip", "0.001"},
                                                     {"simulation.attackers", "1"},
                                                     {"simulation.attack", "sign_flip"},
                                                     {"strategy.num_server_rounds", "1"}};
  std::map<std::string, std::string> open = attack;
  open["privacy.update_clip"] = "1000.0";
  EXPECT_EQ(Run("attack", attack).model, Run("open", open).model);
}

}  // namespace
}  // namespace heddle::simulator
