#include "peft/adapter/slots.h"

#include <algorithm>
#include <set>

#include "common/config.h"
#include "common/dotted_name.h"
#include "peft/adapter/prompt_generator.h"
#include "peft/adapter/prompt_projection.h"

namespace heddle::peft {
namespace {

constexpr std::string_view kTunedPrefix = "base_model.model.", kPromptPrefix = "base_model.";
constexpr std::string_view kDeltaPrefix = "heddle.base_delta.";
constexpr std::string_view kAEnding = ".lora_A.weight", kBEnding = ".lora_B.weight";

std::string LastName(std::string_view path) { return std::string(path.substr(path.rfind('.') + 1)); }

std::string Listed(const std::set<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

// What is nearest to a name that matched nothing.
std::string DidYouMean(const std::vector<std::string>& asked, const std::set<std::string>& known) {
  for (const std::string& name : asked) {
    const auto nearest = NearestName(LastName(name), {known.begin(), known.end()});
    if (nearest) return "; did you mean '" + *nearest + "'?";
  }
  return "";
}

// Only of the kinds that have the key.
std::set<int64_t> LayersOf(const AdapterConfig& config) {
  if (config.kind() == TuningKind::kIa3 || IsPromptLearning(config.kind())) return {};
  return {config.layers_to_transform.begin(), config.layers_to_transform.end()};
}

// More could hold nothing that so many do not.
Status CheckRank(const model::LinearSpec& linear, int64_t rank) {
  if (rank <= std::min(linear.in, linear.out)) return OkStatus();
  return InvalidArgument("the rank " + std::to_string(rank) + " is above the width of " + linear.path + " (" +
                         std::to_string(linear.in) + " to " + std::to_string(linear.out) +
                         "): lower it, or leave the layer out with exclude_modules");
}

class Lister {
 public:
  Lister(const model::ModelSpec& spec, const AdapterConfig& config)
      : spec_(spec),
        config_(config),
        prefix_(IsPromptLearning(config.kind()) ? kPromptPrefix : kTunedPrefix),
        layers_(LayersOf(config)) {}

  Result<std::vector<Slot>> List() {
    HEDDLE_RETURN_IF_ERROR(CheckLayers());
    HEDDLE_RETURN_IF_ERROR(SavedModules());
    switch (config_.kind()) {
      case TuningKind::kLora:
        HEDDLE_RETURN_IF_ERROR(Lora());
        break;
      case TuningKind::kIa3:
        HEDDLE_RETURN_IF_ERROR(Ia3());
        break;
      case TuningKind::kPromptTuning:
      case TuningKind::kPTuning:
      case TuningKind::kPrefixTuning:
        HEDDLE_RETURN_IF_ERROR(VirtualTokens());
        break;
      case TuningKind::kBottleneck:
        Bottlenecks();
        break;
      case TuningKind::kBitFit:
        HEDDLE_RETURN_IF_ERROR(Biases());
        break;
      case TuningKind::kFull:
        Parameters();
        break;
    }
    HEDDLE_RETURN_IF_ERROR(CheckShared());
    std::sort(slots_.begin(), slots_.end(), [](const Slot& a, const Slot& b) { return a.key < b.key; });
    return std::move(slots_);
  }

 private:
  bool InLayers(std::string_view path) const { return layers_.empty() || layers_.contains(LayerOf(spec_, path)); }
  // By FULL.
  bool Taken(const std::string& name) const {
    const std::vector<int64_t>& biases = config_.bias_only_layers;
    const bool only_bias = std::find(biases.begin(), biases.end(), LayerOf(spec_, name)) != biases.end();
    return only_bias ? name.ends_with(".bias") : InLayers(name);
  }
  void Add(std::string_view path, std::string_view ending, SlotRole role, Shape shape) {
    Slot slot;
    slot.key = std::string(prefix_) + std::string(path) + std::string(ending);
    slot.role = role;
    slot.path = path;
    slot.shape = std::move(shape);
    slots_.push_back(std::move(slot));
  }

  Status CheckLayers() const {
    for (const int64_t layer : layers_) {
      if (layer >= spec_.num_hidden_layers) {
        return InvalidArgument("layers_to_transform names layer " + std::to_string(layer) + "; the base model has " +
                               std::to_string(spec_.num_hidden_layers) + ", counted from 0");
      }
    }
    for (const int64_t layer : config_.bias_only_layers) {
      if (layer >= spec_.num_hidden_layers) {
        return InvalidArgument("bias_only_layers names layer " + std::to_string(layer) + "; the base model has " +
                               std::to_string(spec_.num_hidden_layers) + ", counted from 0");
      }
    }
    return OkStatus();
  }

  // Both sides of a cut compute with a token embedding that is the head's output layer too: two trained copies would
  // become two models.
  Status CheckShared() const {
    if (!spec_.TiedHead() || (spec_.part.embeddings && spec_.part.head)) return OkStatus();
    for (const Slot& slot : slots_) {
      if (slot.role != SlotRole::kParameter || slot.path != spec_.token_embedding) continue;
      return InvalidArgument(spec_.token_embedding +
                             " is on both sides of the cut, because the head uses it too, and cannot be trained: "
                             "leave it out with layers_to_transform, or cut with the topology u_shaped");
    }
    return OkStatus();
  }

  Status SavedModules() {
    std::set<std::string> unused(config_.modules_to_save.begin(), config_.modules_to_save.end()), parents;
    for (const auto& [name, tensor] : spec_.WeightSpec()) {
      const std::string module = name.substr(0, name.rfind('.'));
      parents.insert(LastName(module));
      if (!config_.SavesWhole(module)) continue;
      if (config_.kind() != TuningKind::kFull || !Taken(name)) Add(name, "", SlotRole::kParameter, tensor.shape);
      std::erase_if(unused, [&module](const std::string& saved) { return HasComponents(module, saved); });
    }
    if (!spec_.IsWhole() && !unused.empty()) {  // a module of the other part is the other side's
      for (const auto& [name, tensor] : spec_.Whole().WeightSpec()) {
        const std::string module = name.substr(0, name.rfind('.'));
        std::erase_if(unused, [&module](const std::string& saved) { return HasComponents(module, saved); });
      }
      if (unused.empty()) return OkStatus();
    }
    // PEFT names both of these for classifiers, whichever the model has.
    if (unused.size() < config_.modules_to_save.size()) {
      unused.erase("classifier");
      unused.erase("score");
    }
    if (unused.empty()) return OkStatus();
    return InvalidArgument("modules_to_save: the base model has no module '" + *unused.begin() + "'" +
                           DidYouMean({*unused.begin()}, parents));
  }

  Result<std::vector<model::LinearSpec>> TargetedLinears() const {
    HEDDLE_RETURN_IF_ERROR(CheckTiedHead(spec_, config_));
    std::vector<model::LinearSpec> found;
    std::set<std::string> names;
    for (const model::LinearSpec& linear : spec_.LinearModules()) {
      names.insert(LastName(linear.path));
      if (config_.Targets(linear.path) && !config_.SavesWhole(linear.path) && InLayers(linear.path)) {
        found.push_back(linear);
      }
    }
    if (!found.empty()) return found;
    AdapterConfig all = config_;
    all.exclude_modules.clear();
    all.exclude_modules_regex.clear();
    const auto modules = spec_.LinearModules();
    if (std::any_of(modules.begin(), modules.end(), [&](const auto& one) { return all.Targets(one.path); })) {
      return InvalidArgument(
          "exclude_modules, modules_to_save or layers_to_transform leave nothing of what target_modules matches");
    }
    return InvalidArgument("target_modules matches no linear layer of the base model" + DidYouMean(Asked(), names) +
                           "; its linear layers are: " + Listed(names));
  }

  // The names that were asked for, or the words of the expression.
  std::vector<std::string> Asked() const {
    if (config_.target_modules_regex.empty()) return config_.target_modules;
    std::vector<std::string> words(1);
    for (const char c : config_.target_modules_regex) {
      const bool in_word = c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (in_word) {
        words.back() += c;
      } else if (!words.back().empty()) {
        words.emplace_back();
      }
    }
    return words;
  }

  Status Lora() {
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<model::LinearSpec> linears, TargetedLinears());
    for (const model::LinearSpec& linear : linears) {
      const int64_t rank = config_.RankOf(linear.path);
      // A pattern that is a module's whole path is that of stacked factors, which may be more than the layer is wide.
      if (!config_.rank_pattern.contains(linear.path)) HEDDLE_RETURN_IF_ERROR(CheckRank(linear, rank));
      Add(linear.path, kAEnding, SlotRole::kLoraA, {rank, linear.in});
      Add(linear.path, kBEnding, SlotRole::kLoraB, {linear.out, rank});
      if (config_.use_dora) Add(linear.path, ".lora_magnitude_vector", SlotRole::kMagnitude, {linear.out});
    }
    return OkStatus();
  }

  Status Ia3() {
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<model::LinearSpec> linears, TargetedLinears());
    std::vector<std::string> unused = config_.feedforward_modules;
    for (const model::LinearSpec& linear : linears) {
      const bool input = config_.IsFeedforward(linear.path);
      Add(linear.path, ".ia3_l", input ? SlotRole::kScaleIn : SlotRole::kScaleOut,
          input ? Shape{1, linear.in} : Shape{linear.out, 1});
      std::erase_if(unused, [&linear](const std::string& name) { return EndsInComponents(linear.path, name); });
    }
    if (unused.empty()) return OkStatus();
    return InvalidArgument("feedforward_modules: '" + unused.front() + "' is none of the targets");
  }

