// config.json of encoders and vision models: what is read, under which names checkpoints are found, what is refused.
#include <gtest/gtest.h>

#include "model/config/registry.h"

namespace heddle::model {
namespace {

constexpr const char* kSizes =
    R"("hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20)";

std::string Config(const std::string& architecture, const std::string& more = "") {
  return "{\"architectures\": [\"" + architecture + "\"], " + kSizes +
         ", \"vocab_size\": 37, \"max_position_embeddings\": 16" + more + "}";
}

ModelSpec Spec(const std::string& architecture, const std::string& more = "") {
  const auto spec = ParseModelConfig(Config(architecture, more));
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ModelSpec{};
}

std::string Error(const std::string& architecture, const std::string& more) {
  const auto spec = ParseModelConfig(Config(architecture, more));
  EXPECT_FALSE(spec.ok());
  return spec.status().message();
}

void ExpectPart(const std::string& message, std::string_view part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(EncoderConfig, LabelsComeFromTheirNamesOrTheirNumber) {
  const std::string classifier = "BertForSequenceClassification";
  EXPECT_EQ(Spec(classifier).num_labels, 2);
  EXPECT_EQ(Spec(classifier, R"(, "num_labels": 5)").num_labels, 5);
  const ModelSpec named = Spec(classifier, R"(, "id2label": {"1": "yes", "0": "no", "2": "perhaps"})");
  EXPECT_EQ(named.num_labels, 3);
  EXPECT_EQ(named.label_names, (std::vector<std::string>{"no", "yes", "perhaps"}));
  ExpectPart(Error(classifier, R"(, "num_labels": 2, "id2label": {"0": "a"})"),
             "num_labels is 2, but id2label names 1");
  ExpectPart(Error(classifier, R"(, "id2label": {"0": "a", "2": "b"})"), "each number from 0 to 1");
  ExpectPart(Error(classifier, R"(, "id2label": {"0": "a", "00": "b"})"), "each number from 0 to 1");
  ExpectPart(Error(classifier, R"(, "id2label": {"0": 1})"), "each number from 0 to 0");
  ExpectPart(Error(classifier, R"(, "id2label": {})"), "must name from 1");
  ExpectPart(Error(classifier, R"(, "num_labels": 0)"), "num_labels is 0");
}

TEST(EncoderConfig, OnlyProblemsThatCanBeTrainedAreTaken) {
  const std::string classifier = "RobertaForSequenceClassification";
  EXPECT_EQ(Spec(classifier, R"(, "num_labels": 1)").num_labels, 1);
  EXPECT_EQ(Spec(classifier, R"(, "num_labels": 1, "problem_type": "regression")").num_labels, 1);
  ExpectPart(Error(classifier, R"(, "problem_type": "multi_label_classification")"), "multi_label_classification");
  ExpectPart(Error(classifier, R"(, "problem_type": "regression")"), "a regression with 2 labels");
  ExpectPart(Error(classifier, R"(, "num_labels": 1, "problem_type": "single_label_classification")"), "with 1 labels");
}

TEST(EncoderConfig, WhatWouldChangeTheNumbersIsRefusedByName) {
  ExpectPart(Error("BertModel", R"(, "position_embedding_type": "relative_key")"), "position_embedding_type");
  ExpectPart(Error("BertModel", R"(, "is_decoder": true)"), "is_decoder");
  ExpectPart(Error("BertModel", R"(, "hidden_act": "mish")"), "mish");
  ExpectPart(Error("RobertaForSequenceClassification", R"(, "pad_token_id": 15)"), "above pad_token_id + 1");
  ExpectPart(
      ParseModelConfig(R"({"architectures": ["DistilBertForSequenceClassification"], "dim": 8})").status().message(),
      "hidden_dim");
}

TEST(EncoderConfig, RobertaCountsPositionsBehindItsPadding) {
  const ModelSpec spec = Spec("RobertaForSequenceClassification");
  EXPECT_EQ(spec.pad_token_id, 1);
  EXPECT_EQ(spec.MaxLength(), 14);
  EXPECT_EQ(spec.WeightSpec().at("roberta.embeddings.position_embeddings.weight").shape, (Shape{16, 12}));
}

TEST(EncoderConfig, CheckpointsOfOtherHeadsAndOldNamesAreFound) {
  const ModelSpec masked = Spec("BertForMaskedLM");
  EXPECT_EQ(masked.NameOf("bert.embeddings.LayerNorm.gamma"), "bert.embeddings.LayerNorm.weight");
  EXPECT_EQ(masked.NameOf("cls.predictions.transform.LayerNorm.beta"), "cls.predictions.transform.LayerNorm.bias");
  for (const char* surplus : {"bert.pooler.dense.weight", "cls.seq_relationship.bias", "cls.predictions.decoder.weight",
                              "cls.predictions.decoder.bias", "bert.embeddings.position_ids"}) {
    EXPECT_EQ(masked.NameOf(surplus), "") << surplus;
  }
  const ModelSpec classifier = Spec("BertForSequenceClassification");
  EXPECT_EQ(classifier.NameOf("encoder.layer.1.output.dense.bias"), "bert.encoder.layer.1.output.dense.bias");
  EXPECT_EQ(classifier.NameOf("pooler.dense.weight"), "bert.pooler.dense.weight");
  EXPECT_EQ(classifier.NameOf("classifier.weight"), "classifier.weight");
  const ModelSpec body = Spec("BertModel");
  EXPECT_EQ(body.NameOf("bert.encoder.layer.0.attention.self.query.weight"),
            "encoder.layer.0.attention.self.query.weight");
  // A body may come without its pooler, but not without a layer.
  StateDictSpec tensors = body.WeightSpec();
  tensors.erase("pooler.dense.weight");
  tensors.erase("pooler.dense.bias");
  EXPECT_TRUE(body.CheckTensors(tensors).ok());
  tensors.erase("encoder.layer.1.output.dense.bias");
  ExpectPart(body.CheckTensors(tensors).message(), "lack encoder.layer.1.output.dense.bias");
}

TEST(EncoderConfig, VisionModelsHaveATokenForEachPatch) {
  const std::string image = R"(, "image_size": 28, "patch_size": 4, "num_channels": 1)";
  const ModelSpec vit = Spec("ViTForImageClassification", image + R"(, "head_dim": 64, "qkv_bias": false)");
  EXPECT_EQ(vit.MaxLength(), 50);
  EXPECT_EQ(vit.vocab_size, 0);
  const StateDictSpec weights = vit.WeightSpec();
  EXPECT_EQ(weights.at("vit.encoder.layer.0.attention.attention.query.weight").shape, (Shape{192, 12}));
  EXPECT_FALSE(weights.contains("vit.encoder.layer.0.attention.attention.query.bias"));
  EXPECT_TRUE(weights.contains("vit.encoder.layer.0.attention.output.dense.bias"));
  const ModelSpec deit = Spec("DeiTForImageClassificationWithTeacher", image);
  EXPECT_EQ(deit.MaxLength(), 51);
  EXPECT_TRUE(deit.WeightSpec().contains("distillation_classifier.bias"));
  EXPECT_EQ(deit.NameOf("distillation_classifier.weight"), "distillation_classifier.weight");
  ExpectPart(Error("ViTForImageClassification", R"(, "image_size": 8, "patch_size": 16)"), "patch_size");
}

}  // namespace
}  // namespace heddle::model
