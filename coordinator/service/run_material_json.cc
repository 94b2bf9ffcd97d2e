#include "coordinator/service/run_material_json.h"

#include <boost/json.hpp>

#include "peft/adapter/base_model.h"
#include "protocol/validate.h"

namespace heddle::coordinator {

namespace json = boost::json;

namespace {

json::object RefJson(const v1::BlobRef& ref) {
  return {{"name", ref.name()}, {"sha256", protocol::DigestOf(ref).value().ToHex()}, {"size_bytes", ref.size_bytes()}};
}

// Throws what Boost.JSON throws.
Result<v1::BlobRef> RefOf(const json::value& item) {
  auto digest = Sha256Digest::FromHex(json::value_to<std::string>(item.at("sha256")));
  if (!digest.ok()) return DataLoss("the stored material of the run is damaged: " + digest.status().message());
  return protocol::MakeBlobRef(*digest, item.at("size_bytes").to_number<uint64_t>(),
                               json::value_to<std::string>(item.at("name")));
}

}  // namespace

std::string MaterialJson(const Submission& submission, const RunMaterial& material, const Sha256Digest& adapter) {
  json::array base, trees;
  for (const auto& [ref, path] : material.base_model) base.push_back(RefJson(ref));
  for (const auto& [ref, bytes] : material.tensor_trees) trees.push_back(RefJson(ref));
  json::object overrides;
  for (const auto& [key, value] : submission.overrides) overrides[key] = value;
  json::object out{{"folder", submission.folder.string()},
                   {"overrides", std::move(overrides)},
                   {"base_model", std::move(base)},
                   {"initial_adapter_sha256", adapter.ToHex()},
                   {"adapter_config", material.adapter_config_json}};
  if (!trees.empty()) out["tensor_trees"] = std::move(trees);
  return json::serialize(out);
}

std::string BaseModelJsonOf(const RunMaterial& material) {
  peft::BaseWeightFiles weights;
  for (const auto& [ref, path] : material.base_model) {
    if (!ref.name().ends_with(".safetensors")) continue;
    if (const auto digest = protocol::DigestOf(ref); digest.ok()) weights.emplace_back(ref.name(), *digest);
  }
  return peft::BaseModelJson(weights);
}

Status ReadMaterialJson(const std::string& text, Submission* submission, RunMaterial* material) {
  try {
    const json::value parsed = json::parse(text);
    const json::object& object = parsed.as_object();
    submission->folder = json::value_to<std::string>(object.at("folder"));
    for (const auto& item : object.at("overrides").as_object()) {
      submission->overrides[std::string(item.key())] = json::value_to<std::string>(item.value());
    }
    material->adapter_config_json = json::value_to<std::string>(object.at("adapter_config"));
    for (const json::value& item : object.at("base_model").as_array()) {
      HEDDLE_ASSIGN_OR_RETURN(v1::BlobRef ref, RefOf(item));
      material->base_model.emplace_back(std::move(ref), std::filesystem::path());
    }
    const json::value* trees = object.if_contains("tensor_trees");  // runs of before have none
    if (trees == nullptr) return OkStatus();
    for (const json::value& item : trees->as_array()) {
      HEDDLE_ASSIGN_OR_RETURN(v1::BlobRef ref, RefOf(item));
      material->tensor_trees.emplace_back(std::move(ref), std::string());
    }
    return OkStatus();
  } catch (const std::exception& error) {
    return DataLoss(std::string("the stored material of the run is damaged: ") + error.what());
  }
}

}  // namespace heddle::coordinator
