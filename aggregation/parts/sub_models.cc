#include "aggregation/parts/sub_models.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "aggregation/layer_groups.h"
#include "aggregation/parts/layerwise_mean.h"
#include "common/random.h"
#include "common/test_hooks.h"

namespace heddle::aggregation {
namespace {

// Patterns name the layers that a device leaves as they are, and a plan has at most 64 of them.
constexpr double kMostLayers = 64;

constexpr Setting kNumLayers{"num_layers", "layers of the base model", 12, 1, kMostLayers, true};
constexpr Setting kRoundsPerLayer{"rounds_per_layer", "rounds until the next layer's turn", 1, 1, 1e6, true};
constexpr Setting kSampledLayers{
    "sampled_layers", "deeper layers, drawn for each device, that it computes with", 2, 0, kMostLayers, true};
constexpr Setting kSpread{
    "spread_layers", "0: devices have the first layers; 1: layers spread over the whole depth", 0, 0, 1, true};

uint32_t SettingOf(const AggregatorOptions& options, const Setting& setting) {
  const auto given = options.method.find(setting.name);
  return static_cast<uint32_t>(given == options.method.end() ? setting.value : given->second);
}

// The layer whose turn it is, the last one for as long as rounds go on.
uint32_t TurnOf(const AggregatorOptions& options) {
  const uint32_t turn = (std::max(1U, options.round) - 1) / SettingOf(options, kRoundsPerLayer);
  return std::min(turn, SettingOf(options, kNumLayers) - 1);
}

// `count` of first .. end - 1 without repetition, rising: the first of a shuffle that the seed draws.
std::vector<uint32_t> Drawn(uint64_t seed, uint32_t first, uint32_t end, uint32_t count) {
  std::vector<uint32_t> all;
  for (uint32_t layer = first; layer < end; ++layer) all.push_back(layer);
  PhiloxStream random(seed);
  const size_t most = std::min<size_t>(count, all.size());
  for (size_t i = 0; i < most; ++i) std::swap(all[i], all[i + random.NextBelow(static_cast<uint32_t>(all.size() - i))]);
  all.resize(most);
  std::sort(all.begin(), all.end());
  return all;
}

SubModel OfFedBfpt(const AggregatorOptions& options, std::string_view device, uint32_t) {
  const uint32_t layer = TurnOf(options);
  SubModel part;
  for (uint32_t i = 0; i <= layer; ++i) part.layers.push_back(i);
  part.given = part.layers;
  part.frozen.assign(part.layers.begin(), part.layers.end() - 1);
  const std::string which = "round=" + std::to_string(options.round) + " device=" + std::string(device);
  const uint64_t seed = DeriveSeed(options.seed, "deeper layers", which);
  const auto deeper = Drawn(seed, layer + 1, SettingOf(options, kNumLayers), SettingOf(options, kSampledLayers));
  part.layers.insert(part.layers.end(), deeper.begin(), deeper.end());
  return part;
}

SubModel OfHeteroLayers(const AggregatorOptions& options, std::string_view device, uint32_t layers) {
  const uint32_t all = SettingOf(options, kNumLayers);
  const uint32_t room = layers == 0 && options.layers_of ? options.layers_of(device) : layers;
  if (room == 0 || room >= all) return {};
  SubModel part;
  for (uint32_t i = 0; i < room; ++i) {
    const bool spread = SettingOf(options, kSpread) != 0 && room > 1;
    const double place = spread ? static_cast<double>(i) * (all - 1) / (room - 1) : i;
    part.layers.push_back(static_cast<uint32_t>(std::nearbyint(place)));
  }
  part.given = part.layers;
  return part;
}

SubModel OfFreezeLayers(const AggregatorOptions& options, std::string_view, uint32_t) {
  SubModel part;
  for (uint32_t i = 0; i < TurnOf(options); ++i) part.frozen.push_back(i);
  return part;
}

using MakePart = SubModel (*)(const AggregatorOptions& options, std::string_view device, uint32_t layers);
struct Kind {
  std::string_view name;
  MakePart part;
};
constexpr Kind kKinds[] = {{"FedBFPT", OfFedBfpt}, {"HeteroLayers", OfHeteroLayers}, {"FreezeLayers", OfFreezeLayers}};

const Kind* Find(std::string_view method) {
  const auto* found =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) { return k.name == method; });
  return found == std::end(kKinds) ? nullptr : found;
}

bool Has(const std::vector<uint32_t>& layers, uint32_t layer) {
  return std::binary_search(layers.begin(), layers.end(), layer);
}

Result<std::unique_ptr<Aggregator>> MakeParts(const StateDict& parent, const AggregatorOptions& options,
                                              MakePart part) {
  return MakeLayerwiseMean(parent, options, [options, part](const UpdateInfo& info, StateDictSpec whole) {
    return SentBy(part(options, info.device, info.layers), std::move(whole));
  });
}

}  // namespace

bool UsesSubModels(std::string_view method) { return Find(method) != nullptr; }

uint32_t LayersToldTo(std::string_view method, const AggregatorOptions& options) {
  return UsesSubModels(method) ? SettingOf(options, kNumLayers) : 0;
}

SubModel SubModelOf(std::string_view method, const AggregatorOptions& options, std::string_view device,
                    uint32_t layers) {
  const Kind* kind = Find(method);
  return kind == nullptr ? SubModel{} : kind->part(options, device, layers);
}

StateDict GivenTo(const SubModel& part, const StateDict& model) {
  if (part.layers.empty() || HEDDLE_PLANTED(kGiveAllLayers)) return model;
  StateDict out;
  for (const auto& [key, tensor] : model) {
    const std::optional<uint32_t> layer = LayerOfKey(key);
    if (!layer || Has(part.given, *layer)) out.emplace_hint(out.end(), key, tensor);
  }
  return out;
}

StateDictSpec SentBy(const SubModel& part, StateDictSpec update) {
  std::erase_if(update, [&](const auto& item) {
    const std::optional<uint32_t> layer = LayerOfKey(item.first);
    return layer && (Has(part.frozen, *layer) || (!part.layers.empty() && !Has(part.given, *layer)));
  });
  return update;
}

Method FedBfptMethod() {
  return {.name = "FedBFPT",
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict&) { return MakeParts(parent, options, OfFedBfpt); },
          .settings = {kNumLayers, kRoundsPerLayer, kSampledLayers}};
}

Method HeteroLayersMethod() {
  return {.name = "HeteroLayers",
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict&) { return MakeParts(parent, options, OfHeteroLayers); },
          .settings = {kNumLayers, kSpread}};
}

Method FreezeLayersMethod() {
  return {.name = "FreezeLayers",
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict&) { return MakeParts(parent, options, OfFreezeLayers); },
          .settings = {kNumLayers, kRoundsPerLayer}};
}

}  // namespace heddle::aggregation
