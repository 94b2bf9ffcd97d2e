#include "peft/adapter/prompt_generator.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "zo_optim/direction/direction.h"

namespace heddle::peft {
namespace {

constexpr int64_t kMostGeneratedElements = int64_t{1} << 24, kMostProducts = int64_t{1} << 34;
constexpr float kStartDeviation = 0.02F;  // as of prompt_projection.h

// The C library's differs from machine to machine in its last bit. Within 1e-15.
double Tanh(double x) {
  if (!(std::abs(x) < 20)) return x < 0 ? -1 : 1;
  constexpr double kLn2 = 0.6931471805599453;
  const double halvings = std::floor(2 * x / kLn2 + 0.5), rest = 2 * x - halvings * kLn2;
  double series = 1;
  for (int k = 15; k >= 1; --k) series = 1 + rest * series / k;
  const double power = std::ldexp(series, static_cast<int>(halvings));  // e^(2x)
  return (power - 1) / (power + 1);
}

Result<std::span<const float>> FiniteValues(const StateDict& model, std::string_view name, size_t rank) {
  const auto found = model.find(name);
  if (found == model.end()) return InvalidArgument("the adapter has no tensor '" + std::string(name) + "'");
  const Tensor& tensor = found->second;
  if (tensor.dtype() != DType::kF32 || tensor.shape().size() != rank) {
    return InvalidArgument("the adapter's tensor '" + std::string(name) + "' is " + tensor.spec().ToString() +
                           "; it must be F32 with " + std::to_string(rank) +
                           (rank == 1 ? " dimension" : " dimensions"));
  }
  const std::span<const float> values = tensor.values<float>();
  if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
    return InvalidArgument("the adapter's tensor '" + std::string(name) + "' has a value that is not finite");
  }
  return values;
}

std::vector<float> NormalDirection(std::string_view parameter, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  zo::FillDirection({zo::Distribution::kNormal, 0, zo::ParameterStream(parameter)}, 0, out);
  return out;
}

// `rows` times a vector, and a summand a row.
void Affine(std::span<const float> rows, std::span<const float> by, std::span<const float> plus,
            std::span<double> out) {
  for (size_t j = 0; j < out.size(); ++j) {
    double sum = 0;
    for (size_t c = 0; c < by.size(); ++c) {
      sum += static_cast<double>(rows[j * by.size() + c]) * static_cast<double>(by[c]);
    }
    out[j] = sum + static_cast<double>(plus[j]);
  }
}

double Product(std::span<const float> row, std::span<const double> by) {
  double sum = 0;
  for (size_t j = 0; j < by.size(); ++j) sum += static_cast<double>(row[j]) * by[j];
  return sum;
}

}  // namespace

Result<PromptGenerator> PromptGenerator::Of(const StateDict& model) {
  HEDDLE_ASSIGN_OR_RETURN(const std::span<const float> form, FiniteValues(model, kPromptGenerator, 1));
  HEDDLE_RETURN_IF_ERROR(FiniteValues(model, kGeneratorInput, 2).status());
  HEDDLE_RETURN_IF_ERROR(FiniteValues(model, kGeneratorBias, 1).status());
  HEDDLE_RETURN_IF_ERROR(FiniteValues(model, kGeneratorOutput, 2).status());
  if (form.size() != 2 || !(form[0] >= 1 && form[0] <= 4096) || form[0] != std::floor(form[0]) ||
      !(form[1] > 0 && form[1] < 1e9F)) {
    return InvalidArgument("the adapter's tensor '" + std::string(kPromptGenerator) +
                           "' must hold the number of virtual tokens and a scale above 0");
  }
  const Shape &input = model.find(kGeneratorInput)->second.shape(), &bias = model.find(kGeneratorBias)->second.shape(),
              &output = model.find(kGeneratorOutput)->second.shape();
  const PromptGenerator out{static_cast<int64_t>(form[0]), output[0], input[1], input[0], static_cast<double>(form[1])};
  if (bias[0] != out.width || output[1] != out.width) {
    return InvalidArgument("the adapter's prompt generator does not fit together: its tensors are for " +
                           std::to_string(out.width) + ", " + std::to_string(bias[0]) + " and " +
                           std::to_string(output[1]) + " units");
  }
  const bool counts = out.size >= 1 && out.inputs >= 1 && out.width >= 1;
  if (!counts || out.inputs > kMostGeneratorWidth || out.width > kMostGeneratorWidth || out.size > 1 << 20 ||
      out.tokens * out.size > kMostGeneratedElements ||
      out.tokens * out.width * (out.inputs + out.size) > kMostProducts) {
    return InvalidArgument("the adapter's prompt generator must have 1 to " + std::to_string(kMostGeneratorWidth) +
                           " inputs and units, and a prompt that can be computed");
  }
  return out;
}

