#include "model/data/image_resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/assert.h"
#include "model/config/model_spec.h"

namespace heddle::model {
namespace {

// Weights are whole numbers of 2^-22, as Pillow's: what is left of 32 bits beside a byte and two bits of overshoot.
constexpr int kWeightBits = 22;

double Weight(ResizeFilter filter, double x) {
  x = std::abs(x);
  if (filter == ResizeFilter::kBilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// What one value of the result is made of: weights of the values from `begin` on. Made anew for each, so that a long
// row needs no more memory than its own filter.
class Kernel {
 public:
  Kernel(int64_t from, int64_t to, ResizeFilter filter)
      : from_(from), scale_(static_cast<double>(from) / static_cast<double>(to)), filter_(filter) {}

  void MoveTo(int64_t index) {
    const double widening = std::max(scale_, 1.0), inverse = 1.0 / widening;
    const double reach = (filter_ == ResizeFilter::kBilinear ? 1.0 : 2.0) * widening;
    const double centre = (static_cast<double>(index) + 0.5) * scale_;
    begin_ = std::max<int64_t>(static_cast<int64_t>(centre - reach + 0.5), 0);
    const int64_t end = std::min(static_cast<int64_t>(centre + reach + 0.5), from_);
    real_.clear();
    double sum = 0;
    for (int64_t i = begin_; i < end; ++i) {
      real_.push_back(Weight(filter_, (static_cast<double>(i) - centre + 0.5) * inverse));
      sum += real_.back();
    }
    weights_.clear();
    for (const double weight : real_) {
      const double scaled = (sum != 0 ? weight / sum : weight) * (1 << kWeightBits);
      weights_.push_back(static_cast<int64_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }

  // `values`: the row's or column's first value; `stride`: from one to the next.
  uint8_t Apply(const uint8_t* values, int64_t stride) const {
    int64_t sum = 1 << (kWeightBits - 1);
    const uint8_t* at = values + begin_ * stride;
    for (const int64_t weight : weights_) {
      sum += weight * *at;
      at += stride;
    }
    return static_cast<uint8_t>(std::clamp<int64_t>(sum >> kWeightBits, 0, 255));
  }

 private:
  int64_t from_;
  double scale_;
  ResizeFilter filter_;
  int64_t begin_ = 0;
  std::vector<double> real_;
  std::vector<int64_t> weights_;
};

Image WithWidth(const Image& image, int64_t width, ResizeFilter filter) {
  Image out{image.height, width, image.channels, {}};
  out.pixels.resize(static_cast<size_t>(out.height * width * out.channels));
  Kernel kernel(image.width, width, filter);
  for (int64_t x = 0; x < width; ++x) {
    kernel.MoveTo(x);
    for (int64_t y = 0; y < image.height; ++y) {
      const uint8_t* row = image.pixels.data() + y * image.width * image.channels;
      uint8_t* pixel = out.pixels.data() + (y * width + x) * out.channels;
      for (int64_t c = 0; c < image.channels; ++c) pixel[c] = kernel.Apply(row + c, image.channels);
    }
  }
  return out;
}

Image WithHeight(const Image& image, int64_t height, ResizeFilter filter) {
  Image out{height, image.width, image.channels, {}};
  const int64_t row = image.width * image.channels;
  out.pixels.resize(static_cast<size_t>(height * row));
  Kernel kernel(image.height, height, filter);
  for (int64_t y = 0; y < height; ++y) {
    kernel.MoveTo(y);
    for (int64_t i = 0; i < row; ++i) {
      out.pixels[static_cast<size_t>(y * row + i)] = kernel.Apply(image.pixels.data() + i, row);
    }
  }
  return out;
}

}  // namespace

Result<Image> ResizeImage(const Image& image, int64_t height, int64_t width, ResizeFilter filter) {
  HEDDLE_ASSERT(height >= 1 && width >= 1 && height <= kMaxImageSize && width <= kMaxImageSize, "a size to resize to");
  if (image.height < 1 || image.width < 1) return InvalidArgument("the image has no pixels");
  if (image.height > kMaxImagePixels / width || width > kMaxImagePixels / height) {
    return InvalidArgument("the image is " + std::to_string(image.height) + " pixels high, which is too much to make " +
                           std::to_string(width) + " pixels wide: cut it before");
  }
  Image out = image.width == width ? image : WithWidth(image, width, filter);
  if (out.height != height) out = WithHeight(out, height, filter);
  return out;
}

Result<Image> CropCentre(const Image& image, int64_t height, int64_t width) {
  if (image.height < height || image.width < width) {
    return InvalidArgument("the image has " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                           " pixels, but " + std::to_string(width) + " x " + std::to_string(height) +
                           " are cut out of it");
  }
  Image out{height, width, image.channels, {}};
  const int64_t top = (image.height - height) / 2, left = (image.width - width) / 2;
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = image.pixels.data() + ((top + y) * image.width + left) * image.channels;
    out.pixels.insert(out.pixels.end(), row, row + width * image.channels);
  }
  return out;
}

}  // namespace heddle::model
