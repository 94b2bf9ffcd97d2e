// Which weights an adapter was made for: base_model.json beside the two files of PEFT's layout. PEFT does not look at
// it (a key of our own in adapter_config.json would keep its older versions from loading the adapter). Free of
// LibTorch.
//   {"weights": [{"name": "model.safetensors", "sha256": "<64 hex digits>"}, …]}
// Thread-safety: pure functions but for the files.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "common/status.h"

namespace heddle::peft {

inline constexpr const char* kBaseModelFile = "base_model.json";

// Names of files and their digests; weights are those that a base model's folder has (config.json may differ: heads).
using BaseWeightFiles = std::vector<std::pair<std::string, Sha256Digest>>;

// The file's text.
std::string BaseModelJson(const BaseWeightFiles& weights);

// Ok when the adapter's folder says nothing of its base, or `base` has files of these names with these digests; reads
// them whole. Errors: kInvalidArgument when it has not (two models of one architecture have the same shapes, and an
// adapter of one makes nonsense of the other), or the file is damaged; those of reading.
Status CheckBaseModel(const std::filesystem::path& adapter, const std::filesystem::path& base);

}  // namespace heddle::peft