  Status VirtualTokens() {
    if (!spec_.IsWhole()) {
      return Unimplemented("virtual tokens do not go over a cut: take LORA, IA3, BOTTLENECK, BITFIT or FULL");
    }
    const AdapterConfig sized = Complete(spec_, config_);
    const bool prefix = config_.kind() == TuningKind::kPrefixTuning;
    const AdapterConfig fresh = [&] {
      AdapterConfig empty = config_;
      empty.token_dim = empty.num_attention_heads = empty.num_layers = 0;
      return Complete(spec_, empty);
    }();
    if (sized.token_dim != fresh.token_dim || sized.num_layers != fresh.num_layers ||
        (prefix && sized.num_attention_heads != fresh.num_attention_heads)) {
      return InvalidArgument(
          "the adapter is for another base model: token_dim, num_layers and num_attention_heads are " +
          std::to_string(sized.token_dim) + ", " + std::to_string(sized.num_layers) + " and " +
          std::to_string(sized.num_attention_heads) + "; this one asks for " + std::to_string(fresh.token_dim) + ", " +
          std::to_string(fresh.num_layers) + " and " + std::to_string(fresh.num_attention_heads));
    }
    if (!prefix && spec_.EmbeddingSize() != spec_.hidden_size) {
      return InvalidArgument(spec_.architecture +
                             " embeds words in another width than its layers have, and virtual "
                             "tokens cannot stand beside them; PREFIX_TUNING can");
    }
    if (!spec_.TakesImages() && config_.num_virtual_tokens >= spec_.MaxLength()) {
      return InvalidArgument("num_virtual_tokens is " + std::to_string(config_.num_virtual_tokens) +
                             ", and the base model takes at most " + std::to_string(spec_.MaxLength()) + " tokens");
    }
    Slot slot;
    slot.key = "prompt_embeddings";
    slot.role = prefix ? SlotRole::kPrefix : SlotRole::kPrompt;
    slot.shape = {config_.num_virtual_tokens,
                  prefix ? 2 * spec_.num_hidden_layers * fresh.token_dim : spec_.hidden_size};
    slots_.push_back(std::move(slot));
    return OkStatus();
  }

