// adapter_config.json: what PEFT writes and reads, and which modules it means.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <limits>

#include "peft/adapter/adapter.h"

namespace heddle::peft {
namespace {

namespace json = boost::json;

AdapterConfig Config(std::vector<std::string> targets) {
  AdapterConfig config;
  config.target_modules = std::move(targets);
  return config;
}

TEST(AdapterConfigJson, ComesBackAsItWas) {
  AdapterConfig config = Config({"v_proj", "q_proj"});
  config.r = 12;
  config.lora_alpha = 24.5;
  config.lora_dropout = 0.05;
  config.use_rslora = true;
  config.inference_mode = false;
  config.exclude_modules = {"lm_head"};
  config.base_model_name_or_path = "some/base \"quoted\"";
  std::vector<std::string> unknown;
  const auto back = AdapterConfig::FromJson(config.ToJson(), &unknown);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(unknown.empty());
  EXPECT_EQ(back->r, 12);
  EXPECT_EQ(back->lora_alpha, 24.5);
  EXPECT_EQ(back->lora_dropout, 0.05);
  EXPECT_TRUE(back->use_rslora);
  EXPECT_FALSE(back->inference_mode);
  EXPECT_EQ(back->target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));  // sorted, as PEFT saves sets
  EXPECT_EQ(back->exclude_modules, config.exclude_modules);
  EXPECT_EQ(back->base_model_name_or_path, config.base_model_name_or_path);
  EXPECT_EQ(back->ToJson(), config.ToJson());
}

TEST(AdapterConfigJson, AnExpressionInPlaceOfAListIsKept) {
  const auto config = AdapterConfig::FromJson(R"({"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"],
    "exclude_modules": ".*\\.1\\..*", "feedforward_modules": ".*down_proj"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->Targets("layers.1.k_proj"));
  EXPECT_TRUE(config->Targets("layers.2.k_proj"));
  EXPECT_TRUE(config->IsFeedforward("layers.2.down_proj"));
  EXPECT_FALSE(config->IsFeedforward("layers.2.down_proj.more"));
  const json::value written = json::parse(config->ToJson());
  EXPECT_EQ(written.at("exclude_modules"), ".*\\.1\\..*");
  EXPECT_EQ(written.at("feedforward_modules"), ".*down_proj");
  EXPECT_EQ(AdapterConfig::FromJson(config->ToJson())->ToJson(), config->ToJson());
  for (const char* key : {"exclude_modules", "feedforward_modules"}) {
    const auto wrong = AdapterConfig::FromJson(R"({"peft_type": "IA3", ")" + std::string(key) + R"(": "(q"})");
    EXPECT_NE(wrong.status().message().find(std::string(key) + " is not a regular expression"), std::string::npos);
    const auto back = AdapterConfig::FromJson(R"({"peft_type": "IA3", ")" + std::string(key) + R"(": "(q)\\1"})");
    EXPECT_EQ(back.status().code(), Code::kInvalidArgument) << "a back-reference";
  }
  AdapterConfig both = *config;
  both.exclude_modules = {"q_proj"};
  EXPECT_NE(both.Validate().message().find("exclude_modules is a list and an expression"), std::string::npos);
}

TEST(AdapterConfigJson, OnlyTasksThatPeftKnowsAreWritten) {
  AdapterConfig config = Config({"q_proj"});
  for (const char* task : {"CAUSAL_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS"}) {
    config.task_type = task;
    EXPECT_EQ(json::parse(config.ToJson()).at("task_type"), task);
  }
  for (const char* task : {"", "IMAGE_CLS", "causal_lm"}) {
    config.task_type = task;
    EXPECT_TRUE(json::parse(config.ToJson()).at("task_type").is_null()) << task;
  }
}

TEST(AdapterConfigJson, IsLaidOutAsPeftLaysItOut) {
  // json.dumps(..., indent=2, sort_keys=True) of a LoraConfig.
  AdapterConfig config = Config({"q_proj"});
  config.r = 16;
  config.lora_alpha = 32;
  const std::string text = config.ToJson();
  EXPECT_NE(text.find("{\n  \"alpha_pattern\": {},\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n  \"lora_alpha\": 32,\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n  \"target_modules\": [\n    \"q_proj\"\n  ],\n"), std::string::npos) << text;
  std::vector<std::string> keys;
  const json::value parsed = json::parse(text);
  for (const auto& [key, value] : parsed.as_object()) keys.emplace_back(key);
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
  // What PEFT's loader looks up.
  for (const char* key : {"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias",
                          "fan_in_fan_out", "init_lora_weights", "modules_to_save", "base_model_name_or_path"}) {
    EXPECT_TRUE(parsed.as_object().contains(key)) << key;
  }
  EXPECT_EQ(parsed.at("peft_type"), "LORA");
  EXPECT_EQ(parsed.at("task_type"), "CAUSAL_LM");
}

TEST(AdapterConfigJson, AllLinearIsWrittenAsTheTextThatPeftKnows) {
  // In a list, PEFT would look for modules of that name.
  for (const bool in_list : {true, false}) {
    AdapterConfig config;
    if (in_list) {
      config.target_modules = {"all-linear"};
    } else {
      config.target_modules_regex = "all-linear";
    }
    EXPECT_EQ(json::parse(config.ToJson()).at("target_modules"), "all-linear");
  }
}

TEST(AdapterConfigJson, ReadsWhatPeftWrites) {
  const char* text = R"({
    "alpha_pattern": {}, "auto_mapping": null, "base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "bias": "none",
    "corda_config": null, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
    "init_lora_weights": true, "layer_replication": null, "layers_pattern": null, "layers_to_transform": null,
    "loftq_config": {}, "lora_alpha": 16, "lora_bias": false, "lora_dropout": 0.1, "megatron_config": null,
    "megatron_core": "megatron.core", "modules_to_save": null, "peft_type": "LORA", "qalora_group_size": 16, "r": 8,
    "rank_pattern": {}, "revision": null, "target_modules": ["v_proj", "q_proj"], "task_type": "CAUSAL_LM",
    "trainable_token_indices": null, "use_dora": false, "use_rslora": false, "a_key_of_the_future": 7})";
  std::vector<std::string> unknown;
  const auto config = AdapterConfig::FromJson(text, &unknown);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(unknown, std::vector<std::string>{"a_key_of_the_future"});
  EXPECT_EQ(config->r, 8);
  EXPECT_EQ(config->scaling(), 2.0);
  EXPECT_EQ(config->lora_dropout, 0.1);
  EXPECT_TRUE(config->Targets("model.layers.0.self_attn.q_proj"));
}

