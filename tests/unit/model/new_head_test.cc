// A pretrained model's config.json with a new head.
#include "model/config/new_head.h"

#include <gtest/gtest.h>

#include "model/config/registry.h"

namespace heddle::model {
namespace {

constexpr const char* kBodySizes =
    R"("hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20, "vocab_size": 37,
       "max_position_embeddings": 16, "dim": 12, "hidden_dim": 20, "n_layers": 1, "n_heads": 3, "image_size": 8,
       "patch_size": 4)";

std::string WithSizes(const std::string& start) { return "{" + start + ", " + kBodySizes + "}"; }

ModelSpec WithHead(const std::string& start, int64_t labels) {
  const auto text = ConfigWithNewHead(WithSizes(start), labels);
  EXPECT_TRUE(text.ok()) << text.status();
  const auto spec = ParseModelConfig(*text);
  EXPECT_TRUE(spec.ok()) << spec.status() << *text;
  return spec.ok() ? *spec : ModelSpec{};
}

TEST(NewHead, EveryFamilyOfEncodersGetsItsClassifier) {
  for (const auto& [start, architecture] : {
           std::pair{R"("architectures": ["BertModel"])", "BertForSequenceClassification"},
           {R"("architectures": ["BertForPreTraining"])", "BertForSequenceClassification"},
           {R"("model_type": "bert")", "BertForSequenceClassification"},
           {R"("architectures": ["RobertaForMaskedLM"], "model_type": "roberta")", "RobertaForSequenceClassification"},
           {R"("architectures": ["DistilBertModel"])", "DistilBertForSequenceClassification"},
           {R"("architectures": ["ViTModel"])", "ViTForImageClassification"},
           {R"("architectures": ["DeiTForImageClassification"], "num_labels": 7)", "DeiTForImageClassification"},
       }) {
    const ModelSpec spec = WithHead(start, 5);
    EXPECT_EQ(spec.architecture, architecture);
    EXPECT_EQ(spec.num_labels, 5);
    EXPECT_EQ(spec.label_names[4], "LABEL_4");
    EXPECT_EQ(spec.fresh, HeadParameters(spec));
    EXPECT_GE(spec.fresh.size(), 2U);
  }
  EXPECT_EQ(WithHead(R"("architectures": ["BertModel"])", 1).num_labels, 1);
}

TEST(NewHead, OnlyTheHeadMayBeAbsentAndThatOfOtherClassesIsPassedOver) {
  const ModelSpec spec = WithHead(R"("architectures": ["BertForMaskedLM"])", 3);
  StateDictSpec whole = spec.WeightSpec();
  EXPECT_TRUE(spec.CheckTensors(whole).ok());
  EXPECT_TRUE(MissingHeadParameters(spec, whole).empty());
  StateDictSpec body = whole;
  body.erase("classifier.weight");
  body.erase("classifier.bias");
  body["cls.predictions.bias"] = {DType::kF32, {37}};
  EXPECT_TRUE(spec.CheckTensors(body).ok()) << spec.CheckTensors(body);
  EXPECT_EQ(MissingHeadParameters(spec, body), (std::vector<std::string>{"classifier.bias", "classifier.weight"}));
  // A classifier of seven classes is none of three.
  body["classifier.weight"] = {DType::kF32, {7, 12}};
  body["classifier.bias"] = {DType::kF32, {7}};
  EXPECT_TRUE(spec.CheckTensors(body).ok()) << spec.CheckTensors(body);
  EXPECT_EQ(MissingHeadParameters(spec, body).size(), 2U);
  body.erase("bert.embeddings.LayerNorm.bias");
  EXPECT_EQ(spec.CheckTensors(body).code(), Code::kInvalidArgument);
  // Without the word in config.json nothing may be absent.
  const auto strict = ParseModelConfig(WithSizes(R"("architectures": ["BertForSequenceClassification"])"));
  StateDictSpec headless = strict->WeightSpec();
  headless.erase("classifier.weight");
  EXPECT_EQ(strict->CheckTensors(headless).code(), Code::kInvalidArgument);
}

TEST(NewHead, WhatCannotBeIsRefusedInASentence) {
  const auto refused = [](const std::string& text, int64_t labels, const std::vector<std::string>& names, Code code,
                          const char* said) {
    const auto changed = ConfigWithNewHead(text, labels, names);
    EXPECT_EQ(changed.status().code(), code) << text;
    EXPECT_NE(changed.status().message().find(said), std::string::npos) << changed.status();
  };
  const std::string bert = WithSizes(R"("architectures": ["BertModel"])");
  refused(bert, 0, {}, Code::kInvalidArgument, "from 1 to 65536 labels, not 0");
  refused(bert, 70000, {}, Code::kInvalidArgument, "not 70000");
  refused(bert, 2, {"one"}, Code::kInvalidArgument, "1 names for 2 labels");
  refused("[]", 2, {}, Code::kInvalidArgument, "object");
  refused("{", 2, {}, Code::kInvalidArgument, "object");
  refused(WithSizes(R"("architectures": ["GPT2LMHeadModel"])"), 2, {}, Code::kUnimplemented, "GPT2LMHeadModel");
  refused(WithSizes(R"("model_type": "t5")"), 2, {}, Code::kUnimplemented, "of type 't5'");
}

}  // namespace
}  // namespace heddle::model
