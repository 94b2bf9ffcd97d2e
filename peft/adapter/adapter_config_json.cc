// AdapterConfig::ToJson and FromJson.
#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>

#include "peft/adapter/adapter_config.h"

namespace heddle::peft {
namespace {

namespace json = boost::json;

// A JSON number as PEFT writes it: 16, 0.05.
std::string NumberText(double value) {
  char buffer[32];
  bool whole = value == std::floor(value) && std::abs(value) < 1e15;
  auto end = whole ? std::to_chars(buffer, buffer + sizeof buffer, static_cast<int64_t>(value)).ptr
                   : std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return std::string(buffer, end);
}

std::string Quoted(std::string_view text) { return json::serialize(json::string(text)); }

std::string ListText(const std::vector<std::string>& list) {
  if (list.empty()) return "[]";
  std::string out = "[";
  for (const std::string& element : list) out += (out.size() > 1 ? ",\n    " : "\n    ") + Quoted(element);
  return out + "\n  ]";
}

class Reader {
 public:
  explicit Reader(const json::object& object) : object_(object) {}

  void Text(std::string_view key, std::string* out) {
    if (const json::value* v = Find(key); v != nullptr && !v->is_null()) {
      if (v->is_string()) {
        *out = std::string(v->as_string());
      } else {
        Wrong(key, "a text");
      }
    }
  }
  void Flag(std::string_view key, bool* out) {
    if (const json::value* v = Find(key); v != nullptr && !v->is_null()) {
      if (v->is_bool()) {
        *out = v->as_bool();
      } else {
        Wrong(key, "true or false");
      }
    }
  }
  void Number(std::string_view key, double* out) {
    if (const json::value* v = Find(key); v != nullptr && !v->is_null()) {
      if (v->is_number()) {
        *out = v->to_number<double>();
      } else {
        Wrong(key, "a number");
      }
    }
  }
  void Whole(std::string_view key, int64_t* out) {
    if (const json::value* v = Find(key); v != nullptr && !v->is_null()) {
      boost::system::error_code ec;
      int64_t value = v->is_number() ? v->to_number<int64_t>(ec) : 0;
      if (v->is_number() && !ec) {
        *out = value;
      } else {
        Wrong(key, "a whole number");
      }
    }
  }
  // A list of texts, or one text, which goes to `single`.
  void List(std::string_view key, std::vector<std::string>* out, std::string* single) {
    const json::value* v = Find(key);
    if (v == nullptr || v->is_null()) return;
    if (v->is_string() && single != nullptr) {
      *single = std::string(v->as_string());
      return;
    }
    if (!v->is_array()) return Wrong(key, "a list of texts");
    for (const json::value& element : v->as_array()) {
      if (!element.is_string()) return Wrong(key, "a list of texts");
      out->emplace_back(element.as_string());
    }
  }
  // A text, or true or false as one.
  void TextOrFlag(std::string_view key, std::string* out) {
    const json::value* v = Find(key);
    if (v == nullptr || v->is_null()) return;
    if (v->is_string()) {
      *out = std::string(v->as_string());
    } else if (v->is_bool()) {
      *out = v->as_bool() ? "true" : "false";
    } else {
      Wrong(key, "true, false or a text");
    }
  }
  // One whole number, or a list of them.
  void Layers(std::string_view key, std::vector<int64_t>* out) {
    const json::value* v = Find(key);
    if (v == nullptr || v->is_null()) return;
    boost::system::error_code ec;
    if (v->is_number()) {
      out->push_back(v->to_number<int64_t>(ec));
    } else if (v->is_array()) {
      for (const json::value& element : v->as_array()) {
        out->push_back(element.is_number() && !ec ? element.to_number<int64_t>(ec) : -1);
      }
    }
    if (ec || !(v->is_number() || v->is_array()) || std::find(out->begin(), out->end(), -1) != out->end()) {
      Wrong(key, "a list of whole numbers from 0");
    }
  }
  // An object of numbers.
  template <typename T>
  void Pattern(std::string_view key, std::map<std::string, T>* out) {
    const json::value* v = Find(key);
    if (v == nullptr || v->is_null()) return;
    if (!v->is_object()) return Wrong(key, "an object of numbers");
    for (const auto& [pattern, number] : v->as_object()) {
      boost::system::error_code ec;
      const T value = number.is_number() ? number.template to_number<T>(ec) : T{};
      if (!number.is_number() || ec) return Wrong(key, "an object of numbers");
      out->emplace(pattern, value);
    }
  }
  void Refuse(std::string_view key, const char* what) { Wrong(key, what); }
  // What would change the numbers, is not supported, and must therefore be off.
  void MustBeOff(std::string_view key) {
    const json::value* v = Find(key);
    if (v == nullptr || v->is_null()) return;
    bool off = (v->is_bool() && !v->as_bool()) || (v->is_object() && v->as_object().empty()) ||
               (v->is_array() && v->as_array().empty());
    if (!off) errors_ += Separator() + "'" + std::string(key) + "' is set, which is not supported";
  }
  void Ignore(std::initializer_list<std::string_view> keys) {
    for (std::string_view key : keys) known_.emplace_back(key);
  }

