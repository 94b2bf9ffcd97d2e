// How the frozen weights of a base model are kept, by the names that recipes and plans use. Free of LibTorch.
// Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::model {

enum class WeightType : uint8_t {
  kFloat32,   // "float32"
  kBfloat16,  // "bfloat16"
  kInt8,      // "int8": matrices of linear layers, but not the head's, in blocks (blockwise.h); the rest in float32
  kNf4,       // "nf4": the same in 4 bits
};

// An empty name is "float32", the default. Errors: kInvalidArgument that lists the known names.
Result<WeightType> WeightTypeFromName(std::string_view name);
std::string_view WeightTypeName(WeightType type);
std::vector<std::string> WeightTypeNames();  // the default first

// Bytes a weight, with the scales of its block.
double BytesPerWeight(WeightType type);

}  // namespace heddle::model
