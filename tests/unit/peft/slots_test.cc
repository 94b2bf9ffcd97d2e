// Which tensors an adapter has on a model: keys, shapes, and what is refused.
#include "peft/adapter/slots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/file.h"
#include "model/config/registry.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::peft {
namespace {

using ::testing::HasSubstr;

AdapterConfig Of(TuningKind kind) {
  AdapterConfig config;
  config.peft_type = PeftTypeOf(kind);
  config.num_virtual_tokens = 3;
  return config;
}

model::ModelSpec Bert() {
  auto spec = model::ParseModelConfig(R"({"architectures": ["BertForSequenceClassification"], "hidden_size": 12,
    "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": 37, "num_labels": 3})");
  EXPECT_TRUE(spec.ok()) << spec.status();
  return *std::move(spec);
}

StateDictSpec SpecFor(const model::ModelSpec& spec, const AdapterConfig& config) {
  auto out = AdapterSpec(spec, config);
  EXPECT_TRUE(out.ok()) << out.status();
  return out.ok() ? *std::move(out) : StateDictSpec();
}

std::string Refusal(const model::ModelSpec& spec, const AdapterConfig& config) {
  const auto out = AdapterSpec(spec, config);
  EXPECT_EQ(out.status().code(), Code::kInvalidArgument);
  return out.status().message();
}

TEST(Slots, AnUnnamedTargetOfIa3IsKeysValuesAndTheSecondLayerOfTheMlp) {
  const StateDictSpec llama = SpecFor(model::TinyConfig(), Of(TuningKind::kIa3));
  EXPECT_EQ(llama.size(), 6U);
  EXPECT_EQ(llama.at("base_model.model.model.layers.1.self_attn.k_proj.ia3_l").shape, (Shape{16, 1}));
  EXPECT_EQ(llama.at("base_model.model.model.layers.0.mlp.down_proj.ia3_l").shape, (Shape{1, 48}));
  // The attention's output layer ends in the same name, and is none of them.
  const StateDictSpec bert = SpecFor(Bert(), Of(TuningKind::kIa3));
  EXPECT_EQ(bert.size(), 6U);
  EXPECT_TRUE(bert.contains("base_model.model.bert.encoder.layer.0.output.dense.ia3_l"));
  EXPECT_FALSE(bert.contains("base_model.model.bert.encoder.layer.0.attention.output.dense.ia3_l"));
}

TEST(Slots, ModulesToSaveAreWholeAndNoTargets) {
  AdapterConfig config = Of(TuningKind::kLora);
  config.target_modules = {"query", "classifier", "pooler.dense"};
  config.modules_to_save = {"classifier", "score"};
  const StateDictSpec spec = SpecFor(Bert(), config);
  EXPECT_EQ(spec.at("base_model.model.classifier.weight").shape, (Shape{3, 12}));
  EXPECT_EQ(spec.at("base_model.model.classifier.bias").shape, (Shape{3}));
  EXPECT_FALSE(spec.contains("base_model.model.classifier.lora_A.weight"));
  EXPECT_TRUE(spec.contains("base_model.model.bert.pooler.dense.lora_A.weight"));
  AdapterConfig prompt = Of(TuningKind::kPromptTuning);
  prompt.modules_to_save = {"classifier"};
  EXPECT_TRUE(SpecFor(Bert(), prompt).contains("base_model.classifier.weight"));
  config.modules_to_save = {"clasifier"};
  EXPECT_THAT(Refusal(Bert(), config), HasSubstr("no module 'clasifier'; did you mean 'classifier'?"));
}

