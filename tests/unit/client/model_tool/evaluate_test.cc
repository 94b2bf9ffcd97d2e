// What `heddle model eval` counts: every token once, against a computation of its own from the model's logits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <set>
#include <sstream>

#include "client/model_tool/evaluate_command.h"
#include "client/worker/local_task.h"
#include "model/transformer/transformer.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/data/idx_bytes.h"
#include "tests/unit/model/tiny_encoder.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::client {
namespace {

namespace json = boost::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kFirst = "the old river pulls the threads under the loom while she sings and rain falls.";
constexpr const char* kSecond = "a weaver is slow.";
constexpr const char* kThird = "blue wool on roofs, then cloth over rain and a river";

class EvaluateCommandTest : public testing::Test {
 protected:
  EvaluateCommandTest() {
    model::WriteModelFolder(folder_ / "base", model::TinyConfig(), 1, 0.5F);
    tokenizer_ = *model::Tokenizer::Read(folder_ / "base");
    settings_.folder = folder_ / "base";
    settings_.threads = 1;
    settings_.json = true;
  }

  json::object Evaluated(const std::filesystem::path& data, int64_t length) {
    settings_.data = data;
    settings_.length = length;
    std::ostringstream out;
    const Status status = EvaluateCommand(settings_, out);
    EXPECT_TRUE(status.ok()) << status;
    return status.ok() ? json::parse(out.str()).as_object()
                       : json::object{{"loss", 0}, {"tokens", 0}, {"data_tokens", 0}, {"metrics", json::object()}};
  }
  std::string Refusal(const std::filesystem::path& data) {
    settings_.data = data;
    std::ostringstream out;
    const Status status = EvaluateCommand(settings_, out);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << status;
    EXPECT_EQ(out.str(), "");
    return std::string(status.message());
  }

  // Nats of all of these tokens but the first, in float64. A token is predicted from those before it in its window;
  // windows predict `length` tokens each, the last one what is left.
  double Nats(const std::vector<int32_t>& ids, int64_t length) {
    model::Transformer network(*model::BaseWeights::Load(folder_ / "base"),
                               model::ComputeOptions{.type = torch::kDouble});
    torch::NoGradGuard no_grad;
    const auto predicted = static_cast<int64_t>(ids.size()) - 1;
    double sum = 0;
    for (int64_t begin = 0; begin < predicted; begin += length) {
      const int64_t end = std::min(begin + length, predicted);
      const auto window = torch::tensor(std::vector<int64_t>(ids.begin() + begin, ids.begin() + end), torch::kInt64);
      const auto logits = torch::log_softmax(network->forward(window.unsqueeze(0))[0].to(torch::kFloat64), -1);
      for (int64_t t = begin; t < end; ++t) {
        sum -= logits[t - begin][ids[static_cast<size_t>(t) + 1]].item<double>();
      }
    }
    return sum;
  }

  static void ExpectFigures(const json::object& found, double nats, size_t tokens, size_t data_tokens) {
    EXPECT_EQ(found.at("tokens").to_number<size_t>(), tokens);
    EXPECT_EQ(found.at("data_tokens").to_number<size_t>(), data_tokens);
    const double loss = nats / static_cast<double>(tokens), perplexity = std::exp(loss);
    EXPECT_NEAR(found.at("loss").to_number<double>(), loss, 1e-4);
    EXPECT_NEAR(found.at("metrics").at("perplexity").to_number<double>(), perplexity, 1e-3 * perplexity);
  }

