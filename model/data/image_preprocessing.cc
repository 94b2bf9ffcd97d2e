#include "model/data/image_preprocessing.h"

#include <boost/json.hpp>
#include <cmath>

#include "common/file.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 20;

Result<std::vector<double>> ChannelValues(const json::object& object, std::string_view key, int64_t channels,
                                          bool positive) {
  const auto wrong = [&] {
    return InvalidArgument("\"" + std::string(key) + "\" must be " + std::to_string(channels) + " finite" +
                           (positive ? " positive" : "") + " numbers, one a channel");
  };
  const auto n = static_cast<size_t>(channels);
  const json::value* value = object.if_contains(key);
  if (value == nullptr || value->is_null()) return std::vector<double>(n, 0.5);
  std::vector<double> out;
  const auto add = [&](const json::value& number) {
    json::error_code error;
    const auto parsed = number.to_number<double>(error);
    if (error || !std::isfinite(parsed) || (positive && parsed <= 0)) return false;
    out.push_back(parsed);
    return true;
  };
  if (value->is_array()) {
    for (const json::value& number : value->get_array()) {
      if (!add(number)) return wrong();
    }
  } else {
    if (!add(*value)) return wrong();
    out.resize(n, out[0]);
  }
  if (out.size() != n) return wrong();
  return out;
}

}  // namespace

Result<ImagePreprocessing> ParseImagePreprocessing(std::string_view text, int64_t channels) {
  json::error_code error;
  const json::value root = json::parse(text, error);
  if (error || !root.is_object()) return InvalidArgument("it is not a JSON object");
  const json::object& object = root.get_object();
  const auto is_false = [&object](std::string_view key) {
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_bool() && !value->get_bool();
  };
  if (is_false("do_rescale")) return Unimplemented("\"do_rescale\" other than true is not supported");
  if (const json::value* factor = object.if_contains("rescale_factor"); factor != nullptr && !factor->is_null()) {
    const auto value = factor->to_number<double>(error);
    if (error || std::abs(value * 255 - 1) > 1e-6) {
      return Unimplemented("a \"rescale_factor\" other than 1/255 is not supported");
    }
  }
  const auto n = static_cast<size_t>(channels);
  if (is_false("do_normalize")) return ImagePreprocessing{std::vector<double>(n, 0), std::vector<double>(n, 1)};
  ImagePreprocessing out;
  HEDDLE_ASSIGN_OR_RETURN(out.mean, ChannelValues(object, "image_mean", channels, false));
  HEDDLE_ASSIGN_OR_RETURN(out.std, ChannelValues(object, "image_std", channels, true));
  return out;
}

Result<ImagePreprocessing> ReadImagePreprocessing(const std::filesystem::path& folder, int64_t channels) {
  std::filesystem::path path = folder / "preprocessor_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) path = folder / "config.json";
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  Result<ImagePreprocessing> parsed = ParseImagePreprocessing(text, channels);
  if (!parsed.ok()) return parsed.status().Annotate(path.string());
  return parsed;
}

}  // namespace heddle::model
