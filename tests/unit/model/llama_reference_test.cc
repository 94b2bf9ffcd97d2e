// Real and random models of the test data folder against outputs of an independent float64 implementation and its
// central differences.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <boost/json.hpp>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/tokenizer/tokenizer.h"
#include "model/transformer/generate.h"
#include "model/transformer/transformer.h"
#include "tests/unit/model/difference.h"
#include "tests/unit/model/projected_gradient.h"
#include "tests/unit/model/test_data.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

class Reference {
 public:
  explicit Reference(const std::string& model) : folder_(TestDataFolder() / model) {
    arrays_ = *ReadSafetensors(folder_ / "reference" / "reference.safetensors");
    base_ = *BaseWeights::Load(folder_);
  }
  torch::Tensor Array(const std::string& name) const { return ToTorch(arrays_.tensors.at(name)); }
  bool Has(const std::string& name) const { return arrays_.tensors.contains(name); }
  static torch::Tensor ToTorch(const Tensor& tensor) {
    const auto type = tensor.dtype() == DType::kI64   ? at::kLong
                      : tensor.dtype() == DType::kF64 ? at::kDouble
                                                      : at::kFloat;
    return torch::from_blob(const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), type).clone();
  }
  json::value Json(const std::string& name) const { return json::parse(*ReadFile(folder_ / "reference" / name)); }
  std::shared_ptr<const BaseWeights> base() const { return base_; }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
  SafetensorsFile arrays_;
  std::shared_ptr<const BaseWeights> base_;
};

// Mean loss over windows of at most `window` targets, each with a context of its own.
double TextLoss(Transformer& model, const torch::Tensor& ids, int64_t window) {
  torch::NoGradGuard no_grad;
  double total = 0;
  const int64_t targets = ids.size(0) - 1;
  for (int64_t begin = 0; begin < targets; begin += window) {
    const int64_t count = std::min(window, targets - begin);
    const auto x = ids.slice(0, begin, begin + count).unsqueeze(0);
    const auto y = ids.slice(0, begin + 1, begin + count + 1).unsqueeze(0);
    total += model->Loss(x, y).item<double>() * static_cast<double>(count);
  }
  return total / static_cast<double>(targets);
}

class ModelReference : public testing::TestWithParam<std::string> {};
class LlamaReference : public testing::TestWithParam<std::string> {};

TEST_P(ModelReference, LogitsAndResidualStreamMatchFloat64) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const Reference reference(GetParam());
  Transformer model(reference.base());
  torch::NoGradGuard no_grad;
  for (const std::string input : {"in0_", "in1_", "in2_"}) {
    const auto ids = reference.Array(input + "ids").unsqueeze(0);
    EXPECT_LT(MaxDifference(model->forward(ids)[0], reference.Array(input + "logits")), 1e-4) << input;
    const auto hidden = torch::cat(model->HiddenStates(ids));
    EXPECT_LT(MaxDifference(hidden, reference.Array(input + "hidden")), 1e-4) << input;
    if (!reference.Has(input + "final_norm")) continue;
    EXPECT_LT(MaxDifference(model->Hidden({.ids = ids})[0], reference.Array(input + "final_norm")), 1e-4) << input;
  }
}

// Of the whole, as a part of its length: eight bits of mantissa, a few dozen roundings on the way.
TEST_P(ModelReference, Bfloat16StaysWithinItsRounding) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const Reference reference(GetParam());
  Transformer model(reference.base(), ComputeOptions{.type = at::kBFloat16});
  torch::NoGradGuard no_grad;
  for (const std::string input : {"in0_", "in1_", "in2_"}) {
    const auto logits = model->forward(reference.Array(input + "ids").unsqueeze(0))[0];
    const auto expected = reference.Array(input + "logits").to(at::kDouble);
    EXPECT_EQ(logits.scalar_type(), at::kFloat);
    const double error = ((logits.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
    EXPECT_LT(error, 0.05) << input;
    EXPECT_GT(error, 1e-5) << "float32 computed";
  }
}

TEST_P(LlamaReference, TextLossesInBfloat16AreWithinItsRounding) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const Reference reference(GetParam());
  Transformer model(reference.base(), ComputeOptions{.type = at::kBFloat16});
  const auto losses = reference.Json("reference.json").at("text_loss");
  for (const std::string text : {"story", "alice"}) {
    const double expected = losses.at(text).at("mean_nll").to_number<double>();
    EXPECT_NEAR(TextLoss(model, reference.Array(text + "_ids"), 256), expected, 0.02) << text;
  }
}

