// The folder that a simulation writes into. Thread-safety: one call at a time per folder.
#pragma once

#include <filesystem>

#include "common/status.h"

namespace heddle::simulator {

// Makes the folder, or clears it of an earlier simulation. Errors: kInvalidArgument where `out` is empty or holds
// something that no simulation wrote; what the file system says.
Status ClearOutput(const std::filesystem::path& out);

}  // namespace heddle::simulator