TEST(Slots, OnlySomeLayersOfEachKind) {
  for (const TuningKind kind : {TuningKind::kLora, TuningKind::kBottleneck, TuningKind::kBitFit, TuningKind::kFull}) {
    AdapterConfig config = Of(kind);
    if (kind == TuningKind::kLora) config.target_modules = {"query"};
    config.layers_to_transform = {1};
    const StateDictSpec spec = SpecFor(Bert(), config);
    EXPECT_FALSE(spec.empty());
    for (const auto& [key, tensor] : spec) EXPECT_THAT(key, HasSubstr("encoder.layer.1.")) << PeftTypeOf(kind);
    config.layers_to_transform = {2};
    EXPECT_THAT(Refusal(Bert(), config), HasSubstr("layer 2; the base model has 2, counted from 0"));
  }
}

TEST(Slots, AKeyOfOtherKindsIsNotObeyed) {
  AdapterConfig config = Of(TuningKind::kIa3);
  const size_t all = SpecFor(Bert(), config).size();
  config.layers_to_transform = {1};
  EXPECT_EQ(SpecFor(Bert(), config).size(), all);
}

TEST(Slots, FullTuningIsEveryParameterOnce) {
  const model::ModelSpec bert = Bert();
  AdapterConfig config = Of(TuningKind::kFull);
  config.modules_to_save = {"classifier"};
  const StateDictSpec spec = SpecFor(bert, config);
  ASSERT_EQ(spec.size(), bert.WeightSpec().size());
  for (const auto& [name, tensor] : bert.WeightSpec()) EXPECT_EQ(spec.at("base_model.model." + name), tensor) << name;
  config.layers_to_transform = {0};
  const StateDictSpec some = SpecFor(bert, config);
  EXPECT_EQ(some.size(), 16U + 2U);
  EXPECT_TRUE(some.contains("base_model.model.classifier.weight"));
}

// FedBFPT's paper (Wang et al., IJCAI 2023) has devices send 7.04 % of BERT-base: one layer of twelve and the output
// layer.
TEST(Slots, OneLayerOfBertBaseAndItsHeadAreTheShareThatFedBfptReports) {
  const auto bert = model::ParseModelConfig(R"({"architectures": ["BertForMaskedLM"], "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522})");
  ASSERT_TRUE(bert.ok()) << bert.status();
  AdapterConfig config = Of(TuningKind::kFull);
  config.layers_to_transform = {5};
  config.modules_to_save = {"cls"};
  int64_t sent = 0;
  for (const auto& [key, tensor] : SpecFor(*bert, config)) sent += NumElements(tensor.shape).value();
  // By hand: four projections of attention, two of the MLP, two norms; then the head's dense layer, norm and bias.
  EXPECT_EQ(sent,
            4 * (768 * 768 + 768) + (2 * 768 * 3072 + 3072 + 768) + 4 * 768 + (768 * 768 + 768) + 2 * 768 + 30522);
  EXPECT_NEAR(100.0 * static_cast<double>(sent) / static_cast<double>(bert->NumParameters()), 7.04, 0.005);
}

TEST(Slots, APrefixIsAsWideAsTheKeysOfAllLayers) {
  // Two heads of keys of eight, two layers; four heads of queries.
  EXPECT_EQ(SpecFor(model::TinyConfig(), Of(TuningKind::kPrefixTuning)).at("prompt_embeddings").shape,
            (Shape{3, 2 * 2 * 16}));
  EXPECT_EQ(SpecFor(model::TinyConfig(), Of(TuningKind::kPromptTuning)).at("prompt_embeddings").shape, (Shape{3, 32}));
  const AdapterConfig sized = Complete(model::TinyConfig(), Of(TuningKind::kPrefixTuning));
  EXPECT_EQ(sized.token_dim, 16);
  EXPECT_EQ(sized.num_attention_heads, 2);
  EXPECT_EQ(sized.num_layers, 2);
  EXPECT_EQ(sized.encoder_hidden_size, 16);
}

