// AdamW with 8-bit moments beside the float32 one on the same problem.
#include "model/training/adamw_8bit.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"
#include "model/training/adamw.h"
#include "tests/unit/model/random_tensor.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

using torch::Tensor;

// Predicts the next byte of a text from the four before it: embedding, hidden layer, output.
class NextByte {
 public:
  NextByte() : text_(SampleText(20'000, 4)) {}
  std::vector<Tensor> parameters() const { return {embedding_, hidden_, output_}; }

  // Mean loss in nats a byte of a batch that the step chooses.
  Tensor Loss(uint64_t step) const {
    constexpr int64_t kBatch = 64;
    Tensor context = torch::empty({kBatch, 4}, torch::kLong), next = torch::empty({kBatch}, torch::kLong);
    PhiloxStream random(step);
    for (int64_t row = 0; row < kBatch; ++row) {
      const size_t begin = random.NextBelow(static_cast<uint32_t>(text_.size() - 5));
      for (size_t i = 0; i < 4; ++i)
        context.data_ptr<int64_t>()[4 * row + static_cast<int64_t>(i)] = static_cast<uint8_t>(text_[begin + i]);
      next.data_ptr<int64_t>()[row] = static_cast<uint8_t>(text_[begin + 4]);
    }
    const Tensor x = torch::embedding(embedding_, context).view({kBatch, -1});
    return torch::nll_loss(torch::log_softmax(x.mm(hidden_).tanh().mm(output_), 1), next);
  }

 private:
  std::string text_;
  Tensor embedding_ = RandomTensor({128, 16}, 1, 0.5F).requires_grad_(true);
  Tensor hidden_ = RandomTensor({64, 96}, 2, 0.2F).requires_grad_(true);
  Tensor output_ = RandomTensor({96, 128}, 3, 0.2F).requires_grad_(true);
};

// Mean loss of the last fifty of 300 steps.
double Train(OptimizerKind kind, std::vector<double>* losses = nullptr) {
  NextByte model;
  OptimizerOptions options;
  options.weight_decay = 0.01;
  options.max_grad_norm = 1;
  const auto optimizer = MakeOptimizer(kind, model.parameters(), options);
  double sum = 0;
  for (uint64_t step = 0; step < 300; ++step) {
    const Tensor loss = model.Loss(step);
    loss.backward();
    optimizer->Step(5e-3);
    if (losses != nullptr) losses->push_back(loss.item<double>());
    if (step >= 250) sum += loss.item<double>();
  }
  return sum / 50;
}

TEST(AdamW8bit, LearnsATextAsWellAsInFloat32) {
  std::vector<double> narrow, wide;
  const double eight_bits = Train(OptimizerKind::kAdamW8bit, &narrow);
  const double float32 = Train(OptimizerKind::kAdamW, &wide);
  EXPECT_LT(float32, 0.35 * wide.front()) << "the problem teaches nothing";
  EXPECT_NEAR(eight_bits, float32, 0.05 * float32);
  // Near it all the way, not only at the end.
  for (size_t i = 0; i < wide.size(); ++i) EXPECT_NEAR(narrow[i], wide[i], 0.15 * wide[i] + 0.02) << "step " << i + 1;
}

TEST(AdamW8bit, MemoryIsAQuarterOfFloat32s) {
  std::vector<Tensor> parameters = {torch::zeros({512, 64}), torch::zeros({16, 768})};
  const AdamW8bit narrow(parameters, {});
  const AdamW wide(parameters, {});
  EXPECT_LE(static_cast<double>(narrow.StateBytes()), 0.2541 * static_cast<double>(wide.StateBytes()));
}

TEST(AdamW8bit, TheFirstStepIsAdamWs) {
  // Before it there are no moments that could have been rounded.
  Tensor a = RandomTensor({33, 21}, 5).requires_grad_(true), b = a.detach().clone().requires_grad_(true);
  OptimizerOptions options;
  options.weight_decay = 0.1;
  options.max_grad_norm = 0.5;
  AdamW8bit narrow({a}, options);
  AdamW wide({b}, options);
  a.mutable_grad() = RandomTensor({33, 21}, 6);
  b.mutable_grad() = RandomTensor({33, 21}, 6);
  EXPECT_EQ(narrow.Step(1e-2), wide.Step(1e-2));
  EXPECT_TRUE(torch::equal(a, b));
}

TEST(AdamW8bit, OperatorsFollowTheLoops) {
  // The same values by columns go through LibTorch's operators.
  const std::vector<int64_t> shape = {40, 30};
  Tensor rows = RandomTensor(shape, 7).requires_grad_(true);
  Tensor columns = rows.detach().t().contiguous().t().requires_grad_(true);
  ASSERT_FALSE(columns.is_contiguous());
  OptimizerOptions options;
  options.weight_decay = 0.01;
  AdamW8bit a({rows}, options), b({columns}, options);
  for (uint64_t step = 0; step < 30; ++step) {
    rows.mutable_grad() = RandomTensor(shape, 100 + step, 0.1F);
    columns.mutable_grad() = RandomTensor(shape, 100 + step, 0.1F);
    a.Step(1e-3);
    b.Step(1e-3);
  }
  // A last bit may move a moment to its neighbour's code.
  EXPECT_LT((rows - columns).abs().max().item<double>(), 1e-4);
  EXPECT_LT((rows - columns).abs().mean().item<double>(), 1e-6);
  EXPECT_EQ(a.StateBytes(), b.StateBytes());
}

TEST(AdamW8bit, TheNumberOfThreadsChangesNothing) {
  const int before = at::get_num_threads();
  std::vector<Tensor> results;
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    Tensor p = RandomTensor({300, 301}, 8).requires_grad_(true);
    AdamW8bit optimizer({p}, {});
    for (uint64_t step = 0; step < 3; ++step) {
      p.mutable_grad() = RandomTensor({300, 301}, 9 + step);
      optimizer.Step(1e-2);
    }
    results.push_back(p.detach());
  }
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(results[0], results[1]));
  EXPECT_TRUE(torch::equal(results[0], results[2]));
}

TEST(AdamW8bit, SmallMomentsBesideALargeOneMakeNoWildSteps) {
  // Element 0's gradients are a million times those of the others, whose second moments are far below the smallest
  // value of the block. Were they stored as zero, the next step would divide by epsilon alone.
  Tensor p = torch::zeros({256}).requires_grad_(true);
  AdamW8bit optimizer({p}, {});
  for (uint64_t step = 0; step < 50; ++step) {
    Tensor g = RandomTensor({256}, 50 + step, 1e-3F);
    g[0] = 1e3F;
    p.mutable_grad() = step % 2 == 0 ? g : torch::zeros({256});
    optimizer.Step(1e-3);
  }
  EXPECT_LT(p.abs().max().item<float>(), 50 * 1e-3 * 3.2);  // no step is larger than Adam's own bound
}

TEST(AdamW8bit, AGradientThatIsNotFiniteChangesNothing) {
  Tensor p = RandomTensor({5}, 10).requires_grad_(true);
  const Tensor before = p.detach().clone();
  AdamW8bit optimizer({p}, {});
  p.mutable_grad() = torch::full({5}, NAN);
  EXPECT_FALSE(std::isfinite(optimizer.Step(1e-2)));
  EXPECT_TRUE(torch::equal(p, before));
  p.mutable_grad() = torch::ones({5});
  optimizer.Step(1e-2);
  EXPECT_TRUE(p.isfinite().all().item<bool>());
}

}  // namespace
}  // namespace heddle::model
