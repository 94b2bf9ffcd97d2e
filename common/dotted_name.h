// Names of modules and tensors, "model.layers.0.mlp": components between dots. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace heddle {

// Whether the components of `name` stand in `path` one after the other: "classifier", "layers.0". Nothing has those of
// an empty name.
bool HasComponents(std::string_view path, std::string_view name);

// The first component that is a number ("h.12.attn": 12): of parameters, their layer. Nothing when there is none.
std::optional<uint32_t> FirstNumber(std::string_view name);

}  // namespace heddle