TEST(Slots, WhatDoesNotFitTheModelIsRefusedInASentence) {
  AdapterConfig lora = Of(TuningKind::kLora);
  lora.target_modules = {"q_porj"};
  EXPECT_THAT(Refusal(model::TinyConfig(), lora), HasSubstr("did you mean 'q_proj'?"));
  AdapterConfig expression = Of(TuningKind::kLora);
  expression.target_modules.clear();
  expression.target_modules_regex = R"(.*\.layers\.[0-9]+\.self_attn\.(q_porj|v_prjo))";
  EXPECT_THAT(Refusal(model::TinyConfig(), expression), HasSubstr("did you mean 'q_proj'?"));
  lora.target_modules = {"q_proj"};
  lora.r = 33;
  EXPECT_THAT(Refusal(model::TinyConfig(), lora),
              HasSubstr("the rank 33 is above the width of model.layers.0.self_attn"));
  lora.r = 8;
  lora.rank_pattern = {{"q_proj", 64}};
  EXPECT_THAT(Refusal(model::TinyConfig(), lora), HasSubstr("the rank 64"));
  lora.rank_pattern = {{"model.layers.0.self_attn.q_proj", 64}};  // as factors are exported that were stacked
  EXPECT_EQ(
      SpecFor(model::TinyConfig(), lora).at("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight").shape,
      (Shape{64, 32}));
  AdapterConfig ia3 = Of(TuningKind::kIa3);
  ia3.target_modules = {"k_proj"};
  ia3.feedforward_modules = {"down_proj"};
  EXPECT_THAT(Refusal(model::TinyConfig(), ia3), HasSubstr("'down_proj' is none of the targets"));
  // From 32 to 16: of 17 columns one is of no use.
  lora = Of(TuningKind::kLora);
  lora.target_modules = {"v_proj"};
  lora.r = 17;
  EXPECT_THAT(Refusal(model::TinyConfig(), lora), HasSubstr("the rank 17 is above the width"));
  lora.r = 16;
  EXPECT_FALSE(SpecFor(model::TinyConfig(), lora).empty());
  EXPECT_THAT(Refusal(model::TinyConfig(), Of(TuningKind::kBitFit)), HasSubstr("has none"));
  AdapterConfig bitfit = Of(TuningKind::kBitFit);
  bitfit.target_modules = {"LayerNrom"};
  EXPECT_THAT(Refusal(Bert(), bitfit), HasSubstr("did you mean 'LayerNorm'?"));
  AdapterConfig prompt = Of(TuningKind::kPromptTuning);
  prompt.token_dim = 768;
  EXPECT_THAT(Refusal(Bert(), prompt), HasSubstr("another base model"));
  prompt = Of(TuningKind::kPromptTuning);
  prompt.num_virtual_tokens = 64;
  EXPECT_THAT(Refusal(model::TinyConfig(), prompt), HasSubstr("takes at most 64 tokens"));
  model::ModelSpec narrow = model::TinyConfig();
  narrow.embedding_size = 16;
  EXPECT_THAT(Refusal(narrow, Of(TuningKind::kPromptTuning)), HasSubstr("PREFIX_TUNING can"));
}

