#include "peft/adapter/adapter_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <regex>

#include "common/config.h"
#include "common/dotted_name.h"

namespace heddle::peft {
namespace {

constexpr size_t kMaxRegexBytes = 512, kMaxPathBytes = 1024, kMaxExpressions = 64, kMaxPatterns = 65536,
                 kMaxLayersListed = 4096;
constexpr int64_t kMaxRank = 4096;
// A backtracking matcher takes exponential time for some patterns, and a pattern comes from elsewhere. libstdc++ has
// one that does not, for patterns without back-references.
#ifdef __GLIBCXX__
constexpr auto kRegexFlags = std::regex_constants::ECMAScript | std::regex_constants::__polynomial;
#else
constexpr auto kRegexFlags = std::regex_constants::ECMAScript;
#endif

constexpr std::array<std::pair<TuningKind, std::string_view>, 8> kTypes = {
    {{TuningKind::kLora, "LORA"},
     {TuningKind::kIa3, "IA3"},
     {TuningKind::kPromptTuning, "PROMPT_TUNING"},
     {TuningKind::kPrefixTuning, "PREFIX_TUNING"},
     {TuningKind::kPTuning, "P_TUNING"},
     {TuningKind::kBottleneck, "BOTTLENECK"},
     {TuningKind::kBitFit, "BITFIT"},
     {TuningKind::kFull, "FULL"}}};

std::optional<TuningKind> KindOf(const std::string& peft_type) {
  for (const auto& [kind, name] : kTypes) {
    if (name == peft_type) return kind;
  }
  return std::nullopt;
}

bool IsOutputLayer(std::string_view path) {
  return path == "lm_head" || path == "embed_out" || path == "score" || path == "classifier";
}

bool Compiles(const std::string& expression, std::string* why) {
  try {
    const std::regex compiled(expression, kRegexFlags);
    return true;
  } catch (const std::regex_error& error) {
    *why = error.what();
    return false;
  }
}

// Names of modules, which need no expression's machinery: there may be thousands, one for each module of a model.
bool IsName(std::string_view pattern) {
  return std::all_of(pattern.begin(), pattern.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  });
}
// As the expression (.*\.)?(pattern) does, in which a dot stands for any character.
bool NameFits(std::string_view path, std::string_view name) {
  if (path.size() < name.size()) return false;
  const size_t at = path.size() - name.size();
  if (at > 0 && path[at - 1] != '.') return false;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] != '.' && name[i] != path[at + i]) return false;
  }
  return true;
}

// By a list of names or ends of names, or by the expression that may stand in its place.
bool Named(std::string_view path, const std::vector<std::string>& names, const std::string& expression) {
  return std::any_of(names.begin(), names.end(),
                     [path](const std::string& name) { return EndsInComponents(path, name); }) ||
         (!expression.empty() && MatchesWhole(path, expression));
}

// The value of the first pattern that fits the path, as PEFT looks for it.
template <typename T>
T FromPattern(const std::map<std::string, T>& patterns, std::string_view path, T otherwise) {
  for (const auto& [pattern, value] : patterns) {
    if (FitsPattern(path, pattern)) return value;
  }
  return otherwise;
}

class Checks {
 public:
  void Check(bool fine, const std::string& sentence) {
    if (!fine) mistakes += (mistakes.empty() ? "" : "; ") + sentence;
  }
  template <typename Values>
  void OneOf(const char* key, const std::string& value, const Values& values) {
    std::string list;
    for (const std::string_view one : values) {
      if (one == value) return;
      list += (list.empty() ? "" : ", ") + std::string(one);
    }
    Check(false, std::string(key) + " is '" + value.substr(0, 60) + "'; known are " + list);
  }
  std::string mistakes;
};

void CheckExpression(const std::string& key, const std::string& expression, bool has_list, Checks* checks) {
  std::string why;
  if (expression.size() > kMaxRegexBytes) {
    checks->Check(false, key + " is longer than 512 characters");
  } else if (!expression.empty() && !Compiles(expression, &why)) {
    checks->Check(false, key + " is not a regular expression: " + why);
  }
  checks->Check(expression.empty() || !has_list, key + " is a list and an expression; leave one of them out");
}

