#include "peft/adapter/adapter.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>
#include <regex>

#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"

namespace heddle::peft {
namespace {

namespace json = boost::json;

constexpr std::string_view kPrefix = "base_model.model.";
constexpr size_t kMaxRegexBytes = 512;
// A backtracking matcher takes exponential time for some patterns, and a pattern comes from elsewhere. libstdc++ has
// one that does not, for patterns without back-references.
#ifdef __GLIBCXX__
constexpr auto kRegexFlags = std::regex_constants::ECMAScript | std::regex_constants::__polynomial;
#else
constexpr auto kRegexFlags = std::regex_constants::ECMAScript;
#endif
constexpr size_t kMaxConfigBytes = size_t{1} << 20;

bool MatchesName(std::string_view path, std::string_view name) {
  if (path == name) return true;
  return path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.';
}

std::string_view LastComponent(std::string_view path) { return path.substr(path.rfind('.') + 1); }

bool IsOutputLayer(std::string_view path) {
  return path == "lm_head" || path == "embed_out" || path == "score" || path == "classifier";
}

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

}  // namespace

double AdapterConfig::scaling() const {
  return lora_alpha / (use_rslora ? std::sqrt(static_cast<double>(r)) : static_cast<double>(r));
}

Status AdapterConfig::Validate() const {
  std::string mistakes;
  auto check = [&](bool fine, const std::string& sentence) {
    if (!fine) mistakes += (mistakes.empty() ? "" : "; ") + sentence;
  };
  check(peft_type == "LORA", "peft_type is '" + peft_type + "'; only LORA is supported");
  check(r >= 1 && r <= 4096, "r must be from 1 to 4096");
  check(std::isfinite(lora_alpha) && lora_alpha > 0 && lora_alpha <= 1e6,
        "lora_alpha must be above 0 and at most 1000000");
  check(lora_dropout >= 0 && lora_dropout < 1, "lora_dropout must be from 0 to below 1");
  check(bias == "none", "bias is '" + bias + "'; only none is supported");
  check(!target_modules.empty() || !target_modules_regex.empty(), "target_modules is missing");
  check(target_modules_regex.size() <= kMaxRegexBytes, "target_modules is longer than 512 characters");
  if (mistakes.empty() && !target_modules_regex.empty() && target_modules_regex != "all-linear") {
    try {
      std::regex compiled(target_modules_regex, kRegexFlags);
    } catch (const std::regex_error& error) {
      check(false, "target_modules is not a regular expression: " + std::string(error.what()));
    }
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the adapter configuration: " + mistakes);
}

bool AdapterConfig::Targets(std::string_view path) const {
  for (const std::string& name : exclude_modules) {
    if (MatchesName(path, name)) return false;
  }
  for (const std::string& name : target_modules) {
    if (name == "all-linear" ? !IsOutputLayer(path) : MatchesName(path, name)) return true;
  }
  if (target_modules_regex.empty()) return false;
  if (target_modules_regex == "all-linear") return !IsOutputLayer(path);
  try {
    return path.size() <= 1024 &&
           std::regex_match(path.begin(), path.end(), std::regex(target_modules_regex, kRegexFlags));
  } catch (const std::regex_error&) {
    return false;  // too complex to match: Validate has refused what does not compile
  }
}

std::string AdapterConfig::ToJson() const {
  std::vector<std::string> targets = target_modules;
  std::sort(targets.begin(), targets.end());
  std::string targets_text = target_modules_regex.empty() ? ListText(targets) : Quoted(target_modules_regex);
  // In a list PEFT would look for modules of that name.
  if (targets == std::vector<std::string>{"all-linear"}) targets_text = Quoted("all-linear");
  std::map<std::string, std::string> fields = {
      {"alpha_pattern", "{}"},
      {"auto_mapping", "null"},
      {"base_model_name_or_path", base_model_name_or_path.empty() ? "null" : Quoted(base_model_name_or_path)},
      {"bias", Quoted(bias)},
      {"exclude_modules", exclude_modules.empty() ? "null" : ListText(exclude_modules)},
      {"fan_in_fan_out", fan_in_fan_out ? "true" : "false"},
      {"inference_mode", inference_mode ? "true" : "false"},
      {"init_lora_weights", "true"},
      {"layers_pattern", "null"},
      {"layers_to_transform", "null"},
      {"lora_alpha", NumberText(lora_alpha)},
      {"lora_dropout", NumberText(lora_dropout)},
      {"modules_to_save", "null"},
      {"peft_type", Quoted(peft_type)},
      {"r", std::to_string(r)},
      {"rank_pattern", "{}"},
      {"revision", "null"},
      {"target_modules", targets_text},
      {"task_type", Quoted(task_type)},
      {"use_dora", "false"},
      {"use_rslora", use_rslora ? "true" : "false"},
  };
  std::string out = "{";
  for (const auto& [key, value] : fields) out += (out.size() > 1 ? ",\n  " : "\n  ") + Quoted(key) + ": " + value;
  return out + "\n}\n";
}

Result<AdapterConfig> AdapterConfig::FromJson(std::string_view text, std::vector<std::string>* unknown) {
  boost::system::error_code ec;
  json::value value = json::parse(text, ec);
  if (ec) return InvalidArgument("adapter_config.json is not valid JSON: " + ec.message());
  if (!value.is_object()) return InvalidArgument("adapter_config.json must hold an object");
  AdapterConfig config;
  config.peft_type.clear();
  Reader reader(value.as_object());
  reader.Text("peft_type", &config.peft_type);
  reader.Text("task_type", &config.task_type);
  reader.Whole("r", &config.r);
  reader.Number("lora_alpha", &config.lora_alpha);
  reader.Number("lora_dropout", &config.lora_dropout);
  reader.List("target_modules", &config.target_modules, &config.target_modules_regex);
  reader.List("exclude_modules", &config.exclude_modules, nullptr);
  reader.Text("bias", &config.bias);
  reader.Flag("fan_in_fan_out", &config.fan_in_fan_out);
  reader.Flag("use_rslora", &config.use_rslora);
  reader.Flag("inference_mode", &config.inference_mode);
  reader.Text("base_model_name_or_path", &config.base_model_name_or_path);
  for (std::string_view key : {"modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform", "use_dora",
                               "lora_bias", "trainable_token_indices", "layer_replication"}) {
    reader.MustBeOff(key);
  }
  reader.Ignore({"auto_mapping", "init_lora_weights", "layers_pattern", "revision", "peft_version", "megatron_config",
                 "megatron_core", "loftq_config", "eva_config", "corda_config", "qalora_group_size", "use_qalora",
                 "runtime_config"});
  if (!reader.errors().empty()) return InvalidArgument("adapter_config.json: " + reader.errors());
  if (unknown != nullptr) *unknown = reader.Unknown();
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  return config;
}

Result<std::vector<TargetModule>> FindTargets(const std::vector<model::LinearSpec>& linears,
                                              const AdapterConfig& config) {
  std::vector<TargetModule> targets;
  std::map<std::string, int> linear_names;
  for (const model::LinearSpec& linear : linears) {
    ++linear_names[std::string(LastComponent(linear.path))];
    if (config.Targets(linear.path)) targets.push_back({linear.path, linear.in, linear.out});
  }
  if (targets.empty()) {
    std::string list;
    for (const auto& [name, unused] : linear_names) list += (list.empty() ? "" : ", ") + name;
    return InvalidArgument("target_modules matches no linear layer of the base model; its linear layers are: " + list);
  }
  return targets;
}

Result<std::vector<TargetModule>> FindTargets(const model::ModelSpec& spec, const AdapterConfig& config) {
  const std::vector<std::string>& names = config.target_modules;
  const bool all =
      config.target_modules_regex == "all-linear" || std::find(names.begin(), names.end(), "all-linear") != names.end();
  if (spec.TiedHead() && !all && config.Targets(spec.head.output)) {
    return Unimplemented("target_modules names " + spec.head.output +
                         ", which this model shares with its token embedding: take it out, or take a model with "
                         "\"tie_word_embeddings\": false");
  }
  return FindTargets(spec.LinearModules(), config);
}

StateDict MakeInitialAdapter(const std::vector<TargetModule>& targets, const AdapterConfig& config, uint64_t seed) {
  StateDict adapter;
  for (const TargetModule& target : targets) {
    std::vector<float> a(static_cast<size_t>(config.r * target.in_features));
    PhiloxStream stream(DeriveSeed(seed, "lora_A", target.path));
    // Kaiming uniform with a = sqrt(5) is uniform on +-1/sqrt(fan_in).
    double bound = 1.0 / std::sqrt(static_cast<double>(target.in_features));
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = static_cast<float>((2.0 * static_cast<double>(stream.UniformAt(i)) - 1.0) * bound);
    }
    std::vector<float> b(static_cast<size_t>(target.out_features * config.r), 0.0F);
    adapter.emplace(LoraAKey(target.path), Tensor::FromFloats({config.r, target.in_features}, a));
    adapter.emplace(LoraBKey(target.path), Tensor::FromFloats({target.out_features, config.r}, b));
  }
  return adapter;
}

std::string LoraAKey(std::string_view path) { return std::string(kPrefix) + std::string(path) + ".lora_A.weight"; }
std::string LoraBKey(std::string_view path) { return std::string(kPrefix) + std::string(path) + ".lora_B.weight"; }

StateDictSpec AdapterSpec(const std::vector<TargetModule>& targets, const AdapterConfig& config) {
  StateDictSpec spec;
  for (const TargetModule& target : targets) {
    spec[LoraAKey(target.path)] = {DType::kF32, {config.r, target.in_features}};
    spec[LoraBKey(target.path)] = {DType::kF32, {target.out_features, config.r}};
  }
  return spec;
}

Result<Adapter> ReadAdapter(const std::filesystem::path& folder) {
  std::filesystem::path config_path = folder / "adapter_config.json";
  HEDDLE_ASSIGN_OR_RETURN(std::string text, ReadFile(config_path, kMaxConfigBytes));
  auto config = AdapterConfig::FromJson(text);
  if (!config.ok()) return config.status().Annotate(config_path.string());
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile file, ReadSafetensors(folder / "adapter_model.safetensors"));
  return Adapter{*std::move(config), std::move(file.tensors)};
}

Status WriteAdapter(const std::filesystem::path& folder, const AdapterConfig& config, const StateDict& tensors) {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder / "adapter_config.json", config.ToJson()));
  return WriteSafetensors(folder / "adapter_model.safetensors", tensors);
}

}  // namespace heddle::peft
