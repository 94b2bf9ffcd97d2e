// A byte that says how, then any bytes as an image file: refused, or an image of the size that was asked for, which is
// the same when it is written and read again.
#include "model/data/image.h"

#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/model/data/make_image.h"

using heddle::fuzz::Require;
using namespace heddle::model;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  const uint8_t how = input.TakeByte();
  ImageShape shape{(how & 1) != 0 ? 1 : 3, 0, 0};
  if ((how & 2) != 0) shape.height = 8;
  if ((how & 4) != 0) shape.width = 8;
  // A damaged length makes a wide image, legal but slow: without a size, only what a head of sane extents says.
  if ((how & 6) != 6 && size > 30 && input.rest()[16] + input.rest()[17] + input.rest()[20] + input.rest()[21] != 0 &&
      input.rest().starts_with("\x89PNG")) {
    return 0;
  }
  const auto image = DecodeImage(input.rest(), shape);
  if (!image.ok()) {
    Require(!image.status().message().empty(), "a refusal says why");
    return 0;
  }
  Require(CheckImage(*image, shape).ok(), "the image is what was asked for");
  Require(image->pixels.size() == static_cast<size_t>(image->height * image->width * image->channels), "all of it");
  if (image->pixels.size() > size_t{1} << 16) return 0;
  const auto again = DecodeImage(EncodePng(*image), shape);
  Require(again.ok() && *again == *image, "written and read again it is the same");
  std::vector<float> values(image->pixels.size());
  const double mean[] = {0.5, 0.5, 0.5}, std[] = {0.25, 0.25, 0.25};
  const auto channels = static_cast<size_t>(image->channels);
  NormalizeImage(*image, std::span(mean).first(channels), std::span(std).first(channels), values);
  for (const float value : values) Require(value >= -2 && value <= 2, "values are in range");
  return 0;
}
