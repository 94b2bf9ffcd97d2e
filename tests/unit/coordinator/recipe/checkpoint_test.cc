// What a checkpoint folder holds of a model whose base has been added to.
#include "coordinator/recipe/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"
#include "common/safetensors.h"
#include "peft/adapter/adapter.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::coordinator {
namespace {

constexpr int64_t kOut = 7, kIn = 9;

Tensor Random(const Shape& shape, uint64_t seed) {
  const PhiloxStream random(seed);
  std::vector<float> values(static_cast<size_t>(*NumElements(shape)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = random.UniformAt(i) - 0.5F;
  return Tensor::FromFloats(shape, values);
}

// Two modules of ranks that the configuration gives them; the first with three columns in its base.
StateDict Model(const peft::AdapterConfig& config) {
  StateDict model;
  for (const char* path : {"h.0.q", "h.0.v"}) {
    const int64_t rank = config.RankOf(path);
    model.emplace(peft::LoraAKey(path), Random({rank, kIn}, 1));
    model.emplace(peft::LoraBKey(path), Random({kOut, rank}, 2));
  }
  model.emplace("heddle.base_delta.h.0.q.lora_A.weight", Random({3, kIn}, 3));
  model.emplace("heddle.base_delta.h.0.q.lora_B.weight", Random({kOut, 3}, 4));
  model.emplace("heddle.control.x", Random({2}, 5));
  return model;
}

// scaling * b a, and added to it.
void AddProduct(const Tensor& b, const Tensor& a, double scaling, std::vector<double>* layer) {
  const int64_t rank = a.shape()[0];
  layer->resize(kOut * kIn);
  for (int64_t i = 0; i < kOut; ++i) {
    for (int64_t n = 0; n < rank; ++n) {
      for (int64_t j = 0; j < kIn; ++j) {
        (*layer)[static_cast<size_t>(i * kIn + j)] += scaling *
                                                      double{b.values<float>()[static_cast<size_t>(i * rank + n)]} *
                                                      double{a.values<float>()[static_cast<size_t>(n * kIn + j)]};
      }
    }
  }
}

peft::AdapterConfig Config(bool rslora) {
  peft::AdapterConfig config;
  config.r = 4;
  config.lora_alpha = 6;
  config.use_rslora = rslora;
  config.target_modules = {"q", "v"};
  config.rank_pattern = {{"v", 2}};
  config.alpha_pattern = {{"q", 3}};
  return config;
}

TEST(Checkpoint, OfAModelWithABaseIsAnAdapterOfLargerRankWithTheSameLayers) {
  for (const bool rslora : {false, true}) {
    const peft::AdapterConfig config = Config(rslora);
    const StateDict model = Model(config);
    const auto checkpoint = MakeCheckpoint(model, config.ToJson());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto read = peft::AdapterConfig::FromJson(checkpoint->adapter_config_json);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->RankOf("h.0.q"), 7);
    EXPECT_EQ(read->RankOf("h.0.v"), 2);
    ASSERT_EQ(checkpoint->tensors.size(), 4U);
    for (const char* path : {"h.0.q", "h.0.v"}) {
      EXPECT_NEAR(read->ScalingOf(path), config.ScalingOf(path), 1e-12) << path;
      std::vector<double> expected, got;
      AddProduct(model.at(peft::LoraBKey(path)), model.at(peft::LoraAKey(path)), config.ScalingOf(path), &expected);
      if (std::string_view(path) == "h.0.q") {
        AddProduct(model.at("heddle.base_delta.h.0.q.lora_B.weight"), model.at("heddle.base_delta.h.0.q.lora_A.weight"),
                   1, &expected);
      }
      AddProduct(checkpoint->tensors.at(peft::LoraBKey(path)), checkpoint->tensors.at(peft::LoraAKey(path)),
                 read->ScalingOf(path), &got);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-6) << path;
    }
  }
}

TEST(Checkpoint, IsReadAsAnAdapterFolder) {
  const peft::AdapterConfig config = Config(false);
  const auto checkpoint = MakeCheckpoint(Model(config), config.ToJson());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  TempDir folder;
  folder.Write("adapter_config.json", checkpoint->adapter_config_json);
  ASSERT_TRUE(WriteSafetensors(folder / "adapter_model.safetensors", checkpoint->tensors).ok());
  const auto adapter = peft::ReadAdapter(folder.path());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(SpecOf(adapter->tensors), peft::AdapterSpec({{"h.0.q", kIn, kOut}, {"h.0.v", kIn, kOut}}, adapter->config));
}

TEST(Checkpoint, NoLongerStartsFromTheBasesOwnWeights) {
  peft::AdapterConfig config = Config(false);
  config.init_lora_weights = "pissa";
  const auto checkpoint = MakeCheckpoint(Model(config), config.ToJson());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE(peft::AdapterConfig::FromJson(checkpoint->adapter_config_json)->IsPissa());
}

TEST(Checkpoint, OfAModelWithoutABaseKeepsItsConfigurationToTheLetter) {
  const peft::AdapterConfig config = Config(false);
  StateDict model = Model(config);
  std::erase_if(model, [](const auto& item) { return item.first.starts_with("heddle.base_delta."); });
  const std::string json = config.ToJson() + "\n";
  const auto checkpoint = MakeCheckpoint(model, json);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->adapter_config_json, json);
  model.erase("heddle.control.x");
  EXPECT_TRUE(SerializeSafetensors(checkpoint->tensors) == SerializeSafetensors(model));
}

TEST(Checkpoint, RefusesWhatIsNoConfiguration) {
  EXPECT_EQ(MakeCheckpoint(Model(Config(false)), "{").status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::coordinator
