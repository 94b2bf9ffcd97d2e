#include "model/config/registry.h"

#include <algorithm>
#include <boost/json.hpp>

#include "common/file.h"
#include "model/architectures/architectures.h"
#include "model/config/config_reader.h"
#include "model/config/new_head.h"

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

std::string KnownList() {
  std::string list;
  for (const Architecture& known : Architectures()) list += (list.empty() ? "" : ", ") + std::string(known.name);
  return list;
}

// Null, and a failure in the reader, when there is none.
const Architecture* FindArchitecture(ConfigReader& reader) {
  std::vector<std::string> names;
  reader.Strings("architectures", &names);
  std::string model_type;
  reader.String("model_type", &model_type);
  if (!reader.status().ok()) return nullptr;
  if (names.empty() && model_type.empty()) {
    reader.Fail(InvalidArgument("config.json lacks architectures; known are " + KnownList()));
    return nullptr;
  }
  for (const Architecture& known : Architectures()) {
    if (names.empty() ? known.model_type == model_type : known.name == names[0]) return &known;
  }
  reader.Fail(Unimplemented(
      "config.json: " +
      (names.empty() ? "model_type \"" + model_type.substr(0, 60) : "the architecture \"" + names[0].substr(0, 60)) +
      "\" is not supported; known are " + KnownList()));
  return nullptr;
}

// The settings of dropout above 0, in the order of their names.
std::vector<std::string> DropoutNames(const json::object& object) {
  constexpr size_t kMostNames = 16, kMostBytes = 60;
  std::vector<std::string> names;
  for (const auto& [key, value] : object) {
    const std::string_view name(key.data(), key.size());
    if (name.find("drop") == std::string_view::npos || name.size() > kMostBytes || !value.is_number()) continue;
    if (value.to_number<double>() > 0) names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  names.resize(std::min(names.size(), kMostNames));
  return names;
}

}  // namespace

Result<ModelSpec> ParseModelConfig(std::string_view text) {
  json::error_code error;
  const json::value root = json::parse(text, error);  // depth limit 32
  if (error) return InvalidArgument("config.json is not valid JSON: " + error.message() + "; copy the file anew");
  if (!root.is_object()) return InvalidArgument("config.json must hold a JSON object");
  ConfigReader reader(root.get_object());
  const Architecture* architecture = FindArchitecture(reader);
  if (architecture == nullptr) return reader.status();
  if (reader.Has("quantization_config")) {
    return Unimplemented("config.json: quantization_config is not supported: use unquantised weights");
  }
  ModelSpec spec;
  spec.architecture = architecture->name;
  architecture->read(reader, &spec);
  spec.unused_dropout = DropoutNames(root.get_object());
  reader.String("dtype", &spec.torch_dtype);
  reader.String("torch_dtype", &spec.torch_dtype);
  bool new_head = false;
  reader.Bool(kNewHeadKey, &new_head);
  HEDDLE_RETURN_IF_ERROR(reader.status());
  HEDDLE_RETURN_IF_ERROR(spec.Check());
  if (new_head) spec.fresh = HeadParameters(spec);
  return spec;
}

Result<ModelSpec> ReadModelConfig(const std::filesystem::path& folder) {
  const Result<std::string> text = ReadFile(folder / "config.json", kMaxConfigBytes);
  if (!text.ok()) {
    return Status(text.status().code(), text.status().message() + "; name a model's folder in Hugging Face's layout");
  }
  Result<ModelSpec> spec = ParseModelConfig(*text);
  if (!spec.ok()) return spec.status().Annotate(folder.string());
  return spec;
}

Result<std::vector<int64_t>> ReadEndTokens(const std::filesystem::path& folder, const ModelSpec& spec) {
  std::vector<int64_t> ids = spec.more_eos_token_ids;
  ids.push_back(spec.eos_token_id);
  const Result<std::string> text = ReadFile(folder / "generation_config.json", kMaxConfigBytes);
  if (!text.ok() && text.status().code() != Code::kNotFound) return text.status();
  if (text.ok()) {
    json::error_code error;
    const json::value root = json::parse(*text, error);
    if (error || !root.is_object()) {
      return InvalidArgument(folder.string() + ": generation_config.json must hold a JSON object");
    }
    ConfigReader reader(root.get_object());
    int64_t first = -1;
    std::vector<int64_t> others;
    reader.TokenIds("eos_token_id", &first, &others);
    if (!reader.status().ok()) {
      return InvalidArgument(folder.string() +
                             ": generation_config.json: eos_token_id must be a token's id or a list of them");
    }
    ids.push_back(first);
    ids.insert(ids.end(), others.begin(), others.end());
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::erase(ids, -1);
  return ids;
}

std::vector<std::string> KnownArchitectures() {
  std::vector<std::string> names;
  for (const Architecture& known : Architectures()) names.emplace_back(known.name);
  return names;
}

}  // namespace heddle::model
