#include "client/worker/frozen_front.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "aggregation/device_rules.h"
#include "common/digest.h"
#include "common/sparse_delta.h"

namespace heddle::client {
namespace {

constexpr std::string_view kPeftPrefix = "base_model.model.";

bool IsWithin(std::string_view path, const std::string& module) {
  return !module.empty() && path.starts_with(module) && (path.size() == module.size() || path[module.size()] == '.');
}

// Behind all layers.
bool IsOfHead(const model::ModelSpec& spec, std::string_view path) {
  const model::HeadSpec& head = spec.head;
  if (IsWithin(path, head.output) || path == head.output_bias_name) return !spec.TiedHead();
  for (const std::string* module :
       {&spec.final_norm, &spec.project_out, &head.dense, &head.norm, &head.second_output}) {
    if (IsWithin(path, *module)) return true;
  }
  return false;
}

// Leading layers of the part that do not read the tensor; 0 also when that is not known.
int64_t LayersBefore(const model::ModelSpec& spec, std::string_view key) {
  const std::vector<int64_t> layers = spec.Layers();
  if (!key.starts_with(kPeftPrefix)) return 0;
  const std::string_view path = key.substr(kPeftPrefix.size());
  if (const int64_t layer = peft::LayerOf(spec, path); layer >= 0) {
    return std::lower_bound(layers.begin(), layers.end(), layer) - layers.begin();
  }
  return IsOfHead(spec, path) ? static_cast<int64_t>(layers.size()) : 0;
}

// Leading layers that make the same of the same in every pass.
int64_t LayersBeforeDropout(const model::TransformerImpl& network) {
  auto layers = static_cast<int64_t>(network.spec().Layers().size());
  for (const auto& [path, linear] : network.LinearModules()) {
    if (!linear->lora_A.defined() || linear->dropout <= 0 || !linear->is_training()) continue;
    layers = std::min(layers, LayersBefore(network.spec(), std::string(kPeftPrefix) + path));
  }
  return layers;
}

std::string_view BytesOf(const torch::Tensor& contiguous) {
  return {static_cast<const char*>(contiguous.data_ptr()), contiguous.nbytes()};
}

void Hash(Sha256Hasher& hasher, std::string_view name, std::string_view bytes) {
  const std::array<uint64_t, 2> sizes{name.size(), bytes.size()};
  hasher.Update(std::as_bytes(std::span(sizes)));
  hasher.Update(name);
  hasher.Update(bytes);
}

// One row of a batch without the padding behind it.
model::ModelInput RowOf(const model::ModelInput& batch, int64_t row) {
  model::ModelInput out;
  if (batch.pixels.defined()) {
    out.pixels = batch.pixels.narrow(0, row, 1);
    return out;
  }
  int64_t length = batch.ids.size(1);
  if (batch.mask.defined()) {
    const torch::Tensor mask = batch.mask[row];
    const torch::Tensor tokens = mask.nonzero();
    length = tokens.size(0) == 0 ? 1 : tokens[-1].item<int64_t>() + 1;
    if (tokens.size(0) < length) out.mask = mask.narrow(0, 0, length).unsqueeze(0);
  }
  const auto cut = [&](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, row, 1).narrow(1, 0, length) : tensor;
  };
  out.ids = cut(batch.ids);
  out.types = cut(batch.types);
  out.positions = cut(batch.positions);
  out.segments = cut(batch.segments);
  return out;
}

Sha256Digest DigestOf(const model::ModelInput& row) {
  Sha256Hasher hasher;
  const std::array<std::pair<const char*, const torch::Tensor*>, 6> parts{{{"ids", &row.ids},
                                                                           {"pixels", &row.pixels},
                                                                           {"mask", &row.mask},
                                                                           {"types", &row.types},
                                                                           {"positions", &row.positions},
                                                                           {"segments", &row.segments}}};
  for (const auto& [name, tensor] : parts) {
    if (tensor->defined()) Hash(hasher, name, BytesOf(tensor->contiguous()));
  }
  return hasher.Finish();
}

// What else the front is made of, beside the model as it was read.
Sha256Digest DigestBelow(const model::ModelSpec& spec, const peft::Tuning& tuning, const StateDict& adapter,
                         int64_t layers) {
  Sha256Hasher hasher;
  bool any = false;
  for (const peft::TunedParameter& one : tuning.parameters()) {
    if (LayersBefore(spec, one.key) >= layers) continue;
    any = true;
    const torch::Tensor values = one.tensor.detach().to(torch::kCPU).contiguous();
    Hash(hasher, one.key, BytesOf(values));
  }
  for (const auto& [name, tensor] : adapter) {
    // What becomes part of the base (peft/tuning/tuning.h). Of other names some change each round, and no layer.
    if (!name.starts_with(aggregation::kBaseDeltaPrefix) && !name.starts_with(kDensePrefix) && name != kDenseSeedName)
      continue;
    any = true;
    const std::span<const std::byte> bytes = tensor.bytes();
    Hash(hasher, name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  if (any) Hash(hasher, "config", tuning.config().ToJson());
  return hasher.Finish();
}

}  // namespace

int64_t FrozenLayers(const model::ModelSpec& spec, const std::set<std::string>& trained) {
  auto layers = static_cast<int64_t>(spec.Layers().size());
  for (const std::string& key : trained) layers = std::min(layers, LayersBefore(spec, key));
  return layers;
}

FrozenFront FrozenFront::Make(model::Transformer network, const peft::Tuning& tuning, const StateDict& adapter,
                              const std::set<std::string>& trained, const TaskInput& input,
                              const TaskResources::Base& base, FrontMemory& memory) {
  FrozenFront front(std::move(network));
  const model::ModelSpec& spec = front.network_->spec();
  const model::TuningSlots& slots = front.network_->slots();
  front.in_halves_ = slots.prompts.empty() && slots.prefixes.empty();
  if (front.in_halves_) front.layers_ = std::min(FrozenLayers(spec, trained), LayersBeforeDropout(*front.network_));
  front.limit_ = uint64_t{input.train.zo.kept_front_mb} << 20;
  memory.Shrink(front.limit_);
  if (front.layers_ == 0 || front.limit_ == 0 || !front.network_->device().is_cpu()) return front;
  // Its angles follow the longest row of a batch, also where the row itself is shorter.
  if (spec.rotary.scaling == model::RotaryScaling::kDynamic) return front;
  front.memory_ = &memory;
  front.identity_ = std::to_string(base.serial) + "|" + std::to_string(front.layers_) + "|" + input.train.base_dtype +
                    "|" + (input.train.bf16 ? "bf16" : "f32") + "|" + std::to_string(input.train.threads) + "|";
  for (const int64_t layer : spec.Layers()) front.identity_ += std::to_string(layer) + " ";
  front.identity_ += DigestBelow(spec, tuning, adapter, front.layers_).ToHex();
  return front;
}

FrozenFront::Batch FrozenFront::Take(HeadBatch batch) const {
  Batch out{std::move(batch)};
  if (layers_ == 0) return out;
  const torch::NoGradGuard no_gradients;
  out.stream = memory_ == nullptr ? network_->Front(out.head.input, layers_) : OfEachRow(out.head);
  return out;
}

torch::Tensor FrozenFront::OfEachRow(const HeadBatch& batch) const {
  torch::Tensor out;
  const int64_t rows = (batch.input.pixels.defined() ? batch.input.pixels : batch.input.ids).size(0);
  for (int64_t i = 0; i < rows; ++i) {
    const model::ModelInput row = RowOf(batch.input, i);
    const Sha256Digest example = DigestOf(row);
    torch::Tensor stream = memory_->Find(identity_, example);
    if (!stream.defined()) {
      stream = network_->Front(row, layers_)[0].contiguous();
      memory_->Keep(identity_, example, stream, limit_);
    }
    // Padding is nobody's to see: masked keys and values count as nothing, and its rows have no target.
    const int64_t length = batch.input.pixels.defined() ? stream.size(0) : batch.input.ids.size(1);
    if (!out.defined()) out = torch::zeros({rows, length, stream.size(1)}, stream.options());
    out[i].narrow(0, 0, stream.size(0)).copy_(stream);
  }
  return out;
}

torch::Tensor FrozenFront::Loss(const Batch& batch) const {
  const model::ModelInput& input = batch.head.input;
  if (!in_halves_) return network_->Loss(input, batch.head.targets);
  const torch::Tensor stream = layers_ == 0 ? network_->Front(input, 0) : batch.stream;
  return network_->TailLoss(network_->Middle(stream, input, layers_), input, batch.head.targets);
}

}  // namespace heddle::client
