// A secret that a device makes for itself and never sends: what noise on what it sends comes from.
//
// Thread-safety: calls on one file must not overlap (a daemon holds its state folder alone).
#pragma once

#include <filesystem>
#include <string>

#include "common/status.h"

namespace heddle::client {

// The secret in `file`, 64 hex digits; made from the system's random numbers, readable by its owner only, when there is
// no such file. It must outlive crashes: a task that is done again with another secret would send its update with other
// noise. Errors: those of files; kDataLoss for a file that holds something else, which is never used and never
// replaced.
Result<std::string> DeviceSecret(const std::filesystem::path& file);

}  // namespace heddle::client
