#include "model/data/image_preprocessing.h"

#include <boost/json.hpp>
#include <cmath>

#include "common/file.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 20;
constexpr int64_t kPillowBilinear = 2, kPillowBicubic = 3;  // numbers of Pillow's filters
constexpr int64_t kVitSize = 224, kDeitSize = 256, kDeitCrop = 224;

std::string Text(int64_t height, int64_t width) { return std::to_string(width) + " x " + std::to_string(height); }

// Typed members of the file; null counts as absent. The first mistake is kept.
class Reader {
 public:
  explicit Reader(const json::object& object) : object_(object) {}

  const json::value* Find(std::string_view key) const {
    const json::value* value = object_.if_contains(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  bool Flag(std::string_view key, bool otherwise) {
    const json::value* value = Find(key);
    if (value == nullptr) return otherwise;
    if (value->is_bool()) return value->get_bool();
    Fail(InvalidArgument(Quoted(key) + " must be true or false"));
    return otherwise;
  }
  std::string Name(std::string_view key) {
    const json::value* value = Find(key);
    if (value == nullptr) return "";
    if (value->is_string()) return std::string(value->get_string());
    Fail(InvalidArgument(Quoted(key) + " must be a string"));
    return "";
  }
  double Positive(std::string_view key, double otherwise) {
    const json::value* value = Find(key);
    if (value == nullptr) return otherwise;
    const std::optional<double> number = Number(*value);
    if (number && *number > 0) return *number;
    Fail(InvalidArgument(Quoted(key) + " must be a finite positive number"));
    return otherwise;
  }
  ResizeFilter Filter(std::string_view key, ResizeFilter otherwise) {
    const json::value* value = Find(key);
    if (value == nullptr) return otherwise;
    const std::optional<double> number = Number(*value);
    if (number == kPillowBilinear) return ResizeFilter::kBilinear;
    if (number == kPillowBicubic) return ResizeFilter::kBicubic;
    Fail(Unimplemented(Quoted(key) + " must be 2 (bilinear) or 3 (bicubic): no other filter is known"));
    return otherwise;
  }
  ImagePreprocessing::Size Size(std::string_view key, int64_t otherwise) {
    const json::value* value = Find(key);
    if (value == nullptr) return {otherwise, otherwise};
    if (value->is_number()) {
      const int64_t side = Side(key, *value);
      return {side, side};
    }
    const json::object* object = value->if_object();
    const json::value* height = object == nullptr ? nullptr : object->if_contains("height");
    const json::value* width = object == nullptr ? nullptr : object->if_contains("width");
    if (height != nullptr && width != nullptr) return {Side(key, *height), Side(key, *width)};
    Fail(Unimplemented(Quoted(key) + " must be a number of pixels, or \"height\" and \"width\""));
    return {otherwise, otherwise};
  }
  std::vector<double> Channels(std::string_view key, size_t channels, bool positive) {
    const json::value* value = Find(key);
    if (value == nullptr) return std::vector<double>(channels, 0.5);
    std::vector<double> out;
    const json::array one(1, value->is_array() ? json::value() : *value);
    for (const json::value& element : value->is_array() ? value->get_array() : one) {
      const std::optional<double> number = Number(element);
      if (number && (!positive || *number > 0)) out.push_back(*number);
    }
    if (!value->is_array() && out.size() == 1) out.resize(channels, out[0]);
    if (out.size() != channels || (value->is_array() && value->get_array().size() != channels)) {
      Fail(InvalidArgument(Quoted(key) + " must be " + std::to_string(channels) + " finite" +
                           (positive ? " positive" : "") + " numbers, one a channel"));
      out.assign(channels, 1);
    }
    return out;
  }

  void Fail(const Status& status) {
    if (status_.ok()) status_ = status;
  }
  const Status& status() const { return status_; }

 private:
  static std::string Quoted(std::string_view key) { return "\"" + std::string(key) + "\""; }
  static std::optional<double> Number(const json::value& value) {
    json::error_code error;
    const auto number = value.to_number<double>(error);
    return error || !std::isfinite(number) ? std::nullopt : std::optional(number);
  }
  int64_t Side(std::string_view key, const json::value& value) {
    json::error_code error;
    const auto side = value.to_number<int64_t>(error);
    if (!error && side >= 1 && side <= kMaxImageSize) return side;
    Fail(InvalidArgument(Quoted(key) + " must be from 1 to " + std::to_string(kMaxImageSize) + " pixels"));
    return 1;
  }

  const json::object& object_;
  Status status_;
};

// Whether the processor is DeiT's.
bool IsDeit(Reader& reader, const ModelSpec& spec) {
  std::string name = reader.Name("image_processor_type");
  if (name.empty()) name = reader.Name("feature_extractor_type");
  if (name.empty()) return spec.architecture.starts_with("DeiT");
  for (const char* kind : {"ViT", "DeiT"}) {
    for (const char* ending : {"ImageProcessor", "ImageProcessorFast", "FeatureExtractor"}) {
      if (name == std::string(kind) + ending) return name.starts_with("DeiT");
    }
  }
  reader.Fail(Unimplemented("the image processor \"" + name.substr(0, 60) +
                            "\" is not supported; supported are ViTImageProcessor and DeiTImageProcessor"));
  return false;
}

void ReadSizes(Reader& reader, const ModelSpec& spec, ImagePreprocessing* out) {
  const bool deit = IsDeit(reader, spec);
  const int64_t own = spec.patches.image_size;
  if (reader.Flag("do_pad", false)) reader.Fail(Unimplemented("\"do_pad\" is not supported"));
  if (reader.Flag("do_resize", true)) {
    // A ViT of another size whose file does not say so: Hugging Face would make images that the model refuses.
    out->resize = reader.Size("size", deit ? kDeitSize : own > 0 ? own : kVitSize);
    out->filter = reader.Filter("resample", deit ? ResizeFilter::kBicubic : ResizeFilter::kBilinear);
  }
  if (reader.Flag("do_center_crop", deit)) {
    if (!deit) reader.Fail(Unimplemented("\"do_center_crop\" of a ViTImageProcessor is not supported"));
    out->crop = reader.Size("crop_size", kDeitCrop);
  }
  if (out->crop && out->resize && (out->crop->height > out->resize->height || out->crop->width > out->resize->width)) {
    reader.Fail(Unimplemented("a \"crop_size\" above \"size\", which pads, is not supported"));
  }
  const auto& last = out->crop ? out->crop : out->resize;
  if (last && (last->height != own || last->width != own)) {
    reader.Fail(InvalidArgument("it makes images of " + Text(last->height, last->width) +
                                " pixels, but the model takes " + Text(own, own)));
  }
}

void ReadNumbers(Reader& reader, const ModelSpec& spec, ImagePreprocessing* out) {
  const auto channels = static_cast<size_t>(spec.patches.channels);
  out->mean.assign(channels, 0);
  out->std.assign(channels, 1);
  double factor = reader.Positive("rescale_factor", 1 / 255.0);
  if (!reader.Flag("do_rescale", true)) factor = 1;
  if (reader.Flag("do_normalize", true)) {
    out->mean = reader.Channels("image_mean", channels, false);
    out->std = reader.Channels("image_std", channels, true);
  }
  if (std::abs(factor * 255 - 1) < 1e-9) return;
  // (factor * byte - mean) / std, as a multiple of byte / 255.
  for (size_t c = 0; c < channels; ++c) {
    out->mean[c] /= factor * 255;
    out->std[c] /= factor * 255;
    if (!std::isfinite(out->mean[c]) || !std::isfinite(out->std[c]) || out->std[c] <= 0) {
      return reader.Fail(InvalidArgument("\"rescale_factor\" is out of range"));
    }
  }
}

Result<ImagePreprocessing> Parse(std::string_view text, const ModelSpec& spec, bool with_sizes) {
  json::error_code error;
  const json::value root = json::parse(text, error);
  if (error || !root.is_object()) return InvalidArgument("it is not a JSON object");
  Reader reader(root.get_object());
  ImagePreprocessing out;
  if (with_sizes) ReadSizes(reader, spec, &out);
  ReadNumbers(reader, spec, &out);
  HEDDLE_RETURN_IF_ERROR(reader.status());
  return out;
}

}  // namespace

ImageShape ImagePreprocessing::Takes(const PatchSpec& patches) const {
  if (resize || crop) return {patches.channels, 0, 0};
  return {patches.channels, patches.image_size, patches.image_size};
}

Result<Image> ImagePreprocessing::Resized(Image image) const {
  if (resize && (image.height != resize->height || image.width != resize->width)) {
    HEDDLE_ASSIGN_OR_RETURN(image, ResizeImage(image, resize->height, resize->width, filter));
  }
  if (crop && (image.height != crop->height || image.width != crop->width)) {
    HEDDLE_ASSIGN_OR_RETURN(image, CropCentre(image, crop->height, crop->width));
  }
  return image;
}

Result<ImagePreprocessing> ParseImagePreprocessing(std::string_view text, const ModelSpec& spec) {
  return Parse(text, spec, true);
}

Result<ImagePreprocessing> ReadImagePreprocessing(const std::filesystem::path& folder, const ModelSpec& spec) {
  std::filesystem::path path = folder / "preprocessor_config.json";
  std::error_code ignored;
  const bool own_file = std::filesystem::exists(path, ignored);
  if (!own_file) path = folder / "config.json";
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  Result<ImagePreprocessing> parsed = Parse(text, spec, own_file);
  if (!parsed.ok()) return parsed.status().Annotate(path.string());
  return parsed;
}

}  // namespace heddle::model