TEST(AdapterConfigJson, MistakesAreRefusedByName) {
  struct Case {
    const char* text;
    const char* said;
  };
  const std::string good = R"("peft_type": "LORA", "target_modules": ["q_proj"])";
  for (const Case& c : {
           Case{"", "JSON"},
           Case{"[1]", "object"},
           Case{"{\"peft_type\": \"LORA\"", "JSON"},
           Case{"{\"target_modules\": [\"q\"]}", "peft_type"},
           Case{R"({"peft_type": "LOHA", "target_modules": ["q"]})", "did you mean LORA?"},
           Case{R"({"peft_type": "XLORA_AND_MORE", "target_modules": ["q"]})", "known are LORA, IA3"},
           Case{R"({"peft_type": "LORA"})", "target_modules"},
           Case{R"({"peft_type": "LORA", "target_modules": [1]})", "target_modules"},
           Case{R"({"peft_type": "LORA", "target_modules": {"q": 1}})", "target_modules"},
           Case{R"({"peft_type": "LORA", "target_modules": "(unclosed"})", "regular expression"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "r": 0})", "r must be"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "r": 5000})", "r must be"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "r": "8"})", "'r'"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "r": 8.5})", "'r'"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "r": 1e40})", "'r'"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "lora_alpha": -1})", "lora_alpha"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "lora_alpha": 1e300})", "lora_alpha"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "lora_dropout": 1})", "lora_dropout"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "bias": "all"})", "bias"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "lora_bias": true})", "lora_bias"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "use_dora": 1})", "'use_dora'"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "use_dora": true, "init_lora_weights": "pissa"})",
                "do not go together"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "init_lora_weights": "olora"})", "known are true"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "init_lora_weights": "pissa_niter_x"})", "known are"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "init_lora_weights": 3})", "'init_lora_weights'"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "rank_pattern": {"q": 0}})", "rank_pattern"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "rank_pattern": {"q": 1.5}})", "'rank_pattern'"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "rank_pattern": {"(q": 2}})", "regular expression"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "alpha_pattern": ["q"]})", "'alpha_pattern'"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "loraplus_lr_ratio": -1})", "loraplus_lr_ratio"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "modules_to_save": "lm_head"})", "modules_to_save"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "layers_to_transform": [1, -2]})",
                "layers_to_transform"},
           Case{R"({"peft_type": "LORA", "target_modules": ".*q", "layers_to_transform": [1]})", "an expression says"},
           Case{R"({"peft_type": "LORA", "target_modules": ["q"], "layers_pattern": ["h"]})", "layers_pattern"},
           Case{R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 0})", "num_virtual_tokens"},
           Case{R"({"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "ZERO"})", "SAMPLE_VOCAB"},
           Case{R"({"peft_type": "PREFIX_TUNING", "token_dim": -1})", "token_dim"},
           Case{R"({"peft_type": "P_TUNING", "num_transformer_submodules": 2})", "num_transformer_submodules"},
           Case{R"({"peft_type": "BOTTLENECK", "placement": "parallel"})", "houlsby"},
           Case{R"({"peft_type": "BOTTLENECK", "non_linearity": "mish"})", "relu"},
           Case{R"({"peft_type": "BOTTLENECK", "bottleneck_size": 0})", "bottleneck_size"},
           Case{R"({"peft_type": "BOTTLENECK", "adapter_scaling": 0})", "adapter_scaling"},
       }) {
    const auto config = AdapterConfig::FromJson(c.text);
    EXPECT_EQ(config.status().code(), Code::kInvalidArgument) << c.text;
    EXPECT_NE(config.status().message().find(c.said), std::string::npos) << c.text << " -> " << config.status();
  }
  EXPECT_TRUE(AdapterConfig::FromJson("{" + good + "}").ok());
}

