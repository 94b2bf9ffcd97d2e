#include "coordinator/service/run_material_json.h"

#include <boost/json.hpp>

#include "peft/adapter/base_model.h"
#include "protocol/validate.h"

namespace heddle::coordinator {

namespace json = boost::json;

std::string MaterialJson(const Submission& submission, const RunMaterial& material, const Sha256Digest& adapter) {
  json::array base;
  for (const auto& [ref, path] : material.base_model) {
    base.push_back(
        {{"name", ref.name()}, {"sha256", protocol::DigestOf(ref).value().ToHex()}, {"size_bytes", ref.size_bytes()}});
  }
  json::object overrides;
  for (const auto& [key, value] : submission.overrides) overrides[key] = value;
  return json::serialize(json::object{{"folder", submission.folder.string()},
                                      {"overrides", std::move(overrides)},
                                      {"base_model", std::move(base)},
                                      {"initial_adapter_sha256", adapter.ToHex()},
                                      {"adapter_config", material.adapter_config_json}});
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
      auto digest = Sha256Digest::FromHex(json::value_to<std::string>(item.at("sha256")));
      if (!digest.ok()) return DataLoss("the stored material of the run is damaged: " + digest.status().message());
      material->base_model.emplace_back(protocol::MakeBlobRef(*digest, item.at("size_bytes").to_number<uint64_t>(),
                                                              json::value_to<std::string>(item.at("name"))),
                                        std::filesystem::path());
    }
    return OkStatus();
  } catch (const std::exception& error) {
    return DataLoss(std::string("the stored material of the run is damaged: ") + error.what());
  }
}

}  // namespace heddle::coordinator