  void AddBottleneck(int64_t layer, SlotPlace place, const char* name, int64_t out) {
    const std::string start = std::string(prefix_) + spec_.LayerPath(layer) + name;
    const int64_t width = config_.bottleneck_size;
    const auto add = [&](const char* ending, SlotRole role, Shape shape) {
      Slot slot;
      slot.key = start + ending;
      slot.role = role;
      slot.layer = layer;
      slot.place = place;
      slot.shape = std::move(shape);
      slots_.push_back(std::move(slot));
    };
    add(".down.weight", SlotRole::kDown, {width, spec_.hidden_size});
    add(".down.bias", SlotRole::kDownBias, {width});
    add(".up.weight", SlotRole::kUp, {out, width});
    add(".up.bias", SlotRole::kUpBias, {out});
  }

  void Bottlenecks() {
    for (const int64_t layer : spec_.Layers()) {
      if (!layers_.empty() && !layers_.contains(layer)) continue;
      if (config_.placement == "key_value") {
        AddBottleneck(layer, SlotPlace::kKeyValue, "adapter_key_value", 2 * spec_.num_key_value_heads * spec_.head_dim);
        continue;
      }
      if (config_.placement == "houlsby") {
        AddBottleneck(layer, SlotPlace::kAttention, "adapter_attention", spec_.hidden_size);
      }
      AddBottleneck(layer, SlotPlace::kMlp, "adapter_mlp", spec_.hidden_size);
    }
  }

