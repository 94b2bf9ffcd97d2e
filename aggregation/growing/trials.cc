#include "aggregation/growing/trials.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>

#include "common/random.h"

namespace heddle::aggregation {
namespace {

// The layer of a bottleneck's tensor, "….layers.3.adapter_mlp.down.weight": 3.
std::optional<int64_t> LayerOf(std::string_view key) {
  const size_t at = key.find(".adapter_");
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view path = key.substr(0, at);
  const std::string_view number = path.substr(path.rfind('.') + 1);
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), layer);
  if (error != std::errc() || end != number.data() + number.size()) return std::nullopt;
  return layer;
}

// The dimension of a bottleneck's tensor that is its width; -1: none is.
int WidthDimension(std::string_view key, size_t dimensions) {
  if (!LayerOf(key)) return -1;
  if (key.ends_with(".down.weight") && dimensions == 2) return 0;
  if (key.ends_with(".down.bias") && dimensions == 1) return 0;
  return key.ends_with(".up.weight") && dimensions == 2 ? 1 : -1;
}

// Values of `from` where `onto` is larger: onto's first rows and columns become those of `from`.
Tensor Laid(const Tensor& from, const Tensor& onto) {
  if (from.spec() == onto.spec()) return from;
  std::vector<float> values(onto.values<float>().begin(), onto.values<float>().end());
  const std::span<const float> source = from.values<float>();
  const auto narrow = static_cast<size_t>(from.shape().back()), wide = static_cast<size_t>(onto.shape().back());
  if (from.shape().size() == 1) {
    std::ranges::copy(source, values.begin());
  } else {
    for (size_t i = 0; i < source.size(); ++i) values[i / narrow * wide + i % narrow] = source[i];
  }
  return Tensor::FromFloats(onto.shape(), values);
}

bool FitsInto(const Tensor& small, const Tensor& large) {
  const Shape &a = small.shape(), &b = large.shape();
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](int64_t x, int64_t y) { return x <= y; });
}

}  // namespace

uint32_t GroupOf(const DeviceRules& rules, uint64_t run_seed, std::string_view device) {
  if (rules.groups <= 1) return 0;
  const std::string detail = "trial=" + std::to_string(rules.trial) + " device=" + std::string(device);
  return static_cast<uint32_t>(DeriveSeed(run_seed, "trial group", detail) % rules.groups);
}

StateDict GroupModel(const StateDict& model, uint32_t group) {
  StateDict out;
  const std::string prefix = std::string(kTrialPrefix) + std::to_string(group) + ".";
  for (auto it = model.lower_bound(prefix); it != model.end() && it->first.starts_with(prefix); ++it) {
    out.emplace_hint(out.end(), it->first.substr(prefix.size()), it->second);
  }
  if (!out.empty()) return out;
  for (const auto& [key, tensor] : model) {
    if (!key.starts_with(kOwnPrefix)) out.emplace_hint(out.end(), key, tensor);
  }
  return out;
}

std::optional<GrownSize> SizeOfAdapters(const StateDict& tensors) {
  std::set<int64_t> layers;
  GrownSize size;
  for (const auto& [key, tensor] : tensors) {
    const auto layer = key.starts_with(kOwnPrefix) ? std::nullopt : LayerOf(key);
    if (!layer) continue;
    layers.insert(*layer);
    if (key.ends_with(".down.weight") && tensor.shape().size() == 2) size.width = tensor.shape()[0];
  }
  if (layers.empty() || size.width == 0) return std::nullopt;
  size.layers.assign(layers.begin(), layers.end());
  return size;
}

Tensor CutToWidth(std::string_view key, const Tensor& tensor, int64_t width) {
  const int dimension = WidthDimension(key, tensor.shape().size());
  if (dimension < 0 || tensor.shape()[static_cast<size_t>(dimension)] <= width) return tensor;
  Shape shape = tensor.shape();
  shape[static_cast<size_t>(dimension)] = width;
  const std::span<const float> from = tensor.values<float>();
  const auto narrow = static_cast<size_t>(shape.back()), wide = static_cast<size_t>(tensor.shape().back());
  std::vector<float> values(static_cast<size_t>(*NumElements(shape)));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = shape.size() == 1 ? from[i] : from[i / narrow * wide + i % narrow];
  return Tensor::FromFloats(shape, values);
}

Result<StateDict> Grown(const StateDict& adapter, const StateDict& reserve, int64_t depth, int64_t width) {
  const auto whole = SizeOfAdapters(reserve);
  if (!whole)
    return InvalidArgument("the model has no bottleneck adapters to grow; set tuning.method = \"bottleneck\"");
  for (const auto& [key, tensor] : adapter) {
    const auto partner = reserve.find(key);
    if (partner != reserve.end() && FitsInto(tensor, partner->second)) continue;
    return InvalidArgument("'" + key + "' is " + tensor.spec().ToString() +
                           ", which the largest adapter does not have");
  }
  const int64_t count = std::min<int64_t>(depth, static_cast<int64_t>(whole->layers.size()));
  const int64_t lowest = whole->layers[whole->layers.size() - static_cast<size_t>(count)];
  StateDict out;
  for (const auto& [key, tensor] : reserve) {
    const auto layer = LayerOf(key);
    const auto own = adapter.find(key);
    if (layer && *layer < lowest && own == adapter.end()) continue;
    const Tensor room = CutToWidth(key, tensor, width);
    out.emplace_hint(out.end(), key,
                     own == adapter.end()          ? room
                     : FitsInto(own->second, room) ? Laid(own->second, room)
                                                   : own->second);
  }
  return out;
}

}  // namespace heddle::aggregation
