// Specifications of all architectures: names and shapes as on the Hub, checkpoints that fit or do not, rotary scaling.
#include "model/config/model_spec.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "model/config/registry.h"
#include "model/config/rotary.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::model {
namespace {

using ::testing::ElementsAre;

ModelSpec Parse(const std::string& json) {
  const auto spec = ParseModelConfig(json);
  if (!spec.ok()) throw std::runtime_error(spec.status().ToString());
  return *spec;
}

ModelSpec Gpt2() {
  return Parse(R"({"architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 11})");
}
ModelSpec Opt(const std::string& more = "") {
  return Parse(R"({"architectures": ["OPTForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 11,
                   "num_attention_heads": 2, "ffn_dim": 12, "max_position_embeddings": 16)" +
               more + "}");
}
ModelSpec NeoX(const std::string& more = "") {
  return Parse(R"({"architectures": ["GPTNeoXForCausalLM"], "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 11,
                   "num_attention_heads": 2, "intermediate_size": 12, "rotary_pct": 0.5)" +
               more + "}");
}
ModelSpec Family(const std::string& kind, const std::string& more = "") {
  return Parse(R"({"architectures": [")" + kind + R"(ForCausalLM"], "hidden_size": 16, "num_hidden_layers": 3,
                   "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 11)" +
               more + "}");
}

TEST(ModelSpec, Gpt2StoresItsMatricesTransposed) {
  const ModelSpec spec = Gpt2();
  const StateDictSpec weights = spec.WeightSpec();
  EXPECT_EQ(weights.size(), 2 + 2 * 12 + 2U);
  EXPECT_EQ(weights.at("transformer.wpe.weight").shape, (Shape{1024, 8}));
  EXPECT_EQ(weights.at("transformer.h.1.attn.c_attn.weight").shape, (Shape{8, 24}));
  EXPECT_EQ(weights.at("transformer.h.1.attn.c_attn.bias").shape, (Shape{24}));
  EXPECT_EQ(weights.at("transformer.h.0.mlp.c_proj.weight").shape, (Shape{32, 8}));
  for (const LinearSpec& linear : spec.LinearModules()) {
    EXPECT_TRUE(linear.transposed) << linear.path;
    if (linear.path.ends_with("c_attn")) {
      EXPECT_EQ(linear.in, 8);
      EXPECT_EQ(linear.out, 24);
    }
  }
  EXPECT_EQ(spec.NumParameters(), 11 * 8 + 1024 * 8 + 2 * (2 * 16 + 8 * 24 + 24 + 64 + 8 + 256 + 32 + 256 + 8) + 16);
}

TEST(ModelSpec, OptCountsItsPositionsFromTwoAndMayProject) {
  EXPECT_EQ(Opt().WeightSpec().at("model.decoder.embed_positions.weight").shape, (Shape{18, 8}));
  EXPECT_TRUE(Opt().WeightSpec().contains("model.decoder.final_layer_norm.weight"));
  const ModelSpec narrow = Opt(R"(, "word_embed_proj_dim": 4, "do_layer_norm_before": false)");
  const StateDictSpec weights = narrow.WeightSpec();
  EXPECT_EQ(weights.at("model.decoder.project_in.weight").shape, (Shape{8, 4}));
  EXPECT_EQ(weights.at("model.decoder.project_out.weight").shape, (Shape{4, 8}));
  EXPECT_FALSE(weights.contains("model.decoder.final_layer_norm.weight"));
  EXPECT_FALSE(Opt(R"(, "enable_bias": false)").WeightSpec().contains("model.decoder.layers.0.fc1.bias"));
}

TEST(ModelSpec, NeoXHasOneMatrixForEachHeadsThree) {
  const StateDictSpec weights = NeoX().WeightSpec();
  EXPECT_EQ(weights.at("gpt_neox.layers.0.attention.query_key_value.weight").shape, (Shape{48, 16}));
  EXPECT_EQ(weights.at("embed_out.weight").shape, (Shape{11, 16}));
  EXPECT_EQ(NeoX().RotaryDims(), 4);
  EXPECT_EQ(NeoX().placement, NormPlacement::kParallel);
  EXPECT_EQ(NeoX(R"(, "use_parallel_residual": false)").placement, NormPlacement::kPre);
}

