#include "model/data/image.h"

// clang-format off
#include <cstddef>
#include <cstdio>   // jpeglib.h wants FILE
#include <jpeglib.h>
#include <png.h>
// clang-format on

#include <csetjmp>
#include <cstring>
#include <new>
#include <string>

#include "common/assert.h"

namespace heddle::model {
namespace {

std::string Size(int64_t height, int64_t width) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels";
}

// Before decoding, so that a small file cannot ask for much memory.
Status CheckSize(int64_t height, int64_t width, const ImageShape& shape) {
  if ((shape.height > 0 && height != shape.height) || (shape.width > 0 && width != shape.width)) {
    return InvalidArgument("the image has " + Size(height, width) + ", but must have " +
                           Size(shape.height > 0 ? shape.height : height, shape.width > 0 ? shape.width : width) +
                           ": resize it");
  }
  if (height < 1 || width < 1) return InvalidArgument("the image has no pixels");
  if (height > kMaxImagePixels / width) {
    return InvalidArgument("the image has " + Size(height, width) + ", at most " + std::to_string(kMaxImagePixels) +
                           " pixels are read: resize it");
  }
  return OkStatus();
}

// libpng's way of failing is a function that may not return.
struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string_view rest;  // of the file
  char message[128] = "";
  PngReader() = default;
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void PngFailed(png_structp png, png_const_charp message) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof reader->message, "%s", message);
  png_longjmp(png, 1);
}

void PngWarned(png_structp, png_const_charp) {}  // of what no pixel depends on

void ReadPng(png_structp png, png_bytep out, size_t size) {
  auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (reader->rest.size() < size) png_error(png, "it is cut short");
  std::memcpy(out, reader->rest.data(), size);
  reader->rest.remove_prefix(size);
}

// The two calls into the library that may jump; no object with a destructor lives in them. False: reader->message.
//
// Samples become 8 bits (of 16 the high ones), palettes colours; alpha is left out. Nothing is done with gamma and
// colour profiles, since Pillow, whose pixels models were trained on, looks at neither.
bool PngHead(PngReader* reader) {
  if (setjmp(png_jmpbuf(reader->png)) != 0) return false;
  png_set_read_fn(reader->png, reader, ReadPng);
  png_read_info(reader->png, reader->info);
  png_set_expand(reader->png);
  png_set_strip_16(reader->png);
  png_set_strip_alpha(reader->png);
  return true;
}

bool PngBody(PngReader* reader, int passes, unsigned char* pixels, size_t height, size_t row_bytes) {
  if (setjmp(png_jmpbuf(reader->png)) != 0) return false;
  for (int pass = 0; pass < passes; ++pass) {
    for (size_t row = 0; row < height; ++row) png_read_row(reader->png, pixels + row * row_bytes, nullptr);
  }
  png_read_end(reader->png, nullptr);
  return true;
}

// In place. Luminance as in ITU-R 601, in the fixed-point form that libjpeg and Pillow share.
void ColoursToGrey(Image* image) {
  const size_t count = image->pixels.size() / 3;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* p = image->pixels.data() + 3 * i;
    image->pixels[i] = static_cast<uint8_t>((p[0] * 19595U + p[1] * 38470U + p[2] * 7471U + 32768U) >> 16);
  }
  image->pixels.resize(count);
  image->channels = 1;
}

Result<Image> DecodePng(std::string_view file, const ImageShape& shape) {
  PngReader reader;
  reader.rest = file;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, PngFailed, PngWarned);
  if (reader.png != nullptr) reader.info = png_create_info_struct(reader.png);
  if (reader.info == nullptr) return ResourceExhausted("there is not enough memory to decode the image");
  const auto damaged = [&reader] {
    return InvalidArgument("the PNG image is damaged: " + std::string(reader.message));
  };
  if (!PngHead(&reader)) return damaged();
  const auto width = static_cast<int64_t>(png_get_image_width(reader.png, reader.info));
  const auto height = static_cast<int64_t>(png_get_image_height(reader.png, reader.info));
  HEDDLE_RETURN_IF_ERROR(CheckSize(height, width, shape));
  const bool colours = (png_get_color_type(reader.png, reader.info) & PNG_COLOR_MASK_COLOR) != 0;
  if (!colours && shape.channels == 3) png_set_gray_to_rgb(reader.png);
  const int passes = png_set_interlace_handling(reader.png);
  Image image{height, width, colours ? 3 : shape.channels, {}};
  const auto row_bytes = static_cast<size_t>(image.width * image.channels);
  image.pixels.resize(static_cast<size_t>(height) * row_bytes);
  if (!PngBody(&reader, passes, image.pixels.data(), static_cast<size_t>(height), row_bytes)) return damaged();
  if (image.channels != shape.channels) ColoursToGrey(&image);
  return image;
}