PromptGenerator::Weights PromptGenerator::WeightsOf(const StateDict& model) {
  return {model.find(kGeneratorInput)->second.values<float>(), model.find(kGeneratorBias)->second.values<float>(),
          model.find(kGeneratorOutput)->second.values<float>()};
}

std::vector<float> PromptGenerator::Prompt(const Weights& at) const {
  const std::vector<float> codes = NormalDirection("prompt_codes", tokens * inputs);
  std::vector<float> prompt = NormalDirection("prompt_embeddings", tokens * size);
  const auto units = static_cast<size_t>(width), by = static_cast<size_t>(inputs), row = static_cast<size_t>(size);
  const double factor = scale / std::sqrt(static_cast<double>(width));
  std::vector<double> hidden(units);
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
    Affine(at.input, std::span(codes).subspan(t * by, by), at.bias, hidden);
    for (double& one : hidden) one = Tanh(one);
    for (size_t i = 0; i < row; ++i) {
      float& element = prompt[t * row + i];
      const double start = static_cast<double>(kStartDeviation * element);
      element = static_cast<float>(start + factor * Product(at.output.subspan(i * units, units), hidden));
    }
  }
  return prompt;
}

std::vector<float> PromptGenerator::Along(const Weights& at, const Weights& way) const {
  const std::vector<float> codes = NormalDirection("prompt_codes", tokens * inputs);
  std::vector<float> out(static_cast<size_t>(tokens * size));
  const auto units = static_cast<size_t>(width), by = static_cast<size_t>(inputs), row = static_cast<size_t>(size);
  const double factor = scale / std::sqrt(static_cast<double>(width));
  std::vector<double> hidden(units), moved(units);
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
    const std::span<const float> code = std::span(codes).subspan(t * by, by);
    Affine(at.input, code, at.bias, hidden);
    Affine(way.input, code, way.bias, moved);
    for (size_t j = 0; j < units; ++j) {
      hidden[j] = Tanh(hidden[j]);
      moved[j] *= 1 - hidden[j] * hidden[j];
    }
    for (size_t i = 0; i < row; ++i) {
      const double sum =
          Product(way.output.subspan(i * units, units), hidden) + Product(at.output.subspan(i * units, units), moved);
      out[t * row + i] = static_cast<float>(factor * sum);
    }
  }
  return out;
}

StateDict PromptGenerator::InitialModel(uint64_t seed) const {
  const std::array<float, 2> form = {static_cast<float>(tokens), static_cast<float>(scale)};
  std::vector<float> input(static_cast<size_t>(width * inputs)), bias(static_cast<size_t>(width)),
      output(static_cast<size_t>(size * width));
  zo::FillDirection({zo::Distribution::kNormal, seed, zo::ParameterStream(kGeneratorInput)}, 0, input);
  const auto deviation = static_cast<float>(1 / std::sqrt(static_cast<double>(inputs)));
  for (float& value : input) value *= deviation;
  StateDict out;
  out.emplace(kPromptGenerator, Tensor::FromFloats({2}, form));
  out.emplace(kGeneratorInput, Tensor::FromFloats({width, inputs}, input));
  out.emplace(kGeneratorBias, Tensor::FromFloats({width}, bias));
  out.emplace(kGeneratorOutput, Tensor::FromFloats({size, width}, output));
  return out;
}

}  // namespace heddle::peft
