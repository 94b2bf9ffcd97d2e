// Several micro-batches against the one batch they make up.
#include "model/training/gradient_accumulator.h"

#include <gtest/gtest.h>

namespace heddle::model {
namespace {

using torch::Tensor;

constexpr int64_t kIgnored = -100;

// A linear classifier whose loss is the mean over the targets that count.
struct Problem {
  Tensor weight = (torch::arange(12, torch::kDouble).view({3, 4}) * 0.1).detach().requires_grad_(true);
  Tensor inputs = torch::sin(torch::arange(32, torch::kDouble)).view({8, 4});
  Tensor targets = torch::tensor(std::vector<int64_t>{0, 2, 1, kIgnored, kIgnored, kIgnored, 2, 0});

  Tensor Loss(int64_t begin, int64_t end) const {
    const Tensor logits = inputs.slice(0, begin, end).mm(weight.t());
    return torch::nll_loss(torch::log_softmax(logits, 1), targets.slice(0, begin, end), {}, at::Reduction::Mean,
                           kIgnored);
  }
  int64_t Counted(int64_t begin, int64_t end) const {
    return targets.slice(0, begin, end).ne(kIgnored).sum().item<int64_t>();
  }
};

TEST(GradientAccumulator, MicroBatchesWeighAsManyTargetsAsTheyHave) {
  Problem whole;
  const Tensor loss = whole.Loss(0, 8);
  loss.backward();
  // 3, 0 and 2 targets; the middle one has none, and its mean is not a number.
  Problem parts;
  GradientAccumulator accumulator({parts.weight}, 3);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 4}, {4, 6}, {6, 8}}) {
    accumulator.Add(parts.Loss(begin, end), parts.Counted(begin, end));
  }
  const auto total = accumulator.Finish();
  EXPECT_EQ(total.counted, 5);
  EXPECT_NEAR(total.loss, loss.item<double>(), 1e-14);
  EXPECT_LT((parts.weight.grad() - whole.weight.grad()).abs().max().item<double>(), 1e-14);
}

TEST(GradientAccumulator, EqualWeightsWouldBeWrongHere) {
  // That the test above can fail: the plain mean of the micro-batches' gradients is another one.
  Problem whole, parts;
  whole.Loss(0, 8).backward();
  (parts.Loss(0, 4) / 2).backward();
  (parts.Loss(6, 8) / 2).backward();
  EXPECT_GT((parts.weight.grad() - whole.weight.grad()).abs().max().item<double>(), 1e-3);
}

TEST(GradientAccumulator, OneMicroBatchIsABackwardPassToTheBit) {
  Problem plain, accumulated;
  plain.Loss(0, 8).backward();
  GradientAccumulator accumulator({accumulated.weight}, 1);
  accumulator.Add(accumulated.Loss(0, 8), accumulated.Counted(0, 8));
  EXPECT_EQ(accumulator.Finish().loss, plain.Loss(0, 8).item<double>());
  EXPECT_TRUE(torch::equal(plain.weight.grad(), accumulated.weight.grad()));
}

TEST(GradientAccumulator, StartsAfreshAfterEachFinish) {
  Problem problem;
  GradientAccumulator accumulator({problem.weight}, 2);
  Tensor first;
  for (int round = 0; round < 2; ++round) {
    accumulator.Add(problem.Loss(0, 2), 2);
    accumulator.Add(problem.Loss(2, 4), 1);
    EXPECT_EQ(accumulator.Finish().counted, 3);
    if (round == 0) first = problem.weight.grad().clone();
    EXPECT_TRUE(torch::equal(problem.weight.grad(), first));
    problem.weight.mutable_grad() = Tensor();
  }
}

TEST(GradientAccumulator, ABatchWithoutTargetsHasNoGradient) {
  for (const uint32_t micro_batches : {1U, 2U}) {
    Problem problem;
    GradientAccumulator accumulator({problem.weight}, micro_batches);
    for (uint32_t i = 0; i < micro_batches; ++i) accumulator.Add(problem.Loss(3, 6), 0);
    const auto total = accumulator.Finish();
    EXPECT_EQ(total.counted, 0);
    EXPECT_EQ(total.loss, 0.0);
    EXPECT_FALSE(problem.weight.grad().defined());
  }
}

}  // namespace
}  // namespace heddle::model
