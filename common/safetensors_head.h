// The beginning of a safetensors file, up to its first tensor's bytes: for who writes or hashes a file piece by piece.
#pragma once

#include <map>
#include <string>

#include "common/state_dict.h"

namespace heddle {

// Length and header, padded, of what SerializeSafetensors would write for tensors of these names, dtypes and shapes,
// whose bytes follow in the same order. The shapes must be countable, the names as there (asserted). Thread-safe.
std::string SafetensorsHead(const StateDictSpec& tensors,
                            const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace heddle