  const TempDir folder_;
  std::shared_ptr<const model::Tokenizer> tokenizer_;
  EvaluateSettings settings_;
};

TEST_F(EvaluateCommandTest, EveryTokenOfATextButTheFirstCountsOnceWhateverTheWindow) {
  std::string text;
  while (tokenizer_->Encode(text).size() <= 50) text += std::string(kFirst) + " " + kThird + " ";
  while (tokenizer_->Encode(text).size() > 50) text.pop_back();
  const std::vector<int32_t> ids = tokenizer_->Encode(text);
  const auto n = static_cast<int64_t>(ids.size());
  ASSERT_GT(n, 40);
  const auto data = folder_.Write("data.txt", text);
  // Windows of one token; more than the 16 rows of a batch; one token or one less than a window left over; nothing
  // left over; a text shorter than a window, and than the window that is taken where none is asked for.
  for (const int64_t length : std::set<int64_t>{1, 2, 3, 7, n / 2, n - 2, n - 1, n, 64, 0}) {
    SCOPED_TRACE(length);
    const json::object found = Evaluated(data, length);
    ExpectFigures(found, Nats(ids, length == 0 ? 64 : length), ids.size() - 1, ids.size());
  }
}

TEST_F(EvaluateCommandTest, TextsOfAFileAreOneStreamWithEndsBetweenThatCount) {
  std::vector<int32_t> ids;
  std::string text, lines;
  for (const char* document : {kFirst, kSecond, kThird}) {
    if (!ids.empty()) ids.push_back(tokenizer_->eos_id());
    const std::vector<int32_t> more = tokenizer_->Encode(document);
    ids.insert(ids.end(), more.begin(), more.end());
    text += std::string(document) + "\n\n";
    lines += json::serialize(json::object{{"text", document}}) + "\n";
  }
  const double nats = Nats(ids, 12);
  ExpectFigures(Evaluated(folder_.Write("data.txt", text), 12), nats, ids.size() - 1, ids.size());
  ExpectFigures(Evaluated(folder_.Write("data.jsonl", lines), 12), nats, ids.size() - 1, ids.size());
}

TEST_F(EvaluateCommandTest, PackedTextsCountEachByItselfToTheLastToken) {
  std::string rows = "text\n";
  std::vector<std::vector<int32_t>> documents;
  for (const char* document : {kFirst, kSecond, kThird}) {
    rows += "\"" + std::string(document) + "\"\n";
    documents.push_back(tokenizer_->Encode(document));
    documents.back().push_back(tokenizer_->eos_id());  // which is predicted, too
  }
  const auto data = folder_.Write("data.csv", rows);
  for (const int64_t length : {5, 64}) {
    SCOPED_TRACE(length);
    double nats = 0;
    size_t tokens = 0;
    for (const std::vector<int32_t>& ids : documents) {
      nats += Nats(ids, length);
      tokens += ids.size();
    }
    const json::object found = Evaluated(data, length);
    ExpectFigures(found, nats, tokens - documents.size(), tokens);
    EXPECT_LE(found.at("examples").to_number<size_t>(),
              (tokens + static_cast<size_t>(length) - 1) / static_cast<size_t>(length) + documents.size())
        << "rows with something in them";
  }
}

TEST_F(EvaluateCommandTest, OfADataSetWithTwoPairsOfFilesTheOneForTestsIsTaken) {
  const std::string config = R"({"architectures": ["ViTForImageClassification"], "hidden_size": 8,
      "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 8, "patch_size": 4,
      "num_channels": 1, "id2label": {"0": "a", "1": "b"}})";
  settings_.folder = folder_ / "vit";
  std::filesystem::create_directory(settings_.folder);
  folder_.Write("vit/config.json", config);
  ASSERT_TRUE(WriteSafetensors(settings_.folder / "model.safetensors",
                               model::RandomWeights(*model::ParseModelConfig(config), 3))
                  .ok());
  std::filesystem::create_directory(folder_ / "set");
  const auto write = [this](const std::string& part, uint32_t count) {
    folder_.Write("set/" + part + "-labels-idx1-ubyte", model::Idx({count}, std::string(count, '\1')));
    folder_.Write("set/" + part + "-images-idx3-ubyte", model::Idx({count, 8, 8}, std::string(count * 64, 'x')));
  };
  write("train", 5);
  const json::object found = Evaluated(folder_ / "set", 0);
  EXPECT_EQ(found.at("examples").to_number<int>(), 5) << "where there is no other";
  EXPECT_FALSE(found.contains("length")) << "of images";
  write("t10k", 3);
  EXPECT_EQ(Evaluated(folder_ / "set", 0).at("examples").to_number<int>(), 3);
  EXPECT_EQ(Evaluated(folder_ / "set/train-images-idx3-ubyte", 0).at("examples").to_number<int>(), 5);
}