TEST(ModelSpec, Qwen2HasThreeBiasesAndAWindowInItsUpperLayersOnly) {
  const ModelSpec spec =
      Family("Qwen2", R"(, "use_sliding_window": true, "sliding_window": 7, "max_window_layers": 2)");
  EXPECT_TRUE(spec.WeightSpec().contains("model.layers.0.self_attn.q_proj.bias"));
  EXPECT_FALSE(spec.WeightSpec().contains("model.layers.0.self_attn.o_proj.bias"));
  EXPECT_EQ(spec.WindowOf(1), 0);
  EXPECT_EQ(spec.WindowOf(2), 7);
  EXPECT_EQ(Family("Qwen2", R"(, "sliding_window": 7)").WindowOf(2), 0);
  EXPECT_EQ(Family("Mistral", R"(, "num_key_value_heads": 1, "sliding_window": 7)").WindowOf(0), 7);
  EXPECT_EQ(Family("Mistral", R"(, "num_key_value_heads": 1, "sliding_window": null)").WindowOf(0), 0);
}

TEST(ModelSpec, MistralWithoutAWordAboutItsWindowHasHuggingFacesDefaultAndNullIsNone) {
  EXPECT_EQ(Family("Mistral", R"(, "num_key_value_heads": 1)").WindowOf(0), 4096);
  EXPECT_EQ(Family("Mistral", R"(, "num_key_value_heads": null)").num_key_value_heads, 2);
  EXPECT_EQ(Family("Qwen2", R"(, "use_sliding_window": true, "max_window_layers": 0)").WindowOf(0), 4096);
  EXPECT_EQ(
      Family("Qwen2", R"(, "use_sliding_window": true, "sliding_window": null, "max_window_layers": 0)").WindowOf(0),
      0);
}

TEST(ModelSpec, AListOfEndTokensIsKeptAndAListOfSizesIsRefused) {
  const ModelSpec spec = Family("Llama", R"(, "eos_token_id": [5, 8, 9])");
  EXPECT_EQ(spec.eos_token_id, 5);
  EXPECT_THAT(spec.more_eos_token_ids, ElementsAre(8, 9));
  const std::string config = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_hidden_layers": 2,
      "num_attention_heads": 2, "vocab_size": 11, )";
  EXPECT_TRUE(ParseModelConfig(config + R"("intermediate_size": [12, 12]})").ok());
  EXPECT_EQ(ParseModelConfig(config + R"("intermediate_size": [12, 13]})").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(ParseModelConfig(config + R"("intermediate_size": 12, "eos_token_id": [1, "two"]})").status().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(ParseModelConfig(config + R"("intermediate_size": 12, "eos_token_id": [1, 11]})").status().code(),
            Code::kInvalidArgument)
      << "outside the vocabulary";
}

TEST(ModelSpec, EndTokensComeFromBothFilesOfAFolder) {
  const TempDir folder;
  const ModelSpec spec = Family("Llama", R"(, "eos_token_id": [5, 8])");
  EXPECT_THAT(*ReadEndTokens(folder.path(), spec), ElementsAre(5, 8));
  std::ofstream(folder.path() / "generation_config.json") << R"({"eos_token_id": [9, 5]})";
  EXPECT_THAT(*ReadEndTokens(folder.path(), spec), ElementsAre(5, 8, 9));
  std::ofstream(folder.path() / "generation_config.json") << R"({"eos_token_id": "five"})";
  EXPECT_EQ(ReadEndTokens(folder.path(), spec).status().code(), Code::kInvalidArgument);
}

TEST(ModelSpec, LayerTypesMustSayWhatTheWindowSays) {
  const std::string config = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 16, "num_hidden_layers": 2,
      "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 11, "layer_types": ["full_attention", )";
  EXPECT_TRUE(ParseModelConfig(config + R"("full_attention"]})").ok());
  EXPECT_EQ(ParseModelConfig(config + R"("sliding_attention"]})").status().code(), Code::kUnimplemented);
}

TEST(ModelSpec, WhatChangesTheNumbersIsRefusedByName) {
  for (const char* key : {"scale_attn_weights", "scale_attn_by_inverse_layer_idx"}) {
    const std::string value = std::string(key) == "scale_attn_weights" ? "false" : "true";
    const auto spec =
        ParseModelConfig(R"({"architectures": ["GPT2LMHeadModel"], ")" + std::string(key) + "\": " + value + "}");
    EXPECT_EQ(spec.status().code(), Code::kUnimplemented);
    EXPECT_NE(spec.status().message().find(key), std::string::npos) << spec.status();
  }
}

