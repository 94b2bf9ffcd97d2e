// `heddle model merge`: an adapter in the weights of its base model, as a model's folder of its own.
#pragma once

#include <filesystem>

#include "common/status.h"

namespace heddle::client {

// Writes the model in `folder` with what the adapter in PEFT's layout in `adapter` changes as the new folder `out`: its
// weights in float32, its tokenizer, and config.json (last: without it the folder is no model). A whole layer that the
// adapter trained stands there as it was trained. Errors: kAlreadyExists when `out` holds something; kInvalidArgument
// for an adapter of another base (base_model.json beside it), one that does not fit, and one that no weight can express
// (virtual tokens, networks beside the layers); those of the readers and the disk.
Status MergeModel(const std::filesystem::path& folder, const std::filesystem::path& adapter,
                  const std::filesystem::path& out);

}  // namespace heddle::client
