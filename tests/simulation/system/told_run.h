// What the folder of an ended run must tell people: every attempt once, in order, the model of every round, the end.
// Pure functions of the files; thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "coordinator/engine/types.h"

namespace heddle::system_simulation {

// `rounds`: all attempts, as they are stored. `model_is_adapter`: a round's model is its checkpoint's file to the byte.
// Returns the first mistake, or nothing.
std::optional<std::string> MistakeInFolder(const std::filesystem::path& folder, const coordinator::RunRecord& run,
                                           std::span<const coordinator::RoundRecord> rounds, bool model_is_adapter);

}  // namespace heddle::system_simulation
