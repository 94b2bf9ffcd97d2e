// How a model wants its pixels: preprocessor_config.json, or config.json with the same keys. Free of LibTorch.
// Thread-safe (no state).
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::model {

// value = (byte / 255 - mean) / std, a mean and a deviation for each channel.
struct ImagePreprocessing {
  std::vector<double> mean, std;
};

// "image_mean" and "image_std" (a number each or a list of one a channel; 0.5 where they are not there, as in Hugging
// Face's ViT), unless "do_normalize" is false. What would change the numbers and is not done is refused: "do_rescale"
// false, or a "rescale_factor" other than 1/255. Sizes are not looked at: images come in the model's own. Errors:
// kInvalidArgument, kUnimplemented.
Result<ImagePreprocessing> ParseImagePreprocessing(std::string_view json, int64_t channels);

// From the folder's preprocessor_config.json, else its config.json. Errors: as above with the file's name, and those of
// ReadFile.
Result<ImagePreprocessing> ReadImagePreprocessing(const std::filesystem::path& folder, int64_t channels);

}  // namespace heddle::model
