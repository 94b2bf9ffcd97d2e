#include "coordinator/recipe/tuning_bindings.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "peft/adapter/prompt_generator.h"

namespace heddle::coordinator {
namespace {

struct Method {
  std::string_view name;
  peft::TuningKind kind;
};
constexpr std::array kMethods = {
    Method{"lora", peft::TuningKind::kLora},
    Method{"ia3", peft::TuningKind::kIa3},
    Method{"prompt-tuning", peft::TuningKind::kPromptTuning},
    Method{"prefix-tuning", peft::TuningKind::kPrefixTuning},
    Method{"p-tuning", peft::TuningKind::kPTuning},
    Method{"bottleneck", peft::TuningKind::kBottleneck},
    Method{"bitfit", peft::TuningKind::kBitFit},
    Method{"full", peft::TuningKind::kFull},
};

// The values of a table as numbers.
template <typename T>
void ReadPattern(const char* key, const std::map<std::string, std::string>& texts, std::map<std::string, T>* out,
                 std::string* mistakes) {
  for (const auto& [pattern, text] : texts) {
    T value{};
    const char* end = text.data() + text.size();
    if (std::from_chars(text.data(), end, value) == std::from_chars_result{end, {}}) {
      (*out)[pattern] = value;
    } else {
      *mistakes += "\n  lora." + std::string(key) + ": the value of '" + pattern + "' is no " +
                   (std::is_integral_v<T> ? "whole number" : "number");
    }
  }
}

}  // namespace

std::vector<std::string> TuningMethodNames() {
  std::vector<std::string> names;
  for (const Method& method : kMethods) names.emplace_back(method.name);
  return names;
}

void TuningBindings::Bind(ConfigSchema* schema, peft::AdapterConfig* adapter, NewHead* head, NewGenerator* generator) {
  const auto text = [schema](const char* key, std::string* to, const char* help, std::vector<std::string> choices) {
    schema->Bind(key, to, {.help = help, .choices = std::move(choices), .silent_default = true});
  };
  const auto list = [schema](const char* key, std::vector<std::string>* to, const char* help) {
    schema->Bind(key, to, {.help = help, .max = 256, .silent_default = true});
  };
  schema->Bind("model.num_labels", &num_labels_,
               {.help = "a new head for classification with so many labels (1: a number); 0: the base model's head",
                .max = 65536,
                .silent_default = true});
  list("model.label_names", &head->label_names, "names of the new head's labels, as in the data");

  text("tuning.method", &method_, "what is trained", TuningMethodNames());
  list("tuning.target_modules", &target_modules_,
       "names of modules, of lora, ia3 and bitfit; before lora.target_modules");
  text("tuning.target_modules_regex", &adapter->target_modules_regex, "the same as an expression of the whole path",
       {});
  list("tuning.modules_to_save", &adapter->modules_to_save, "names of modules that are trained whole");
  list("tuning.feedforward_modules", &adapter->feedforward_modules, "ia3: targets whose input is scaled");
  text("tuning.feedforward_modules_regex", &adapter->feedforward_modules_regex,
       "the same as an expression of the whole path", {});
  schema->Bind("tuning.layers_to_transform", &layers_,
               {.help = "only these layers, counted from 0: of lora, bottleneck, bitfit and full",
                .max = 4096,
                .silent_default = true});
  schema->Bind("tuning.bias_only_layers", &bias_layers_,
               {.help = "full: of these layers the biases only", .max = 4096, .silent_default = true});
  schema->Bind("tuning.num_virtual_tokens", &adapter->num_virtual_tokens,
               {.help = "of prompt-tuning, prefix-tuning and p-tuning", .min = 1, .max = 4096, .silent_default = true});
  text("tuning.prompt_tuning_init", &adapter->prompt_tuning_init, "prompt-tuning: first values",
       {"RANDOM", "SAMPLE_VOCAB"});
  schema->Bind(
      "tuning.generator_dim", &generator->dim,
      {.help = "prompt-tuning: inputs and units of a network that makes the prompt and is trained in its place; "
               "0: none",
       .max = static_cast<double>(peft::kMostGeneratorWidth),
       .silent_default = true});
  schema->Bind("tuning.generator_scale", &generator->scale,
               {.help = "what its output is multiplied with", .min = 1e-6, .max = 1e6, .silent_default = true});
  text("tuning.placement", &adapter->placement,
       "bottleneck: behind attention and MLP, behind the MLP, or beside the attention's input",
       {"houlsby", "pfeiffer", "key_value"});
  schema->Bind("tuning.bottleneck_size", &adapter->bottleneck_size,
               {.help = "bottleneck: its width", .min = 1, .max = 65536, .silent_default = true});
  text("tuning.non_linearity", &adapter->non_linearity, "bottleneck: its activation",
       {"relu", "gelu", "gelu_new", "silu", "tanh"});
  schema->Bind("tuning.adapter_scaling", &adapter->adapter_scaling,
               {.help = "bottleneck: factor of what it adds", .min = 1e-6, .max = 1e6, .silent_default = true});

  schema->Bind("lora.use_dora", &adapter->use_dora,
               {.help = "weight-decomposed: directions from A and B, magnitudes of their own", .silent_default = true});
  text("lora.init_lora_weights", &adapter->init_lora_weights,
       "first values: B zero, or from the base's singular values", {"true", "gaussian", "pissa"});
  schema->Bind("lora.loraplus_lr_ratio", &adapter->loraplus_lr_ratio,
               {.help = "B learns so many times as fast as A", .min = 1e-6, .max = 1e6, .silent_default = true});
  schema->BindTable("lora.rank_pattern", &rank_pattern_, "ranks by name of module: {\"down_proj\" = 4}");
  schema->BindTable("lora.alpha_pattern", &alpha_pattern_, "values of lora_alpha by name of module");
}

Status TuningBindings::CheckAllCount(const peft::AdapterConfig& adapter) const {
  using Kind = peft::TuningKind;
  const peft::AdapterConfig plain;
  std::string mistakes;
  const auto only = [&](std::initializer_list<Kind> kinds, bool set, const char* key) {
    if (!set || std::find(kinds.begin(), kinds.end(), adapter.kind()) != kinds.end()) return;
    mistakes += "\n  " + std::string(key) + ": tuning.method \"" + method_ + "\" has no such setting";
  };
  only({Kind::kLora, Kind::kIa3, Kind::kBitFit}, !target_modules_.empty(), "tuning.target_modules");
  only({Kind::kLora, Kind::kIa3, Kind::kBitFit}, !adapter.target_modules_regex.empty(), "tuning.target_modules_regex");
  only({Kind::kLora, Kind::kBottleneck, Kind::kBitFit, Kind::kFull}, !layers_.empty(), "tuning.layers_to_transform");
  only({Kind::kFull}, !bias_layers_.empty(), "tuning.bias_only_layers");
  for (const int64_t layer : bias_layers_) {
    if (std::find(layers_.begin(), layers_.end(), layer) == layers_.end()) continue;
    mistakes += "\n  tuning.bias_only_layers: layer " + std::to_string(layer) +
                " is in layers_to_transform too, which trains it whole; take it out of one of the two";
  }
  only({Kind::kIa3}, !adapter.feedforward_modules.empty(), "tuning.feedforward_modules");
  only({Kind::kIa3}, !adapter.feedforward_modules_regex.empty(), "tuning.feedforward_modules_regex");
  if (adapter.kind() == Kind::kIa3 && target_modules_.empty() && adapter.target_modules_regex.empty() &&
      !(adapter.feedforward_modules.empty() && adapter.feedforward_modules_regex.empty())) {
    mistakes += "\n  tuning.feedforward_modules: without targets ia3 takes its own; name tuning.target_modules too";
  }
  only({Kind::kPromptTuning, Kind::kPrefixTuning, Kind::kPTuning},
       adapter.num_virtual_tokens != plain.num_virtual_tokens, "tuning.num_virtual_tokens");
  only({Kind::kPromptTuning}, adapter.prompt_tuning_init != plain.prompt_tuning_init, "tuning.prompt_tuning_init");
  only({Kind::kBottleneck}, adapter.placement != plain.placement, "tuning.placement");
  only({Kind::kBottleneck}, adapter.bottleneck_size != plain.bottleneck_size, "tuning.bottleneck_size");
  only({Kind::kBottleneck}, adapter.non_linearity != plain.non_linearity, "tuning.non_linearity");
  only({Kind::kBottleneck}, adapter.adapter_scaling != plain.adapter_scaling, "tuning.adapter_scaling");
  only({Kind::kLora}, adapter.use_dora, "lora.use_dora");
  only({Kind::kLora}, adapter.use_rslora, "lora.use_rslora");
  only({Kind::kLora}, adapter.init_lora_weights != plain.init_lora_weights, "lora.init_lora_weights");
  only({Kind::kLora}, adapter.loraplus_lr_ratio != plain.loraplus_lr_ratio, "lora.loraplus_lr_ratio");
  only({Kind::kLora}, !rank_pattern_.empty(), "lora.rank_pattern");
  only({Kind::kLora}, !alpha_pattern_.empty(), "lora.alpha_pattern");
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

Status TuningBindings::Store(peft::AdapterConfig* adapter, NewHead* head) const {
  std::string mistakes;
  for (const Method& method : kMethods) {
    if (method.name == method_) adapter->peft_type = peft::PeftTypeOf(method.kind);
  }
  if (!target_modules_.empty()) {
    adapter->target_modules = target_modules_;
  } else if (adapter->kind() != peft::TuningKind::kLora || !adapter->target_modules_regex.empty()) {
    adapter->target_modules.clear();  // lora's own default says nothing of others
  }
  if (!target_modules_.empty() && !adapter->target_modules_regex.empty()) {
    mistakes += "\n  tuning.target_modules_regex: it goes without target_modules";
  }
  adapter->layers_to_transform = layers_;
  adapter->bias_only_layers = bias_layers_;
  ReadPattern("rank_pattern", rank_pattern_, &adapter->rank_pattern, &mistakes);
  ReadPattern("alpha_pattern", alpha_pattern_, &adapter->alpha_pattern, &mistakes);
  head->num_labels = static_cast<int64_t>(num_labels_);
  if (!head->label_names.empty() && head->label_names.size() != num_labels_) {
    mistakes += "\n  model.label_names: it must name each of the " + std::to_string(num_labels_) + " labels";
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

}  // namespace heddle::coordinator
