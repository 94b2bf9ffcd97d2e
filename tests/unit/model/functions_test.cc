// The hand-written gradients against central differences of float64 forwards put together from LibTorch's operators.
#include "model/transformer/functions.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <functional>
#include <limits>

#include "common/random.h"
#include "model/transformer/attention.h"
#include "model/transformer/loss.h"
#include "tests/unit/model/difference.h"
#include "tests/unit/model/random_tensor.h"

namespace heddle::model {
namespace {

using Inputs = std::vector<torch::Tensor>;
using Forward = std::function<torch::Tensor(const Inputs&)>;

// d sum(weights * reference(inputs)) / d inputs[k], entry by entry.
torch::Tensor CentralDifferences(const Forward& reference, Inputs inputs, size_t k, const torch::Tensor& weights) {
  torch::NoGradGuard no_grad;
  inputs[k] = inputs[k].clone();
  torch::Tensor gradient = torch::zeros_like(inputs[k]);
  const auto loss = [&] { return (reference(inputs) * weights).sum().item<double>(); };
  constexpr double kStep = 1e-5;
  auto* x = inputs[k].data_ptr<double>();
  for (int64_t i = 0; i < inputs[k].numel(); ++i) {
    const double middle = x[i];
    x[i] = middle + kStep;
    const double up = loss();
    x[i] = middle - kStep;
    const double down = loss();
    x[i] = middle;
    gradient.data_ptr<double>()[i] = (up - down) / (2 * kStep);
  }
  return gradient;
}

// Values and all gradients of `ours` (float32) against `reference` (float64).
void Check(const Forward& ours, const Forward& reference, const Inputs& inputs, double tolerance = 1e-5) {
  Inputs leaves, wide;
  for (const torch::Tensor& input : inputs) {
    leaves.push_back(input.clone().requires_grad_(true));
    wide.push_back(input.to(torch::kDouble).contiguous());
  }
  const torch::Tensor out = ours(leaves);
  EXPECT_LT(MaxDifference(out, reference(wide)), tolerance);
  const torch::Tensor weights = RandomTensor(out.sizes(), 77).to(torch::kDouble);
  (out * weights.to(torch::kFloat)).sum().backward();
  for (size_t k = 0; k < inputs.size(); ++k) {
    ASSERT_TRUE(leaves[k].grad().defined()) << "input " << k;
    EXPECT_LT(MaxDifference(leaves[k].grad(), CentralDifferences(reference, wide, k, weights)), tolerance)
        << "input " << k;
  }
}

torch::Tensor WideRmsNorm(const torch::Tensor& x, const torch::Tensor& weight, double eps) {
  return x / (x * x).mean(-1, true).add(eps).sqrt() * weight;
}

TEST(RmsNorm, MatchesFloat64) {
  for (const double eps : {1e-6, 0.5}) {
    const auto ours = [&](const Inputs& in) { return RmsNorm(in[0], in[1], eps); };
    const auto reference = [&](const Inputs& in) { return WideRmsNorm(in[0], in[1], eps); };
    Check(ours, reference, {RandomTensor({2, 3, 7}, 1), RandomTensor({7}, 2)});
    Check(ours, reference, {RandomTensor({4, 5}, 3, 100.0F), RandomTensor({5}, 4)});
  }
}

TEST(RmsNorm, OfZerosIsZeroAndFinite) {
  const torch::Tensor x = torch::zeros({2, 4}).requires_grad_(true);
  const torch::Tensor y = RmsNorm(x, torch::ones({4}), 1e-6);
  EXPECT_EQ(y.abs().max().item<float>(), 0.0F);
  y.sum().backward();
  EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
}

TEST(RmsNorm, AFrozenWeightGetsNoGradient) {
  const torch::Tensor x = RandomTensor({2, 4}, 1).requires_grad_(true), weight = RandomTensor({4}, 2);
  RmsNorm(x, weight, 1e-6).sum().backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
}

TEST(RotateHeads, MatchesFloat64) {
  const int64_t length = 5, heads = 3, head_dim = 4;
  const torch::Tensor angle =
      RandomTensor({length + 2, head_dim / 2}, 9, 3.0F);  // tables may be longer than the sequence
  const auto ours = [&](const Inputs& in) {
    return RotateHeads(in[0], angle.cos().contiguous(), angle.sin().contiguous(), heads, 0.37);
  };
  const auto reference = [&](const Inputs& in) {
    const torch::Tensor x = in[0].view({2, length, heads, head_dim}).transpose(1, 2);
    const torch::Tensor wide = angle.slice(0, 0, length).to(torch::kDouble);
    const auto halves = x.chunk(2, -1);
    const torch::Tensor first = halves[0] * wide.cos() - halves[1] * wide.sin();
    const torch::Tensor second = halves[1] * wide.cos() + halves[0] * wide.sin();
    return torch::cat({first, second}, -1) * 0.37;
  };
  Check(ours, reference, {RandomTensor({2, length, heads * head_dim}, 1)});
}

TEST(RotateHeads, TakesViewsThatAreNotContiguous) {
  const torch::Tensor angle = RandomTensor({3, 2}, 9), wide = RandomTensor({8, 3, 2}, 1);
  const torch::Tensor view = wide.permute({2, 1, 0});  // [2, 3, 8]
  const auto rotate = [&](const torch::Tensor& x) { return RotateHeads(x, angle.cos(), angle.sin(), 2, 1.0); };
  EXPECT_TRUE(torch::equal(rotate(view), rotate(view.contiguous())));
}

TEST(SwiGlu, MatchesFloat64) {
  const auto ours = [](const Inputs& in) { return SwiGlu(in[0], in[1]); };
  const auto reference = [](const Inputs& in) { return in[0] / (1 + (-in[0]).exp()) * in[1]; };
  Check(ours, reference, {RandomTensor({3, 11}, 1, 4.0F), RandomTensor({3, 11}, 2, 2.0F)}, 2e-5);
}

torch::Tensor Causal(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v) {
  return Attention(q, k, v, AttentionMask({q.size(2), k.size(2), true, 0, {}, {}}, q.options().requires_grad(false)));
}

torch::Tensor WideAttention(const Inputs& in) {
  const int64_t group = in[0].size(1) / in[1].size(1), length = in[0].size(2);
  const torch::Tensor k = in[1].repeat_interleave(group, 1), v = in[2].repeat_interleave(group, 1);
  const torch::Tensor later = torch::ones({length, length}, torch::kBool).triu(1);
  const torch::Tensor scores =
      torch::matmul(in[0], k.transpose(2, 3)).masked_fill(later, -std::numeric_limits<double>::infinity());
  return torch::matmul(torch::softmax(scores, -1), v).transpose(1, 2).flatten(2);
}

TEST(CausalAttention, MatchesFloat64WithAndWithoutGroups) {
  const auto ours = [](const Inputs& in) { return Causal(in[0], in[1], in[2]); };
  for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{2, 2}, {4, 2}, {3, 1}}) {
    Check(ours, WideAttention,
          {RandomTensor({2, heads, 5, 4}, 1, 2.0F), RandomTensor({2, kv_heads, 5, 4}, 2),
           RandomTensor({2, kv_heads, 5, 4}, 3)});
  }
  Check(ours, WideAttention,
        {RandomTensor({1, 2, 1, 4}, 1), RandomTensor({1, 1, 1, 4}, 2), RandomTensor({1, 1, 1, 4}, 3)});
}

