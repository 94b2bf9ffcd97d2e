#include "model/config/new_head.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr int64_t kMaxLabels = 65536;

struct Family {
  std::string_view model_type, beginning, classifier;
};
// The longer beginning first.
constexpr std::array kFamilies = {
    Family{"distilbert", "DistilBert", "DistilBertForSequenceClassification"},
    Family{"roberta", "Roberta", "RobertaForSequenceClassification"},
    Family{"bert", "Bert", "BertForSequenceClassification"},
    Family{"vit", "ViT", "ViTForImageClassification"},
    Family{"deit", "DeiT", "DeiTForImageClassification"},
};

std::string TextOf(const json::object& config, std::string_view key) {
  const json::value* value = config.if_contains(key);
  if (value != nullptr && value->is_array() && !value->as_array().empty()) value = &value->as_array()[0];
  return value != nullptr && value->is_string() ? std::string(value->as_string()) : "";
}

Result<json::object> ObjectOf(std::string_view text) {
  json::error_code error;
  json::value root = json::parse(text, error);
  if (error || !root.is_object()) return InvalidArgument("config.json must hold a JSON object");
  return std::move(root.as_object());
}

// How a sentence names the model.
std::string KindOf(const std::string& architecture, const std::string& type) {
  return architecture.empty() ? "a model of type '" + type.substr(0, 60) + "'" : architecture.substr(0, 60);
}

}  // namespace

Result<std::string> ConfigWithNewHead(std::string_view text, int64_t num_labels,
                                      const std::vector<std::string>& names) {
  if (num_labels < 1 || num_labels > kMaxLabels) {
    return InvalidArgument("a classifier has from 1 to " + std::to_string(kMaxLabels) + " labels, not " +
                           std::to_string(num_labels));
  }
  if (!names.empty() && static_cast<int64_t>(names.size()) != num_labels) {
    return InvalidArgument("there are " + std::to_string(names.size()) + " names for " + std::to_string(num_labels) +
                           " labels");
  }
  HEDDLE_ASSIGN_OR_RETURN(json::object config, ObjectOf(text));
  const std::string architecture = TextOf(config, "architectures"), type = TextOf(config, "model_type");
  const auto family = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& one) {
    return architecture.empty() ? type == one.model_type : architecture.starts_with(one.beginning);
  });
  if (family == kFamilies.end()) {
    std::string known;
    for (const Family& one : kFamilies) known += (known.empty() ? "" : ", ") + std::string(one.model_type);
    return Unimplemented("there is no classifier for " + KindOf(architecture, type) +
                         "; a new head can be made for models of the types " + known);
  }
  config["architectures"] = json::array{json::string(family->classifier)};
  json::object labels, ids;
  for (int64_t i = 0; i < num_labels; ++i) {
    const std::string name = names.empty() ? "LABEL_" + std::to_string(i) : names[static_cast<size_t>(i)];
    labels[std::to_string(i)] = name;
    ids[name] = i;
  }
  config["id2label"] = std::move(labels);
  config["label2id"] = std::move(ids);
  config.erase("num_labels");
  config["problem_type"] = num_labels == 1 ? "regression" : "single_label_classification";
  config[kNewHeadKey] = true;
  return json::serialize(config) + "\n";
}

Result<std::string> ConfigWithMaskedHead(std::string_view text) {
  HEDDLE_ASSIGN_OR_RETURN(json::object config, ObjectOf(text));
  const std::string architecture = TextOf(config, "architectures"), type = TextOf(config, "model_type");
  if (architecture.empty() ? type != "bert" : !architecture.starts_with("Bert")) {
    return Unimplemented("there is no head for masked words for " + KindOf(architecture, type) +
                         "; it can be made for models of the type bert");
  }
  config["architectures"] = json::array{json::string("BertForMaskedLM")};
  for (const std::string_view key : {"id2label", "label2id", "num_labels", "problem_type", "tie_word_embeddings"}) {
    config.erase(key);
  }
  config.erase(kNewHeadKey);
  return json::serialize(config) + "\n";
}

std::vector<std::string> HeadParameters(const ModelSpec& spec) {
  std::vector<std::string> names;
  const HeadSpec& head = spec.head;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    const std::string module = name.substr(0, name.rfind('.'));
    const std::array paths = {head.dense, head.norm, head.output, head.second_output};
    const bool of_head = !module.empty() && std::find(paths.begin(), paths.end(), module) != paths.end();
    if (of_head || name == head.output_bias_name) names.push_back(name);
  }
  return names;
}

std::vector<std::string> MissingHeadParameters(const ModelSpec& spec, const StateDictSpec& checkpoint) {
  std::vector<std::string> missing = spec.fresh;
  std::sort(missing.begin(), missing.end());
  for (const auto& [stored, ours] : spec.NamesOf(checkpoint)) std::erase(missing, ours);
  return missing;
}

}  // namespace heddle::model
