// What is said about a model without loading it.
#include "client/model_tool/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <sstream>

#include "common/safetensors.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/test_data.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::client {
namespace {

namespace json = boost::json;
using testing::HasSubstr;

class InspectTest : public testing::Test {
 protected:
  InspectTest() { model::WriteModelFolder(folder_.path(), model::TinyConfig()); }
  json::object Json(InspectOptions options = {}) {
    options.json = true;
    std::ostringstream out;
    const Status status = InspectModel(folder_.path(), options, out);
    EXPECT_TRUE(status.ok()) << status;
    return status.ok() ? json::parse(out.str()).as_object() : json::object();
  }
  Status Refusal(const InspectOptions& options) {
    std::ostringstream out;
    return InspectModel(folder_.path(), options, out);
  }
  const TempDir folder_;
};

TEST_F(InspectTest, CountsParametersAndNamesWhatAdaptersCanBePutOn) {
  const json::object report = Json();
  EXPECT_EQ(report.at("architecture"), "LlamaForCausalLM");
  const int64_t layer = 32 * 32 + 32 * 16 * 2 + 32 * 32 + 3 * 32 * 48 + 2 * 32;
  EXPECT_EQ(report.at("parameters").to_number<int64_t>(), 320 * 32 + 2 * layer + 32);
  EXPECT_EQ(report.at("suggested_target_modules"), (json::array{"q_proj", "v_proj"}));
  // Two layers with r (in + out) each for q and v.
  EXPECT_EQ(report.at("lora").at("parameters").to_number<int64_t>(), 2 * 8 * (64 + 48));
  bool found = false;
  for (const json::value& group : report.at("linear_layers").as_array()) {
    if (group.at("name") != "down_proj") continue;
    found = true;
    EXPECT_EQ(group.at("count"), 2);
    EXPECT_EQ(group.at("in"), 48);
    EXPECT_EQ(group.at("out"), 32);
  }
  EXPECT_TRUE(found);
}

TEST_F(InspectTest, MemoryFollowsBatchLengthAndForm) {
  const auto total = [](const json::object& report, const char* use) {
    return report.at("memory_bytes").at(use).at("total").to_number<double>();
  };
  const auto part = [](const json::object& report, const char* use, const char* name) {
    return report.at("memory_bytes").at(use).at(name).to_number<double>();
  };
  InspectOptions options;
  options.batch = 64;
  options.length = 32;
  const json::object plain = Json(options);
  const auto parameters = plain.at("parameters").to_number<double>();
  EXPECT_EQ(part(plain, "inference", "weights"), 4 * parameters);
  EXPECT_EQ(part(plain, "full", "optimizer"), 8 * parameters);
  EXPECT_EQ(part(plain, "full", "gradients"), 4 * parameters);
  EXPECT_EQ(part(plain, "inference", "optimizer"), 0);
  EXPECT_LT(total(plain, "inference"), total(plain, "lora"));
  EXPECT_LE(total(plain, "inference"), total(plain, "zeroth_order"));
  EXPECT_LT(total(plain, "zeroth_order"), total(plain, "lora"));
  EXPECT_LT(total(plain, "lora"), total(plain, "full"));
  options.checkpoint = true;
  EXPECT_LT(part(Json(options), "lora", "activations"), part(plain, "lora", "activations"));
  options.bf16 = true;
  EXPECT_LT(part(Json(options), "lora", "activations"), 0.8 * part(plain, "lora", "activations"));
  options.base_dtype = "nf4";
  EXPECT_LT(part(Json(options), "lora", "weights"), 0.8 * part(plain, "lora", "weights"));
  options.target_modules = {"all-linear"};
  EXPECT_GT(Json(options).at("lora").at("parameters").to_number<int64_t>(),
            plain.at("lora").at("parameters").to_number<int64_t>());
}

TEST_F(InspectTest, TextSaysTheSameForPeople) {
  std::ostringstream out;
  ASSERT_TRUE(InspectModel(folder_.path(), {}, out).ok());
  EXPECT_THAT(out.str(), HasSubstr("LlamaForCausalLM"));
  EXPECT_THAT(out.str(), HasSubstr("target_modules = [\"q_proj\", \"v_proj\"]"));
  EXPECT_THAT(out.str(), HasSubstr("zeroth-order"));
  EXPECT_THAT(out.str(), HasSubstr("320 tokens"));  // of the tokenizer
}

TEST_F(InspectTest, DropoutThatIsNotAppliedIsNamed) {
  const auto text = [this] {
    std::ostringstream out;
    EXPECT_TRUE(InspectModel(folder_.path(), {}, out).ok());
    return out.str();
  };
  EXPECT_EQ(text().find("dropout   "), std::string::npos);
  std::string config = model::LlamaConfigJson(model::TinyConfig());
  config.insert(config.find('{') + 1,
                R"("resid_pdrop": 0.1, "attention_dropout": 0.2, "embd_pdrop": 0, "dropout": null,)");
  folder_.Write("config.json", config);
  EXPECT_THAT(text(), HasSubstr("not applied in training, use lora_dropout: attention_dropout resid_pdrop\n"));
  EXPECT_EQ(Json().at("unused_dropout"), (json::array{"attention_dropout", "resid_pdrop"}));
}

TEST_F(InspectTest, WeightsAreLookedAtByTheirHeads) {
  const auto stored = [this] { return std::string(Json().at("stored_as").as_string()); };
  EXPECT_EQ(stored(), "float32");
  const std::filesystem::path file = folder_.path() / "model.safetensors";
  StateDict half;
  const auto weights = ReadSafetensors(file);
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (const auto& [name, tensor] : weights->tensors) {
    std::span<std::byte> bytes;
    half.emplace(name, Tensor::Allocate({DType::kF16, tensor.shape()}, &bytes));
  }
  ASSERT_TRUE(WriteSafetensors(file, half).ok());
  EXPECT_EQ(stored(), "float16") << "whatever config.json says";
  half.erase("model.norm.weight");
  ASSERT_TRUE(WriteSafetensors(file, half).ok());
  EXPECT_THAT(Refusal({}).message(), HasSubstr("model.norm.weight"));
  std::filesystem::remove(file);
  EXPECT_THAT(stored(), HasSubstr("no weights here"));
  std::filesystem::create_symlink(folder_ / "moved", file);
  EXPECT_THAT(Refusal({}).message(), HasSubstr("is a link to"));
  std::filesystem::rename(file, folder_ / "model-00001-of-00002.safetensors");
  EXPECT_THAT(Refusal({}).message(), HasSubstr("model.safetensors.index.json, which lists them, is not there"));
  folder_.Write("model.safetensors.index.json", R"({"weight_map": {"model.norm.weight": "absent.safetensors"}})");
  EXPECT_THAT(Refusal({}).message(), HasSubstr("absent.safetensors"));
}

TEST_F(InspectTest, WhatIsWrongIsSaid) {
  InspectOptions options;
  options.length = 65;
  EXPECT_THAT(Refusal(options).message(), HasSubstr("at most 64 tokens"));
  options = {};
  options.batch = 0;
  EXPECT_EQ(Refusal(options).code(), Code::kInvalidArgument);
  options = {};
  options.target_modules = {"c_attn"};
  EXPECT_THAT(Refusal(options).message(), HasSubstr("q_proj"));
  options.target_modules = {"q_proj", "c_attn"};
  EXPECT_THAT(Refusal(options).message(), HasSubstr("target_modules matches no linear layer")) << "of one of the two";
  options = {};
  options.base_dtype = "int3";
  EXPECT_THAT(Refusal(options).message(), HasSubstr("nf4"));
  std::filesystem::remove(folder_.path() / "tokenizer.json");
  EXPECT_EQ(Json().at("tokenizer_vocab_size"), -1);
  folder_.Write("config.json", R"({"architectures": ["NoSuchModel"]})");
  EXPECT_EQ(Refusal({}).code(), Code::kUnimplemented);
  EXPECT_THAT(Refusal({}).message(), HasSubstr("LlamaForCausalLM"));  // what is known
}

TEST(Inspect, KnowsTheRealModel) {
  HEDDLE_NEEDS_TEST_DATA("stories15m");
  std::ostringstream out;
  InspectOptions options;
  options.json = true;
  ASSERT_TRUE(InspectModel(model::TestDataFolder() / "stories15m", options, out).ok());
  const json::value report = json::parse(out.str());
  EXPECT_EQ(report.at("parameters"), 15'191'712);
  EXPECT_EQ(report.at("tokenizer_vocab_size"), 32'000);
}

}  // namespace
}  // namespace heddle::client
