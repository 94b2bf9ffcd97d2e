// Updates for tests: values from a counter-based stream, and a shuffle that depends on its seed only.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "aggregation/aggregator.h"
#include "common/random.h"

namespace heddle::aggregation {

using Shapes = std::vector<std::pair<std::string, Shape>>;

// Values uniform on [-max_abs, max_abs).
inline StateDict RandomUpdate(const Shapes& shapes, uint64_t seed, float max_abs = 1.0F) {
  const PhiloxStream random(seed);
  StateDict update;
  uint64_t index = 0;
  for (const auto& [name, shape] : shapes) {
    std::vector<float> values(static_cast<size_t>(*NumElements(shape)));
    for (float& value : values) value = (2 * random.UniformAt(index++) - 1) * max_abs;
    update.emplace(name, Tensor::FromFloats(shape, values));
  }
  return update;
}

// One tensor "x" of these values.
inline StateDict Single(const std::vector<float>& values) {
  StateDict update;
  update.emplace("x", Tensor::FromFloats({static_cast<int64_t>(values.size())}, values));
  return update;
}

template <typename T>
void Shuffle(std::vector<T>* items, uint64_t seed) {
  PhiloxStream random(seed);
  for (size_t i = items->size(); i > 1; --i) {
    std::swap((*items)[i - 1], (*items)[random.NextBelow(static_cast<uint32_t>(i))]);
  }
}

}  // namespace heddle::aggregation
