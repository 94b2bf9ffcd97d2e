#include "aggregation/figures.h"

#include <array>

#include "aggregation/device_rules.h"

namespace heddle::aggregation {

void SetFigure(std::string_view name, double value, StateDict* model) {
  const std::array<float, 1> values = {static_cast<float>(value)};
  model->insert_or_assign(std::string(kFigurePrefix) + std::string(name), Tensor::FromFloats({1}, values));
}

std::vector<std::pair<std::string, double>> FiguresOf(const StateDict& model) {
  std::vector<std::pair<std::string, double>> found;
  for (auto it = model.lower_bound(kFigurePrefix); it != model.end() && it->first.starts_with(kFigurePrefix); ++it) {
    if (it->second.spec() != TensorSpec{DType::kF32, {1}}) continue;
    found.emplace_back(it->first.substr(kFigurePrefix.size()), it->second.values<float>()[0]);
  }
  return found;
}

void EraseFigures(StateDict* model) {
  std::erase_if(*model, [](const auto& item) { return item.first.starts_with(kFigurePrefix); });
}

}  // namespace heddle::aggregation
