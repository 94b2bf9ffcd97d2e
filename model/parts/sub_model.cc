#include "model/parts/sub_model.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>

#include "common/assert.h"
#include "model/config/registry.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

// How the families call the number of layers.
constexpr std::array kCountKeys = {"num_hidden_layers", "n_layer", "n_layers"};

Status CheckLayers(const ModelSpec& whole, const std::vector<int64_t>& layers) {
  if (layers.empty()) return InvalidArgument("a model needs at least one layer");
  ModelSpec part = whole;
  part.part.layers = layers;
  return part.Check();
}

// Parses a name as <before the layer's number><number><rest>.
struct Numbered {
  std::string_view before, rest;
  int64_t layer = 0;
};
std::optional<Numbered> Split(const ModelSpec& whole, std::string_view name) {
  const std::string path = whole.layer.path;
  const std::string_view before = std::string_view(path).substr(0, path.find("{}"));
  if (!name.starts_with(before)) return std::nullopt;
  Numbered out;
  out.before = name.substr(0, before.size());
  const std::string_view left = name.substr(before.size());
  const auto [end, error] = std::from_chars(left.data(), left.data() + left.size(), out.layer);
  if (error != std::errc() || end == left.data() || out.layer < 0) return std::nullopt;
  out.rest = left.substr(static_cast<size_t>(end - left.data()));
  if (!out.rest.empty() && out.rest[0] != '.') return std::nullopt;
  return out;
}

std::string Joined(const Numbered& name, int64_t layer) {
  return std::string(name.before) + std::to_string(layer) + std::string(name.rest);
}

}  // namespace

std::vector<int64_t> SpreadLayers(int64_t count, int64_t kept) {
  HEDDLE_ASSERT(kept >= 0 && kept <= count, "no more layers than there are");
  std::vector<int64_t> out;
  for (int64_t i = 0; i < kept; ++i) {
    const double place = kept == 1 ? 0 : static_cast<double>(i * (count - 1)) / static_cast<double>(kept - 1);
    out.push_back(static_cast<int64_t>(std::nearbyint(place)));
  }
  return out;
}

Result<std::vector<int64_t>> EmulatorLayers(int64_t num_layers, int64_t ends, int64_t kept) {
  const int64_t middle = num_layers - 2 * ends;
  if (ends < 1 || middle < 1) {
    return InvalidArgument("the adapters are the first and the last " + std::to_string(ends) + " of " +
                           std::to_string(num_layers) + " layers; there must be at least one of each and one between");
  }
  if (kept < 0 || kept > middle) {
    return InvalidArgument("the emulator is to keep " + std::to_string(kept) + " layers of the " +
                           std::to_string(middle) + " between the adapters");
  }
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < ends; ++i) layers.push_back(i);
  for (const int64_t i : SpreadLayers(middle, kept)) layers.push_back(ends + i);
  for (int64_t i = num_layers - ends; i < num_layers; ++i) layers.push_back(i);
  return layers;
}

Result<std::string> ConfigOfLayers(std::string_view config_json, const std::vector<int64_t>& layers) {
  HEDDLE_ASSIGN_OR_RETURN(const ModelSpec whole, ParseModelConfig(config_json));
  HEDDLE_RETURN_IF_ERROR(CheckLayers(whole, layers));
  json::object config = json::parse(config_json).as_object();  // it was parsed before
  const auto count = static_cast<int64_t>(layers.size());
  bool said = false;
  for (const char* key : kCountKeys) {
    if (!config.contains(key)) continue;
    config[key] = count;
    said = true;
  }
  if (!said) config[whole.architecture.starts_with("GPT2") ? "n_layer" : "num_hidden_layers"] = count;
  if (json::value* types = config.if_contains("layer_types"); types != nullptr && types->is_array()) {
    json::array kept;
    for (const int64_t layer : layers) {
      const auto i = static_cast<size_t>(layer);
      if (i < types->as_array().size()) kept.push_back(types->as_array()[i]);
    }
    *types = std::move(kept);
  }
  if (whole.sliding_window > 0 && whole.full_attention_layers > 0) {
    config["max_window_layers"] =
        std::count_if(layers.begin(), layers.end(), [&](int64_t i) { return i < whole.full_attention_layers; });
  }
  std::string text = json::serialize(config) + "\n";
  HEDDLE_ASSIGN_OR_RETURN(const ModelSpec smaller, ParseModelConfig(text));
  bool same = smaller.num_hidden_layers == count;
  for (int64_t i = 0; same && i < count; ++i) {
    same = smaller.WindowOf(i) == whole.WindowOf(layers[static_cast<size_t>(i)]);
  }
  if (!same) return Unimplemented("the config.json of a " + whole.architecture + " cannot say what those layers are");
  return text;
}

std::optional<std::string> NameAmongLayers(const ModelSpec& whole, std::string_view name,
                                           const std::vector<int64_t>& layers) {
  const auto numbered = Split(whole, name);
  if (!numbered) return std::string(name);
  const auto found = std::find(layers.begin(), layers.end(), numbered->layer);
  if (found == layers.end()) return std::nullopt;
  return Joined(*numbered, found - layers.begin());
}

std::optional<std::string> NameInWhole(const ModelSpec& whole, std::string_view name,
                                       const std::vector<int64_t>& layers) {
  const auto numbered = Split(whole, name);
  if (!numbered) return std::string(name);
  if (numbered->layer >= static_cast<int64_t>(layers.size())) return std::nullopt;
  return Joined(*numbered, layers[static_cast<size_t>(numbered->layer)]);
}

Result<StateDict> TensorsOfLayers(const ModelSpec& whole, const StateDict& checkpoint,
                                  const std::vector<int64_t>& layers) {
  HEDDLE_RETURN_IF_ERROR(CheckLayers(whole, layers));
  const StateDictSpec spec = SpecOf(checkpoint);
  HEDDLE_RETURN_IF_ERROR(whole.CheckTensors(spec));
  StateDict out;
  for (const auto& [stored, ours] : whole.NamesOf(spec)) {
    const auto name = NameAmongLayers(whole, ours, layers);
    if (name) out.emplace(*name, checkpoint.find(stored)->second);
  }
  return out;
}

}  // namespace heddle::model
