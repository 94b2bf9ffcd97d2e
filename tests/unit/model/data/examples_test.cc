// A data file as a model's head takes it, and the preprocessing of pixels.
#include "model/data/examples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/config/registry.h"
#include "model/tokenizer/bpe_trainer.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/data/make_image.h"

namespace heddle::model {
namespace {

// Bytes as tokens, with those that BERT wants.
std::shared_ptr<const Tokenizer> Bytes() {
  BpeTrainerOptions options;
  options.special_tokens = {"<|endoftext|>", "[MASK]"};
  return *Tokenizer::FromJson(*BpeTrainer().Train(options));
}

ModelSpec Spec(const std::string& architecture, const std::string& more = "") {
  const auto spec = ParseModelConfig("{\"architectures\": [\"" + architecture +
                                     R"("], "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
      "intermediate_size": 8, "vocab_size": 300, "max_position_embeddings": 64, "pad_token_id": 0)" +
                                     more + "}");
  EXPECT_TRUE(spec.ok()) << spec.status();
  return *spec;
}

Result<std::shared_ptr<const Examples>> Open(const ModelSpec& spec, const std::filesystem::path& data, int64_t length) {
  Examples::Options options;
  options.max_tokens = length;
  return Examples::Open(spec, spec.TakesImages() ? nullptr : Bytes(), data.parent_path(), data, options);
}

std::vector<Batch> Collected(BatchStream stream, size_t most = 1000) {
  std::vector<Batch> batches;
  while (batches.size() < most) {
    auto batch = stream.Next();
    EXPECT_TRUE(batch.ok()) << batch.status();
    if (!batch.ok() || !*batch) break;
    batches.push_back(**std::move(batch));
  }
  return batches;
}

TEST(Examples, ClassifiedTextsArePaddedRowsWithLabels) {
  const TempDir folder;
  const auto data = folder.Write("a.tsv", "text\tlabel\nab\t1\nabcdefghij\t0\nx\t1\n");
  const auto examples = *Open(Spec("BertForSequenceClassification"), data, 8);
  EXPECT_EQ(examples->size(), 3);
  const auto batches = Collected(BatchStream::Pass(examples, 2));
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0].tokens.length, 8);  // cut
  EXPECT_EQ(batches[0].labels, (std::vector<double>{1, 0}));
  EXPECT_EQ(batches[0].NumTokens(), 10);
  EXPECT_EQ(batches[1].rows, 1);
  EXPECT_EQ(batches[1].tokens.length, 1);
}

TEST(Examples, TrainingSeesEveryExampleOnceInAnEpochInTheSeedsOrder) {
  const TempDir folder;
  std::string file = "text\tlabel\n";
  for (int i = 0; i < 10; ++i) file += std::string(static_cast<size_t>(i) + 1, 'a') + "\t0\n";
  const auto examples = *Open(Spec("BertForSequenceClassification"), folder.Write("a.tsv", file), 32);
  const auto lengths = [&](uint64_t seed) {
    std::vector<int64_t> all;
    for (const Batch& batch : Collected(BatchStream::Training(examples, 1, seed), 20)) all.push_back(batch.NumTokens());
    return all;
  };
  const auto one = lengths(1);
  EXPECT_EQ(one, lengths(1));
  EXPECT_NE(one, lengths(2));
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<int64_t> sorted(one.begin() + 10 * epoch, one.begin() + 10 * epoch + 10);
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  }
}

TEST(Examples, MaskedTokensAreOtherOnesEachTimeButTheSameForASeed) {
  const TempDir folder;
  const auto data = folder.Write("a.txt", "abcdefghijklmnopqrstuvwxyz0123456789\n");
  const auto examples = *Open(Spec("BertForMaskedLM"), data, 64);
  const auto targets = [&](uint64_t seed) {
    std::vector<std::vector<int64_t>> all;
    for (const Batch& batch : Collected(BatchStream::Training(examples, 1, seed), 3))
      all.push_back(batch.tokens.targets);
    return all;
  };
  const auto one = targets(1);
  EXPECT_EQ(one, targets(1));
  EXPECT_NE(one[0], one[1]);
  EXPECT_NE(one, targets(2));
}

