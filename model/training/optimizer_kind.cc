#include "model/training/optimizer_kind.h"

#include <array>
#include <utility>

namespace heddle::model {
namespace {

constexpr std::array kNames = {std::pair{std::string_view("AdamW"), OptimizerKind::kAdamW},
                               std::pair{std::string_view("AdamW8bit"), OptimizerKind::kAdamW8bit},
                               std::pair{std::string_view("SGD"), OptimizerKind::kSgd}};

}  // namespace

Result<OptimizerKind> OptimizerKindFromName(std::string_view name) {
  if (name.empty()) return OptimizerKind::kAdamW;
  std::string known;
  for (const auto& [text, kind] : kNames) {
    if (text == name) return kind;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  return InvalidArgument("there is no optimizer '" + std::string(name) + "'; known are " + known);
}

std::vector<std::string> OptimizerNames() {
  std::vector<std::string> names;
  for (const auto& [text, kind] : kNames) names.emplace_back(text);
  return names;
}

double StateBytesPerParameter(OptimizerKind kind, double momentum) {
  switch (kind) {
    case OptimizerKind::kAdamW:
      return 8;
    case OptimizerKind::kAdamW8bit:
      return 2;
    case OptimizerKind::kSgd:
      return momentum > 0 ? 4 : 0;
  }
  return 0;
}

}  // namespace heddle::model