TEST(CausalAttention, LaterTokensDoNotReachEarlierOnes) {
  const torch::Tensor q = RandomTensor({1, 2, 6, 4}, 1);
  torch::Tensor k = RandomTensor({1, 2, 6, 4}, 2), v = RandomTensor({1, 2, 6, 4}, 3);
  const torch::Tensor before = Causal(q, k, v);
  k.slice(2, 4, 6).fill_(100);
  v.slice(2, 4, 6).fill_(-100);
  EXPECT_TRUE(torch::equal(Causal(q, k, v).slice(1, 0, 4), before.slice(1, 0, 4)));
}

TEST(CausalAttention, LargeScoresDoNotOverflow) {
  const torch::Tensor q = torch::full({1, 1, 3, 2}, 1e4F).requires_grad_(true), k = torch::full({1, 1, 3, 2}, 1e4F);
  const torch::Tensor out = Causal(q, k, torch::ones({1, 1, 3, 2}));
  EXPECT_TRUE(torch::allclose(out, torch::ones_like(out)));
  out.sum().backward();
  EXPECT_TRUE(q.grad().isfinite().all().item<bool>());
}

torch::Tensor WideCrossEntropy(const torch::Tensor& hidden, const torch::Tensor& weight, const torch::Tensor& targets) {
  torch::Tensor total = torch::zeros({}, torch::kDouble);
  int64_t counted = 0;
  const torch::Tensor log_probabilities = torch::log_softmax(torch::matmul(hidden, weight.t()), -1);
  for (int64_t i = 0; i < targets.size(0); ++i) {
    const auto target = targets[i].item<int64_t>();
    if (target == -100) continue;
    total = total - log_probabilities[i][target];
    ++counted;
  }
  return counted == 0 ? total : total / counted;
}