  Status Biases() {
    const size_t before = slots_.size();
    const bool all = config_.target_modules.empty() && config_.target_modules_regex.empty();
    std::set<std::string> names;
    for (const auto& [name, tensor] : spec_.WeightSpec()) {
      if (!name.ends_with(".bias")) continue;
      const std::string module = name.substr(0, name.size() - 5);
      names.insert(LastName(module));
      if (config_.Excludes(module) || config_.SavesWhole(module) || !InLayers(name)) continue;
      if (all || config_.Targets(module)) Add(name, "", SlotRole::kParameter, tensor.shape);
    }
    if (slots_.size() > before) return OkStatus();
    if (names.empty()) {
      return InvalidArgument("BITFIT trains biases, and " + spec_.architecture + " has none in this configuration");
    }
    return InvalidArgument("target_modules matches no module with a bias" + DidYouMean(config_.target_modules, names) +
                           "; those with one are: " + Listed(names));
  }

  void Parameters() {
    for (const auto& [name, tensor] : spec_.WeightSpec()) {
      if (Taken(name)) Add(name, "", SlotRole::kParameter, tensor.shape);
    }
  }

  const model::ModelSpec& spec_;
  const AdapterConfig& config_;
  const std::string_view prefix_;
  const std::set<int64_t> layers_;
  std::vector<Slot> slots_;
};

// What stands for nothing on a model, said with the key that says it.
class Unused {
 public:
  // `paths` are those that the key is about.
  Unused(std::string key, const std::set<std::string>& paths) : key_(std::move(key)), paths_(paths) {
    for (const std::string& path : paths_) names_.insert(LastName(path));
  }
  void Name(const std::string& name) {
    Check(name, [&](const std::string& path) { return EndsInComponents(path, name); });
  }
  void Expression(const std::string& expression) {
    if (expression.empty()) return;
    Check(expression, [&](const std::string& path) { return MatchesWhole(path, expression); });
  }
  void Pattern(const std::string& pattern) {
    Check(pattern, [&](const std::string& path) { return FitsPattern(path, pattern); });
  }
  const std::string& mistakes() const { return mistakes_; }

 private:
  template <typename Fits>
  void Check(const std::string& asked, const Fits& fits) {
    if (std::any_of(paths_.begin(), paths_.end(), fits)) return;
    mistakes_ += (mistakes_.empty() ? "" : "; ") + key_ + ": '" + asked + "' is none of " + Listed(names_) +
                 DidYouMean({asked}, names_);
  }

  std::string key_, mistakes_;
  const std::set<std::string>& paths_;
  std::set<std::string> names_;
};

}  // namespace

