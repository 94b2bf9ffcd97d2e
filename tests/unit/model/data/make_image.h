// PNG and JPEG files for tests and fuzz seeds, written by the libraries that read them.
#pragma once

// clang-format off
#include <cstddef>
#include <cstdio>   // jpeglib.h wants FILE
#include <jpeglib.h>
#include <png.h>
#include <zlib.h>
// clang-format on

#include <cstdlib>
#include <cstring>
#include <string>

#include "model/data/image.h"

namespace heddle::model {

// Of 1, 3 or 4 channels. Empty when libpng fails.
inline std::string EncodePng(const Image& image) {
  png_image png;
  std::memset(&png, 0, sizeof png);
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = image.channels == 1 ? PNG_FORMAT_GRAY : image.channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_RGBA;
  std::string file(1024 + 2 * image.pixels.size(), '\0');
  png_alloc_size_t size = file.size();
  if (png_image_write_to_memory(&png, file.data(), &size, 0, image.pixels.data(), 0, nullptr) == 0) return {};
  file.resize(size);
  return file;
}

// Of 1, 3 or 4 channels, four being inks (CMYK).
inline std::string EncodeJpeg(const Image& image, int quality = 95) {
  jpeg_compress_struct jpeg;
  jpeg_error_mgr errors;
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &bytes, &size);
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = static_cast<int>(image.channels);
  jpeg.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : image.channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    auto* row = const_cast<unsigned char*>(image.pixels.data()) +
                static_cast<size_t>(jpeg.next_scanline) * static_cast<size_t>(image.width * image.channels);
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  std::string file(reinterpret_cast<char*>(bytes), size);
  jpeg_destroy_compress(&jpeg);
  std::free(bytes);
  return file;
}

// A PNG file written without libpng, of any kind that there is. `rows`: each a filter byte (0: none) and the samples.
// `between`: chunks between the head and the pixels.
struct RawPng {
  uint32_t width = 1, height = 1;
  char bits = 8, colour_type = 2;
  std::string rows, between;

  static std::string Number(uint32_t value) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
    return bytes;
  }
  static std::string Chunk(const std::string& type, const std::string& content) {
    const std::string body = type + content;
    const auto* bytes = reinterpret_cast<const Bytef*>(body.data());
    return Number(static_cast<uint32_t>(content.size())) + body +
           Number(static_cast<uint32_t>(::crc32(0, bytes, static_cast<uInt>(body.size()))));
  }
  std::string File() const {
    uLongf size = ::compressBound(rows.size());
    std::string packed(size, '\0');
    ::compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(rows.data()),
               rows.size());
    packed.resize(size);
    const std::string kind = {bits, colour_type, 0, 0, 0};
    return "\x89PNG\r\n\x1a\n" + Chunk("IHDR", Number(width) + Number(height) + kind) + between +
           Chunk("IDAT", packed) + Chunk("IEND", "");
  }
};

// A picture whose every pixel is another.
inline Image Gradient(int64_t height, int64_t width, int64_t channels) {
  Image image{height, width, channels, {}};
  for (int64_t i = 0; i < height * width * channels; ++i) image.pixels.push_back(static_cast<uint8_t>(i * 37 + i / 11));
  return image;
}

}  // namespace heddle::model
