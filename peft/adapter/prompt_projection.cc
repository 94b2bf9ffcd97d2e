#include "peft/adapter/prompt_projection.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "peft/adapter/prompt_generator.h"
#include "zo_optim/direction/direction.h"

namespace heddle::peft {
namespace {

constexpr std::string_view kPrompt = "prompt_embeddings";
// 64 MB, and about ten seconds.
constexpr int64_t kMostElements = int64_t{1} << 24, kMostTerms = int64_t{1} << 34;
constexpr float kDeviation = 0.02F;  // of the fresh prompts of initial.h

Result<std::span<const float>> Values(const StateDict& model, std::string_view name) {
  const auto found = model.find(name);
  if (found == model.end()) return InvalidArgument("the adapter has no tensor '" + std::string(name) + "'");
  if (found->second.dtype() != DType::kF32 || found->second.shape().size() != 1) {
    return InvalidArgument("the adapter's tensor '" + std::string(name) + "' is " + found->second.spec().ToString() +
                           "; it must be a list of F32");
  }
  const std::span<const float> values = found->second.values<float>();
  if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
    return InvalidArgument("the adapter's tensor '" + std::string(name) + "' has a value that is not finite");
  }
  return values;
}

bool IsCount(float value, int64_t most) {
  return value >= 1 && value <= static_cast<float>(most) && value == std::floor(value);
}

}  // namespace

Result<PromptProjection> PromptProjection::Of(const StateDict& model) {
  HEDDLE_ASSIGN_OR_RETURN(const std::span<const float> form, Values(model, kPromptProjection));
  HEDDLE_ASSIGN_OR_RETURN(const std::span<const float> coordinates, Values(model, kPromptCoordinates));
  HEDDLE_ASSIGN_OR_RETURN(const std::span<const float> variance, Values(model, kPromptVariance));
  if (form.size() != 3 || !IsCount(form[0], 4096) || !IsCount(form[1], 1 << 20) || !(form[2] > 0 && form[2] < 1e9F)) {
    return InvalidArgument("the adapter's tensor '" + std::string(kPromptProjection) +
                           "' must hold the number of virtual tokens, the size of an embedding and a scale above 0");
  }
  if (coordinates.empty() || coordinates.size() > static_cast<size_t>(kMostPromptCoordinates) || variance.size() != 1 ||
      !(variance[0] > 0)) {
    return InvalidArgument("the adapter must have 1 to " + std::to_string(kMostPromptCoordinates) +
                           " prompt_coordinates and a prompt_variance above 0");
  }
  const PromptProjection out{static_cast<int64_t>(form[0]), static_cast<int64_t>(form[1]),
                             static_cast<int64_t>(coordinates.size()), static_cast<double>(form[2])};
  if (out.tokens * out.size > kMostElements || out.tokens * out.size * out.dimensions > kMostTerms) {
    return InvalidArgument("the adapter's prompt has more elements or coordinates than can be computed");
  }
  return out;
}

std::vector<float> PromptProjection::Prompt(std::span<const float> coordinates) const {
  static const uint64_t stream = zo::ParameterStream(kPrompt);
  std::vector<float> prompt(static_cast<size_t>(tokens * size), 0.0F);
  const double by = scale / std::sqrt(static_cast<double>(dimensions));
  std::vector<zo::Step> steps = {{0, kDeviation}};
  for (size_t j = 0; j < coordinates.size(); ++j) {
    if (coordinates[j] != 0) steps.push_back({j + 1, static_cast<float>(by * static_cast<double>(coordinates[j]))});
  }
  zo::AddDirections(zo::Distribution::kNormal, stream, steps, 0, prompt);
  return prompt;
}

StateDict PromptProjection::InitialModel(double sigma) const {
  const std::array<float, 3> form = {static_cast<float>(tokens), static_cast<float>(size), static_cast<float>(scale)};
  const std::array<float, 1> variance = {static_cast<float>(sigma * sigma)};
  const std::vector<float> zeros(static_cast<size_t>(dimensions), 0.0F);
  StateDict out;
  out.emplace(kPromptCoordinates, Tensor::FromFloats({dimensions}, zeros));
  out.emplace(kPromptVariance, Tensor::FromFloats({1}, variance));
  out.emplace(kPromptProjection, Tensor::FromFloats({3}, form));
  return out;
}

Result<StateDict> WithPrompt(StateDict model) {
  if (PromptGenerator::IsIn(model)) {
    if (PromptProjection::IsIn(model))
      return InvalidArgument("the adapter has a prompt's generator and its coordinates");
    HEDDLE_ASSIGN_OR_RETURN(const PromptGenerator generator, PromptGenerator::Of(model));
    const std::vector<float> prompt = generator.Prompt(PromptGenerator::WeightsOf(model));
    for (const std::string_view name : {kPromptGenerator, kGeneratorInput, kGeneratorBias, kGeneratorOutput}) {
      model.erase(model.find(name));
    }
    model.insert_or_assign(std::string(kPrompt), Tensor::FromFloats({generator.tokens, generator.size}, prompt));
    return model;
  }
  if (!PromptProjection::IsIn(model)) return model;
  HEDDLE_ASSIGN_OR_RETURN(const PromptProjection projection, PromptProjection::Of(model));
  const std::vector<float> prompt = projection.Prompt(model.find(kPromptCoordinates)->second.values<float>());
  for (const std::string_view name : {kPromptCoordinates, kPromptVariance, kPromptProjection}) {
    model.erase(model.find(name));
  }
  model.insert_or_assign(std::string(kPrompt), Tensor::FromFloats({projection.tokens, projection.size}, prompt));
  return model;
}

}  // namespace heddle::peft