TEST(LinearCrossEntropy, MatchesFloat64) {
  const torch::Tensor targets = torch::tensor({3, -100, 0, 6, 6, -100, 2}, torch::kLong);
  Check([&](const Inputs& in) { return LinearCrossEntropy(in[0], in[1], targets); },
        [&](const Inputs& in) { return WideCrossEntropy(in[0], in[1], targets); },
        {RandomTensor({7, 4}, 1, 2.0F), RandomTensor({7, 4}, 2, 2.0F)});
}

TEST(LinearCrossEntropy, ManyRowsOfALargeVocabularyGoThroughInPieces) {
  // 256 rows a piece at this vocabulary; 600 rows are three pieces. Autograd of the float64 formula is the yardstick.
  const int64_t vocab = 4'000, rows = 600;
  torch::Tensor targets = torch::empty({rows}, torch::kLong);
  PhiloxStream random(4);
  for (int64_t i = 0; i < rows; ++i) {
    targets[i] = i % 9 == 0 ? int64_t{-100} : static_cast<int64_t>(random.NextBelow(static_cast<uint32_t>(vocab)));
  }
  const torch::Tensor hidden = RandomTensor({rows, 6}, 1, 2.0F), weight = RandomTensor({vocab, 6}, 2);
  torch::Tensor a = hidden.clone().requires_grad_(true), b = weight.clone().requires_grad_(true);
  torch::Tensor wide_a = hidden.to(torch::kDouble).requires_grad_(true),
                wide_b = weight.to(torch::kDouble).requires_grad_(true);
  const torch::Tensor loss = LinearCrossEntropy(a, b, targets), wide_loss = WideCrossEntropy(wide_a, wide_b, targets);
  EXPECT_NEAR(loss.item<double>(), wide_loss.item<double>(), 1e-5);
  (loss * 3).backward();
  (wide_loss * 3).backward();
  EXPECT_LT(MaxDifference(a.grad(), wide_a.grad()), 1e-6);
  EXPECT_LT(MaxDifference(b.grad(), wide_b.grad()), 1e-6);
}

TEST(LinearCrossEntropy, FrozenInputsCostNoGradientAndChangeNothing) {
  const torch::Tensor targets = torch::tensor({1, 2}, torch::kLong);
  const torch::Tensor hidden = RandomTensor({2, 3}, 1).requires_grad_(true), weight = RandomTensor({5, 3}, 2);
  const torch::Tensor loss = LinearCrossEntropy(hidden, weight, targets);
  loss.backward();
  EXPECT_TRUE(hidden.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(LinearCrossEntropy(hidden, weight, targets), loss.detach()));
}

TEST(LinearCrossEntropy, WithoutTargetsThatCountTheLossIsZero) {
  const torch::Tensor hidden = RandomTensor({2, 3}, 1).requires_grad_(true);
  const torch::Tensor loss = LinearCrossEntropy(hidden, RandomTensor({5, 3}, 2), torch::full({2}, -100, torch::kLong));
  EXPECT_EQ(loss.item<double>(), 0.0);
  loss.backward();
  EXPECT_EQ(hidden.grad().abs().max().item<float>(), 0.0F);
}

TEST(LinearCrossEntropy, ATargetOutsideTheVocabularyIsAnException) {
  for (const int64_t bad : {int64_t{5}, int64_t{-1}, int64_t{-101}, std::numeric_limits<int64_t>::max()}) {
    const torch::Tensor targets = torch::tensor({int64_t{0}, bad}, torch::kLong);
    EXPECT_THROW(LinearCrossEntropy(RandomTensor({2, 3}, 1), RandomTensor({5, 3}, 2), targets), c10::Error) << bad;
  }
}

TEST(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  const torch::Tensor hidden = torch::tensor({{1e4F}}).requires_grad_(true);
  const torch::Tensor weight = torch::tensor({{1.0F}, {-1.0F}});
  const torch::Tensor loss = LinearCrossEntropy(hidden, weight, torch::tensor({1}, torch::kLong));
  EXPECT_FLOAT_EQ(loss.item<float>(), 2e4F);
  loss.backward();
  EXPECT_FLOAT_EQ(hidden.grad().item<float>(), 2.0F);
}

}  // namespace
}  // namespace heddle::model
