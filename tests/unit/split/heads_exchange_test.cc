// Rounds of split learning on what is no running text: packed rows, padded rows with a target each, grades, pictures.
// One device's round is the training of the whole model on the same data.
#include <gtest/gtest.h>

#include "model/config/registry.h"
#include "tests/unit/model/data/idx_bytes.h"
#include "tests/unit/model/tiny_encoder.h"
#include "tests/unit/split/split_world.h"
#include "tests/unit/split/unsplit.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWords[] = {"the",  "old",  "river", "weaver", "pulls", "threads", "over",
                                  "loom", "wool", "cloth", "is",     "blue",  "slow",    "rain"};

// `count` words, others for each number.
std::string Words(int number, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += std::string(i > 0 ? " " : "") + kWords[(number * 5 + i * (i + 3)) % 14];
  return text;
}

fs::path Completions(const TempDir& folder) {
  std::string lines;
  for (int i = 0; i < 24; ++i) {
    lines += "{\"prompt\": \"" + Words(i, 2 + i % 3) + "\", \"completion\": \" " + Words(i + 7, 2 + i % 4) + ".\"}\n";
  }
  return folder.Write("answers.jsonl", lines);
}

// From one word to nine.
fs::path Labelled(const TempDir& folder, bool grades) {
  std::string lines;
  for (int i = 0; i < 24; ++i) {
    const std::string label = grades ? std::to_string(0.25 * (i % 7) - 0.75) : std::to_string(i % 3);
    lines += "{\"text\": \"" + Words(i, 1 + i * 5 % 9) + "\", \"label\": " + label + "}\n";
  }
  return folder.Write("labelled.jsonl", lines);
}

fs::path Pictures(const TempDir& folder) {
  std::string pixels, labels;
  for (int i = 0; i < 24; ++i) {
    labels += static_cast<char>(i % 3);
    for (int at = 0; at < 64; ++at) pixels += static_cast<char>(at / 16 == i % 3 ? 200 + i : (at * 7 + i * 11) % 90);
  }
  folder.Write("own-labels-idx1-ubyte", model::Idx({24}, labels));
  return folder.Write("own-images-idx3-ubyte", model::Idx({24, 8, 8}, pixels));
}

void WriteWeights(const fs::path& base, const std::string& config) {
  model::Require(MakeDirectories(base));
  model::Require(WriteFileAtomically(base / "config.json", config));
  model::Require(
      WriteSafetensors(base / "model.safetensors", model::RandomWeights(model::ParseModelConfig(config).value(), 6)));
}

fs::path Encoder(const TempDir& folder, int labels) {
  std::string config = model::BertConfigJson("BertForSequenceClassification", 3);
  config.insert(config.rfind('}'), ", \"num_labels\": " + std::to_string(labels));
  WriteWeights(folder / "encoder", config);
  model::WriteWordPieceFiles(folder / "encoder");
  return folder / "encoder";
}

fs::path Vision(const TempDir& folder) {
  WriteWeights(folder / "vision", R"({"architectures": ["ViTForImageClassification"], "hidden_size": 16,
      "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8, "patch_size": 4,
      "num_channels": 1, "num_labels": 3})");
  return folder / "vision";
}

class Heads : public testing::TestWithParam<const char*> {
 protected:
  // The round with that model and those data in the topology that the test is of, beside the same steps without a cut.
  UnsplitRun Compare(const fs::path& base, const fs::path& data, const Settings& more, double tolerance) {
    SplitWorld world(With(With(kAlone, {{"base_model", base.string()}, {"split.topology", GetParam()}}), more));
    world.data_files["device-0"] = data;
    world.AddDevice("device-0");
    world.Interleaved();
    const StateDict split = world.Outcome();
    const UnsplitRun whole = Unsplit(world);
    EXPECT_FALSE(split.empty());
    EXPECT_LT(Distance(split, whole.adapter), tolerance);
    EXPECT_GT(Distance(whole.start, whole.adapter), 5e-4) << "it has learned something";
    EXPECT_NEAR(world.devices.at("device-0")->stats().first_loss, whole.first_loss, tolerance);
    return whole;
  }

  // A whole classifier computes its last block for the rows that its head reads alone, so that the library may add in
  // another order: plain steps, which rounding moves by no more than itself.
  const Settings plain_ = {{"device.optimizer", "SGD"},
                           {"server.optimizer", "SGD"},
                           {"device.learning_rate", "0.03"},
                           {"server.learning_rate", "0.03"}};
  TempDir folder_;
};

TEST_P(Heads, PackedRowsOfCompletions) {
  for (const char* micros : {"1", "2"}) {  // of which each counts as many tokens as it has
    const UnsplitRun whole =
        Compare(SplitWorld::BaseFolder(), Completions(folder_),
                {{"train.sequence_length", "32"}, {"train.gradient_accumulation_steps", micros}}, 1e-6);
    EXPECT_TRUE(whole.packed);
  }
}

TEST_P(Heads, PaddedRowsOfAClassifier) {
  const UnsplitRun whole = Compare(Encoder(folder_, 3), Labelled(folder_, false), plain_, 1e-5);
  EXPECT_TRUE(whole.padded);
}

TEST_P(Heads, Grades) {
  const UnsplitRun whole = Compare(Encoder(folder_, 1), Labelled(folder_, true), plain_, 1e-5);
  EXPECT_TRUE(whole.padded);
}

TEST_P(Heads, Pictures) { Compare(Vision(folder_), Pictures(folder_), plain_, 1e-5); }

INSTANTIATE_TEST_SUITE_P(Topologies, Heads, testing::Values("u_shaped", "label_sharing"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace heddle
