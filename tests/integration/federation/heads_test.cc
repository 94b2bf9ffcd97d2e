// Models with other heads than a causal one over TLS: tiny classifiers of texts and of images, which real daemons train
// to the same hash as the simulator.
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "model/config/registry.h"
#include "tests/integration/federation/federation_world.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const Status ok_status = (expression);                                     \
    ASSERT_TRUE(ok_status.ok()) << #expression << ": " << ok_status.message(); \
  } while (false)

// A folder in Hugging Face's layout with random weights.
void WriteBase(const fs::path& folder, const std::string& config) {
  const auto spec = model::ParseModelConfig(config);
  ASSERT_OK(spec.status());
  ASSERT_OK(MakeDirectories(folder));
  ASSERT_OK(WriteFileAtomically(folder / "config.json", config));
  ASSERT_OK(WriteSafetensors(folder / "model.safetensors", model::RandomWeights(*spec, 3)));
}

// Runs the recipe over TLS; the hash and what the checkpoints hold.
void ExpectRunGives(FederationWorld& world, const std::string& hash, const std::string& tensor,
                    const std::map<std::string, std::string>& client) {
  ASSERT_EQ(hash.size(), 64U);
  ASSERT_OK(world.Start(client));
  const auto run = world.Submit();
  ASSERT_OK(run.status());
  const auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "model_sha256"), hash);
  const fs::path checkpoints = fs::path(TextOf(*end, "folder")) / "checkpoints";
  const auto first = ReadSafetensors(checkpoints / "round-1" / "adapter_model.safetensors");
  const auto second = ReadSafetensors(checkpoints / "round-2" / "adapter_model.safetensors");
  ASSERT_OK(first.status());
  ASSERT_OK(second.status());
  ASSERT_TRUE(first->tensors.contains(tensor));
  const auto before = first->tensors.at(tensor).bytes(), after = second->tensors.at(tensor).bytes();
  EXPECT_FALSE(std::equal(before.begin(), before.end(), after.begin(), after.end()))
      << "the second round taught nothing";
  ASSERT_OK(world.fleet().Stop());
}

TEST(FederatedHeads, AClassifierOfTextsIsTrainedWhateverTheDevicesCallTheirColumns) {
  const TempDir base;
  const fs::path tokenizer = HEDDLE_SOURCE_DIR "/tests/data/tokenizers/wordpiece";
  const int64_t vocabulary = (*model::Tokenizer::Read(tokenizer))->vocab_size();
  WriteBase(base.path(),
            R"({"architectures": ["BertForSequenceClassification"], "hidden_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0,
                "id2label": {"0": "calm", "1": "wild"}, "vocab_size": )" +
                std::to_string(vocabulary) + "}");
  fs::copy_file(tokenizer / "tokenizer.json", base / "tokenizer.json");
  const auto rows = [](size_t device) {
    std::string text;
    for (size_t i = 0; i < 40; ++i) {
      const bool wild = (i + device) % 2 == 0;
      text += std::string(wild ? "storm and sea " : "river and field ") + std::to_string(i) + "\t" +
              (wild ? "wild" : "calm") + "\n";
    }
    return text;
  };
  FederationModel model;
  model.base = base.path();
  model.data = [&](const fs::path& folder, const std::string& name, size_t index) {
    const fs::path path = folder / (name + ".tsv");
    EXPECT_TRUE(WriteFileAtomically(path, "sentence\tlabel\n" + rows(index)).ok());
    return path;
  };
  FederationWorld world({"anna", "bert"}, {}, {}, {}, model);
  const auto simulated = world.SimulatedHash();
  ASSERT_OK(simulated.status());
  // The devices' own files have no header; client.toml says what the columns are.
  for (const size_t device : {0, 1}) {
    ASSERT_OK(WriteFileAtomically(world.folder() / (device == 0 ? "anna.tsv" : "bert.tsv"), rows(device)));
  }
  ExpectRunGives(world, *simulated, "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight",
                 {{"data.columns", R"(["remark", "mood"])"},
                  {"data.text_fields", R"(["remark"])"},
                  {"data.label_field", R"("mood")"}});
}

TEST(FederatedHeads, AClassifierOfImagesIsTrainedOnImagesOfAnotherSize) {
  const TempDir base;
  WriteBase(base.path(), R"({"architectures": ["ViTForImageClassification"], "hidden_size": 16, "num_hidden_layers": 1,
                             "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8, "patch_size": 4,
                             "num_channels": 1, "num_labels": 3})");
  ASSERT_OK(WriteFileAtomically(base / "preprocessor_config.json", R"({"size": 8, "resample": 3})"));
  FederationModel model;
  model.base = base.path();
  model.data = [](const fs::path& folder, const std::string& name, size_t index) {
    std::string images({0, 0, 8, 3, 0, 0, 0, 30, 0, 0, 0, 12, 0, 0, 0, 10}), labels({0, 0, 8, 1, 0, 0, 0, 30});
    for (size_t i = 0; i < 30; ++i) {
      labels += static_cast<char>(i % 3);
      for (size_t pixel = 0; pixel < 120; ++pixel)
        images += static_cast<char>((pixel * (i % 3 + 1) + index * 40) % 256);
    }
    const fs::path path = folder / (name + "-images-idx3-ubyte");
    EXPECT_TRUE(WriteFileAtomically(path, images).ok());
    EXPECT_TRUE(WriteFileAtomically(folder / (name + "-labels-idx1-ubyte"), labels).ok());
    return path;
  };
  FederationWorld world({"anna", "bert"}, {}, {}, {}, model);
  const auto simulated = world.SimulatedHash();
  ASSERT_OK(simulated.status());
  ExpectRunGives(world, *simulated, "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_B.weight", {});
}

}  // namespace
}  // namespace heddle
