#include "model/transformer/blocks.h"

#include <cmath>

#include "model/transformer/attention.h"
#include "model/transformer/functions.h"

namespace heddle::model {

using torch::Tensor;

namespace {

constexpr int64_t kFirstCapacity = 64;  // tokens; a cache then doubles

// Puts the new rows behind those of the cache and returns all of them. tensor: [batch, kv_heads, length, head_dim].
Tensor Append(Tensor& kept, const Tensor& tensor, int64_t past) {
  const int64_t end = past + tensor.size(2);
  if (!kept.defined() || kept.size(2) < end) {
    int64_t capacity = kept.defined() ? 2 * kept.size(2) : kFirstCapacity;
    while (capacity < end) capacity *= 2;
    Tensor larger = at::empty({tensor.size(0), tensor.size(1), capacity, tensor.size(3)}, tensor.options());
    if (past > 0) larger.slice(2, 0, past).copy_(kept.slice(2, 0, past));
    kept = larger;
  }
  kept.slice(2, past, end).copy_(tensor);
  return kept.slice(2, 0, end);
}

}  // namespace

ModuleTree::ModuleTree(torch::nn::Module* root, const ModelSpec& spec, const WeightSource& source)
    : root_(root), source_(source) {
  for (LinearSpec& linear : spec.LinearModules()) specs_.emplace(linear.path, linear);
}

torch::nn::Module& ModuleTree::Parent(const std::string& path) {
  const size_t dot = path.rfind('.');
  if (dot == std::string::npos) return *root_;
  const std::string group = path.substr(0, dot);
  auto& module = groups_[group];
  if (!module) {
    module = std::make_shared<torch::nn::Module>();
    Parent(group).register_module(group.substr(group.rfind('.') + 1), module);
  }
  return *module;
}

Tensor ModuleTree::Parameter(const std::string& name) {
  if (name.empty()) return {};
  Tensor tensor = source_.dense(name);
  if (!tensor.defined()) return {};
  return Parent(name).register_parameter(name.substr(name.rfind('.') + 1), std::move(tensor), source_.trainable);
}

Linear ModuleTree::MakeLinear(const std::string& path) {
  const auto found = specs_.find(path);
  if (found == specs_.end()) return Linear(nullptr);  // the model, or this part of it, has none
  const LinearSpec& spec = found->second;
  const Tensor bias = spec.bias ? source_.dense(path + ".bias") : Tensor();
  Linear linear{nullptr};
  if (auto packed = source_.packed ? source_.packed(path + ".weight") : nullptr) {
    linear = Linear(spec, std::move(packed), bias);
  } else {
    const Tensor weight = source_.dense(path + ".weight");
    if (!weight.defined()) return Linear(nullptr);  // an optional one that the checkpoint lacks
    linear = Linear(spec, weight, bias, source_.trainable);
  }
  Parent(path).register_module(path.substr(path.rfind('.') + 1), linear);
  linears_.emplace(path, linear);
  return linear;
}

Norm::Norm(ModuleTree& tree, const ModelSpec& spec, const std::string& path) : eps(spec.norm_eps) {
  on = !path.empty();
  if (!on || !spec.norm_weights) return;
  weight = tree.Parameter(path + ".weight");
  if (spec.norm == NormKind::kLayer) bias = tree.Parameter(path + ".bias");
}

Tensor Norm::operator()(const Tensor& x) const {
  if (!on) return x;
  return bias.defined() || !weight.defined() ? LayerNorm(x, weight, bias, eps) : RmsNorm(x, weight, eps);
}

Embeddings::Embeddings(ModuleTree& tree, const ModelSpec& spec)
    : spec_(spec),
      tokens_(tree.Parameter(spec.token_embedding)),
      positions_(tree.Parameter(spec.positions.name)),
      types_(tree.Parameter(spec.type_embedding)),
      class_token_(tree.Parameter(spec.patches.class_token)),
      distillation_token_(tree.Parameter(spec.patches.distillation_token)),
      project_in_(tree.MakeLinear(spec.project_in)),
      norm_(tree, spec, spec.embedding_norm) {
  if (!spec.TakesImages()) return;
  patches_ = tree.Parameter(spec.patches.projection + ".weight");
  patches_bias_ = tree.Parameter(spec.patches.projection + ".bias");
}

Tensor Embeddings::Patches(const Tensor& pixels, at::ScalarType compute) {
  const PatchSpec& p = spec_.patches;
  TORCH_CHECK(pixels.defined() && pixels.dim() == 4 && pixels.size(1) == p.channels && pixels.size(2) == p.image_size &&
                  pixels.size(3) == p.image_size,
              "the model takes images [batch, ", p.channels, ", ", p.image_size, ", ", p.image_size, "]");
  Tensor x = at::conv2d(pixels.to(compute), patches_.to(compute), patches_bias_.to(compute), p.patch_size);
  x = x.flatten(2).transpose(1, 2);
  const auto token = [&](const Tensor& t) { return t.to(compute).expand({x.size(0), 1, x.size(2)}); };
  std::vector<Tensor> parts;
  if (class_token_.defined()) parts.push_back(token(class_token_));
  if (distillation_token_.defined()) parts.push_back(token(distillation_token_));
  parts.push_back(x);
  return parts.size() == 1 ? x : at::cat(parts, 1);
}

Tensor Embeddings::PositionIndices(const ModelInput& input, const Tensor& positions, int64_t past,
                                   int64_t length) const {
  const LearnedPositions& p = spec_.positions;
  if (positions.defined()) return positions + p.offset;
  Tensor counted;
  int64_t before = 0;  // tokens that are not among those counted
  if (p.source == PositionSource::kNotPadding && length == input.ids.size(1)) {
    counted = input.ids.ne(spec_.pad_token_id).to(at::kLong);
    before = past;
  }
  if (p.source == PositionSource::kMask && input.mask.defined()) counted = input.mask.ne(0).to(at::kLong);
  if (!counted.defined()) return at::arange(past, past + length, input.ids.options()).unsqueeze(0) + p.offset;
  // With a cache the mask is that of all tokens, and only the new ones are looked up.
  return ((counted.cumsum(1) + before) * counted - 1 + p.offset).slice(1, counted.size(1) - length);
}

Tensor Embeddings::Words(const ModelInput& input, const Tensor& prompts, const Tensor& positions, int64_t past,
                         at::ScalarType compute) {
  Tensor x = at::embedding(tokens_, input.ids).to(compute);
  if (!project_in_.is_empty()) x = project_in_->forward(x);
  if (prompts.defined()) x = at::cat({prompts, x}, 1);
  if (positions_.defined()) {
    const Tensor indices = PositionIndices(input, positions, past, x.size(1));
    x = x + at::embedding(positions_, indices).to(compute);
  }
  if (types_.defined()) {
    Tensor types = input.types.defined() ? input.types : at::zeros_like(input.ids);
    if (prompts.defined()) types = at::cat({at::zeros({types.size(0), prompts.size(1)}, types.options()), types}, 1);
    x = x + at::embedding(types_, types).to(compute);
  }
  return x;
}

Tensor Embeddings::operator()(const ModelInput& input, const Tensor& prompts, const Tensor& positions, int64_t past,
                              at::ScalarType compute) {
  if (!spec_.TakesImages()) return norm_(Words(input, prompts, positions, past, compute));
  Tensor x = Patches(input.pixels, compute);
  if (positions_.defined()) x = x + positions_.to(compute);
  if (prompts.defined()) {
    const int64_t special = (class_token_.defined() ? 1 : 0) + (distillation_token_.defined() ? 1 : 0);
    x = at::cat({x.slice(1, 0, special), prompts, x.slice(1, special)}, 1);
  }
  return norm_(x);
}

Layer::Layer(ModuleTree& tree, const ModelSpec& spec, int64_t index) : spec_(spec), index_(index) {
  const std::string path = spec.LayerPath(index);
  const LayerNames& n = spec.layer;
  const auto linear = [&](const std::string& name) { return tree.MakeLinear(path + name); };
  attention_norm_ = Norm(tree, spec, path + n.attention_norm);
  if (spec.qkv_layout == QkvLayout::kSeparate) {
    query_ = linear(n.query);
    key_ = linear(n.key);
    value_ = linear(n.value);
  } else {
    qkv_ = linear(n.qkv);
  }
  attention_out_ = linear(n.attention_out);
  mlp_norm_ = Norm(tree, spec, path + n.mlp_norm);
  if (spec.gated_mlp) gate_ = linear(n.gate);
  up_ = linear(n.up);
  down_ = linear(n.down);
}

std::vector<Linear> Layer::linears() const {
  std::vector<Linear> out;
  for (const Linear& l : {query_, key_, value_, qkv_, attention_out_, gate_, up_, down_}) {
    if (!l.is_empty()) out.push_back(l);
  }
  return out;
}

const LayerSlots* Layer::SlotsOf(const Pass& pass) const {
  if (pass.slots == nullptr || pass.slots->layers.empty()) return nullptr;
  return &pass.slots->layers[static_cast<size_t>(index_)];
}

std::array<Tensor, 3> Layer::Project(const Tensor& x, const Pass& pass) {
  const int64_t batch = x.size(0), length = x.size(1), dim = spec_.head_dim;
  const int64_t heads = spec_.num_attention_heads, kv_heads = spec_.num_key_value_heads;
  Tensor query, key, value;  // [batch, length, heads * head_dim]
  switch (spec_.qkv_layout) {
    case QkvLayout::kSeparate:
      query = query_->forward(Given(x, pass));
      key = key_->forward(x);
      value = value_->forward(x);
      break;
    case QkvLayout::kBlocks: {
      const auto parts = qkv_->forward(x).split_with_sizes({heads * dim, kv_heads * dim, kv_heads * dim}, -1);
      query = Given(parts[0], pass);
      key = parts[1];
      value = parts[2];
      break;
    }
    case QkvLayout::kPerHead: {
      const Tensor parts = qkv_->forward(x).view({batch, length, heads, 3, dim});
      query = Given(parts.select(3, 0).reshape({batch, length, heads * dim}), pass);
      key = parts.select(3, 1).reshape({batch, length, heads * dim});
      value = parts.select(3, 2).reshape({batch, length, heads * dim});
      break;
    }
  }
  if (const LayerSlots* slots = SlotsOf(pass)) {
    for (const Bottleneck& network : slots->key_value) {
      const Tensor both = network(x);
      key = key + both.slice(-1, 0, kv_heads * dim);
      value = value + both.slice(-1, kv_heads * dim);
    }
  }
  const auto by_head = [&](const Tensor& t, int64_t count) {
    return t.view({batch, t.size(1), count, dim}).transpose(1, 2);
  };
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  if (!pass.cos.defined()) return {by_head(query, heads) * scale, by_head(key, kv_heads), by_head(value, kv_heads)};
  const auto table = [&](const Tensor& t) { return pass.rows > 0 ? t.slice(-2, 0, pass.rows) : t; };
  return {RotateHeads(query, table(pass.cos), table(pass.sin), heads, scale),
          RotateHeads(key, pass.cos, pass.sin, kv_heads, 1.0), by_head(value, kv_heads)};
}

Tensor Layer::Given(const Tensor& x, const Pass& pass) { return pass.rows > 0 ? x.slice(1, 0, pass.rows) : x; }

Tensor Layer::Attend(const Tensor& x, const Pass& pass) {
  auto [query, key, value] = Project(x, pass);
  if (pass.with_prefix) {
    const auto type = key.scalar_type();
    key = at::cat({pass.slots->Prefix(spec_, index_, false, key.size(0), type), key}, 2);
    value = at::cat({pass.slots->Prefix(spec_, index_, true, value.size(0), type), value}, 2);
  }
  if (pass.cache != nullptr) {
    const auto layer = static_cast<size_t>(index_);
    key = Append(pass.cache->keys[layer], key, pass.cache->length);
    value = Append(pass.cache->values[layer], value, pass.cache->length);
  }
  const bool windowed = spec_.WindowOf(index_) > 0;
  Tensor mask = windowed ? pass.window_mask : pass.mask;
  if (pass.rows > 0 && mask.defined() && mask.size(2) > 1) mask = mask.slice(2, 0, pass.rows);
  const Tensor mixed = Attention(query, key, value, mask);
  const LayerSlots* slots = SlotsOf(pass);
  Tensor y = attention_out_->forward(mixed);
  if (slots != nullptr) {
    for (const Bottleneck& network : slots->after_attention) y = y + network(y);
  }
  return y;
}

Tensor Layer::Mlp(const Tensor& x, const Pass& pass) {
  Tensor y;
  if (!spec_.gated_mlp) {
    y = down_->forward(Activate(up_->forward(x), spec_.activation));
  } else {
    const Tensor gate = gate_->forward(x), up = up_->forward(x);
    y = down_->forward(spec_.activation == Activation::kSilu ? SwiGlu(gate, up)
                                                             : Activate(gate, spec_.activation) * up);
  }
  if (const LayerSlots* slots = SlotsOf(pass)) {
    for (const Bottleneck& network : slots->after_mlp) y = y + network(y);
  }
  return y;
}

Tensor Layer::operator()(const Tensor& x, const Pass& pass) {
  switch (spec_.placement) {
    case NormPlacement::kPre: {
      const Tensor mixed = Given(x, pass) + Attend(attention_norm_(x), pass);
      return mixed + Mlp(mlp_norm_(mixed), pass);
    }
    case NormPlacement::kPost: {
      const Tensor mixed = attention_norm_(Given(x, pass) + Attend(x, pass));
      return mlp_norm_(mixed + Mlp(mixed, pass));
    }
    case NormPlacement::kParallel:
      break;
  }
  const Tensor rows = Given(x, pass);
  return rows + Attend(attention_norm_(x), pass) + Mlp(mlp_norm_(rows), pass);
}

}  // namespace heddle::model
