// Quantised matrices: their errors, their size, and what they do to a gradient.
#include "model/quant/quantized_matrix.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/random.h"
#include "model/quant/codes.h"
#include "model/transformer/linear.h"

namespace heddle::model {
namespace {

using torch::Tensor;

// Normal weights, of which a share is far larger.
Tensor Weights(int64_t rows, int64_t columns, uint64_t seed, float outliers = 0.001F) {
  Tensor out = torch::empty({rows, columns});
  const PhiloxStream random(seed);
  for (int64_t i = 0; i < out.numel(); ++i) {
    const auto at = static_cast<uint64_t>(4 * i);
    const float radius = std::sqrt(-2 * std::log(1 - random.UniformAt(at)));
    const float normal = radius * std::cos(6.2831853F * random.UniformAt(at + 1));
    out.data_ptr<float>()[i] = 0.02F * normal * (random.UniformAt(at + 2) < outliers ? 20.0F : 1.0F);
  }
  return out;
}

std::shared_ptr<const QuantizedMatrix> Quantized(const Tensor& weight, QuantKind kind) {
  auto matrix = QuantizedMatrix::Quantize(weight, kind);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  return *matrix;
}

// A linear layer on the matrix, whose product and gradient unpack it.
Linear Packed(std::shared_ptr<const QuantizedMatrix> matrix) {
  LinearSpec spec;
  spec.in = matrix->columns();
  spec.out = matrix->rows();
  return Linear(spec, std::move(matrix), Tensor());
}

class QuantizedMatrixTest : public testing::TestWithParam<QuantKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, QuantizedMatrixTest, testing::Values(QuantKind::kInt8, QuantKind::kNf4),
                         [](const auto& kind) { return kind.param == QuantKind::kInt8 ? "Int8" : "Nf4"; });

// Half the widest gap between neighbouring values, of a block whose largest magnitude is 1.
double HalfGap(QuantKind kind) {
  if (kind == QuantKind::kInt8) return 0.5 / 127;
  double widest = 0;
  for (size_t i = 1; i < 16; ++i) widest = std::max(widest, static_cast<double>(Nf4Values()[i] - Nf4Values()[i - 1]));
  return widest / 2;
}

TEST_P(QuantizedMatrixTest, NoWeightIsFartherThanHalfTheWidestGap) {
  const QuantKind kind = GetParam();
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{256, 192}, {33, 7}, {1, 1}, {5, 64}}) {
    const Tensor weight = Weights(rows, columns, 5);
    const Tensor back = Quantized(weight, kind)->Dense(at::kFloat);
    ASSERT_EQ(back.sizes(), weight.sizes());
    const Tensor x = weight.flatten(), y = back.flatten();
    const auto block = static_cast<int64_t>(BlockOf(kind));
    for (int64_t begin = 0; begin < x.numel(); begin += block) {
      const Tensor part = x.slice(0, begin, std::min(x.numel(), begin + block));
      const double largest = part.abs().max().item<double>();
      // NF4's scale is itself rounded to 8 bits: a step of its group is below the largest magnitude / 127.
      const double slack = kind == QuantKind::kNf4 ? weight.abs().max().item<double>() / 254 : 0;
      const double error = (part - y.slice(0, begin, begin + part.numel())).abs().max().item<double>();
      EXPECT_LE(error, largest * HalfGap(kind) * (1 + 1e-5) + slack) << "block at " << begin;
    }
  }
}

TEST_P(QuantizedMatrixTest, TheMeanErrorIsWhatTheBitsAllow) {
  const Tensor weight = Weights(512, 512, 6, 0);
  const Tensor error = Quantized(weight, GetParam())->Dense(at::kFloat) - weight;
  const double relative = (error.norm() / weight.norm()).item<double>();
  EXPECT_LT(relative, GetParam() == QuantKind::kInt8 ? 0.007 : 0.1);
  EXPECT_GT(relative, GetParam() == QuantKind::kInt8 ? 0.002 : 0.04) << "too good to be so few bits";
}

TEST_P(QuantizedMatrixTest, MemoryIsWhatItsHeaderSays) {
  const auto matrix = Quantized(Weights(1024, 768, 7), GetParam());
  const double bytes = static_cast<double>(matrix->bytes()) / (1024.0 * 768.0);
  if (GetParam() == QuantKind::kNf4) {
    EXPECT_LE(bytes, 0.5161);
  } else {
    EXPECT_LE(bytes, 1.0313);
  }
}

