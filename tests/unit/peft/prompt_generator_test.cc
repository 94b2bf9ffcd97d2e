// Generated prompts: the formula and its derivative in loops of double, the bits, and what is refused.
#include "peft/adapter/prompt_generator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "common/digest.h"
#include "common/random.h"
#include "peft/adapter/prompt_projection.h"
#include "zo_optim/direction/direction.h"

namespace heddle::peft {
namespace {

constexpr PromptGenerator kSmall{3, 7, 4, 5, 0.5};

std::vector<float> Drawn(PhiloxStream& random, int64_t count, float deviation) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = 2 * deviation * (random.NextUniform() - 0.5F);
  return out;
}

struct Owned {
  std::vector<float> input, bias, output;
  PromptGenerator::Weights View() const { return {input, bias, output}; }
};

Owned Draw(const PromptGenerator& form, uint64_t seed, float deviation = 1) {
  PhiloxStream random(seed);
  return {Drawn(random, form.width * form.inputs, deviation), Drawn(random, form.width, deviation),
          Drawn(random, form.size * form.width, deviation)};
}

// The formula, element by element, with the C library's tanh, `step` of the way from one set of weights to another.
double ElementOf(const PromptGenerator& form, const Owned& at, const Owned& way, double step, int64_t token,
                 int64_t place) {
  const auto normal = [](const char* parameter, int64_t index) {
    return static_cast<double>(
        zo::DirectionAt({zo::Distribution::kNormal, 0, zo::ParameterStream(parameter)}, static_cast<uint64_t>(index)));
  };
  const auto of = [&](const std::vector<float>& from, const std::vector<float>& to, int64_t index) {
    return static_cast<double>(from[static_cast<size_t>(index)]) +
           step * static_cast<double>(to[static_cast<size_t>(index)]);
  };
  double sum = 0;
  for (int64_t j = 0; j < form.width; ++j) {
    double before = of(at.bias, way.bias, j);
    for (int64_t c = 0; c < form.inputs; ++c) {
      before += of(at.input, way.input, j * form.inputs + c) * normal("prompt_codes", token * form.inputs + c);
    }
    sum += of(at.output, way.output, place * form.width + j) * std::tanh(before);
  }
  return 0.02 * normal("prompt_embeddings", token * form.size + place) +
         form.scale / std::sqrt(static_cast<double>(form.width)) * sum;
}

StateDict ModelOf(const PromptGenerator& form, const Owned& weights) {
  StateDict model = form.InitialModel(1);
  model.insert_or_assign(std::string(kGeneratorInput), Tensor::FromFloats({form.width, form.inputs}, weights.input));
  model.insert_or_assign(std::string(kGeneratorBias), Tensor::FromFloats({form.width}, weights.bias));
  model.insert_or_assign(std::string(kGeneratorOutput), Tensor::FromFloats({form.size, form.width}, weights.output));
  return model;
}

TEST(PromptGenerator, MakesThePromptOfTheFormula) {
  // Weights of every size: where tanh is a line, where it bends, and where it is flat.
  for (const float deviation : {1e-3F, 1.0F, 30.0F}) {
    const Owned weights = Draw(kSmall, 7, deviation);
    const auto whole = WithPrompt(ModelOf(kSmall, weights));
    ASSERT_TRUE(whole.ok()) << whole.status();
    ASSERT_EQ(SpecOf(*whole), (StateDictSpec{{"prompt_embeddings", {DType::kF32, {3, 7}}}}));
    const auto prompt = whole->at("prompt_embeddings").values<float>();
    for (int64_t i = 0; i < 21; ++i) {
      const double expected = ElementOf(kSmall, weights, weights, 0, i / 7, i % 7);
      EXPECT_NEAR(prompt[static_cast<size_t>(i)], expected, 1e-7 * (1 + std::abs(expected))) << deviation;
    }
  }
}

TEST(PromptGenerator, ItsDerivativeIsThatOfDifferences) {
  for (const float deviation : {0.1F, 1.0F}) {
    const Owned weights = Draw(kSmall, 8, deviation), way = Draw(kSmall, 9);
    const std::vector<float> along = kSmall.Along(weights.View(), way.View());
    ASSERT_EQ(along.size(), 21U);
    constexpr double kStep = 1e-5;
    for (int64_t i = 0; i < 21; ++i) {
      const double expected = (ElementOf(kSmall, weights, way, kStep, i / 7, i % 7) -
                               ElementOf(kSmall, weights, way, -kStep, i / 7, i % 7)) /
                              (2 * kStep);
      EXPECT_NEAR(along[static_cast<size_t>(i)], expected, 1e-6);
    }
  }
}

TEST(PromptGenerator, BeginsWithThePromptThatASearchBeginsWithAndCanLeaveIt) {
  const StateDict model = kSmall.InitialModel(5);
  const auto read = PromptGenerator::Of(model);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tokens, 3);
  EXPECT_EQ(read->size, 7);
  EXPECT_EQ(read->inputs, 4);
  EXPECT_EQ(read->width, 5);
  EXPECT_EQ(read->scale, 0.5);
  const std::vector<float> zeros = {0, 0};
  EXPECT_EQ(read->Prompt(PromptGenerator::WeightsOf(model)), (PromptProjection{3, 7, 2, 1}.Prompt(zeros)));
  // Along a direction of W2 alone every element moves.
  const Owned none = Draw(kSmall, 1, 0);
  Owned way = Draw(kSmall, 6);
  way.input = none.input;
  way.bias = none.bias;
  for (const float element : read->Along(PromptGenerator::WeightsOf(model), way.View())) EXPECT_NE(element, 0);
  // W1 is the seed's.
  const auto first = [](uint64_t seed) { return kSmall.InitialModel(seed).at(std::string(kGeneratorInput)); };
  const Tensor five = first(5), again = first(5), six = first(6);
  EXPECT_EQ(std::memcmp(five.bytes().data(), again.bytes().data(), five.bytes().size()), 0);
  EXPECT_NE(std::memcmp(five.bytes().data(), six.bytes().data(), five.bytes().size()), 0);
}

