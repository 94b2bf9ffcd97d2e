// Prompts by coordinates: the formula in double, and what is refused.
#include "peft/adapter/prompt_projection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "zo_optim/direction/direction.h"

namespace heddle::peft {
namespace {

TEST(PromptProjection, AddsColumnsThatEverybodyKnowsToAStartThatEverybodyKnows) {
  const PromptProjection projection{3, 5, 4, 0.1};
  StateDict model = projection.InitialModel(1.5);
  EXPECT_NEAR(model.at(std::string(kPromptVariance)).values<float>()[0], 2.25, 1e-6);
  const std::vector<float> z = {0.5F, -2, 0, 1.25F};
  model.insert_or_assign(std::string(kPromptCoordinates), Tensor::FromFloats({4}, z));
  const auto read = PromptProjection::Of(model);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tokens, 3);
  EXPECT_EQ(read->size, 5);
  EXPECT_EQ(read->dimensions, 4);
  const auto whole = WithPrompt(model);
  ASSERT_TRUE(whole.ok());
  ASSERT_EQ(whole->size(), 1U);
  const Tensor& prompt = whole->at("prompt_embeddings");
  EXPECT_EQ(prompt.spec(), (TensorSpec{DType::kF32, {3, 5}}));
  const uint64_t stream = zo::ParameterStream("prompt_embeddings");
  for (uint64_t i = 0; i < 15; ++i) {
    const auto at = [&](uint64_t seed) {
      return static_cast<double>(zo::DirectionAt({zo::Distribution::kNormal, seed, stream}, i));
    };
    double expected = 0.02 * at(0);
    for (size_t j = 0; j < 4; ++j) expected += 0.1 / 2 * static_cast<double>(z[j]) * at(j + 1);
    EXPECT_NEAR(prompt.values<float>()[i], expected, 1e-6);
  }
}

TEST(PromptProjection, LeavesOtherModelsAlone) {
  const std::vector<float> values = {1, 2};
  const StateDict model = {{"x", Tensor::FromFloats({2}, values)}};
  const auto same = WithPrompt(model);
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(SpecOf(*same), SpecOf(model));
}

TEST(PromptProjection, RefusesTensorsThatDoNotFitTogether) {
  const PromptProjection projection{3, 5, 4, 0.1};
  const auto refused = [&](std::string_view name, std::vector<float> values, DType dtype = DType::kF32) {
    StateDict model = projection.InitialModel(1);
    std::span<std::byte> bytes;
    Tensor tensor = values.empty() || dtype != DType::kF32
                        ? Tensor::Allocate({dtype, {static_cast<int64_t>(values.size())}}, &bytes)
                        : Tensor::FromFloats({static_cast<int64_t>(values.size())}, values);
    model.insert_or_assign(std::string(name), std::move(tensor));
    EXPECT_EQ(WithPrompt(model).status().code(), Code::kInvalidArgument) << name;
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  refused(kPromptProjection, {3, 5});
  refused(kPromptProjection, {0, 5, 1});
  refused(kPromptProjection, {3.5F, 5, 1});
  refused(kPromptProjection, {1e9F, 5, 1});
  refused(kPromptProjection, {3, 1e30F, 1});
  refused(kPromptProjection, {4096, 1048576, 1});
  refused(kPromptProjection, {3, 5, -1});
  refused(kPromptProjection, {3, 5, kNan});
  refused(kPromptCoordinates, {});
  refused(kPromptCoordinates, {1, kNan});
  refused(kPromptCoordinates, {1, 2}, DType::kF16);
  refused(kPromptCoordinates, std::vector<float>(static_cast<size_t>(kMostPromptCoordinates) + 1, 1.0F));
  refused(kPromptVariance, {0});
  refused(kPromptVariance, {1, 1});
  for (const std::string_view name : {kPromptCoordinates, kPromptVariance}) {
    StateDict model = projection.InitialModel(1);
    model.erase(model.find(name));
    EXPECT_EQ(WithPrompt(model).status().code(), Code::kInvalidArgument) << "without " << name;
  }
}

}  // namespace
}  // namespace heddle::peft