TEST(Examples, CompletionsArePackedForACausalModel) {
  const TempDir folder;
  const auto data = folder.Write("a.jsonl",
                                 "{\"prompt\": \"ab\", \"completion\": \"c\"}\n"
                                 "{\"prompt\": \"d\", \"completion\": \"ef\"}\n");
  EXPECT_FALSE(*IsRunningText(data));
  const auto examples = *Open(Spec("LlamaForCausalLM"), data, 8);
  const auto batches = Collected(BatchStream::Pass(examples, 1));
  ASSERT_EQ(batches.size(), 1U);
  const TokenBatch& t = batches[0].tokens;
  EXPECT_EQ(t.segments, (std::vector<int64_t>{1, 1, 1, 2, 2, 2, 0, 0}));
  EXPECT_EQ(t.NumTargets(), 5);  // c, end; e, f, end
  EXPECT_TRUE(*IsRunningText(folder.Write("b.jsonl", "{\"text\": \"x\"}\n")));
  EXPECT_TRUE(*IsRunningText(folder.Write("b.jsonl", "{\"sentence\": \"x\"}\n")));
  for (const char* later :
       {R"({"prompt": "a", "completion": "b"})", R"({"messages": [{"role": "assistant", "content": "b"}]})"}) {
    EXPECT_FALSE(*IsRunningText(folder.Write("b.jsonl", "{\"text\": \"x\"}\n" + std::string(later) + "\n")));
  }
  const auto silent = folder.Write("b.jsonl", R"({"messages": [{"role": "user", "content": "hi"}]})"
                                              "\n");
  EXPECT_THAT(IsRunningText(silent).status().message(), testing::HasSubstr("nothing to learn"))
      << "whatever is asked first";
  EXPECT_TRUE(*IsRunningText(folder.Write("b.txt", "x\n")));
  EXPECT_FALSE(*IsRunningText(folder.Write("b.csv", "text\nx\n")));
}

TEST(Examples, APackedPassCountsAllTokensOfItsDocuments) {
  const TempDir folder;
  const auto data = folder.Write("a.jsonl",
                                 "{\"prompt\": \"ab\", \"completion\": \"c\"}\n"
                                 "{\"prompt\": \"\", \"completion\": \"\"}\n"
                                 "{\"prompt\": \"d\", \"completion\": \"ef\"}\n");
  BatchStream stream = BatchStream::Pass(*Open(Spec("LlamaForCausalLM"), data, 2), 1);
  EXPECT_EQ(stream.document_tokens(), 0U);
  while (true) {
    const auto batch = stream.Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    if (!*batch) break;
  }
  EXPECT_EQ(stream.document_tokens(), 9U);  // each with an end
  const auto rows = folder.Write("a.tsv", "text\tlabel\nab\t1\n");
  BatchStream labelled = BatchStream::Pass(*Open(Spec("BertForSequenceClassification"), rows, 8), 1);
  EXPECT_TRUE(labelled.Next().ok());
  EXPECT_EQ(labelled.document_tokens(), 0U);
}

TEST(Examples, DataWithoutAnythingToLearnAreRefusedAndNotReadForEver) {
  const TempDir folder;
  const auto data = folder.Write("a.jsonl", "{\"prompt\": \"\", \"completion\": \"\"}\n{\"text\": \"\"}\n");
  const auto examples = *Open(Spec("LlamaForCausalLM"), data, 8);
  for (const bool training : {true, false}) {
    BatchStream stream = training ? BatchStream::Training(examples, 2, 1) : BatchStream::Pass(examples, 2);
    const auto batch = stream.Next();
    EXPECT_EQ(batch.status().code(), Code::kInvalidArgument);
    EXPECT_NE(batch.status().message().find("anything to learn"), std::string::npos) << batch.status();
  }
}

TEST(Examples, WhatTheModelLacksIsToldInASentence) {
  const TempDir folder;
  const auto data = folder.Write("a.txt", "x\n");
  EXPECT_NE(Open(Spec("BertModel"), data, 8).status().message().find("has no head"), std::string::npos);
  BpeTrainerOptions options;
  options.special_tokens = {"<|endoftext|>"};
  const std::shared_ptr<const Tokenizer> maskless = *Tokenizer::FromJson(*BpeTrainer().Train(options));
  const auto masked = Examples::Open(Spec("BertForMaskedLM"), maskless, folder.path(), data, {});
  EXPECT_NE(masked.status().message().find("no mask token"), std::string::npos) << masked.status();
}

