// Any bytes as preprocessor_config.json: refused with a reason, or means and deviations that can be used and an image
// of the model's size.
#include <cmath>

#include "model/data/image_preprocessing.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const int64_t channels : {1, 3}) {
    heddle::model::ModelSpec spec;
    spec.architecture = channels == 1 ? "ViTForImageClassification" : "DeiTForImageClassification";
    spec.patches.channels = channels;
    spec.patches.image_size = 28;
    const auto parsed = heddle::model::ParseImagePreprocessing({reinterpret_cast<const char*>(data), size}, spec);
    if (!parsed.ok()) {
      Require(!parsed.status().message().empty(), "a refusal says why");
      continue;
    }
    Require(parsed->mean.size() == static_cast<size_t>(channels), "a mean a channel");
    Require(parsed->std.size() == static_cast<size_t>(channels), "a deviation a channel");
    for (const double mean : parsed->mean) Require(std::isfinite(mean), "means are finite");
    for (const double std : parsed->std) Require(std::isfinite(std) && std > 0, "deviations are positive");
    if (parsed->resize && parsed->resize->height * parsed->resize->width > 1 << 16) continue;  // right, but slow
    const heddle::model::ImageShape shape = parsed->Takes(spec.patches);
    heddle::model::Image image{shape.height > 0 ? 28 : 9, shape.width > 0 ? 28 : 5, channels, {}};
    image.pixels.resize(static_cast<size_t>(image.height * image.width * channels), 7);
    const auto resized = parsed->Resized(image);
    if (!parsed->resize && parsed->crop) continue;  // it is smaller than what is cut out
    Require(resized.ok() && resized->height == 28 && resized->width == 28, "the model's size");
    Require(resized->pixels.size() == static_cast<size_t>(28 * 28 * channels), "all of it");
  }
  return 0;
}