TEST(PromptGenerator, TheSameWeightsMakeTheSameBitsOnEveryMachine) {
  constexpr PromptGenerator kForm{20, 64, 16, 16, 1};
  const std::vector<float> prompt = kForm.Prompt(Draw(kForm, 3).View());
  EXPECT_EQ(Sha256(std::as_bytes(std::span(prompt))).ToHex(),
            "54166905b90bc96e2a74b778463ac29aa306210b21a5ed820ef2743b57ccd90d");
}

TEST(PromptGenerator, RefusesTensorsThatDoNotFitTogether) {
  const auto refused = [](std::string_view name, const Shape& shape, std::vector<float> values) {
    StateDict model = kSmall.InitialModel(1);
    model.insert_or_assign(std::string(name), Tensor::FromFloats(shape, values));
    EXPECT_EQ(WithPrompt(model).status().code(), Code::kInvalidArgument) << name << ShapeToString(shape);
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  refused(kPromptGenerator, {1}, {3});
  refused(kPromptGenerator, {3}, {3, 1, 1});
  refused(kPromptGenerator, {1, 2}, {3, 1});
  refused(kPromptGenerator, {2}, {0, 1});
  refused(kPromptGenerator, {2}, {2.5F, 1});
  refused(kPromptGenerator, {2}, {4097, 1});
  refused(kPromptGenerator, {2}, {kNan, 1});
  refused(kPromptGenerator, {2}, {3, 0});
  refused(kPromptGenerator, {2}, {3, -1});
  refused(kPromptGenerator, {2}, {3, kInf});
  refused(kGeneratorInput, {20}, std::vector<float>(20));
  refused(kGeneratorInput, {4, 4}, std::vector<float>(16));
  refused(kGeneratorInput, {5, 0}, {});
  refused(kGeneratorInput, {5, 1025}, std::vector<float>(5125));
  refused(kGeneratorBias, {4}, std::vector<float>(4));
  refused(kGeneratorBias, {5}, {0, 0, kNan, 0, 0});
  refused(kGeneratorOutput, {7, 4}, std::vector<float>(28));
  refused(kGeneratorOutput, {0, 5}, {});
  // More elements than can be computed: 4 096 tokens of 8 192.
  StateDict large = PromptGenerator{1, 8192, 1, 1, 1}.InitialModel(1);
  const std::vector<float> form = {4096, 1};
  large.insert_or_assign(std::string(kPromptGenerator), Tensor::FromFloats({2}, form));
  EXPECT_EQ(WithPrompt(large).status().code(), Code::kInvalidArgument);
  for (const std::string_view name : {kGeneratorInput, kGeneratorBias, kGeneratorOutput}) {
    StateDict model = kSmall.InitialModel(1);
    model.erase(model.find(name));
    EXPECT_EQ(WithPrompt(model).status().code(), Code::kInvalidArgument) << "without " << name;
    std::span<std::byte> bytes;
    model.emplace(name, Tensor::Allocate({DType::kF16, {5, 4}}, &bytes));
    EXPECT_EQ(WithPrompt(model).status().code(), Code::kInvalidArgument) << name << " in halves";
  }
  StateDict both = kSmall.InitialModel(1);
  both.merge(PromptProjection{3, 7, 2, 1}.InitialModel(1));
  EXPECT_EQ(WithPrompt(both).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::peft
