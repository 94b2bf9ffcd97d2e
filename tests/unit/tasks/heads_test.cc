// lora_sft on heads other than a causal one, and what evaluation says of each: small models in folders of their own,
// data in files as people have them.
#include <torch/types.h>

#include "client/worker/task_resources.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "model/data/examples.h"
#include "model/transformer/transformer.h"
#include "peft/lora/lora.h"
#include "tests/unit/model/data/make_image.h"
#include "tests/unit/model/test_data.h"
#include "tests/unit/tasks/task_fixture.h"
#include "tests/unit/tasks/word_pieces.h"

namespace heddle::client {
namespace {

constexpr const char* kTokenizerConfig =
    R"({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"})";

constexpr const char* kBert = R"({"architectures": ["BertForSequenceClassification"], "hidden_size": 24,
  "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 20, "max_position_embeddings": 32,
  "pad_token_id": 0, "id2label": {"0": "negative", "1": "positive"}})";

class HeadTest : public TaskTest {
 protected:
  HeadTest() {
    input_.train.local_steps = 40;
    input_.train.batch_size = 16;
    input_.train.sequence_length = 12;
    input_.train.learning_rate = 1e-2;
  }

  // Random weights; a WordPiece tokenizer of a few words where the model takes texts.
  void WriteBase(const std::string& config, StateDict weights = {}) {
    const auto spec = model::ParseModelConfig(config);
    ASSERT_TRUE(spec.ok()) << spec.status();
    std::filesystem::remove_all(folder_ / "base");
    std::filesystem::create_directory(folder_ / "base");
    folder_.Write("base/config.json", config);
    if (weights.empty()) weights = model::RandomWeights(*spec, 4, 0.15F);
    ASSERT_TRUE(WriteSafetensors(folder_ / "base/model.safetensors", weights).ok());
    if (!spec->TakesImages()) {
      folder_.Write("base/tokenizer.json", TokenizerJson());
      folder_.Write("base/tokenizer_config.json", kTokenizerConfig);
    }
    WriteAdapterFor(*spec, folder_ / "adapter");
  }

  void WriteAdapterFor(const model::ModelSpec& spec, const std::filesystem::path& folder) {
    config_ = {};
    config_.r = 4;
    config_.lora_alpha = 8;
    config_.target_modules_regex = "all-linear";
    const auto targets = peft::FindTargets(spec.LinearModules(), config_);
    ASSERT_TRUE(targets.ok()) << targets.status();
    initial_ = peft::MakeInitialAdapter(*targets, config_, 5);
    ASSERT_TRUE(peft::WriteAdapter(folder, config_, initial_).ok());
  }

  // Trains, and measures the base and the tuned model on the data it was trained on.
  void TrainAndEvaluate() {
    const auto output = Run();
    ASSERT_TRUE(output.ok()) << output.status();
    stats_ = output->stats;
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "trained", config_, Sum(initial_, output->update)).ok());
    before_ = Evaluate({});
    after_ = Evaluate(folder_ / "trained");
  }

  Evaluation Evaluate(const std::filesystem::path& adapter) {
    auto result =
        EvaluateModel(input_.base_model_dir, adapter, input_.data_path, input_.train.sequence_length, *resources_);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : Evaluation{};
  }

  static double Metric(const Evaluation& evaluation, const std::string& name) {
    for (const auto& [known, value] : evaluation.metrics) {
      if (known == name) return value;
    }
    ADD_FAILURE() << "no metric " << name;
    return 0;
  }

  // A sentence says one of four adjectives, and the adjective decides.
  std::string Reviews(int count, bool numbers) {
    std::string file = "sentence\tlabel\n";
    PhiloxStream random(8);
    const char* adjectives[] = {"bad", "poor", "good", "fine"};
    for (int i = 0; i < count; ++i) {
      const uint32_t which = random.NextBelow(4);
      file += std::string("The ") + (random.NextBelow(2) == 0 ? "film" : "play") + " was" +
              (random.NextBelow(2) == 0 ? " very " : " ") + adjectives[which] + ".\t";
      file += numbers ? std::to_string(which * 0.5 - 0.75) : which >= 2 ? "positive" : "0";
      file += "\n";
    }
    return file;
  }

  TaskStats stats_;
  Evaluation before_, after_;
};

TEST_F(HeadTest, SequenceClassificationLearnsWhatSeparatesTheClasses) {
  WriteBase(kBert);
  input_.data_path = folder_.Write("reviews.tsv", Reviews(100, false));
  TrainAndEvaluate();
  EXPECT_EQ(stats_.num_examples, 40U * 16);
  EXPECT_LT(stats_.last_loss, 0.5 * stats_.first_loss);
  EXPECT_LT(Metric(before_, "accuracy"), 0.8);
  EXPECT_EQ(Metric(after_, "accuracy"), 1);
  EXPECT_EQ(Metric(after_, "f1"), 1);
  EXPECT_EQ(Metric(after_, "matthews"), 1);
  EXPECT_LT(after_.loss, 0.2);
  EXPECT_EQ(after_.num_examples, 100U);
  EXPECT_EQ(after_.perplexity, 0);
}