TEST_P(QuantizedMatrixTest, TheNumberOfThreadsChangesNothing) {
  const int before = at::get_num_threads();
  const Tensor weight = Weights(300, 333, 8);
  at::set_num_threads(1);
  const Tensor alone = Quantized(weight, GetParam())->Dense(at::kFloat);
  for (const int threads : {2, 3, 7}) {
    at::set_num_threads(threads);
    EXPECT_TRUE(torch::equal(Quantized(weight, GetParam())->Dense(at::kFloat), alone)) << threads;
  }
  at::set_num_threads(before);
}

TEST_P(QuantizedMatrixTest, OperatorsGiveTheBitsOfTheLoops) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{40, 96}, {33, 7}, {1, 1}}) {
    const auto matrix = Quantized(Weights(rows, columns, 9), GetParam());
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      EXPECT_TRUE(torch::equal(matrix->Dense(type), matrix->DenseByOperators(type)));
    }
    EXPECT_TRUE(torch::equal(matrix->Dense(at::kDouble), matrix->Dense(at::kFloat).to(at::kDouble)));
    EXPECT_TRUE(torch::equal(matrix->To(torch::Device("cpu"))->Dense(at::kFloat), matrix->Dense(at::kFloat)));
  }
}

TEST_P(QuantizedMatrixTest, ZerosStayZeros) {
  EXPECT_EQ(Quantized(torch::zeros({9, 70}), GetParam())->Dense(at::kFloat).abs().max().item<float>(), 0.0F);
}

TEST_P(QuantizedMatrixTest, WeightsThatAreNotFiniteAreRefused) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensor weight = Weights(10, 70, 10);
    weight[9][69] = bad;
    EXPECT_EQ(QuantizedMatrix::Quantize(weight, GetParam()).status().code(), Code::kInvalidArgument);
  }
}

TEST_P(QuantizedMatrixTest, TheProductIsThatOfTheUnpackedWeight) {
  const auto matrix = Quantized(Weights(48, 80, 11), GetParam());
  const Tensor x = Weights(6, 80, 12).view({2, 3, 80});
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const Tensor y = Packed(matrix)->forward(x.to(type));
    EXPECT_EQ(y.sizes(), (std::vector<int64_t>{2, 3, 48}));
    EXPECT_EQ(y.scalar_type(), type);
    EXPECT_TRUE(torch::allclose(y, torch::linear(x.to(type), matrix->Dense(type))));
  }
  EXPECT_THROW(Packed(matrix)->forward(torch::zeros({2, 81})), c10::Error);
}

TEST_P(QuantizedMatrixTest, TheGradientAgreesWithCentralDifferences) {
  const auto matrix = Quantized(Weights(12, 70, 13), GetParam());
  const Tensor weights_of_loss = Weights(4, 12, 14).to(at::kDouble) * 50;
  const auto loss = [&](const Tensor& x) { return (Packed(matrix)->forward(x).sin() * weights_of_loss).sum(); };
  Tensor x = (Weights(4, 70, 15).to(at::kDouble) * 50).requires_grad_(true);
  loss(x).backward();
  const Tensor grad = x.grad();
  torch::NoGradGuard no_grad;
  const double step = 1e-5;
  for (int64_t i = 0; i < x.numel(); i += 7) {
    Tensor more = x.detach().clone(), less = x.detach().clone();
    more.flatten()[i] += step;
    less.flatten()[i] -= step;
    const double difference = (loss(more) - loss(less)).item<double>() / (2 * step);
    EXPECT_NEAR(grad.flatten()[i].item<double>(), difference, 1e-7) << i;
  }
}

TEST_P(QuantizedMatrixTest, TheGraphKeepsThePackedWeightAliveAndNothingUnpacked) {
  auto matrix = Quantized(Weights(64, 64, 16), GetParam());
  const std::weak_ptr<const QuantizedMatrix> watch = matrix;
  Tensor x = Weights(2, 64, 17).requires_grad_(true);
  Tensor y = Packed(std::move(matrix))->forward(x).sum();
  matrix.reset();
  EXPECT_FALSE(watch.expired());
  y.backward();
  y = Tensor();
  EXPECT_TRUE(watch.expired());
  EXPECT_TRUE(x.grad().defined());
}

}  // namespace
}  // namespace heddle::model