TEST_F(EvaluateCommandTest, ATableHasTheCountsInFull) {
  const size_t n = tokenizer_->Encode(kFirst).size();
  settings_.data = folder_.Write("data.txt", kFirst);
  settings_.json = false;
  std::ostringstream out;
  const Status status = EvaluateCommand(settings_, out);
  ASSERT_TRUE(status.ok()) << status;
  const auto row = [](std::string name, size_t number) {
    name.resize(21, ' ');
    return "\n" + name + std::to_string(number) + "\n";
  };
  EXPECT_THAT(out.str(), AllOf(HasSubstr(row("tokens", n - 1)), HasSubstr(row("data_tokens", n))));
  EXPECT_TRUE(out.str().starts_with("perplexity ")) << out.str();
}

TEST_F(EvaluateCommandTest, WithoutATokenToPredictThereIsNoFigure) {
  ASSERT_EQ(tokenizer_->Encode("a").size(), 1U);
  EXPECT_THAT(Refusal(folder_.Write("one.txt", "a")),
              AllOf(HasSubstr("one.txt: the data has 1 token"), HasSubstr("a prediction takes two: add text")));
  EXPECT_THAT(Refusal(folder_.Write("one.jsonl", "{\"text\": \"a\"}\n")), HasSubstr("one.jsonl: the data has 1 token"));
  EXPECT_THAT(Refusal(folder_.Write("none.txt", "\n \n")), HasSubstr("none.txt: the data has no token"));
  EXPECT_THAT(Refusal(folder_.Write("none.jsonl", "\n")), HasSubstr("none.jsonl is an empty data set"));
}

TEST_F(EvaluateCommandTest, AFolderOfImagesIsNoText) {
  std::filesystem::create_directories(folder_ / "pictures/cat");
  EXPECT_THAT(Refusal(folder_ / "pictures"),
              AllOf(HasSubstr("pictures is a folder, which images come in"), HasSubstr("LlamaForCausalLM reads text")));
}

TEST_F(EvaluateCommandTest, MaskedTokensAreCountedAndTextsWithoutAnyRefused) {
  model::WriteMaskedFolder(folder_ / "masked");
  settings_.folder = folder_ / "masked";
  const json::object found = Evaluated(folder_.Write("data.txt", "The old river falls.\n\nRain.\n"), 16);
  EXPECT_GE(found.at("tokens").to_number<int64_t>(), 2);  // one of each text at least
  EXPECT_LE(found.at("tokens").to_number<int64_t>(), 7);  // the words and full stops of both
  EXPECT_FALSE(found.contains("data_tokens"));
  EXPECT_THAT(Refusal(folder_.Write("empty.jsonl", "{\"text\": \"\"}\n")),
              AllOf(HasSubstr("empty.jsonl has no token to predict"), HasSubstr("add text")));
  settings_.length = 1;
  EXPECT_THAT(Refusal(folder_ / "data.txt"),
              AllOf(HasSubstr("a length of 1 has no room for the 2 special tokens"), HasSubstr("--length")));
  settings_.length = 2;
  EXPECT_THAT(Refusal(folder_ / "data.txt"), HasSubstr("rows of --length 2 have no room"));
}

// A run's figures stay comparable with each other: they are of whole windows, the same ones for all sides.
TEST_F(EvaluateCommandTest, WhereNobodyAsksForItTheLastWindowIsLeftOut) {
  const std::string text = model::SampleText(2000, 3);
  const auto data = folder_.Write("data.txt", text);
  const json::object all = Evaluated(data, 32);
  const auto n = all.at("data_tokens").to_number<uint64_t>();
  EXPECT_EQ(all.at("tokens").to_number<uint64_t>(), n - 1);
  const auto resources = MakeTaskResources();
  const auto whole = EvaluateModel(settings_.folder, {}, data, 32, *resources, 1);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->num_tokens, (n - 1) / 32 * 32);
  EXPECT_EQ(whole->data_tokens, n);
  // With the same resources, which keep texts: each asks for its own windows.
  EvaluationForm form;
  form.short_last_window = true;
  const auto again = EvaluateModel(settings_.folder, {}, data, 32, *resources, 1, form);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->num_tokens, n - 1);
  EXPECT_EQ(EvaluateModel(settings_.folder, {}, folder_.Write("short.txt", kSecond), 64, *resources, 1).status().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::client