TEST(Examples, ATokenTypeThatTheModelDoesNotHaveIsRefused) {
  const TempDir folder;
  const auto data = folder.Write("a.tsv", "text\tlabel\nab\t1\n");
  const auto encoded = [&](const std::string& type, const std::string& types) {
    BpeTrainerOptions trained;
    trained.special_tokens = {"[CLS]"};
    std::string json = *BpeTrainer().Train(trained);
    const std::string none = "\"post_processor\": null";
    EXPECT_NE(json.find(none), std::string::npos);
    json.replace(json.find(none), none.size(),
                 R"("post_processor": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": )" +
                     type + R"(}}], "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {
        "[CLS]": {"id": "[CLS]", "ids": [0], "tokens": ["[CLS]"]}}})");
    const auto tokenizer = Tokenizer::FromJson(json);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    const ModelSpec spec = Spec("BertForSequenceClassification", ", \"type_vocab_size\": " + types);
    return (*Examples::Open(spec, *tokenizer, folder.path(), data, {}))->Encode(0).status();
  };
  EXPECT_TRUE(encoded("1", "2").ok());
  EXPECT_TRUE(encoded("7", "8").ok());
  const Status status = encoded("7", "2");
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(
      status.message().find("a.tsv: line 2: the tokenizer gives token type 7, but the model's type_vocab_size is 2"),
      std::string::npos)
      << status;
}

TEST(Examples, ImagesBecomeNormalisedPlanes) {
  const TempDir folder;
  folder.Write("config.json", R"({"image_mean": [0.5, 0, 0], "image_std": [0.5, 1, 1]})");
  for (const char* name : {"a", "b"}) {
    std::filesystem::create_directories(folder / "data" / name);
    folder.Write("data/" + std::string(name) + "/x.png", EncodePng(Gradient(4, 4, 3)));
  }
  const ModelSpec spec =
      Spec("ViTForImageClassification", R"(, "image_size": 4, "patch_size": 2, "id2label": {"0": "b", "1": "a"})");
  Examples::Options options;
  const auto examples = *Examples::Open(spec, nullptr, folder.path(), folder / "data", options);
  const auto batches = Collected(BatchStream::Pass(examples, 8));
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].labels, (std::vector<double>{1, 0}));
  ASSERT_EQ(batches[0].pixels.size(), 2U * 3 * 16);
  const Image image = Gradient(4, 4, 3);
  EXPECT_NEAR(batches[0].pixels[5], (image.pixels[15] / 255.0 - 0.5) / 0.5, 1e-6);
  EXPECT_NEAR(batches[0].pixels[16 + 5], image.pixels[16] / 255.0, 1e-6);
}

TEST(Examples, ImagesAreResizedAsTheModelsPreprocessorSays) {
  const TempDir folder;
  const ModelSpec spec =
      Spec("ViTForImageClassification", R"(, "image_size": 4, "patch_size": 2, "num_channels": 1, "num_labels": 2)");
  std::filesystem::create_directories(folder / "data" / "1");
  folder.Write("data/1/x.png", EncodePng(Gradient(9, 6, 1)));
  folder.Write("config.json", "{}");
  const auto first = [&]() -> Result<Batch> {
    const auto examples = Examples::Open(spec, nullptr, folder.path(), folder / "data", {});
    if (!examples.ok()) return examples.status();
    return (*examples)->Rows(std::vector<int64_t>{0}, 0, 0);
  };
  const Status refused = first().status();
  EXPECT_NE(refused.message().find("6 x 9 pixels, but must have 4 x 4"), std::string::npos) << refused;
  folder.Write("preprocessor_config.json", R"({"image_mean": 0, "image_std": 1, "resample": 3, "size": 4})");
  const Image resized = *ResizeImage(Gradient(9, 6, 1), 4, 4, ResizeFilter::kBicubic);
  const auto batch = first();
  ASSERT_TRUE(batch.ok()) << batch.status();
  ASSERT_EQ(batch->pixels.size(), 16U);
  for (size_t i = 0; i < 16; ++i) EXPECT_FLOAT_EQ(batch->pixels[i], static_cast<float>(resized.pixels[i]) / 255) << i;
}

}  // namespace
}  // namespace heddle::model