void CheckNames(const AdapterConfig& config, Checks* checks) {
  CheckExpression("target_modules", config.target_modules_regex, !config.target_modules.empty(), checks);
  CheckExpression("exclude_modules", config.exclude_modules_regex, !config.exclude_modules.empty(), checks);
  CheckExpression("feedforward_modules", config.feedforward_modules_regex, !config.feedforward_modules.empty(), checks);
  const bool layered = !config.layers_to_transform.empty();
  checks->Check(config.layers_to_transform.size() <= kMaxLayersListed, "layers_to_transform lists too many layers");
  for (const int64_t layer : config.layers_to_transform) {
    checks->Check(layer >= 0 && layer < static_cast<int64_t>(kMaxLayersListed),
                  "layers_to_transform must list layers from 0 on");
  }
  for (const int64_t layer : config.bias_only_layers) {
    checks->Check(layer >= 0 && layer < static_cast<int64_t>(kMaxLayersListed),
                  "bias_only_layers must list layers from 0 on");
  }
  checks->Check(config.bias_only_layers.empty() || config.kind() == TuningKind::kFull,
                "bias_only_layers goes with FULL; BITFIT trains biases alone");
  checks->Check(!layered || config.target_modules_regex.empty() || config.target_modules_regex == "all-linear",
                "layers_to_transform goes with a list of target_modules: an expression says itself which layers");
  for (const std::string& name : config.modules_to_save) checks->Check(!name.empty(), "modules_to_save has no name");
}

template <typename T>
void CheckPatterns(const char* key, const std::map<std::string, T>& patterns, double most, Checks* checks) {
  const auto expressions =
      std::count_if(patterns.begin(), patterns.end(), [](const auto& entry) { return !IsName(entry.first); });
  checks->Check(static_cast<size_t>(expressions) <= kMaxExpressions && patterns.size() <= kMaxPatterns,
                std::string(key) + " has more than 64 expressions, or more than 65536 names");
  for (const auto& [pattern, value] : patterns) {
    std::string why;
    checks->Check(!pattern.empty() && pattern.size() <= kMaxRegexBytes &&
                      (IsName(pattern) || Compiles("(" + pattern + ")", &why)),
                  std::string(key) + ": '" + pattern.substr(0, 60) + "' is not a regular expression");
    const auto number = static_cast<double>(value);
    checks->Check(std::isfinite(number) && number > 0 && number <= most,
                  std::string(key) + ": the value of '" + pattern.substr(0, 60) + "' must be above 0 and at most " +
                      std::to_string(static_cast<int64_t>(most)));
  }
}

void CheckLora(const AdapterConfig& config, Checks* checks) {
  checks->Check(config.r >= 1 && config.r <= kMaxRank, "r must be from 1 to 4096");
  checks->Check(std::isfinite(config.lora_alpha) && config.lora_alpha > 0 && config.lora_alpha <= 1e6,
                "lora_alpha must be above 0 and at most 1000000");
  checks->Check(config.lora_dropout >= 0 && config.lora_dropout < 1, "lora_dropout must be from 0 to below 1");
  checks->Check(config.bias == "none", "bias is '" + config.bias + "'; only none is supported");
  checks->Check(!config.target_modules.empty() || !config.target_modules_regex.empty(), "target_modules is missing");
  CheckPatterns("rank_pattern", config.rank_pattern, 1 << 20, checks);
  CheckPatterns("alpha_pattern", config.alpha_pattern, 1e6, checks);
  const std::string& init = config.init_lora_weights;
  const bool iterations = init.starts_with("pissa_niter_") && init.size() > 12 && init.size() < 18 &&
                          init.find_first_not_of("0123456789", 12) == std::string::npos;
  if (!iterations) checks->OneOf("init_lora_weights", init, std::array{"true", "false", "gaussian", "pissa"});
  checks->Check(!(config.use_dora && config.IsPissa()), "use_dora and init_lora_weights pissa do not go together");
  checks->Check(
      std::isfinite(config.loraplus_lr_ratio) && config.loraplus_lr_ratio > 0 && config.loraplus_lr_ratio <= 1e6,
      "loraplus_lr_ratio must be above 0 and at most 1000000");
}

void CheckPrompt(const AdapterConfig& config, Checks* checks) {
  checks->Check(config.num_virtual_tokens >= 1 && config.num_virtual_tokens <= 4096,
                "num_virtual_tokens must be from 1 to 4096");
  for (const int64_t size :
       {config.token_dim, config.num_attention_heads, config.num_layers, config.encoder_hidden_size}) {
    checks->Check(size >= 0 && size <= (int64_t{1} << 20),
                  "token_dim, num_attention_heads, num_layers and "
                  "encoder_hidden_size must be from 0 to 1048576");
  }
  if (config.kind() == TuningKind::kPromptTuning) {
    checks->OneOf("prompt_tuning_init", config.prompt_tuning_init, std::array{"RANDOM", "SAMPLE_VOCAB", "TEXT"});
  }
}

