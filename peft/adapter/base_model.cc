#include "peft/adapter/base_model.h"

#include <boost/json.hpp>

#include "common/file.h"

namespace heddle::peft {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr size_t kMaxBytes = size_t{1} << 20;

Result<BaseWeightFiles> Parse(const std::string& text) {
  json::error_code error;
  const json::value parsed = json::parse(text, error);
  const json::object* object = error ? nullptr : parsed.if_object();
  const json::value* list = object == nullptr ? nullptr : object->if_contains("weights");
  if (list == nullptr || !list->is_array()) return InvalidArgument("it is no JSON object with a list of weights");
  BaseWeightFiles weights;
  for (const json::value& item : list->get_array()) {
    const json::object* one = item.if_object();
    const json::value* name = one == nullptr ? nullptr : one->if_contains("name");
    const json::value* digest = one == nullptr ? nullptr : one->if_contains("sha256");
    if (name == nullptr || digest == nullptr || !name->is_string() || !digest->is_string()) {
      return InvalidArgument("each of its weights must have a name and a sha256");
    }
    const std::string file(name->get_string());
    if (fs::path(file).filename() != file) return InvalidArgument("'" + file + "' is not the name of a file");
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest sha256, Sha256Digest::FromHex(std::string(digest->get_string())));
    weights.emplace_back(file, sha256);
  }
  return weights;
}

}  // namespace

std::string BaseModelJson(const BaseWeightFiles& weights) {
  json::array list;
  for (const auto& [name, digest] : weights) list.push_back({{"name", name}, {"sha256", digest.ToHex()}});
  return json::serialize(json::object{{"weights", std::move(list)}}) + "\n";
}

Status CheckBaseModel(const fs::path& adapter, const fs::path& base) {
  const fs::path file = adapter / kBaseModelFile;
  const Result<std::string> text = ReadFile(file, kMaxBytes);
  if (text.status().code() == Code::kNotFound) return OkStatus();
  HEDDLE_RETURN_IF_ERROR(text.status());
  const Result<BaseWeightFiles> weights = Parse(*text);
  if (!weights.ok()) return weights.status().Annotate(file.string());
  for (const auto& [name, digest] : *weights) {
    const Result<Sha256Digest> found = Sha256File(base / name);
    if (found.status().code() != Code::kNotFound) HEDDLE_RETURN_IF_ERROR(found.status());
    if (found.ok() && *found == digest) continue;
    return InvalidArgument("the adapter in " + adapter.string() +
                           " was made for another base model: " + (base / name).string() +
                           (found.ok() ? " has the SHA-256 " + found->ToHex().substr(0, 12) + "…" : " is not there") +
                           ", not " + digest.ToHex().substr(0, 12) + "…; name its base, or remove " + kBaseModelFile +
                           " if this is the same model in other files");
  }
  return OkStatus();
}

}  // namespace heddle::peft
