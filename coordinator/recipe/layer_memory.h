// What a task of so many layers takes of a device's memory, for runs whose devices get as many as theirs allows.
// Internal to the room. A pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/recipe/recipe.h"
#include "model/config/model_spec.h"

namespace heddle::coordinator {

// For 1, 2, .. all layers the bytes that a device needs: the estimate that its worker holds its limit against
// (peft/adapter/memory_need.h), and what the worker takes beside. `initial`: the first adapter. A number of layers of
// which none is tuned is beyond any memory. Empty: the recipe does not ask for memory. Errors: kInvalidArgument: no
// layer is tuned at all.
Result<std::vector<uint64_t>> LayerMemory(const Recipe& recipe, const model::ModelSpec& base, const StateDict& initial);

}  // namespace heddle::coordinator