void CheckBottleneck(const AdapterConfig& config, Checks* checks) {
  checks->OneOf("placement", config.placement, std::array{"houlsby", "pfeiffer", "key_value"});
  checks->OneOf("non_linearity", config.non_linearity, std::array{"relu", "gelu", "gelu_new", "silu", "tanh"});
  checks->Check(config.bottleneck_size >= 1 && config.bottleneck_size <= 65536,
                "bottleneck_size must be from 1 to 65536");
  checks->Check(std::isfinite(config.adapter_scaling) && config.adapter_scaling > 0 && config.adapter_scaling <= 1e6,
                "adapter_scaling must be above 0 and at most 1000000");
}

}  // namespace

std::string_view PeftTypeOf(TuningKind kind) {
  for (const auto& [one, name] : kTypes) {
    if (one == kind) return name;
  }
  return "LORA";
}

bool IsPromptLearning(TuningKind kind) {
  return kind == TuningKind::kPromptTuning || kind == TuningKind::kPrefixTuning || kind == TuningKind::kPTuning;
}

bool EndsInComponents(std::string_view path, std::string_view name) {
  if (path == name) return true;
  return path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.';
}

bool MatchesWhole(std::string_view path, const std::string& expression) {
  try {
    return path.size() <= kMaxPathBytes &&
           std::regex_match(path.begin(), path.end(), std::regex(expression, kRegexFlags));
  } catch (const std::regex_error&) {
    return false;  // too complex to match: Validate has refused what does not compile
  }
}

bool FitsPattern(std::string_view path, const std::string& pattern) {
  return IsName(pattern) ? NameFits(path, pattern) : MatchesWhole(path, "(.*\\.)?(" + pattern + ")");
}

TuningKind AdapterConfig::kind() const { return KindOf(peft_type).value_or(TuningKind::kLora); }

double AdapterConfig::scaling() const {
  return lora_alpha / (use_rslora ? std::sqrt(static_cast<double>(r)) : static_cast<double>(r));
}

int64_t AdapterConfig::RankOf(std::string_view path) const { return FromPattern(rank_pattern, path, r); }

double AdapterConfig::ScalingOf(std::string_view path) const {
  const auto rank = static_cast<double>(RankOf(path));
  return FromPattern(alpha_pattern, path, lora_alpha) / (use_rslora ? std::sqrt(rank) : rank);
}

AdapterConfig AdapterConfig::ForRank(int64_t rank) const {
  AdapterConfig out = *this;
  const double part = static_cast<double>(rank) / static_cast<double>(r);
  const double share = use_rslora ? std::sqrt(part) : part;
  out.r = rank;
  out.lora_alpha *= share;
  for (auto& [pattern, alpha] : out.alpha_pattern) alpha *= share;
  return out;
}

Status AdapterConfig::Validate() const {
  Checks checks;
  const std::optional<TuningKind> known = KindOf(peft_type);
  if (!known) {
    std::vector<std::string> names;
    for (const auto& [one, name] : kTypes) names.emplace_back(name);
    const auto nearest = NearestName(peft_type, names);
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    checks.Check(false, "peft_type is '" + peft_type.substr(0, 60) + "'" +
                            (nearest ? "; did you mean " + *nearest + "?" : "; known are " + list));
  }
  switch (kind()) {
    case TuningKind::kLora:
      if (known) CheckLora(*this, &checks);
      break;
    case TuningKind::kPromptTuning:
    case TuningKind::kPrefixTuning:
    case TuningKind::kPTuning:
      CheckPrompt(*this, &checks);
      break;
    case TuningKind::kBottleneck:
      CheckBottleneck(*this, &checks);
      break;
    case TuningKind::kIa3:
    case TuningKind::kBitFit:
    case TuningKind::kFull:
      break;
  }
  CheckNames(*this, &checks);
  return checks.mistakes.empty() ? OkStatus() : InvalidArgument("the adapter configuration: " + checks.mistakes);
}

bool AdapterConfig::Excludes(std::string_view path) const {
  return Named(path, exclude_modules, exclude_modules_regex);
}

bool AdapterConfig::Targets(std::string_view path) const {
  if (Excludes(path)) return false;
  for (const std::string& name : target_modules) {
    if (name == "all-linear" ? !IsOutputLayer(path) : EndsInComponents(path, name)) return true;
  }
  if (target_modules_regex.empty()) return false;
  if (target_modules_regex == "all-linear") return !IsOutputLayer(path);
  return MatchesWhole(path, target_modules_regex);
}

bool AdapterConfig::SavesWhole(std::string_view path) const {
  return std::any_of(modules_to_save.begin(), modules_to_save.end(),
                     [path](const std::string& name) { return HasComponents(path, name); });
}

bool AdapterConfig::IsFeedforward(std::string_view path) const {
  return Named(path, feedforward_modules, feedforward_modules_regex);
}

}  // namespace heddle::peft