TEST_F(HeadTest, PairsOfTextsAreClassified) {
  WriteBase(kBert);
  std::string file;
  PhiloxStream random(3);
  const char* words[] = {"good", "bad"};
  for (int i = 0; i < 64; ++i) {
    const uint32_t a = random.NextBelow(2), b = random.NextBelow(2);
    file += std::string("{\"sentence1\": \"The film was ") + words[a] + "\", \"sentence2\": \"the play is " + words[b] +
            "\", \"label\": " + std::to_string(b) + "}\n";
  }
  input_.data_path = folder_.Write("pairs.jsonl", file);
  TrainAndEvaluate();
  EXPECT_EQ(Metric(after_, "accuracy"), 1);
}

TEST_F(HeadTest, OneLabelIsANumberToPredict) {
  std::string config = kBert;
  config.replace(config.find("\"id2label\""), std::string::npos, "\"num_labels\": 1}");
  WriteBase(config);
  input_.data_path = folder_.Write("grades.tsv", Reviews(100, true));
  input_.train.local_steps = 80;
  TrainAndEvaluate();
  EXPECT_LT(after_.loss, 0.05);
  EXPECT_GT(after_.loss, 0);
  EXPECT_EQ(after_.loss, Metric(after_, "mean_squared_error"));
  EXPECT_GT(Metric(after_, "spearman"), 0.9);
  EXPECT_GT(Metric(after_, "pearson"), 0.95);
}

TEST_F(HeadTest, MaskedLanguageModelsLearnTheWordsThatAreHidden) {
  std::string config = kBert;
  config.replace(config.find("BertForSequenceClassification"), 29, "BertForMaskedLM");
  WriteBase(config);
  std::string file;
  for (int i = 0; i < 60; ++i) file += "The film was very good and fine.\n\n";
  input_.data_path = folder_.Write("text.txt", file);
  input_.train.local_steps = 80;
  TrainAndEvaluate();
  EXPECT_GT(before_.perplexity, 10);
  EXPECT_LT(after_.perplexity, 3);
  EXPECT_EQ(after_.perplexity, std::exp(after_.loss));
  EXPECT_EQ(Evaluate(folder_ / "trained").loss, after_.loss);  // the same tokens are hidden each time
}

TEST_F(HeadTest, ImageClassificationLearnsWhatSeparatesTheClasses) {
  WriteBase(R"({"architectures": ["ViTForImageClassification"], "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 32, "image_size": 8, "patch_size": 4, "num_channels": 3,
    "id2label": {"0": "left", "1": "right"}, "image_mean": [0.4, 0.5, 0.6], "image_std": 0.3})");
  // The bright half says the class.
  PhiloxStream random(2);
  for (const char* name : {"left", "right"}) {
    std::filesystem::create_directories(folder_ / "images" / name);
    for (int i = 0; i < 20; ++i) {
      model::Image image{8, 8, 3, {}};
      for (int at = 0; at < 8 * 8 * 3; ++at) {
        const bool bright = (at / 3 % 8 < 4) == (name == std::string("left"));
        image.pixels.push_back(static_cast<uint8_t>(random.NextBelow(120) + (bright ? 120 : 0)));
      }
      folder_.Write("images/" + std::string(name) + "/" + std::to_string(i) + ".png", model::EncodePng(image));
    }
  }
  input_.data_path = folder_ / "images";
  input_.train.sequence_length = 128;  // means nothing to images
  TrainAndEvaluate();
  EXPECT_EQ(stats_.num_tokens, 0U);
  EXPECT_LT(Metric(before_, "accuracy"), 0.8);
  EXPECT_GE(Metric(after_, "accuracy"), 0.95);
}

TEST_F(HeadTest, OfACompletionOnlyTheCompletionCounts) {
  const auto base = *resources_->GetBase(input_.base_model_dir);
  const std::string prompt = "the old river", completion = " weaver pulls threads";
  input_.data_path = folder_.Write("answers.jsonl", "{\"prompt\": \"" + prompt + "\", \"completion\": \"" + completion +
                                                        "\"}\n{\"prompt\": \"she\", \"completion\": \" sings\"}\n");
  const Evaluation evaluation = Evaluate({});
  // By hand: each example in a row of its own, from the logits.
  model::Transformer network(base.weights);
  double sum = 0;
  uint64_t count = 0;
  for (const auto& [p, c] : {std::pair{prompt, completion}, {std::string("she"), std::string(" sings")}}) {
    auto ids = base.tokenizer->Encode(p);
    const size_t first = ids.size();
    for (const int32_t id : base.tokenizer->Encode(c)) ids.push_back(id);
    ids.push_back(base.tokenizer->eos_id());
    const auto row = torch::tensor(std::vector<int64_t>(ids.begin(), ids.end())).unsqueeze(0);
    const auto log_p = torch::log_softmax(network->forward(row)[0].detach().to(torch::kDouble), -1);
    for (size_t i = first; i < ids.size(); ++i, ++count) {
      sum -= log_p.index({static_cast<int64_t>(i) - 1, ids[i]}).item().toDouble();
    }
  }
  EXPECT_EQ(evaluation.num_tokens, count);
  EXPECT_NEAR(evaluation.loss, sum / static_cast<double>(count), 1e-5);
  input_.train.sequence_length = 32;
  const auto output = Run();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_LT(output->stats.last_loss, output->stats.first_loss);
}