  const std::string& errors() const { return errors_; }
  std::vector<std::string> Unknown() const {
    std::vector<std::string> out;
    for (const auto& [key, value] : object_) {
      if (std::find(known_.begin(), known_.end(), std::string_view(key)) == known_.end()) out.emplace_back(key);
    }
    return out;
  }

 private:
  const json::value* Find(std::string_view key) {
    known_.emplace_back(key);
    return object_.if_contains(key);
  }
  void Wrong(std::string_view key, const char* what) {
    errors_ += Separator() + "'" + std::string(key) + "' must be " + what;
  }
  std::string Separator() const { return errors_.empty() ? "" : "; "; }

  const json::object& object_;
  std::vector<std::string> known_;
  std::string errors_;
};

using Fields = std::map<std::string, std::string>;

std::string OrNull(const std::string& text) { return text.empty() ? "null" : Quoted(text); }
std::string OrNull(const std::vector<std::string>& list) { return list.empty() ? "null" : ListText(list); }
std::string OrNull(int64_t number) { return number == 0 ? "null" : std::to_string(number); }
std::string Truth(bool value) { return value ? "true" : "false"; }

std::string LayersText(const std::vector<int64_t>& layers) {
  if (layers.empty()) return "null";
  std::string out = "[";
  for (const int64_t layer : layers) out += (out.size() > 1 ? ",\n    " : "\n    ") + std::to_string(layer);
  return out + "\n  ]";
}

template <typename T>
std::string PatternText(const std::map<std::string, T>& patterns) {
  if (patterns.empty()) return "{}";
  std::string out = "{";
  for (const auto& [pattern, value] : patterns) {
    out += (out.size() > 1 ? ",\n    " : "\n    ") + Quoted(pattern) + ": " + NumberText(static_cast<double>(value));
  }
  return out + "\n  }";
}

std::string TargetsText(const AdapterConfig& config) {
  if (!config.target_modules_regex.empty()) return Quoted(config.target_modules_regex);
  std::vector<std::string> targets = config.target_modules;
  std::sort(targets.begin(), targets.end());
  // In a list PEFT would look for modules of that name.
  if (targets == std::vector<std::string>{"all-linear"}) return Quoted("all-linear");
  return ListText(targets);
}

std::string ExcludedText(const AdapterConfig& config) {
  return config.exclude_modules_regex.empty() ? OrNull(config.exclude_modules) : Quoted(config.exclude_modules_regex);
}

std::string FeedforwardText(const AdapterConfig& config) {
  return config.feedforward_modules_regex.empty() ? ListText(config.feedforward_modules)
                                                  : Quoted(config.feedforward_modules_regex);
}

// PEFT refuses a configuration with any other text.
std::string TaskText(const std::string& task) {
  for (const char* known :
       {"CAUSAL_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS"}) {
    if (task == known) return Quoted(task);
  }
  return "null";
}

void LoraFields(const AdapterConfig& config, Fields* fields) {
  const std::string& init = config.init_lora_weights;
  *fields = {{"alpha_pattern", PatternText(config.alpha_pattern)},
             {"bias", Quoted(config.bias)},
             {"exclude_modules", ExcludedText(config)},
             {"fan_in_fan_out", Truth(config.fan_in_fan_out)},
             {"init_lora_weights", init == "true" || init == "false" ? init : Quoted(init)},
             {"layers_pattern", "null"},
             {"layers_to_transform", LayersText(config.layers_to_transform)},
             {"lora_alpha", NumberText(config.lora_alpha)},
             {"lora_dropout", NumberText(config.lora_dropout)},
             {"modules_to_save", OrNull(config.modules_to_save)},
             {"r", std::to_string(config.r)},
             {"rank_pattern", PatternText(config.rank_pattern)},
             {"target_modules", TargetsText(config)},
             {"use_dora", Truth(config.use_dora)},
             {"use_rslora", Truth(config.use_rslora)}};
  if (config.loraplus_lr_ratio != 1) (*fields)["loraplus_lr_ratio"] = NumberText(config.loraplus_lr_ratio);
}

void PromptFields(const AdapterConfig& config, Fields* fields) {
  *fields = {{"num_attention_heads", OrNull(config.num_attention_heads)},
             {"num_layers", OrNull(config.num_layers)},
             {"num_transformer_submodules", "1"},
             {"num_virtual_tokens", std::to_string(config.num_virtual_tokens)},
             {"token_dim", OrNull(config.token_dim)}};
  if (!config.modules_to_save.empty()) (*fields)["modules_to_save"] = ListText(config.modules_to_save);
  switch (config.kind()) {
    case TuningKind::kPromptTuning:
      fields->emplace("prompt_tuning_init", Quoted(config.prompt_tuning_init));
      fields->emplace("prompt_tuning_init_text", OrNull(config.prompt_tuning_init_text));
      fields->emplace("tokenizer_kwargs", "null");
      fields->emplace("tokenizer_name_or_path", OrNull(config.tokenizer_name_or_path));
      break;
    case TuningKind::kPrefixTuning:
      fields->emplace("encoder_hidden_size", OrNull(config.encoder_hidden_size));
      fields->emplace("prefix_projection", Truth(config.prefix_projection));
      break;
    default:
      fields->emplace("encoder_dropout", "0.0");
      fields->emplace("encoder_hidden_size", OrNull(config.encoder_hidden_size));
      fields->emplace("encoder_num_layers", "2");
      fields->emplace("encoder_reparameterization_type", Quoted("MLP"));
  }
}

Fields FieldsOf(const AdapterConfig& config) {
  Fields fields;
  switch (config.kind()) {
    case TuningKind::kLora:
      LoraFields(config, &fields);
      break;
    case TuningKind::kIa3:
      fields = {{"exclude_modules", ExcludedText(config)},           {"fan_in_fan_out", Truth(config.fan_in_fan_out)},
                {"feedforward_modules", FeedforwardText(config)},    {"init_ia3_weights", "true"},
                {"modules_to_save", OrNull(config.modules_to_save)}, {"target_modules", TargetsText(config)}};
      break;
    case TuningKind::kPromptTuning:
    case TuningKind::kPrefixTuning:
    case TuningKind::kPTuning:
      PromptFields(config, &fields);
      break;
    case TuningKind::kBottleneck:
      fields = {{"adapter_scaling", NumberText(config.adapter_scaling)},
                {"bottleneck_size", std::to_string(config.bottleneck_size)},
                {"layers_to_transform", LayersText(config.layers_to_transform)},
                {"modules_to_save", OrNull(config.modules_to_save)},
                {"non_linearity", Quoted(config.non_linearity)},
                {"placement", Quoted(config.placement)}};
      break;
    case TuningKind::kBitFit:
      fields = {{"exclude_modules", ExcludedText(config)},
                {"layers_to_transform", LayersText(config.layers_to_transform)},
                {"modules_to_save", OrNull(config.modules_to_save)},
                {"target_modules", TargetsText(config)}};
      break;
    case TuningKind::kFull:
      fields = {{"layers_to_transform", LayersText(config.layers_to_transform)},
                {"modules_to_save", OrNull(config.modules_to_save)}};
      if (!config.bias_only_layers.empty()) fields.emplace("bias_only_layers", LayersText(config.bias_only_layers));
      break;
  }
  fields.emplace("auto_mapping", "null");
  fields.emplace("base_model_name_or_path", OrNull(config.base_model_name_or_path));
  fields.emplace("inference_mode", Truth(config.inference_mode));
  fields.emplace("peft_type", Quoted(config.peft_type));
  fields.emplace("revision", "null");
  fields.emplace("task_type", TaskText(config.task_type));
  return fields;
}

void ReadLora(Reader* reader, AdapterConfig* config) {
  reader->Whole("r", &config->r);
  reader->Number("lora_alpha", &config->lora_alpha);
  reader->Number("lora_dropout", &config->lora_dropout);
  reader->Text("bias", &config->bias);
  reader->Flag("use_rslora", &config->use_rslora);
  reader->Flag("use_dora", &config->use_dora);
  reader->Pattern("rank_pattern", &config->rank_pattern);
  reader->Pattern("alpha_pattern", &config->alpha_pattern);
  reader->TextOrFlag("init_lora_weights", &config->init_lora_weights);
  reader->Number("loraplus_lr_ratio", &config->loraplus_lr_ratio);
  for (const std::string_view key : {"lora_bias", "trainable_token_indices", "layer_replication", "layers_pattern"}) {
    reader->MustBeOff(key);
  }
  reader->Ignore({"megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "qalora_group_size",
                  "use_qalora", "runtime_config"});
}

void ReadPrompt(Reader* reader, AdapterConfig* config) {
  reader->Whole("num_virtual_tokens", &config->num_virtual_tokens);
  reader->Whole("token_dim", &config->token_dim);
  reader->Whole("num_attention_heads", &config->num_attention_heads);
  reader->Whole("num_layers", &config->num_layers);
  reader->Text("prompt_tuning_init", &config->prompt_tuning_init);
  reader->Text("prompt_tuning_init_text", &config->prompt_tuning_init_text);
  reader->Text("tokenizer_name_or_path", &config->tokenizer_name_or_path);
  reader->Flag("prefix_projection", &config->prefix_projection);
  reader->Whole("encoder_hidden_size", &config->encoder_hidden_size);
  int64_t submodules = 1;
  reader->Whole("num_transformer_submodules", &submodules);
  if (submodules != 1)
    reader->Refuse("num_transformer_submodules",
                   "1: models with an encoder and a decoder are not "
                   "supported");
  reader->Ignore({"tokenizer_kwargs", "encoder_dropout", "encoder_num_layers", "encoder_reparameterization_type"});
}

}  // namespace

std::string AdapterConfig::ToJson() const {
  std::string out = "{";
  for (const auto& [key, value] : FieldsOf(*this)) {
    out += (out.size() > 1 ? ",\n  " : "\n  ") + Quoted(key) + ": " + value;
  }
  return out + "\n}\n";
}

Result<AdapterConfig> AdapterConfig::FromJson(std::string_view text, std::vector<std::string>* unknown) {
  boost::system::error_code ec;
  json::value value = json::parse(text, ec);
  if (ec) return InvalidArgument("adapter_config.json is not valid JSON: " + ec.message() + "; copy the file anew");
  if (!value.is_object()) return InvalidArgument("adapter_config.json must hold an object");
  AdapterConfig config;
  config.peft_type.clear();
  config.task_type.clear();
  Reader reader(value.as_object());
  reader.Text("peft_type", &config.peft_type);
  reader.Text("task_type", &config.task_type);
  reader.Text("base_model_name_or_path", &config.base_model_name_or_path);
  reader.Flag("inference_mode", &config.inference_mode);
  reader.Flag("fan_in_fan_out", &config.fan_in_fan_out);
  reader.List("target_modules", &config.target_modules, &config.target_modules_regex);
  reader.List("exclude_modules", &config.exclude_modules, &config.exclude_modules_regex);
  reader.List("modules_to_save", &config.modules_to_save, nullptr);
  reader.Layers("layers_to_transform", &config.layers_to_transform);
  reader.Layers("bias_only_layers", &config.bias_only_layers);
  reader.Ignore({"auto_mapping", "revision", "peft_version", "init_ia3_weights"});
  ReadLora(&reader, &config);
  reader.List("feedforward_modules", &config.feedforward_modules, &config.feedforward_modules_regex);
  ReadPrompt(&reader, &config);
  reader.Text("placement", &config.placement);
  reader.Whole("bottleneck_size", &config.bottleneck_size);
  reader.Text("non_linearity", &config.non_linearity);
  reader.Number("adapter_scaling", &config.adapter_scaling);
  if (!reader.errors().empty()) return InvalidArgument("adapter_config.json: " + reader.errors());
  if (unknown != nullptr) *unknown = reader.Unknown();
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  return config;
}

}  // namespace heddle::peft
