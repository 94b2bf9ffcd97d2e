#include "tests/simulation/system/layers.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>
#include <limits>
#include <vector>

#include "common/random.h"
#include "tests/simulation/system/stage.h"

namespace heddle::system_simulation {
namespace {

constexpr uint32_t kRounds = 10;
constexpr uint32_t kAll = 0;  // in place of a number of layers
// Bytes that training takes in these worlds with one layer, and with each more: 8 sequences of 32 tokens, and the deep
// base model of stage.cc, by hand from the formulas of model/config/memory_estimate.h.
constexpr uint64_t kOneLayer = 466'144, kNextLayer = 124'736;

// What the seed draws of the settings.
struct Settings {
  std::array<uint32_t, 3> depths;  // of HeteroLayers: device-03, the other ones below 10, those above
  bool spread;                     // the layers lie over the whole depth
  bool by_memory;                  // the recipe does not say these depths: devices tell memory that allows just them
  uint32_t rounds_per_layer, sampled;
};

Settings SettingsOf(uint64_t seed) {
  const auto draw = [seed](const char* what) { return DeriveSeed(seed, "settings of layers", what); };
  // Often nobody has the last layers, so that they stay as they are.
  return {.depths = {1 + static_cast<uint32_t>(draw("one") % kLayers), 1 + static_cast<uint32_t>(draw("low") % 3),
                     draw("high") % 3 == 0 ? kAll : 1 + static_cast<uint32_t>(draw("high") % 3)},
          .spread = draw("spread") % 2 == 0,
          .by_memory = draw("memory") % 2 == 0,
          .rounds_per_layer = 1 + static_cast<uint32_t>(draw("pace") % 3),
          .sampled = static_cast<uint32_t>(draw("sampled") % 3)};
}

uint32_t DepthOf(const Settings& settings, const std::string& device) {
  if (device == "device-03") return settings.depths[0];
  return device.starts_with("device-0") ? settings.depths[1] : settings.depths[2];
}

Layers Below(uint32_t end) {
  Layers layers;
  for (uint32_t layer = 0; layer < end; ++layer) layers.insert(layer);
  return layers;
}

// Of so many among four, spread evenly: a half counts as the even neighbour.
Layers Spread(uint32_t count) {
  static const std::array<Layers, kLayers> kPlaces = {Layers{0}, {0, 3}, {0, 2, 3}, {0, 1, 2, 3}};
  return kPlaces.at(count - 1);
}

uint32_t LayerOf(const std::string& name) {
  static constexpr std::string_view kBefore = ".layers.";
  const size_t at = name.find(kBefore);
  uint32_t layer = kLayers;
  if (at == std::string::npos) return layer;
  const char* const digits = name.data() + at + kBefore.size();
  std::from_chars(digits, name.data() + name.size(), layer);
  return layer;
}

// What devices of the run send in some round and is not `own`.
std::vector<Layers> OthersThan(const Layers& own, Method method, uint64_t seed) {
  std::set<Layers> others;
  for (uint32_t round = 1; round <= kRounds; ++round) {
    for (size_t i = 0; i < kDevices; ++i)
      others.insert(ShareOf(method, seed, Stage::DeviceName(i).value(), round).sent);
  }
  others.erase(own);
  return {others.begin(), others.end()};
}

template <typename Container>
auto Pick(const Container& from, uint64_t key) {
  return *std::next(from.begin(), static_cast<std::ptrdiff_t>(key % from.size()));
}

Layers Minus(const Layers& all, const Layers& without) {
  Layers rest;
  std::set_difference(all.begin(), all.end(), without.begin(), without.end(), std::inserter(rest, rest.end()));
  return rest;
}

}  // namespace

bool HasLayers(Method method) {
  return method == Method::kHeteroLayers || method == Method::kFedBfpt || method == Method::kFreezeLayers;
}

std::string LayerSettings(Method method, uint64_t seed) {
  const Settings settings = SettingsOf(seed);
  std::string lines = "num_layers = " + std::to_string(kLayers) + "\n";
  if (method != Method::kHeteroLayers) {
    lines += "rounds_per_layer = " + std::to_string(settings.rounds_per_layer) + "\n";
    if (method == Method::kFedBfpt) lines += "sampled_layers = " + std::to_string(settings.sampled) + "\n";
    return lines;
  }
  const auto& [one, low, high] = settings.depths;
  lines += "spread_layers = " + std::to_string(settings.spread ? 1 : 0) + "\n";
  if (settings.by_memory) return lines + "layers_by_memory = true\nworker_memory_mb = 1\n";
  lines += "device_layers = [\"device-03:" + std::to_string(one) + "\", \"device-0*:" + std::to_string(low) + "\"";
  if (high != kAll) lines += ", \"device-*:" + std::to_string(high) + "\"";
  return lines + "]\n";
}

uint64_t NeedOf(uint32_t layers) { return (1 << 20) + kOneLayer + (layers - 1) * kNextLayer; }

uint32_t LayersWithin(uint64_t told) {
  uint32_t layers = kLayers;
  while (told != 0 && layers > 0 && NeedOf(layers) > told) --layers;
  return layers;
}

uint32_t DepthIn(const v1::TaskPlan& plan) {
  const int layers = plan.train().layers_size();
  return layers == 0 ? kLayers : static_cast<uint32_t>(layers);
}

bool ByMemory(Method method, uint64_t seed) { return method == Method::kHeteroLayers && SettingsOf(seed).by_memory; }

uint64_t MemoryOf(Method method, uint64_t seed, const std::string& device) {
  const uint32_t depth = DepthOf(SettingsOf(seed), device);
  if (!ByMemory(method, seed) || depth == kAll) return 0;
  return NeedOf(depth) + DeriveSeed(seed, "spare memory", device) % kNextLayer;
}

uint64_t RealMemoryOf(Method method, uint64_t seed, const std::string& device) {
  constexpr uint64_t kPlenty = std::numeric_limits<uint64_t>::max();
  const uint64_t draw = DeriveSeed(seed, "memory that is not there", device);
  if (!ByMemory(method, seed) || draw % 4 != 0) return kPlenty;
  return NeedOf(1 + static_cast<uint32_t>(draw / 4 % kLayers));
}

Share ShareOf(Method method, uint64_t seed, const std::string& device, uint32_t round, std::optional<uint32_t> of) {
  const Settings settings = SettingsOf(seed);
  if (method == Method::kHeteroLayers) {
    const uint32_t depth = of.value_or(DepthOf(settings, device));
    if (depth == kAll || depth == kLayers) return {.held = Below(kLayers), .sent = Below(kLayers)};
    const Layers layers = settings.spread ? Spread(depth) : Below(depth);
    return {.held = layers, .sent = layers, .part = true};
  }
  const uint32_t turn = std::min((round - 1) / settings.rounds_per_layer, kLayers - 1);
  if (method == Method::kFedBfpt) {
    return {
        .held = Below(turn + 1), .sent = {turn}, .part = true, .drawn = std::min(settings.sampled, kLayers - 1 - turn)};
  }
  return {.held = Below(kLayers), .sent = Minus(Below(kLayers), Below(turn))};
}

std::optional<std::string> MistakeIn(const v1::TaskPlan& plan, const Share& share, const std::set<uint32_t>* told) {
  if (told != nullptr && !told->contains(DepthIn(plan)))
    return "a task is of another number of layers than its device ever had memory for";
  if (plan.memory_bytes() != (told != nullptr ? NeedOf(DepthIn(plan)) : 0))
    return "a task does not say what memory it was thought to need";
  const auto& asked = plan.train().layers();
  const Layers layers(asked.begin(), asked.end());
  if (plan.tensor_trees().empty() == share.part) return "the trees of a part do not come with a part";
  if (layers.empty() == share.part) return "a part of the model and all of it are mistaken for each other";
  if (share.part) {
    const Layers drawn = Minus(layers, share.held);
    if (layers.size() != static_cast<size_t>(asked.size()) || *layers.rbegin() >= kLayers)
      return "a device is asked to compute with layers that are not there, or twice with one";
    if (layers.size() - drawn.size() != share.held.size() || drawn.size() != share.drawn)
      return "a device is asked to compute with other layers than it holds";
    if (!drawn.empty() && *drawn.begin() < *share.held.rbegin()) return "a layer that was drawn is not a deeper one";
  }
  const auto& patterns = plan.train().rules().frozen();
  std::set<std::string> frozen;
  for (const uint32_t layer : Minus(share.held, share.sent)) frozen.insert(std::to_string(layer));
  if (frozen != std::set<std::string>(patterns.begin(), patterns.end()))
    return "a device is told to leave other layers as they are";
  return std::nullopt;
}

StateDictSpec Within(const Layers& layers, const StateDictSpec& model) {
  StateDictSpec within;
  for (const auto& [name, spec] : model) {
    if (layers.contains(LayerOf(name))) within.emplace(name, spec);
  }
  return within;
}

Layers WrongLayers(Layers layers, Method method, uint64_t seed, uint64_t key, Flaw* flaw) {
  if (*flaw == Flaw::kOtherPart) {
    const std::vector<Layers> others = OthersThan(layers, method, seed);
    if (!others.empty()) return Pick(others, key);
  }
  const Layers foreign = Minus(Below(kLayers), layers);
  if (*flaw == Flaw::kOtherPart || layers.size() == 1) *flaw = Flaw::kOneLayerMore;
  if (foreign.empty()) *flaw = Flaw::kOneLayerLess;
  if (*flaw == Flaw::kOneLayerMore) {
    layers.insert(Pick(foreign, key));
  } else {
    layers.erase(Pick(layers, key));
  }
  return layers;
}

}  // namespace heddle::system_simulation