TEST(CheckNames, EveryNameOfARecipeStandsForSomething) {
  const auto refused = [](const model::ModelSpec& spec, const AdapterConfig& config, const char* said) {
    EXPECT_TRUE(ListSlots(spec, config).ok()) << "a file may say it";
    const Status status = CheckNames(spec, config);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << said;
    EXPECT_THAT(status.message(), HasSubstr(said));
  };
  const model::ModelSpec llama = model::TinyConfig();
  AdapterConfig good = Of(TuningKind::kLora);
  good.target_modules = {"q_proj", "v_proj"};
  good.exclude_modules = {"layers.1.self_attn.q_proj"};
  good.rank_pattern = {{"q_proj", 4}, {"layers.[01].self_attn.v_proj", 2}};
  good.alpha_pattern = {{"v_proj", 3}};
  EXPECT_TRUE(CheckNames(llama, good).ok()) << CheckNames(llama, good);
  AdapterConfig wrong = good;
  wrong.target_modules = {"q_proj", "v_porj"};
  wrong.rank_pattern.erase("layers.[01].self_attn.v_proj");
  wrong.alpha_pattern.clear();
  refused(llama, wrong, "target_modules: 'v_porj' is none of");
  refused(llama, wrong, "did you mean 'v_proj'?");
  wrong = good;
  wrong.exclude_modules = {"layers.2.self_attn.q_proj"};
  refused(llama, wrong, "exclude_modules: 'layers.2.self_attn.q_proj'");
  wrong.exclude_modules.clear();
  wrong.exclude_modules_regex = ".*k_porj";
  refused(llama, wrong, "exclude_modules: '.*k_porj'");
  wrong = good;
  wrong.rank_pattern = {{"k_proj", 4}};  // of the model, but no target
  refused(llama, wrong, "rank_pattern: 'k_proj' is none of q_proj, v_proj");
  wrong = good;
  wrong.alpha_pattern = {{"(q|v)_porj", 4}};
  refused(llama, wrong, "alpha_pattern: '(q|v)_porj'");
  wrong = good;
  wrong.rank_pattern = {{"model.layers.0.self_attn.q_proj", 64}};  // in a file they are factors that were stacked
  refused(llama, wrong, "the rank 64 is above the width of model.layers.0.self_attn.q_proj (32 to 32)");
  AdapterConfig ia3 = Of(TuningKind::kIa3);
  ia3.target_modules = {"k_proj", "down_proj"};
  ia3.feedforward_modules_regex = ".*down_proj";
  EXPECT_TRUE(CheckNames(llama, ia3).ok());
  ia3.feedforward_modules_regex = "down_proj";
  refused(llama, ia3, "feedforward_modules: 'down_proj' is none of down_proj, k_proj");
  AdapterConfig bitfit = Of(TuningKind::kBitFit);
  bitfit.target_modules = {"LayerNorm", "qeury"};
  refused(Bert(), bitfit, "did you mean 'query'?");
  AdapterConfig full = Of(TuningKind::kFull);
  full.layers_to_transform = {1};
  full.bias_only_layers = {0};
  EXPECT_TRUE(CheckNames(Bert(), full).ok());
  refused(llama, full, "bias_only_layers: layer 0 of this model has no biases");
  for (const TuningKind kind : {TuningKind::kIa3, TuningKind::kBitFit, TuningKind::kFull, TuningKind::kPrefixTuning}) {
    EXPECT_TRUE(CheckNames(Bert(), Of(kind)).ok()) << PeftTypeOf(kind);
  }
}

TEST(Slots, AnExpressionExcludesAndTellsWhichInputsAreScaled) {
  AdapterConfig config = Of(TuningKind::kLora);
  config.target_modules = {"q_proj", "v_proj"};
  config.exclude_modules_regex = R"(.*\.0\..*\.(q|k)_proj)";
  const StateDictSpec spec = SpecFor(model::TinyConfig(), config);
  EXPECT_EQ(spec.size(), 2U * 3);
  EXPECT_FALSE(spec.contains("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"));
  AdapterConfig ia3 = Of(TuningKind::kIa3);
  ia3.target_modules = {"k_proj", "down_proj"};
  ia3.feedforward_modules_regex = R"(.*\.1\..*down_proj)";
  const StateDictSpec scales = SpecFor(model::TinyConfig(), ia3);
  EXPECT_EQ(scales.at("base_model.model.model.layers.0.mlp.down_proj.ia3_l").shape, (Shape{32, 1}));
  EXPECT_EQ(scales.at("base_model.model.model.layers.1.mlp.down_proj.ia3_l").shape, (Shape{1, 48}));
  // What is left out of itself joins the expression.
  AdapterConfig bert = Of(TuningKind::kIa3);
  bert.exclude_modules_regex = R"(.*layer\.0\..*)";
  EXPECT_EQ(SpecFor(Bert(), bert).size(), 3U);
  EXPECT_EQ(SpecFor(Bert(), Complete(Bert(), bert)).size(), 3U);
  AdapterConfig biases = Of(TuningKind::kBitFit);
  biases.exclude_modules_regex = R"((?!.*pooler).*)";
  EXPECT_EQ(SpecFor(Bert(), biases).size(), 1U);
}