Status CheckNames(const model::ModelSpec& spec, const AdapterConfig& config) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<Slot> slots, ListSlots(spec, config));
  const AdapterConfig complete = Complete(spec, config);
  const TuningKind kind = config.kind();
  for (const int64_t layer : config.bias_only_layers) {
    const auto of_layer = [&](const Slot& slot) { return LayerOf(spec, slot.path) == layer; };
    if (std::any_of(slots.begin(), slots.end(), of_layer)) continue;
    return InvalidArgument("bias_only_layers: layer " + std::to_string(layer) +
                           " of this model has no biases, so nothing of it would be trained; take it out");
  }
  if (kind != TuningKind::kLora && kind != TuningKind::kIa3 && kind != TuningKind::kBitFit) return OkStatus();
  std::set<std::string> modules = {spec.head.output}, possible, targets;
  std::map<std::string, model::LinearSpec> linears;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    const std::string module = name.substr(0, name.rfind('.'));
    modules.insert(module);
    if (kind == TuningKind::kBitFit && name.ends_with(".bias")) possible.insert(module);
  }
  for (model::LinearSpec& linear : spec.LinearModules()) {
    if (kind != TuningKind::kBitFit) possible.insert(linear.path);
    linears.emplace(linear.path, linear);
  }
  Unused target("target_modules", possible), excluded("exclude_modules", modules);
  for (const std::string& name : complete.target_modules) {
    if (name != "all-linear") target.Name(name);
  }
  for (const std::string& name : complete.exclude_modules) excluded.Name(name);
  excluded.Expression(complete.exclude_modules_regex);
  for (const Slot& slot : slots) {
    if (slot.role != SlotRole::kParameter) targets.insert(slot.path);
    if (slot.role != SlotRole::kLoraA) continue;
    HEDDLE_RETURN_IF_ERROR(CheckRank(linears.find(slot.path)->second, slot.shape[0]));
  }
  Unused forward("feedforward_modules", targets), rank("rank_pattern", targets), alpha("alpha_pattern", targets);
  if (kind == TuningKind::kIa3) forward.Expression(complete.feedforward_modules_regex);
  if (kind == TuningKind::kLora) {
    for (const auto& [pattern, value] : config.rank_pattern) rank.Pattern(pattern);
    for (const auto& [pattern, value] : config.alpha_pattern) alpha.Pattern(pattern);
  }
  for (const Unused* one : {&target, &excluded, &forward, &rank, &alpha}) {
    if (!one->mistakes().empty()) return InvalidArgument(one->mistakes());
  }
  return OkStatus();
}

int64_t LayerOf(const model::ModelSpec& spec, std::string_view path) {
  const std::string& pattern = spec.layer.path;
  const size_t at = pattern.find("{}");
  if (at == std::string::npos || !path.starts_with(std::string_view(pattern).substr(0, at))) return -1;
  int64_t layer = -1;
  for (size_t i = at; i < path.size() && path[i] >= '0' && path[i] <= '9' && i < at + 6; ++i) {
    layer = std::max<int64_t>(layer, 0) * 10 + (path[i] - '0');
  }
  if (layer < 0 || layer >= spec.num_hidden_layers) return -1;
  return path.starts_with(spec.LayerPath(layer)) ? layer : -1;
}

Status CheckTiedHead(const model::ModelSpec& spec, const AdapterConfig& config) {
  const std::vector<std::string>& names = config.target_modules;
  const bool all =
      config.target_modules_regex == "all-linear" || std::find(names.begin(), names.end(), "all-linear") != names.end();
  if (!spec.TiedHead() || all || !config.Targets(spec.head.output)) return OkStatus();
  return Unimplemented("target_modules names " + spec.head.output +
                       ", which this model shares with its token embedding: take it out, or take a model with "
                       "\"tie_word_embeddings\": false");
}

Result<std::vector<Slot>> ListSlots(const model::ModelSpec& spec, const AdapterConfig& config) {
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  AdapterConfig with_defaults = Complete(spec, config);
  return Lister(spec, with_defaults).List();
}

Result<StateDictSpec> AdapterSpec(const model::ModelSpec& spec, const AdapterConfig& config) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<Slot> slots, ListSlots(spec, config));
  StateDictSpec out;
  for (const Slot& slot : slots) out[slot.key] = {DType::kF32, slot.shape};
  return out;
}

