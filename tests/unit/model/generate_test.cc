// Sampling by its definition, and the masks of attention; the logits themselves are architectures_test's.
#include "model/transformer/generate.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

#include "model/transformer/attention.h"
#include "tests/unit/model/reference_case.h"

namespace heddle::model {
namespace {

// Probabilities 0.5, 0.25, 0.15, 0.1 of the tokens 2, 0, 3, 1.
torch::Tensor Logits() { return torch::tensor({0.25, 0.1, 0.5, 0.15}, at::kDouble).log(); }

TEST(SampleToken, FollowsTheCumulativeProbabilities) {
  const GenerateOptions options{.temperature = 1};
  for (const auto& [uniform, token] : std::vector<std::pair<double, int64_t>>{
           {0.0, 2}, {0.49, 2}, {0.51, 0}, {0.74, 0}, {0.76, 3}, {0.89, 3}, {0.91, 1}, {0.999999, 1}}) {
    EXPECT_EQ(SampleToken(Logits(), options, uniform), token) << uniform;
  }
}

TEST(SampleToken, TopKAndTopPCutTheTail) {
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1, .top_k = 1}, 0.999), 2);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1, .top_k = 2}, 0.66), 2);  // 0.5 / 0.75
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1, .top_k = 2}, 0.67), 0);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1, .top_p = 0.4}, 0.999), 2);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1, .top_p = 0.6}, 0.999), 0);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1, .top_p = 0.8}, 0.999), 3);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1, .top_k = 100}, 0.999), 1);
}

TEST(SampleToken, TheTemperatureDividesTheLogits) {
  // At 1/2 probabilities are squared: 0.25, 0.0625, 0.0225, 0.01 of 0.345.
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 0.5}, 0.72), 2);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 0.5}, 0.73), 0);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 0}, 0.999), 2);
  EXPECT_EQ(SampleToken(Logits(), {.temperature = 1e-6}, 0.999), 2);
}

class GenerateTest : public testing::Test {
 protected:
  std::vector<int64_t> Text(const GenerateOptions& options) {
    const auto text = Generate(model_, prompt_, options);
    EXPECT_TRUE(text.ok()) << text.status();
    return *text;
  }
  Code Refused(const std::vector<int64_t>& prompt, const GenerateOptions& options = {}) {
    return Generate(model_, prompt, options).status().code();
  }
  const ReferenceCase case_{"llama"};
  Transformer model_{case_.base()};
  const std::vector<int64_t> prompt_ = {3, 1, 4};
};

TEST_F(GenerateTest, TheSeedDecidesTheText) {
  const GenerateOptions options{.max_new_tokens = 10, .temperature = 1.5, .seed = 1};
  GenerateOptions other = options;
  other.seed = 2;
  EXPECT_EQ(Text(options), Text(options));
  EXPECT_NE(Text(options), Text(other));
}

TEST_F(GenerateTest, EndsWhereItIsToldTo) {
  const auto whole = Text({.max_new_tokens = 8});
  ASSERT_EQ(whole.size(), 8U);
  const auto first = std::find(whole.begin(), whole.end(), whole[4]);
  EXPECT_EQ(Text({.max_new_tokens = 8, .stop = {whole[4]}}), std::vector<int64_t>(whole.begin(), first));
  EXPECT_TRUE(Text({.max_new_tokens = 0}).empty());
  int64_t calls = 0;
  EXPECT_EQ(Text({.max_new_tokens = 8, .on_token = [&](int64_t) { return ++calls < 3; }}).size(), 3U);
  // 16 positions, of which the prompt takes 3: the last token needs none.
  int64_t limits = 0;
  const std::function<void()> count = [&limits] { ++limits; };
  EXPECT_EQ(Text({.max_new_tokens = 100, .on_limit = count}).size(), 14U);
  EXPECT_EQ(limits, 1);
  EXPECT_EQ(Text({.max_new_tokens = 14, .on_limit = count}).size(), 14U);
  EXPECT_EQ(limits, 1) << "as many as were asked for";
}

TEST_F(GenerateTest, MistakesAreSentences) {
  EXPECT_EQ(Refused({}), Code::kInvalidArgument);
  EXPECT_EQ(Refused({37}), Code::kInvalidArgument);
  EXPECT_EQ(Refused({-1}), Code::kInvalidArgument);
  EXPECT_EQ(Refused(std::vector<int64_t>(17, 1)), Code::kInvalidArgument);
  EXPECT_EQ(Refused({1}, {.temperature = -1}), Code::kInvalidArgument);
  EXPECT_EQ(Refused({1}, {.temperature = std::nan("")}), Code::kInvalidArgument);
  EXPECT_EQ(Refused({1}, {.top_k = -1}), Code::kInvalidArgument);
  EXPECT_EQ(Refused({1}, {.top_p = 0}), Code::kInvalidArgument);
  EXPECT_EQ(Refused({1}, {.top_p = std::nan("")}), Code::kInvalidArgument);
}

// Who sees whom, as rows of '1' and '.'.
std::string Seen(const MaskSpec& spec, int64_t row = 0) {
  const auto mask = AttentionMask(spec, at::TensorOptions(at::kFloat));
  std::string text;
  for (int64_t q = 0; q < spec.queries; ++q) {
    for (int64_t k = 0; k < spec.keys; ++k) text += mask[row][0][q][k].item<float>() == 0 ? '1' : '.';
    text += q + 1 < spec.queries ? " " : "";
  }
  return text;
}

TEST(AttentionMask, SaysWhoSeesWhom) {
  const auto padding = torch::tensor({{0, 0, 1, 1}, {1, 1, 1, 0}}, at::kLong);
  const auto segments = torch::tensor({{7, 7, 5, 5}}, at::kLong);
  EXPECT_EQ(Seen({4, 4, true, 0, {}, {}}), "1... 11.. 111. 1111");
  EXPECT_EQ(Seen({2, 4, true, 0, {}, {}}), "111. 1111");
  EXPECT_EQ(Seen({4, 4, true, 2, {}, {}}), "1... 11.. .11. ..11");
  EXPECT_EQ(Seen({1, 4, true, 3, {}, {}}), ".111");
  EXPECT_EQ(Seen({4, 4, true, 0, {}, segments}), "1... 11.. ..1. ..11");
  EXPECT_EQ(Seen({4, 4, false, 0, padding, {}}, 0), "..11 ..11 ..11 ..11");
  EXPECT_EQ(Seen({4, 4, false, 0, padding, {}}, 1), "111. 111. 111. 111.");
  // Padding before the first token would see nothing at all: it sees itself.
  EXPECT_EQ(Seen({4, 4, true, 0, padding, {}}, 0), "1... .1.. ..1. ..11");
  EXPECT_FALSE(AttentionMask({4, 4, false, 0, {}, {}}, at::TensorOptions()).defined());
  EXPECT_FALSE(AttentionMask({1, 9, true, 0, {}, {}}, at::TensorOptions()).defined());
  EXPECT_FALSE(AttentionMask({1, 9, true, 9, {}, {}}, at::TensorOptions()).defined());
}

}  // namespace
}  // namespace heddle::model