TEST_F(HeadTest, WhatDoesNotFitTogetherIsToldInASentence) {
  WriteBase(kBert);
  const auto error = [&](const std::string& name, const std::string& content) {
    input_.data_path = folder_.Write(name, content);
    const auto output = Run();
    EXPECT_EQ(output.status().code(), Code::kInvalidArgument) << output.status();
    return output.status().message();
  };
  const std::string label = error("a.tsv", "text\tlabel\ngood\t1\nbad\tperhaps\n");
  EXPECT_NE(label.find("a.tsv: line 3: the label is \"perhaps\", but must be one of negative, positive"),
            std::string::npos)
      << label;
  const std::string no_label = error("b.jsonl", "{\"text\": \"good\"}\n");
  EXPECT_NE(no_label.find("no \"label\""), std::string::npos) << no_label;
  const std::string empty = error("c.csv", "text,label\n");
  EXPECT_NE(empty.find("empty data set"), std::string::npos) << empty;
  std::string config = kBert;
  config.replace(config.find("BertForSequenceClassification"), 29, "BertModel");
  WriteBase(config);
  const std::string headless = error("d.txt", "good\n");
  EXPECT_NE(headless.find("BertModel has no head"), std::string::npos) << headless;
}

TEST_F(HeadTest, TheSameSeedGivesTheSameUpdate) {
  WriteBase(kBert);
  input_.data_path = folder_.Write("reviews.tsv", Reviews(50, false));
  input_.train.local_steps = 3;
  const auto a = *Run(), b = *Run();
  input_.seed = 12;
  const auto c = *Run();
  EXPECT_EQ(SerializeSafetensors(a.update), SerializeSafetensors(b.update));
  EXPECT_NE(SerializeSafetensors(a.update), SerializeSafetensors(c.update));
}

TEST_F(HeadTest, FieldsOfOtherNamesAndFilesWithoutAHeaderAreReadAlike) {
  WriteBase(kBert);
  input_.train.local_steps = 3;
  input_.data_path = folder_.Write("reviews.tsv", Reviews(20, false));
  const auto usual = Run();
  ASSERT_TRUE(usual.ok()) << usual.status();
  const auto expect_same = [&] {
    const auto output = Run();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(SerializeSafetensors(output->update), SerializeSafetensors(usual->update));
  };
  std::string rows = Reviews(20, false);
  rows.erase(0, rows.find('\n') + 1);
  input_.data_path = folder_.Write("renamed.tsv", "review\tstars\n" + rows);
  EXPECT_FALSE(Run().ok()) << "nobody says what its columns are";
  input_.data_fields = {.text = {"review"}, .label = "stars"};
  expect_same();
  input_.data_path = folder_.Write("headerless.tsv", rows);
  input_.data_fields = {.columns = {"review", "stars"}, .text = {"review"}, .label = "stars"};
  expect_same();
}

// The real encoder with a head that was never trained.
TEST_F(HeadTest, TheRealSentenceEncoderLearnsSentiment) {
  HEDDLE_NEEDS_TEST_DATA("minilm-l6-v2");
  HEDDLE_NEEDS_TEST_DATA("sst2");
  const auto real = model::TestDataFolder() / "minilm-l6-v2";
  std::string config = Slurp(real / "config.json");
  config.replace(config.find("BertModel"), 9, "BertForSequenceClassification");
  StateDict weights = ReadSafetensors(real / "model.safetensors")->tensors;
  const auto random = model::RandomWeights(*model::ParseModelConfig(config), 1, 0.05F);
  for (const char* name : {"classifier.weight", "classifier.bias"}) weights[name] = random.at(name);
  WriteBase(config, weights);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    folder_.Write("base/" + std::string(name), Slurp(real / name));
  }
  std::string train, line;
  std::ifstream in(model::TestDataFolder() / "sst2/train.tsv");
  for (int i = 0; i <= 120 && std::getline(in, line); ++i) train += line + "\n";
  input_.data_path = folder_.Write("train.tsv", train);
  input_.train.local_steps = 24;
  input_.train.batch_size = 12;
  input_.train.sequence_length = 24;
  input_.train.learning_rate = 2e-3;
  TrainAndEvaluate();
  EXPECT_LT(Metric(before_, "accuracy"), 0.7);
  EXPECT_GT(Metric(after_, "accuracy"), 0.85);
}

}  // namespace
}  // namespace heddle::client