TEST(ModelSpec, CheckpointsMayLackTheBodysPrefixAndCarryAlongWhatNothingNeeds) {
  const ModelSpec spec = Gpt2();
  StateDictSpec checkpoint;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    checkpoint[name.substr(std::string("transformer.").size())] = tensor;
  }
  checkpoint["h.0.attn.bias"] = {DType::kU8, {1, 1, 1024, 1024}};
  checkpoint["lm_head.weight"] = {DType::kF32, {11, 8}};  // tied
  const Status fits = spec.CheckTensors(checkpoint);
  EXPECT_TRUE(fits.ok()) << fits;
  EXPECT_EQ(spec.NameOf("wte.weight"), "transformer.wte.weight");
  EXPECT_EQ(spec.NameOf("h.0.attn.bias"), "");
  EXPECT_EQ(spec.NameOf("lm_head.weight"), "");
}

TEST(ModelSpec, ATiedWeightMayBeStoredAsTheHeadsOnly) {
  const ModelSpec spec = Gpt2();
  ASSERT_TRUE(spec.TiedHead());
  StateDictSpec checkpoint = spec.WeightSpec();
  checkpoint["lm_head.weight"] = checkpoint.at("transformer.wte.weight");
  EXPECT_FALSE(spec.NamesOf(checkpoint).contains("lm_head.weight")) << "the embedding is there";
  checkpoint.erase("transformer.wte.weight");
  EXPECT_EQ(spec.NamesOf(checkpoint).at("lm_head.weight"), "transformer.wte.weight");
  const Status fits = spec.CheckTensors(checkpoint);
  EXPECT_TRUE(fits.ok()) << fits;
  checkpoint.at("lm_head.weight").shape = {1, 2};
  EXPECT_NE(spec.CheckTensors(checkpoint).message().find("transformer.wte.weight has shape [1, 2]"), std::string::npos);
  checkpoint.erase("lm_head.weight");
  EXPECT_NE(spec.CheckTensors(checkpoint).message().find("lack transformer.wte.weight"), std::string::npos);
}

TEST(ModelSpec, CheckpointsThatDoNotFitAreToldWhichTensor) {
  const ModelSpec spec = NeoX();
  const auto refused = [&spec](const std::function<void(StateDictSpec*)>& change) {
    StateDictSpec checkpoint = spec.WeightSpec();
    change(&checkpoint);
    const Status status = spec.CheckTensors(checkpoint);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    return status.message();
  };
  const std::string name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight";
  EXPECT_NE(refused([&](auto* c) { c->erase(name); }).find("lack " + name), std::string::npos);
  EXPECT_NE(refused([&](auto* c) {
              (*c)["embed_out.bias"] = {DType::kF32, {11}};
            }).find("embed_out.bias"),
            std::string::npos);
  EXPECT_NE(refused([&](auto* c) { c->at(name).shape = {16, 12}; }).find("[16, 12]"), std::string::npos);
  EXPECT_NE(refused([&](auto* c) { c->at(name).dtype = DType::kI64; }).find("I64"), std::string::npos);
  EXPECT_NE(refused([&](auto* c) {
              (*c)["final_layer_norm.bias"] = {DType::kF32, {16}};
            }).find("twice"),
            std::string::npos);
}

TEST(RotaryFrequencies, DynamicScalingBeginsBehindTheTrainedLength) {
  const ModelSpec spec = Family("Llama", R"(, "max_position_embeddings": 32, "rope_theta": 100.0,
      "rope_scaling": {"rope_type": "dynamic", "factor": 4.0})");
  EXPECT_EQ(spec.MaxLength(), 128);
  const auto frequency = [&spec](int64_t length, int i) { return RotaryFrequencies(spec, length).frequencies[i]; };
  // 8 dimensions a head; theta^(-2i/8).
  EXPECT_DOUBLE_EQ(frequency(32, 1), std::pow(100.0, -0.25));
  EXPECT_DOUBLE_EQ(frequency(1, 3), std::pow(100.0, -0.75));
  // At twice the length theta is 100 * (4 * 2 - 3)^(8/6).
  EXPECT_NEAR(frequency(64, 3), std::pow(100.0 * std::pow(5.0, 8.0 / 6.0), -0.75), 1e-15);
  EXPECT_DOUBLE_EQ(frequency(64, 0), 1.0);
}

TEST(RotaryFrequencies, YarnKeepsFastTurnsAndDividesSlowOnes) {
  const ModelSpec spec = Family("Llama", R"(, "head_dim": 64, "max_position_embeddings": 4096,
      "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512})");
  const RotaryTable table = RotaryFrequencies(spec, 10);
  EXPECT_DOUBLE_EQ(table.frequencies[0], 1.0);
  EXPECT_NEAR(table.frequencies[31] * 8, std::pow(10000.0, -62.0 / 64.0), 1e-18);
  EXPECT_NEAR(table.magnitude, 0.1 * std::log(8.0) + 1, 1e-15);
}

}  // namespace
}  // namespace heddle::model