TEST_P(LlamaReference, TextLossesMatchFloat64) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const Reference reference(GetParam());
  Transformer model(reference.base());
  const auto losses = reference.Json("reference.json").at("text_loss");
  for (const std::string text : {"story", "alice"}) {
    const double expected = losses.at(text).at("mean_nll").to_number<double>();
    EXPECT_NEAR(TextLoss(model, reference.Array(text + "_ids"), 256), expected, 1e-5) << text;
  }
}

// The losses of single tokens, whose mean would hide two mistakes that cancel out.
TEST_P(LlamaReference, EveryTokensLossMatchesFloat64) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const Reference reference(GetParam());
  Transformer model(reference.base());
  torch::NoGradGuard no_grad;
  for (const std::string text : {"story", "alice"}) {
    const auto ids = reference.Array(text + "_ids"), expected = reference.Array(text + "_nll");
    for (int64_t begin = 0; begin < expected.size(0); begin += 256) {
      const int64_t end = std::min(begin + 256, expected.size(0));
      const auto logits = model->forward(ids.slice(0, begin, end).unsqueeze(0))[0].to(at::kDouble);
      const auto losses =
          -at::log_softmax(logits, 1).gather(1, ids.slice(0, begin + 1, end + 1).unsqueeze(1)).squeeze(1);
      EXPECT_LT(MaxDifference(losses, expected.slice(0, begin, end)), 1e-4) << text << " from " << begin;
    }
  }
}

TEST_P(LlamaReference, GreedyTextFromTheFirstTokenIsThatOfFloat64) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const Reference reference(GetParam());
  Transformer model(reference.base());
  const auto ids =
      json::value_to<std::vector<int64_t>>(reference.Json("reference.json").at("greedy_from_bos").at("ids"));
  ASSERT_GT(ids.size(), 50U);
  const auto text =
      Generate(model, std::span(ids).first(1), GenerateOptions{.max_new_tokens = static_cast<int64_t>(ids.size()) - 1});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, std::vector<int64_t>(ids.begin() + 1, ids.end()));
}

// From a text to its loss: tokenizer, windows and model together.
TEST(Stories15m, TextsHaveTheIdsAndTheLossOfTheReference) {
  HEDDLE_NEEDS_TEST_DATA("stories15m");
  const Reference reference("stories15m");
  const auto tokenizer = Tokenizer::Read(reference.folder());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Transformer model(reference.base());
  const auto losses = reference.Json("reference.json").at("text_loss");
  for (const std::string text : {"story", "alice"}) {
    const auto words = ReadFile(reference.folder() / "reference" / ("ref_text_" + text + ".txt"), 1 << 20);
    ASSERT_TRUE(words.ok()) << words.status();
    const auto encoding = (*tokenizer)->EncodeText(*words);
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    // The reference stops after this many.
    const auto tokens = losses.at(text).at("tokens_with_bos").to_number<int64_t>();
    ASSERT_GE(static_cast<int64_t>(encoding->ids.size()), tokens);
    const auto ids = torch::tensor(encoding->ids, at::kInt).to(at::kLong).slice(0, 0, tokens);
    EXPECT_TRUE(torch::equal(ids, reference.Array(text + "_ids"))) << text;
    EXPECT_NEAR(TextLoss(model, ids, 256), losses.at(text).at("mean_nll").to_number<double>(), 1e-5) << text;
  }
}

