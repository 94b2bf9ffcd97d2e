// A round of low-rank training for tests: a model, devices that moved it, the merge of one method, and what each layer
// adds to its base, as a dense matrix in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/low_rank/layout.h"
#include "common/safetensors.h"
#include "tests/unit/aggregation/low_rank/brute_force.h"
#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation::low_rank {

struct Layer {
  std::string path;
  int64_t d, k, rank;
};

inline std::string AKey(const std::string& path) { return "base_model.model." + path + ".lora_A.weight"; }
inline std::string BKey(const std::string& path) { return "base_model.model." + path + ".lora_B.weight"; }

inline constexpr double kScaling = 2;  // lora_alpha / r
inline constexpr const char* kHead = "base_model.model.classifier.weight";

// Sides above, below and equal to the rank; square and not.
inline std::vector<Layer> Layers(int64_t rank = 4) {
  return {{"h.0.q_proj", 12, 12, rank}, {"h.0.up", 19, 9, rank},      {"h.0.down", 9, 19, rank},
          {"h.1.thin", rank, 14, rank}, {"h.1.tall", 14, rank, rank}, {"h.1.all", rank, rank, rank}};
}

// A random and B as given: zero in the first round.
inline StateDict Model(const std::vector<Layer>& layers, uint64_t seed, float of_b = 0, bool head = true) {
  StateDict model;
  for (const Layer& layer : layers) {
    model.merge(RandomUpdate({{AKey(layer.path), {layer.rank, layer.k}}}, seed + 1, 0.5F));
    model.merge(RandomUpdate({{BKey(layer.path), {layer.d, layer.rank}}}, seed + 2, of_b));
    seed += 10;
  }
  if (head) model.merge(RandomUpdate({{kHead, {3, 5}}}, seed));
  return model;
}

struct Device {
  StateDict update;
  UpdateInfo info;
};

// `max_abs` bounds how far each element moved; rank 0 is the model's.
inline Device MakeDevice(const StateDict& model, const std::string& name, uint64_t seed, float max_abs,
                         uint64_t examples, int64_t rank = 0, const DeviceRules& rules = {}) {
  Shapes shapes;
  for (const auto& [key, spec] : UpdateSpec(SpecOf(model), rules, rank)) shapes.emplace_back(key, spec.shape);
  return {RandomUpdate(shapes, seed, max_abs), {.num_examples = examples, .rank = rank, .device = name}};
}

// Three devices that disagree, of different weights.
inline std::vector<Device> ThreeDevices(const StateDict& model, const std::vector<int64_t>& ranks = {0, 0, 0},
                                        float max_abs = 0.5F, const DeviceRules& rules = {}) {
  return {MakeDevice(model, "anna", 101, max_abs, 10, ranks[0], rules),
          MakeDevice(model, "bert", 102, max_abs, 25, ranks[1], rules),
          MakeDevice(model, "cleo", 103, max_abs, 5, ranks[2], rules)};
}

inline bool SameBytes(const StateDict& a, const StateDict& b) {
  return SerializeSafetensors(a) == SerializeSafetensors(b);
}

inline AggregatorOptions WithFresh(const StateDict& model, double scaling = 2) {
  AggregatorOptions options;
  options.scaling = scaling;
  options.fresh_adapter = [spec = SpecOf(model)](uint32_t round) -> Result<StateDict> {
    StateDict fresh;
    for (const auto& [key, tensor] : spec) {
      if (key.starts_with(kOwnPrefix)) continue;
      fresh.merge(RandomUpdate({{key, tensor.shape}}, 7000 + round, IsLoraB(key) ? 0.0F : 0.5F));
    }
    return fresh;
  };
  return options;
}

