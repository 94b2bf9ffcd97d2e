#include "model/quant/weight_type.h"

#include <array>
#include <utility>

#include "model/quant/blockwise.h"

namespace heddle::model {
namespace {

constexpr std::array kNames = {
    std::pair{std::string_view("float32"), WeightType::kFloat32},
    std::pair{std::string_view("bfloat16"), WeightType::kBfloat16},
    std::pair{std::string_view("int8"), WeightType::kInt8},
    std::pair{std::string_view("nf4"), WeightType::kNf4},
};

}  // namespace

Result<WeightType> WeightTypeFromName(std::string_view name) {
  if (name.empty()) return WeightType::kFloat32;
  std::string known;
  for (const auto& [text, type] : kNames) {
    if (text == name) return type;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  return InvalidArgument("there is no base_dtype '" + std::string(name) + "'; known are " + known);
}

std::string_view WeightTypeName(WeightType type) {
  for (const auto& [text, known] : kNames) {
    if (known == type) return text;
  }
  return "float32";
}

std::vector<std::string> WeightTypeNames() {
  std::vector<std::string> names;
  for (const auto& [text, type] : kNames) names.emplace_back(text);
  return names;
}

double BytesPerWeight(WeightType type) {
  switch (type) {
    case WeightType::kFloat32:
      return 4;
    case WeightType::kBfloat16:
      return 2;
    case WeightType::kInt8:
      return 1 + 4.0 / kInt8Block;
    case WeightType::kNf4:
      return 0.5 + (1 + 4.0 / kScaleGroup) / kNf4Block;
  }
  return 4;
}

}  // namespace heddle::model
