// Norm clipping: what is short stays, what is long keeps its direction.
#include "aggregation/clipping.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/aggregation/rounds.h"

namespace heddle::aggregation {
namespace {

double NormOf(const StateDict& update) {
  double squares = 0;
  for (const double x : Flat(update)) squares += x * x;
  return std::sqrt(squares);
}

const Shapes kClipped = {{"a", {3, 40}}, {"b", {7}}};

TEST(Clipping, AnUpdateWithinTheBoundKeepsItsBytes) {
  const StateDict update = RandomUpdate(kClipped, 1);
  const StateDict same = ClipUpdate(update, NormOf(update) * (1 + 1e-12));
  for (const auto& [name, tensor] : update) EXPECT_EQ(same.at(name).bytes().data(), tensor.bytes().data());
}

TEST(Clipping, ALongerOneGetsTheBoundsLengthInItsDirection) {
  const StateDict update = RandomUpdate(kClipped, 2);
  const double norm = NormOf(update);
  for (const double bound : {norm * 0.999, 1.0, 1e-3}) {
    const StateDict clipped = ClipUpdate(update, bound);
    EXPECT_NEAR(NormOf(clipped), bound, bound * 1e-6);
    const auto before = Flat(update), after = Flat(clipped);
    for (size_t i = 0; i < before.size(); ++i) {
      EXPECT_NEAR(after[i], before[i] * bound / norm, std::abs(after[i]) * 1e-7) << i;
    }
  }
}

TEST(Clipping, ControlVariatesAreAVectorOfTheirOwn) {
  StateDict update = Single({3, 4});
  update.emplace("heddle.control.x", Tensor::FromFloats({2}, std::vector<float>{0.5F, 0}));
  StateDict clipped = ClipUpdate(update, 1);
  EXPECT_EQ(clipped.at("heddle.control.x").values<float>()[0], 0.5F);
  EXPECT_FLOAT_EQ(clipped.at("x").values<float>()[0], 0.6F);
  clipped = ClipUpdate(update, 0.25);
  EXPECT_FLOAT_EQ(clipped.at("heddle.control.x").values<float>()[0], 0.25F);
}

TEST(Clipping, OneHugeUpdateMovesFedAvgByItsShareOfTheBound) {
  AggregatorOptions options;
  options.clip_norm = 1;
  std::vector<Sent> sent = {{Single({16, 16}), {.num_examples = 1, .device = "a"}},
                            {Single({0, 0}), {.num_examples = 1, .device = "b"}}};
  EXPECT_NEAR(NormOf(RunRound("FedAvg", Single({0, 0}), sent, options).model), 0.5, 1e-6);
}

TEST(Clipping, ABoundMustBeANumber) {
  AggregatorOptions options;
  for (const double bad : {-1.0, std::nan("")}) {
    options.clip_norm = bad;
    EXPECT_EQ(MakeAggregator("FedAvg", Single({0}), options).status().code(), Code::kInvalidArgument);
  }
}

TEST(Clipping, OtherDtypesAreLeftToTheMethodToRefuse) {
  AggregatorOptions options;
  options.clip_norm = 1;
  auto aggregator = MakeMethod("FedAvg", Single({0}), options);
  std::span<std::byte> bytes;
  const StateDict half = {{"x", Tensor::Allocate({DType::kF16, {1}}, &bytes)}};
  EXPECT_EQ(aggregator->Fold(half, {.num_examples = 1}).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::aggregation