TEST(AdapterConfigJson, EveryMistakeIsNamedAtOnce) {
  AdapterConfig config;
  config.r = 0;
  config.lora_alpha = std::numeric_limits<double>::quiet_NaN();
  config.lora_dropout = 2;
  const std::string message = config.Validate().message();
  for (const char* word : {"r must", "lora_alpha", "lora_dropout", "target_modules"}) {
    EXPECT_NE(message.find(word), std::string::npos) << message;
  }
}

TEST(AdapterConfig, ScalingIsAlphaOverRankOrItsRoot) {
  AdapterConfig config = Config({"q"});
  config.r = 16;
  config.lora_alpha = 8;
  EXPECT_EQ(config.scaling(), 0.5);
  config.use_rslora = true;
  EXPECT_EQ(config.scaling(), 2.0);
}

TEST(AdapterTargets, NamesMatchWholeComponentsFromTheEnd) {
  const AdapterConfig config = Config({"q_proj", "mlp.up_proj", "lm_head"});
  EXPECT_TRUE(config.Targets("model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(config.Targets("q_proj"));
  EXPECT_TRUE(config.Targets("model.layers.11.mlp.up_proj"));
  EXPECT_TRUE(config.Targets("lm_head"));
  EXPECT_FALSE(config.Targets("model.layers.0.self_attn.xq_proj"));
  EXPECT_FALSE(config.Targets("model.layers.0.self_attn.q_proj.extra"));
  EXPECT_FALSE(config.Targets("model.layers.0.other.up_proj"));
  EXPECT_FALSE(config.Targets("model.layers.0.self_attn.k_proj"));
  EXPECT_FALSE(config.Targets(""));
}

TEST(AdapterTargets, ExcludedNamesWin) {
  AdapterConfig config = Config({"q_proj", "v_proj"});
  config.exclude_modules = {"layers.1.self_attn.q_proj", "v_proj"};
  EXPECT_TRUE(config.Targets("model.layers.0.self_attn.q_proj"));
  EXPECT_FALSE(config.Targets("model.layers.1.self_attn.q_proj"));
  EXPECT_FALSE(config.Targets("model.layers.0.self_attn.v_proj"));
}

TEST(AdapterTargets, OneTextIsARegularExpressionOfTheWholePath) {
  AdapterConfig config;
  config.target_modules_regex = R"(.*\.layers\.[01]\..*\.(q|v)_proj)";
  EXPECT_TRUE(config.Targets("model.layers.1.self_attn.v_proj"));
  EXPECT_FALSE(config.Targets("model.layers.2.self_attn.v_proj"));
  EXPECT_FALSE(config.Targets("model.layers.1.self_attn.v_proj.more"));
  config.target_modules_regex = "q_proj";
  EXPECT_FALSE(config.Targets("model.layers.1.self_attn.q_proj"));
  EXPECT_TRUE(config.Targets("q_proj"));
}

TEST(AdapterTargets, AllLinearLeavesTheOutputLayerOut) {
  AdapterConfig config;
  config.target_modules_regex = "all-linear";
  EXPECT_TRUE(config.Targets("model.layers.1.mlp.gate_proj"));
  EXPECT_FALSE(config.Targets("lm_head"));
}

TEST(AdapterPatterns, MatchTheEndOfAPathAsPeftDoes) {
  AdapterConfig config = Config({"all-linear"});
  config.r = 8;
  config.lora_alpha = 16;
  config.rank_pattern = {{"q_proj", 4}, {"layers\\.1\\.mlp\\.(up|gate)_proj", 2}};
  config.alpha_pattern = {{"mlp.up_proj", 3}};
  EXPECT_EQ(config.RankOf("model.layers.0.self_attn.q_proj"), 4);
  EXPECT_EQ(config.RankOf("q_proj"), 4);
  EXPECT_EQ(config.RankOf("model.layers.0.self_attn.xq_proj"), 8);
  EXPECT_EQ(config.RankOf("model.layers.0.self_attn.q_proj.more"), 8);
  EXPECT_EQ(config.RankOf("model.layers.1.mlp.gate_proj"), 2);
  EXPECT_EQ(config.RankOf("model.layers.11.mlp.gate_proj"), 8);
  EXPECT_EQ(config.ScalingOf("model.layers.0.self_attn.q_proj"), 4);
  EXPECT_EQ(config.ScalingOf("model.layers.1.mlp.up_proj"), 1.5);
  EXPECT_EQ(config.ScalingOf("model.layers.0.self_attn.v_proj"), 2);
  config.use_rslora = true;
  EXPECT_EQ(config.ScalingOf("model.layers.0.self_attn.q_proj"), 8);
}

TEST(AdapterPatterns, NameEachOfManyModules) {
  AdapterConfig config = Config({"all-linear"});
  for (int layer = 0; layer < 2000; ++layer) {
    config.rank_pattern["model.layers." + std::to_string(layer) + ".mlp.up_proj"] = 1 + layer % 7;
  }
  ASSERT_TRUE(config.Validate().ok()) << config.Validate();
  EXPECT_EQ(config.RankOf("model.layers.1999.mlp.up_proj"), 1 + 1999 % 7);
  EXPECT_EQ(config.RankOf("model.layers.2000.mlp.up_proj"), 8);
  // A dot stands for any character, as in PEFT.
  config.rank_pattern = {{"up.proj", 3}};
  EXPECT_EQ(config.RankOf("mlp.up_proj"), 3);
  EXPECT_EQ(config.RankOf("mlp.up__proj"), 8);
  for (int i = 0; i < 65; ++i) config.rank_pattern["(q|v)_" + std::to_string(i)] = 1;
  EXPECT_NE(config.Validate().message().find("more than 64 expressions"), std::string::npos);
}

}  // namespace
}  // namespace heddle::peft
