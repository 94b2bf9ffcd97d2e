// A decoded picture, PNG and JPEG to it (libpng, libjpeg), and from it to a model's numbers.
// Pure functions: thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::model {

// 8 bits a channel, row by row, the channels of a pixel side by side.
struct Image {
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> pixels;  // height * width * channels
  bool operator==(const Image&) const = default;
};

// What is wanted of a picture's file.
struct ImageShape {
  int64_t channels = 3;           // 1 (grey) or 3 (red, green, blue); a decoded file is converted
  int64_t height = 0, width = 0;  // 0: any
};

constexpr int64_t kMaxImagePixels = int64_t{1} << 26;  // of one decoded image

// By the first bytes. The pixels are those of Pillow's convert("RGB") and convert("L"), which models were trained on:
// alpha is left out, gamma and colour profiles are not looked at, colours become grey by their luminance (ITU-R 601)
// where shape.channels is 1. Of 16 bits the high 8 are taken (of grey ones Pillow makes 255 of all above 255).
// The size is checked before anything is decoded. Errors: kInvalidArgument: neither PNG nor JPEG, damaged or cut short
// (what the library says), more than kMaxImagePixels, of another size than `shape` (both sizes); other channels
// than 1 or 3 are asked for.
Result<Image> DecodeImage(std::string_view file, const ImageShape& shape);

// Ok when `image` has the channels and size of `shape`.
Status CheckImage(const Image& image, const ImageShape& shape);

// value = (byte / 255 - mean[channel]) / std[channel], written channel by channel (C, H, W). mean and std have a value
// a channel; out has height * width * channels.
void NormalizeImage(const Image& image, std::span<const double> mean, std::span<const double> std,
                    std::span<float> out);

}  // namespace heddle::model
