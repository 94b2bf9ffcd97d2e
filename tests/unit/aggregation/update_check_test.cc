// What Validate refuses, and with which reason.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "aggregation/aggregator.h"
#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation {
namespace {

const Shapes kChecked = {{"first", {3, 5}}, {"second", {5000}}, {"third", {2}}};

class UpdateCheck : public testing::Test {
 protected:
  Validity Check(const StateDict& update, uint64_t num_examples = 10) {
    auto aggregator = MakeAggregator("FedAvg", RandomUpdate(kChecked, 1), options_);
    EXPECT_TRUE(aggregator.ok()) << aggregator.status();
    return (*aggregator)->Validate(update, {num_examples});
  }
  // The good update with one value changed.
  static StateDict With(const std::string& name, size_t index, float value) {
    StateDict update = RandomUpdate(kChecked, 2);
    const auto old = update.at(name).values<float>();
    std::vector<float> values(old.begin(), old.end());
    values[index] = value;
    update[name] = Tensor::FromFloats(Shape(update.at(name).shape()), values);
    return update;
  }
  AggregatorOptions options_;
};

TEST_F(UpdateCheck, AcceptsAnUpdateWithinAllBounds) {
  const Validity validity = Check(RandomUpdate(kChecked, 2));
  EXPECT_TRUE(validity.ok()) << validity.message;
  EXPECT_EQ(validity.message, "");
}

TEST_F(UpdateCheck, RefusesNanAndInfinityWhereverTheyAreAndSaysWhere) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::signaling_NaN(), inf, -inf}) {
    // First, last, on both sides of a block, and behind an element that is out of bounds.
    for (const size_t index : {0, 4095, 4096, 4999}) {
      const Validity validity = Check(With("second", index, value));
      EXPECT_EQ(validity.refusal, Refusal::kNotFinite);
      EXPECT_NE(validity.message.find("'second'"), std::string::npos) << validity.message;
      EXPECT_NE(validity.message.find("element " + std::to_string(index)), std::string::npos) << validity.message;
    }
  }
}

TEST_F(UpdateCheck, BoundOnElementsIsInclusive) {
  options_.max_abs = 2.5;
  EXPECT_TRUE(Check(With("third", 1, 2.5F)).ok());
  EXPECT_TRUE(Check(With("third", 1, -2.5F)).ok());
  const Validity above = Check(With("third", 1, std::nextafter(2.5F, 3.0F)));
  EXPECT_EQ(above.refusal, Refusal::kOutOfBounds);
  EXPECT_NE(above.message.find("'third'"), std::string::npos) << above.message;
  EXPECT_EQ(Check(With("first", 0, -1000.0F)).refusal, Refusal::kOutOfBounds);
}

TEST_F(UpdateCheck, BoundOnTheNormCountsAllTensors) {
  long double squares = 0;
  const StateDict update = RandomUpdate(kChecked, 2);
  for (const auto& [name, tensor] : update) {
    for (const float x : tensor.values<float>()) squares += static_cast<long double>(x) * static_cast<long double>(x);
  }
  const auto norm = static_cast<double>(std::sqrt(squares));
  options_.max_norm = norm * (1 + 1e-12);
  EXPECT_TRUE(Check(update).ok());
  options_.max_norm = norm * (1 - 1e-12);
  const Validity validity = Check(update);
  EXPECT_EQ(validity.refusal, Refusal::kNormTooLarge);
  EXPECT_NE(validity.message.find("max_norm"), std::string::npos) << validity.message;
  options_.max_norm = 0;
  EXPECT_TRUE(Check(update).ok());
}

TEST_F(UpdateCheck, RefusesAnotherSetOfTensors) {
  StateDict missing = RandomUpdate(kChecked, 2);
  missing.erase("second");
  EXPECT_EQ(Check(missing).refusal, Refusal::kWrongTensors);
  EXPECT_NE(Check(missing).message.find("'second' is missing"), std::string::npos);
  StateDict extra = RandomUpdate(kChecked, 2);
  extra.emplace("fourth", Tensor::FromFloats({1}, std::vector<float>{0}));
  EXPECT_EQ(Check(extra).refusal, Refusal::kWrongTensors);
  EXPECT_NE(Check(extra).message.find("'fourth'"), std::string::npos);
  EXPECT_EQ(Check({}).refusal, Refusal::kWrongTensors);
}

TEST_F(UpdateCheck, RefusesAnotherShapeOrDtypeOfTheSameSize) {
  StateDict transposed = RandomUpdate(kChecked, 2);
  transposed["first"] = Tensor::FromFloats({5, 3}, std::vector<float>(15, 0.0F));
  EXPECT_EQ(Check(transposed).refusal, Refusal::kWrongShape);
  for (const DType dtype : {DType::kI32, DType::kF16, DType::kF64}) {
    StateDict other = RandomUpdate(kChecked, 2);
    std::span<std::byte> bytes;
    other["first"] = Tensor::Allocate({dtype, {3, 5}}, &bytes);
    const Validity validity = Check(other);
    EXPECT_EQ(validity.refusal, Refusal::kWrongDtype);
    EXPECT_NE(validity.message.find(DTypeName(dtype)), std::string::npos) << validity.message;
  }
}

TEST(UpdateCheckOfFactors, AnotherRankIsNamedAsSuch) {
  const auto factors = [](const Shape& a, const Shape& b) {
    StateDict update;
    update.emplace("q.lora_A.weight", Tensor::FromFloats(a, std::vector<float>(static_cast<size_t>(a[0] * a[1]))));
    update.emplace("q.lora_B.weight", Tensor::FromFloats(b, std::vector<float>(static_cast<size_t>(b[0] * b[1]))));
    return update;
  };
  const auto check = [&](const Shape& a, const Shape& b) {
    auto aggregator = MakeAggregator("FedAvg", factors({4, 16}, {8, 4}), {});
    EXPECT_TRUE(aggregator.ok()) << aggregator.status();
    return (*aggregator)->Validate(factors(a, b), {1}).refusal;
  };
  EXPECT_EQ(check({4, 16}, {8, 4}), Refusal::kNone);
  EXPECT_EQ(check({2, 16}, {8, 2}), Refusal::kWrongRank);
  EXPECT_EQ(check({4, 16}, {8, 5}), Refusal::kWrongRank);
  EXPECT_EQ(check({4, 15}, {8, 4}), Refusal::kWrongShape);
  EXPECT_EQ(check({4, 16}, {9, 4}), Refusal::kWrongShape);
}

TEST_F(UpdateCheck, RefusesNumbersOfExamplesOutOfRange) {
  options_.max_num_examples = 500;
  EXPECT_TRUE(Check(RandomUpdate(kChecked, 2), 1).ok());
  EXPECT_TRUE(Check(RandomUpdate(kChecked, 2), 500).ok());
  for (const uint64_t bad : {uint64_t{0}, uint64_t{501}, ~uint64_t{0}}) {
    EXPECT_EQ(Check(RandomUpdate(kChecked, 2), bad).refusal, Refusal::kBadNumExamples) << bad;
  }
}

}  // namespace
}  // namespace heddle::aggregation
