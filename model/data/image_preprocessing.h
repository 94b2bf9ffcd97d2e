// How a model wants its pixels: preprocessor_config.json, as Hugging Face's ViTImageProcessor and DeiTImageProcessor
// read it. Free of LibTorch. Thread-safe (no state).
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "model/data/image.h"
#include "model/data/image_resize.h"

namespace heddle::model {

// Resized, the middle cut out, value = (byte / 255 - mean) / std, a mean and a deviation for each channel.
struct ImagePreprocessing {
  struct Size {
    int64_t height = 0, width = 0;
    bool operator==(const Size&) const = default;
  };
  std::optional<Size> resize, crop;
  ResizeFilter filter = ResizeFilter::kBilinear;
  std::vector<double> mean, std;  // a "rescale_factor" other than 1/255 is counted in

  // What images may be before: of any size, if that changes here, else of the model's.
  ImageShape Takes(const PatchSpec& patches) const;
  // An image of the model's size. Errors: those of ResizeImage and CropCentre.
  Result<Image> Resized(Image image) const;
};

// A preprocessor_config.json for this model: "do_resize", "size" (a number, or height and width), "resample",
// "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean" and "image_std" (a number
// each or a list of one a channel). What is not there is as in the processor that "image_processor_type" (or
// "feature_extractor_type") names, else the model's own:
//
//   ViT    resized to 224 x 224 (where the model takes another size: to that), bilinear
//   DeiT   resized to 256 x 256, bicubic; the middle 224 x 224 of it
//   both   divided by 255, mean and deviation 0.5
//
// What would change the numbers and is not done is refused by name: other processors, other filters, padding, a crop of
// ViT, sizes by the shortest edge, a result of another size than the model's. Errors: kInvalidArgument, kUnimplemented.
Result<ImagePreprocessing> ParseImagePreprocessing(std::string_view json, const ModelSpec& spec);

// From the folder's preprocessor_config.json. Where there is none, images come in the model's size, and "image_mean",
// "image_std", "do_rescale" and "do_normalize" of its config.json count. Errors: as above with the file's name, and
// those of ReadFile.
Result<ImagePreprocessing> ReadImagePreprocessing(const std::filesystem::path& folder, const ModelSpec& spec);

}  // namespace heddle::model