TEST(Slots, BitFitTakesTheBiasesThatAreNamed) {
  AdapterConfig config = Of(TuningKind::kBitFit);
  const size_t all = SpecFor(Bert(), config).size();
  EXPECT_EQ(all, 1U + 2 * 8 + 2);  // of the embeddings, of each layer, of pooler and classifier
  config.target_modules = {"query", "LayerNorm"};
  EXPECT_EQ(SpecFor(Bert(), config).size(), 1U + 2 * 3);
  config.exclude_modules = {"embeddings.LayerNorm"};
  EXPECT_EQ(SpecFor(Bert(), config).size(), 2U * 3);
}

TEST(Slots, TheExampleOfTheFormatsPageIsWhatIsWritten) {
  AdapterConfig config = Of(TuningKind::kLora);
  config.r = 2;
  config.lora_alpha = 4;
  config.target_modules = {"value", "query"};
  config.modules_to_save = {"classifier"};
  config.task_type = "SEQ_CLS";
  const std::string page = *ReadFile(std::filesystem::path(HEDDLE_SOURCE_DIR) / "docs" / "formats.md", 1 << 20);
  EXPECT_THAT(page, HasSubstr("```\n" + config.ToJson()));
  EXPECT_EQ(config.scaling(), 2);
  model::ModelSpec bert = Bert();
  bert.num_hidden_layers = 1;
  std::string list;
  for (const auto& [key, tensor] : SpecFor(bert, config)) list += key + "  " + tensor.ToString() + "\n";
  EXPECT_THAT(page, HasSubstr("\n\n" + list + "```"));
}

TEST(Slots, ALayerIsFoundByTheModelsOwnNames) {
  const model::ModelSpec llama = model::TinyConfig();
  EXPECT_EQ(LayerOf(llama, "model.layers.1.mlp.up_proj"), 1);
  EXPECT_EQ(LayerOf(llama, "model.layers.2.mlp.up_proj"), -1);
  EXPECT_EQ(LayerOf(llama, "model.layers.01.mlp"), -1);
  EXPECT_EQ(LayerOf(llama, "model.layers.99999999999999999999.mlp"), -1);
  EXPECT_EQ(LayerOf(llama, "model.norm.weight"), -1);
  EXPECT_EQ(LayerOf(llama, "model.layers."), -1);
}

TEST(Slots, FullTuningTakesBiasesAloneInTheLayersThatSaySo) {
  AdapterConfig config = Of(TuningKind::kFull);
  config.layers_to_transform = {1};
  config.bias_only_layers = {0};
  const model::ModelSpec bert = Bert();
  ASSERT_EQ(bert.num_hidden_layers, 2);
  size_t biases = 0, whole = 0;
  const StateDictSpec slots = SpecFor(bert, config);
  for (const auto& [name, tensor] : bert.WeightSpec()) {
    const int64_t layer = LayerOf(bert, name);
    const bool expected = layer == 1 || (layer == 0 && name.ends_with(".bias"));
    EXPECT_EQ(slots.contains("base_model.model." + name), expected) << name;
    (layer == 0 ? biases : whole) += expected;
  }
  EXPECT_GT(biases, 0U);
  EXPECT_GT(whole, 2 * biases - 1);
  EXPECT_EQ(AdapterConfig::FromJson(config.ToJson())->bias_only_layers, config.bias_only_layers);
  config.bias_only_layers = {2};
  EXPECT_THAT(ListSlots(bert, config).status().message(), HasSubstr("bias_only_layers names layer 2"));
  AdapterConfig other = Of(TuningKind::kBitFit);
  other.bias_only_layers = {0};
  EXPECT_FALSE(other.Validate().ok());
}

}  // namespace
}  // namespace heddle::peft
