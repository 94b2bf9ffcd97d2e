// Images in another size, to the bit as Pillow's Image.resize gives them, which Hugging Face's image processors use: so
// every device sees the same pixels, those that a model was trained on. Pure functions: thread-safe.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "model/data/image.h"

namespace heddle::model {

// The filter is widened by the factor of a reduction, so that no pixel is passed over.
enum class ResizeFilter : uint8_t { kBilinear, kBicubic };  // cubic: Keys, 1981, with a = -1/2

// First along rows, then along columns, rounded to bytes after each. height and width: from 1 to kMaxImageSize
// (model_spec.h). Errors: kInvalidArgument: an image without pixels, or so long that its rows alone, resized, would
// have more than kMaxImagePixels.
Result<Image> ResizeImage(const Image& image, int64_t height, int64_t width, ResizeFilter filter);

// The middle, one more row or column at the front left out where that is not whole. Errors: kInvalidArgument: the image
// is smaller.
Result<Image> CropCentre(const Image& image, int64_t height, int64_t width);

}  // namespace heddle::model
