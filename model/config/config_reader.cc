#include "model/config/config_reader.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <utility>

namespace heddle::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxTokenIds = 64;

// Messages go to people and logs: what is in the file may be long.
std::string Text(const json::value& value) {
  std::string text = json::serialize(value);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

constexpr std::array<std::pair<std::string_view, Activation>, 10> kActivations = {{
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"quick_gelu", Activation::kQuickGelu},
    {"relu", Activation::kRelu},
    {"tanh", Activation::kTanh},
    {"linear", Activation::kNone},
}};

}  // namespace

bool ConfigReader::IsNull(std::string_view key) const {
  const json::value* value = object_.if_contains(key);
  return value != nullptr && value->is_null();
}

const json::value* ConfigReader::Find(std::string_view key) const {
  const json::value* value = object_.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

void ConfigReader::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void ConfigReader::Wrong(std::string_view key, const json::value& value, const std::string& must_be) {
  Fail(InvalidArgument("config.json: " + std::string(key) + " is " + Text(value) + ", but must be " + must_be));
}

void ConfigReader::Int(std::string_view key, int64_t* target, int64_t low, int64_t high) {
  const json::value* value = Find(key);
  if (value == nullptr) return;
  if (value->is_array() && !value->get_array().empty()) {
    const json::array& list = value->get_array();
    if (std::all_of(list.begin(), list.end(), [&](const json::value& other) { return other == list[0]; })) {
      value = &list[0];
    }
  }
  json::error_code error;
  const auto number = value->to_number<int64_t>(error);
  if (error || number < low || number > high) {
    return Wrong(key, *value, "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  }
  *target = number;
}

void ConfigReader::TokenIds(std::string_view key, int64_t* first, std::vector<int64_t>* others) {
  const json::value* value = Find(key);
  if (value == nullptr) return;
  const json::array one = {*value};
  const json::array& list = value->is_array() ? value->get_array() : one;
  std::vector<int64_t> ids;
  for (const json::value& element : list) {
    json::error_code error;
    const auto id = element.to_number<int64_t>(error);
    if (error || id < -1 || id > kMaxVocab || list.size() > kMaxTokenIds) {
      return Wrong(key, *value,
                   "a token's id, from -1 to " + std::to_string(kMaxVocab) + ", or a list of at most " +
                       std::to_string(kMaxTokenIds) + " of them");
    }
    ids.push_back(id);
  }
  if (ids.empty()) return;
  *first = ids[0];
  if (others != nullptr) others->assign(ids.begin() + 1, ids.end());
}

void ConfigReader::RequiredInt(std::string_view key, int64_t* target, int64_t low, int64_t high) {
  if (!Has(key)) return Fail(InvalidArgument("config.json lacks " + std::string(key)));
  Int(key, target, low, high);
}

void ConfigReader::Positive(std::string_view key, double* target) {
  const json::value* value = Find(key);
  if (value == nullptr) return;
  json::error_code error;
  const auto number = value->to_number<double>(error);
  if (error || !std::isfinite(number) || number <= 0) return Wrong(key, *value, "a positive number");
  *target = number;
}

void ConfigReader::Bool(std::string_view key, bool* target) {
  const json::value* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_bool()) return Wrong(key, *value, "true or false");
  *target = value->get_bool();
}

void ConfigReader::String(std::string_view key, std::string* target) {
  const json::value* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_string()) return Wrong(key, *value, "a string");
  *target = std::string(value->get_string());
}

void ConfigReader::Strings(std::string_view key, std::vector<std::string>* target) {
  const json::value* value = Find(key);
  if (value == nullptr) return;
  if (!value->is_array()) return Wrong(key, *value, "a list of strings");
  std::vector<std::string> out;
  for (const json::value& element : value->get_array()) {
    if (!element.is_string()) return Wrong(key, *value, "a list of strings");
    out.emplace_back(element.get_string());
  }
  *target = std::move(out);
}

void ConfigReader::ActivationName(std::string_view key, Activation* target) {
  std::string name;
  String(key, &name);
  if (name.empty()) return;
  for (const auto& [known, activation] : kActivations) {
    if (known == name) {
      *target = activation;
      return;
    }
  }
  std::string list;
  for (const auto& [known, activation] : kActivations) list += (list.empty() ? "" : ", ") + std::string(known);
  Fail(Unimplemented("config.json: " + std::string(key) + " is \"" + name.substr(0, 60) +
                     "\", which is not supported; supported are " + list));
}

void ConfigReader::Only(std::string_view key, bool supported) {
  bool value = supported;
  Bool(key, &value);
  if (value != supported) {
    Fail(Unimplemented("config.json: " + std::string(key) + " other than " + (supported ? "true" : "false") +
                       " is not supported"));
  }
}

void ConfigReader::Only(std::string_view key, std::string_view supported) {
  std::string value(supported);
  String(key, &value);
  if (value != supported) {
    Fail(Unimplemented("config.json: " + std::string(key) + " is \"" + value.substr(0, 60) + "\"; only \"" +
                       std::string(supported) + "\" is supported"));
  }
}

const json::object* ConfigReader::Object(std::string_view key) {
  const json::value* value = Find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) {
    Wrong(key, *value, "an object");
    return nullptr;
  }
  return &value->get_object();
}

}  // namespace heddle::model
