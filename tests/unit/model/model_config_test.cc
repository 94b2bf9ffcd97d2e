// config.json: what is read, and what is refused with which words.
#include "model/config/registry.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

// A good config with one key set to a JSON value (or removed, when the text is empty).
std::string With(const std::string& key, const std::string& value) {
  json::object object = json::parse(LlamaConfigJson(TinyConfig())).as_object();
  object.erase(key);
  if (!value.empty()) object[key] = json::parse(value);
  return json::serialize(object);
}

TEST(ModelConfig, ComesBackAsItWasWritten) {
  ModelSpec config = TinyConfig();
  config.qkv_bias = config.attention_out_bias = true;
  config.rotary.theta = 500000.5;
  config.norm_eps = 1e-6;
  config.torch_dtype = "bfloat16";
  config.bos_token_id = -1;
  const auto back = ParseModelConfig(LlamaConfigJson(config));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(LlamaConfigJson(*back), LlamaConfigJson(config));
  EXPECT_EQ(back->rotary.theta, 500000.5);
  EXPECT_EQ(back->bos_token_id, -1);
  EXPECT_TRUE(back->qkv_bias);
  EXPECT_EQ(*back, config);
}

TEST(ModelConfig, MissingKeysHaveHuggingFacesDefaults) {
  const auto config = ParseModelConfig(
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
          "vocab_size": 100})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_key_value_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->max_position_embeddings, 2048);
  EXPECT_EQ(config->norm_eps, 1e-6);
  EXPECT_EQ(config->rotary.theta, 10000);
  EXPECT_FALSE(config->tie_word_embeddings);
}

TEST(ModelConfig, HeadsMayBeWiderThanTheHiddenSize) {
  const auto config = ParseModelConfig(With("head_dim", "64"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->WeightSpec().at("model.layers.0.self_attn.q_proj.weight").shape, (Shape{256, 32}));
  EXPECT_EQ(config->WeightSpec().at("model.layers.0.self_attn.o_proj.weight").shape, (Shape{32, 256}));
}

// What stands in the files of two small models that people use, with the numbers of parameters that their cards tell.
TEST(ModelConfig, TinyLlamaAndSmolLmAreRead) {
  const auto tiny = ParseModelConfig(
      R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
          "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
          "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
          "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
          "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
          "transformers_version": "4.35.0", "use_cache": true, "vocab_size": 32000})");
  ASSERT_TRUE(tiny.ok()) << tiny.status();
  EXPECT_EQ(tiny->NumParameters(), 1'100'048'384);
  EXPECT_EQ(tiny->head_dim, 64);
  const auto smol = ParseModelConfig(
      R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0,
          "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
          "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
          "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
          "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
          "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
          "vocab_size": 49152})");
  ASSERT_TRUE(smol.ok()) << smol.status();
  EXPECT_EQ(smol->NumParameters(), 134'515'008);
  EXPECT_TRUE(smol->tie_word_embeddings);
  EXPECT_EQ(smol->rotary.theta, 100000);
}

TEST(ModelConfig, SeveralEndTokensStandForTheirFirst) {
  EXPECT_EQ(ParseModelConfig(With("eos_token_id", "[7, 8]"))->eos_token_id, 7);
}

TEST(ModelConfig, MistakesAreInvalidArguments) {
  struct Case {
    const char *key, *value, *said;
  };
  for (const Case& c : {Case{"hidden_size", "", "hidden_size"},
                        {"hidden_size", "0", "hidden_size"},
                        {"hidden_size", "-32", "hidden_size"},
                        {"hidden_size", "1e300", "hidden_size"},
                        {"hidden_size", "9223372036854775807", "hidden_size"},
                        {"hidden_size", "\"32\"", "hidden_size"},
                        {"hidden_size", "32.5", "hidden_size"},
                        {"hidden_size", "[]", "hidden_size"},
                        {"num_hidden_layers", "1000000000", "num_hidden_layers"},
                        {"vocab_size", "99999999999", "vocab_size"},
                        {"num_attention_heads", "3", "num_attention_heads"},
                        {"num_key_value_heads", "3", "num_key_value_heads"},
                        {"num_key_value_heads", "8", "num_key_value_heads"},
                        {"head_dim", "7", "head_dim"},
                        {"head_dim", "1", "head_dim"},
                        {"head_dim", "1048576", "head_dim"},
                        {"max_position_embeddings", "0", "max_position_embeddings"},
                        {"rms_norm_eps", "0", "rms_norm_eps"},
                        {"rms_norm_eps", "\"tiny\"", "rms_norm_eps"},
                        {"rope_theta", "-1", "rope_theta"},
                        {"tie_word_embeddings", "1", "tie_word_embeddings"},
                        {"bos_token_id", "320", "bos_token_id"},
                        {"eos_token_id", "-2", "eos_token_id"},
                        {"torch_dtype", "16", "torch_dtype"},
                        {"rope_scaling", "\"linear\"", "rope_scaling"},
                        {"rope_scaling", R"({"type": "linear"})", "factor"},
                        {"rope_scaling", R"({"type": "linear", "factor": 0.5})", "factor"},
                        {"rope_scaling", R"({"type": "yarn", "factor": "4"})", "factor"},
                        {"architectures", "\"LlamaForCausalLM\"", "architectures"},
                        {"architectures", "[1]", "architectures"}}) {
    const Status status = ParseModelConfig(With(c.key, c.value)).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << c.key << ": " << c.value;
    EXPECT_NE(status.message().find(c.said), std::string::npos) << status;
  }
}