inline std::unique_ptr<Aggregator> MakeOrFail(const std::string& method, const StateDict& parent,
                                              const AggregatorOptions& options) {
  auto made = MakeAggregator(method, parent, options);
  EXPECT_TRUE(made.ok()) << method << ": " << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

inline StateDict Merged(const std::string& method, const StateDict& parent, const std::vector<Device>& devices,
                        const AggregatorOptions& options) {
  auto aggregator = MakeOrFail(method, parent, options);
  if (aggregator == nullptr) return {};
  for (const Device& device : devices) {
    const Validity validity = aggregator->Validate(device.update, device.info);
    EXPECT_TRUE(validity.ok()) << method << ": " << validity.message;
    const Status folded = aggregator->Fold(device.update, device.info);
    EXPECT_TRUE(folded.ok()) << method << ": " << folded;
  }
  auto next = std::move(*aggregator).Finish();
  EXPECT_TRUE(next.ok()) << method << ": " << next.status();
  return next.ok() ? std::move(next->model) : StateDict{};
}

// b a, from row-major floats, cut to a rank where that is positive.
inline Matrix DenseOf(const Tensor& b, const Tensor& a, double scaling, int64_t rank = 0) {
  const auto d = static_cast<size_t>(b.shape()[0]), all = static_cast<size_t>(b.shape()[1]);
  const auto k = static_cast<size_t>(a.shape()[1]);
  const size_t r = rank > 0 ? std::min(all, static_cast<size_t>(rank)) : all;
  Matrix out(d, k);
  for (size_t i = 0; i < d; ++i) {
    for (size_t n = 0; n < r; ++n) {
      for (size_t j = 0; j < k; ++j) {
        out(i, j) += scaling * double{b.values<float>()[i * all + n]} * double{a.values<float>()[n * k + j]};
      }
    }
  }
  return out;
}

// All that a model adds to the layer's W0.
inline Matrix LayerOf(const StateDict& model, const Layer& layer, double scaling) {
  Matrix out = DenseOf(model.at(BKey(layer.path)), model.at(AKey(layer.path)), scaling);
  const auto base = model.find(BaseDeltaA(layer.path));
  if (base != model.end()) AddScaled(&out, DenseOf(model.at(BaseDeltaB(layer.path)), base->second, 1), 1);
  return out;
}

// The rank that the model keeps in a layer's base.
inline int64_t BaseRank(const StateDict& model, const Layer& layer) {
  const auto base = model.find(BaseDeltaA(layer.path));
  return base == model.end() ? 0 : base->second.shape()[0];
}

// What a device had after its training, by plain addition of doubles: A_c [rows r_c] and B_c.
inline Matrix DeviceLayer(const StateDict& model, const Device& device, const Layer& layer, double scaling) {
  const auto grown = [&](const std::string& key) {
    const Tensor &start = model.at(key), &update = device.update.at(key);
    std::vector<float> values(update.values<float>().begin(), update.values<float>().end());
    const auto wide = static_cast<size_t>(start.shape()[1]), narrow = static_cast<size_t>(update.shape()[1]);
    std::vector<double> sum;
    for (size_t i = 0; i < values.size(); ++i) {
      sum.push_back(double{values[i]} + double{start.values<float>()[i / narrow * wide + i % narrow]});
    }
    return sum;
  };
  const std::vector<double> a = grown(AKey(layer.path)), b = grown(BKey(layer.path));
  const auto d = static_cast<size_t>(layer.d), k = static_cast<size_t>(layer.k), r = a.size() / k;
  Matrix out(d, k);
  for (size_t i = 0; i < d; ++i) {
    for (size_t n = 0; n < r; ++n) {
      for (size_t j = 0; j < k; ++j) out(i, j) += scaling * b[i * r + n] * a[n * k + j];
    }
  }
  const auto base = model.find(BaseDeltaA(layer.path));
  if (base != model.end()) AddScaled(&out, DenseOf(model.at(BaseDeltaB(layer.path)), base->second, 1), 1);
  return out;
}

// The mean of the devices' layers, weighted by their examples: what an exact merge adds to W0.
inline Matrix TrueMean(const StateDict& model, const std::vector<Device>& devices, const Layer& layer, double scaling) {
  double total = 0;
  for (const Device& device : devices) total += static_cast<double>(device.info.num_examples);
  Matrix mean(static_cast<size_t>(layer.d), static_cast<size_t>(layer.k));
  for (const Device& device : devices) {
    AddScaled(&mean, DeviceLayer(model, device, layer, scaling), static_cast<double>(device.info.num_examples) / total);
  }
  return mean;
}

// |what the model adds - true mean| / |true mean|, the largest over the layers.
inline double WorstError(const StateDict& next, const StateDict& model, const std::vector<Device>& devices,
                         const std::vector<Layer>& layers, double scaling) {
  double worst = 0;
  for (const Layer& layer : layers) {
    const Matrix mean = TrueMean(model, devices, layer, scaling);
    const double error = Distance(LayerOf(next, layer, scaling), mean) / std::max(Norm(mean), 1e-30);
    worst = std::max(worst, error);
  }
  return worst;
}

}  // namespace heddle::aggregation::low_rank