AdapterConfig Complete(const model::ModelSpec& spec, AdapterConfig config) {
  if (config.kind() == TuningKind::kIa3 && config.target_modules.empty() && config.target_modules_regex.empty()) {
    const model::LayerNames& names = spec.layer;
    const bool separate = spec.qkv_layout == model::QkvLayout::kSeparate;
    config.target_modules =
        separate ? std::vector<std::string>{names.key, names.value} : std::vector<std::string>{names.qkv};
    config.target_modules.push_back(names.down);
    config.feedforward_modules = {names.down};
    // Of BERT "output.dense" is the end of the attention's path too; a name that only the MLP has is longer.
    if (EndsInComponents(names.attention_out, names.down)) {
      std::string& expression = config.exclude_modules_regex;
      if (expression.empty()) {
        config.exclude_modules.push_back(names.attention_out);
      } else {
        expression = "(" + expression + ")|(.*\\.)?" + names.attention_out;
      }
    }
  }
  if (!IsPromptLearning(config.kind())) return config;
  const bool prefix = config.kind() == TuningKind::kPrefixTuning;
  // With fewer keys than queries it is those that a prefix is for, and PEFT counts them so.
  const int64_t heads = prefix ? spec.num_key_value_heads : spec.num_attention_heads;
  const int64_t width = prefix ? spec.num_key_value_heads * spec.head_dim : spec.hidden_size;
  if (config.token_dim == 0) config.token_dim = width;
  if (config.num_attention_heads == 0) config.num_attention_heads = heads;
  if (config.num_layers == 0) config.num_layers = spec.num_hidden_layers;
  if (config.kind() != TuningKind::kPromptTuning && config.encoder_hidden_size == 0) {
    config.encoder_hidden_size = width;
  }
  return config;
}

Status CheckFits(const std::vector<Slot>& slots, const StateDict& adapter) {
  if (PromptGenerator::IsIn(adapter)) {
    return InvalidArgument("the adapter has a prompt's generator in place of prompt_embeddings; train it with zo_sft");
  }
  if (PromptProjection::IsIn(adapter)) {
    return InvalidArgument("the adapter has a prompt's coordinates in place of prompt_embeddings; train it with bbpt");
  }
  StateDictSpec expected, actual;
  for (const Slot& slot : slots) expected[slot.key] = {DType::kF32, slot.shape};
  for (const auto& [key, tensor] : adapter) {
    if (!key.starts_with(kHeddlePrefix)) actual.emplace(key, tensor.spec());
  }
  return CheckSameSpec(expected, actual).Annotate("the adapter does not fit the base model");
}

std::string BaseDeltaAKey(std::string_view path) {
  return std::string(kDeltaPrefix) + std::string(path) + std::string(kAEnding);
}
std::string BaseDeltaBKey(std::string_view path) {
  return std::string(kDeltaPrefix) + std::string(path) + std::string(kBEnding);
}

Result<std::vector<BaseDelta>> FindBaseDeltas(const model::ModelSpec& spec, const StateDict& tensors) {
  std::map<std::string, model::LinearSpec> linears;
  for (model::LinearSpec& linear : spec.LinearModules()) linears.emplace(linear.path, linear);
  std::vector<BaseDelta> found;
  size_t halves = 0;
  for (auto it = tensors.lower_bound(kDeltaPrefix); it != tensors.end() && it->first.starts_with(kDeltaPrefix); ++it) {
    const std::string_view key = it->first;
    ++halves;
    if (!key.ends_with(kAEnding)) continue;
    const std::string path(key.substr(kDeltaPrefix.size(), key.size() - kDeltaPrefix.size() - kAEnding.size()));
    const auto linear = linears.find(path);
    const auto other = tensors.find(BaseDeltaBKey(path));
    if (linear == linears.end()) {
      return InvalidArgument("'" + std::string(key) + "' is for a linear layer that the base model does not have");
    }
    if (other == tensors.end()) return InvalidArgument("'" + std::string(key) + "' lacks its lora_B");
    const Tensor &a = it->second, &b = other->second;
    const bool fits = a.dtype() == DType::kF32 && b.dtype() == DType::kF32 && a.shape().size() == 2 &&
                      b.shape().size() == 2 && a.shape()[1] == linear->second.in &&
                      b.shape()[0] == linear->second.out && a.shape()[0] == b.shape()[1];
    if (!fits) {
      return InvalidArgument("'" + std::string(key) + "' and its lora_B are " + a.spec().ToString() + " and " +
                             b.spec().ToString() + ", which does not fit a layer from " +
                             std::to_string(linear->second.in) + " to " + std::to_string(linear->second.out));
    }
    found.push_back({path, std::string(key), other->first});
  }
  if (halves != 2 * found.size()) return InvalidArgument("a name under heddle.base_delta has no lora_A beside it");
  return found;
}

}  // namespace heddle::peft