TEST(ModelConfig, WhatWouldChangeTheNumbersIsUnimplemented) {
  struct Case {
    const char *key, *value;
  };
  for (const Case& c : {Case{"hidden_act", "\"mish\""},
                        {"rope_scaling", R"({"type": "longrope", "factor": 2.0})"},
                        {"rope_parameters", R"({"rope_type": "su", "rope_theta": 10000})"},
                        {"partial_rotary_factor", "0.5"},
                        {"rope_interleaved", "true"},
                        {"use_mrope", "true"},
                        {"quantization_config", R"({"bits": 4})"}}) {
    const Status status = ParseModelConfig(With(c.key, c.value)).status();
    EXPECT_EQ(status.code(), Code::kUnimplemented) << c.key << ": " << c.value;
    EXPECT_NE(status.message().find(c.key), std::string::npos) << status;
  }
  EXPECT_TRUE(ParseModelConfig(With("rope_parameters", R"({"rope_type": "default", "rope_theta": 5e5})")).ok());
  EXPECT_TRUE(ParseModelConfig(With("rope_interleaved", "false")).ok());  // as SmolLM has it
}

TEST(ModelConfig, AnUnknownArchitectureIsToldWhichAreKnown) {
  for (const std::string& text :
       {With("architectures", R"(["MambaForCausalLM"])"), std::string(R"({"model_type": "mamba"})"), std::string("{}"),
        std::string(R"({"architectures": []})")}) {
    const Status status = ParseModelConfig(text).status();
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.code() == Code::kUnimplemented, text.find("amba") != std::string::npos) << status;
    for (const std::string& known : KnownArchitectures()) {
      EXPECT_NE(status.message().find(known), std::string::npos) << status;
    }
  }
}

TEST(ModelConfig, OlderFilesNameTheModelTypeOnly) {
  const auto spec = ParseModelConfig(With("architectures", ""));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->architecture, "LlamaForCausalLM");
}

TEST(ModelConfig, WhatIsNotAJsonObjectIsRefused) {
  for (const std::string& text : {std::string(), std::string("null"), std::string("[]"), std::string("{"),
                                  std::string(100'000, '['), std::string("\0\0\0", 3), std::string("{}x")}) {
    EXPECT_EQ(ParseModelConfig(text).status().code(), Code::kInvalidArgument) << text.substr(0, 10);
  }
}

TEST(ModelConfig, EveryTruncationIsRefused) {
  const std::string text = LlamaConfigJson(TinyConfig());
  for (size_t length = 0; length + 2 < text.size(); ++length) {
    EXPECT_FALSE(ParseModelConfig(text.substr(0, length)).ok()) << length;
  }
}

TEST(ModelConfig, LongTextsAreShortenedInMessages) {
  const Status status = ParseModelConfig(With("hidden_size", '"' + std::string(100'000, 'x') + '"')).status();
  EXPECT_LT(status.message().size(), 300U);
}

TEST(ModelConfig, ReadNamesTheFolder) {
  const TempDir folder;
  EXPECT_EQ(ReadModelConfig(folder.path()).status().code(), Code::kNotFound);
  folder.Write("config.json", "{}");
  const Status status = ReadModelConfig(folder.path()).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find(folder.path().string()), std::string::npos) << status;
}

TEST(ModelConfig, WeightSpecListsHuggingFacesNames) {
  ModelSpec config = TinyConfig();
  EXPECT_EQ(config.WeightSpec().size(), 2 * 9 + 2U);  // embedding, final norm; seven projections and two norms a layer
  EXPECT_FALSE(config.WeightSpec().contains("lm_head.weight"));
  config.tie_word_embeddings = false;
  config.mlp_bias = config.qkv_bias = config.attention_out_bias = true;
  const StateDictSpec spec = config.WeightSpec();
  EXPECT_EQ(spec.size(), 2 * 16 + 3U);
  EXPECT_EQ(spec.at("lm_head.weight").shape, (Shape{320, 32}));
  EXPECT_EQ(spec.at("model.layers.1.self_attn.k_proj.weight").shape, (Shape{16, 32}));
  EXPECT_EQ(spec.at("model.layers.1.mlp.down_proj.weight").shape, (Shape{32, 48}));
  EXPECT_EQ(spec.at("model.layers.0.mlp.up_proj.bias").shape, (Shape{48}));
}

}  // namespace
}  // namespace heddle::model
