// A recipe's [simulation] as a split of its examples over its devices.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "coordinator/recipe/recipe.h"
#include "simulator/partition/split.h"

namespace heddle::simulator {

// What WriteSplit takes, from a recipe with source "split". Labels are numbered as the base model names them, where the
// recipe does not say otherwise. Errors: those of model::ReadModelConfig.
Result<SplitOptions> SplitOptionsOf(const coordinator::Recipe& recipe);

// Writes it. Errors: as well those of WriteSplit.
Result<Split> SplitOfRecipe(const coordinator::Recipe& recipe, const std::filesystem::path& folder);

}  // namespace heddle::simulator