TEST_P(LlamaReference, ABatchGivesTheSameAsItsRows) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const Reference reference(GetParam());
  Transformer model(reference.base());
  torch::NoGradGuard no_grad;
  const auto ids = reference.Array("alice_ids").slice(0, 0, 96).view({3, 32});
  const auto together = model->forward(ids);
  for (int64_t row = 0; row < 3; ++row) {
    EXPECT_LT(MaxDifference(together[row], model->forward(ids.slice(0, row, row + 1))[0]), 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LlamaReference, testing::Values("stories260k", "stories15m"));
INSTANTIATE_TEST_SUITE_P(Models, ModelReference, testing::Values("stories260k", "stories15m", "gpt2-fixture"));

struct GradientCase {
  Reference reference;
  json::value json = reference.Json("gradients.json");
  torch::Tensor x, y;
  explicit GradientCase(const std::string& model) : reference(model) {
    std::vector<int64_t> ids;
    for (const auto& id : json.at("ids").as_array()) ids.push_back(id.to_number<int64_t>());
    const auto all = torch::tensor(ids, at::kLong);
    x = all.slice(0, 0, all.size(0) - 1).unsqueeze(0);
    y = all.slice(0, 1).unsqueeze(0);
  }
};

class ModelGradients : public testing::TestWithParam<std::string> {};

TEST_P(ModelGradients, WeightGradientsMatchCentralDifferences) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const GradientCase c(GetParam());
  Transformer model = TrainableCopy(*c.reference.base());
  const auto loss = model->Loss(c.x, c.y);
  EXPECT_NEAR(loss.item<double>(), c.json.at("loss").to_number<double>(), 1e-5);
  loss.backward();
  const auto parameters = model->named_parameters();
  for (const auto& entry : c.json.at("entries").as_array()) {
    const std::string name(entry.at(0).as_string());
    const auto index = entry.at(1).to_number<int64_t>();
    const double expected = entry.at(3).to_number<double>();
    const double actual = parameters[name].grad().flatten()[index].item<double>();
    EXPECT_NEAR(actual, expected, 1e-5 + 1e-3 * std::abs(expected)) << name << "[" << index << "]";
  }
}

TEST_P(ModelGradients, LoraGradientsMatchCentralDifferences) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const GradientCase c(GetParam());
  Transformer model(c.reference.base());
  const auto arrays = *ReadSafetensors(c.reference.folder() / "reference" / "gradients.safetensors");
  std::string path(c.json.at("lora_target").as_string());
  path.resize(path.size() - std::string(".weight").size());
  Linear target = model->LinearModules().at(path);
  const auto factor = [&](const char* name) {
    return Reference::ToTorch(arrays.tensors.at(name)).to(at::kFloat).requires_grad_(true);
  };
  target->lora_A = factor("lora_A");
  target->lora_B = factor("lora_B");
  target->scaling = c.json.at("lora_scale").to_number<double>();
  const auto loss = model->Loss(c.x, c.y);
  EXPECT_NEAR(loss.item<double>(), c.json.at("lora_loss").to_number<double>(), 1e-5);
  loss.backward();
  for (const auto& entry : c.json.at("lora").as_array()) {
    const auto& factor_of = entry.at(0).as_string() == "A" ? target->lora_A : target->lora_B;
    const double expected = entry.at(2).to_number<double>();
    EXPECT_NEAR(factor_of.grad().flatten()[entry.at(1).to_number<int64_t>()].item<double>(), expected,
                1e-5 + 1e-3 * std::abs(expected));
  }
  for (const auto& parameter : model->parameters()) {
    EXPECT_FALSE(parameter.grad().defined()) << "a frozen weight has a gradient";
  }
}

TEST_P(ModelGradients, ProjectedGradientsAreThoseOfTheReference) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const GradientCase c(GetParam());
  Transformer model = TrainableCopy(*c.reference.base(), at::kDouble);
  const auto arrays = *ReadSafetensors(c.reference.folder() / "reference" / "gradients.safetensors");
  ExpectProjectedGradient(
      c.json.at("spsa"), [&](const std::string& name) { return model->named_parameters()[name]; },
      [&](const std::string& name) { return Reference::ToTorch(arrays.tensors.at("z:" + name)); },
      [&] { return model->Loss(c.x, c.y).item<double>(); });
}

INSTANTIATE_TEST_SUITE_P(Models, ModelGradients, testing::Values("stories260k", "gpt2-fixture"));

}  // namespace
}  // namespace heddle::model
