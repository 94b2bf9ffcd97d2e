// config.json to ModelSpec: looks the architecture up and lets its file (model/architectures) read the rest. Free of
// LibTorch. Thread-safe (no state).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"

namespace heddle::model {

// Checks ranges and relations too. Unknown keys are ignored; what would change the numbers and is not supported is
// refused by name. The architecture is the first of "architectures", or, where that is absent, the causal one of
// "model_type". Errors: kInvalidArgument; kUnimplemented, with the architectures that are known.
Result<ModelSpec> ParseModelConfig(std::string_view json);

// ParseModelConfig on the folder's config.json; the folder stands before the message. Errors: as above, and those of
// ReadFile.
Result<ModelSpec> ReadModelConfig(const std::filesystem::path& folder);

// The tokens that end a text of the folder's model: those of its config.json and, as instruct models have more there,
// of generation_config.json if it is there. No two are the same. Errors: kInvalidArgument; those of ReadFile.
Result<std::vector<int64_t>> ReadEndTokens(const std::filesystem::path& folder, const ModelSpec& spec);

// In the order of the table.
std::vector<std::string> KnownArchitectures();

}  // namespace heddle::model