// libjpeg's way of failing is a function that may not return.
struct JpegErrors {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void JpegFailed(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->manager.format_message(info, errors->message);
  std::longjmp(errors->jump, 1);
}

// A damaged file is refused and not filled with grey.
void JpegWarned(j_common_ptr info, int level) {
  if (level < 0) JpegFailed(info);
}

// The two calls into the library that may jump; no object with a destructor lives in them. False: errors->message.
bool JpegHead(jpeg_decompress_struct* jpeg, JpegErrors* errors, std::string_view file, J_COLOR_SPACE colours) {
  if (setjmp(errors->jump) != 0) return false;
  jpeg_create_decompress(jpeg);
  jpeg_mem_src(jpeg, reinterpret_cast<const unsigned char*>(file.data()), file.size());
  jpeg_read_header(jpeg, TRUE);
  jpeg->out_color_space = colours;
  jpeg->dct_method = JDCT_ISLOW;  // the same pixels everywhere
  return true;
}

bool JpegBody(jpeg_decompress_struct* jpeg, JpegErrors* errors, unsigned char* pixels, size_t row_bytes) {
  if (setjmp(errors->jump) != 0) return false;
  jpeg_start_decompress(jpeg);
  while (jpeg->output_scanline < jpeg->output_height) {
    unsigned char* row = pixels + jpeg->output_scanline * row_bytes;
    jpeg_read_scanlines(jpeg, &row, 1);
  }
  jpeg_finish_decompress(jpeg);
  return true;
}

Result<Image> DecodeJpeg(std::string_view file, const ImageShape& shape) {
  jpeg_decompress_struct jpeg;
  JpegErrors errors;
  std::memset(&jpeg, 0, sizeof jpeg);
  jpeg.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = JpegFailed;
  errors.manager.emit_message = JpegWarned;
  errors.message[0] = '\0';
  struct Free {
    jpeg_decompress_struct* jpeg;
    ~Free() { jpeg_destroy_decompress(jpeg); }
  } free_at_end{&jpeg};
  const auto damaged = [&errors] {
    return InvalidArgument("the JPEG image is damaged: " + std::string(errors.message));
  };
  if (!JpegHead(&jpeg, &errors, file, shape.channels == 1 ? JCS_GRAYSCALE : JCS_RGB)) return damaged();
  HEDDLE_RETURN_IF_ERROR(CheckSize(jpeg.image_height, jpeg.image_width, shape));
  if (jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK) {
    return InvalidArgument("the JPEG image has the four inks of print (CMYK): convert it to RGB");
  }
  if (jpeg.num_components == 3 && jpeg.jpeg_color_space == JCS_RGB && shape.channels == 1) {
    return InvalidArgument("a JPEG image that is stored as red, green and blue cannot be read as grey: convert it");
  }
  Image image{jpeg.image_height, jpeg.image_width, shape.channels, {}};
  image.pixels.resize(static_cast<size_t>(image.height * image.width * image.channels));
  if (!JpegBody(&jpeg, &errors, image.pixels.data(), static_cast<size_t>(image.width * image.channels))) {
    return damaged();
  }
  return image;
}

}  // namespace

Result<Image> DecodeImage(std::string_view file, const ImageShape& shape) {
  if (shape.channels != 1 && shape.channels != 3) {  // of a model's configuration
    return InvalidArgument("an image has 1 or 3 channels, but the model takes " + std::to_string(shape.channels));
  }
  try {
    if (file.starts_with("\x89PNG\r\n\x1a\n")) return DecodePng(file, shape);
    if (file.starts_with("\xFF\xD8\xFF")) return DecodeJpeg(file, shape);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory to decode the image");
  }
  return InvalidArgument("the file is neither a PNG nor a JPEG image");
}

Status CheckImage(const Image& image, const ImageShape& shape) {
  if (image.channels != shape.channels) {
    return InvalidArgument("the image has " + std::to_string(image.channels) + " channels, but must have " +
                           std::to_string(shape.channels));
  }
  return CheckSize(image.height, image.width, shape);
}

void NormalizeImage(const Image& image, std::span<const double> mean, std::span<const double> std,
                    std::span<float> out) {
  const auto channels = static_cast<size_t>(image.channels);
  const auto plane = static_cast<size_t>(image.height * image.width);
  HEDDLE_ASSERT(mean.size() == channels && std.size() == channels, "a mean and a deviation for each channel");
  HEDDLE_ASSERT(out.size() == plane * channels && image.pixels.size() == out.size(), "room for the image");
  for (size_t c = 0; c < channels; ++c) {
    for (size_t i = 0; i < plane; ++i) {
      out[c * plane + i] = static_cast<float>((image.pixels[i * channels + c] / 255.0 - mean[c]) / std[c]);
    }
  }
}

}  // namespace heddle::model
