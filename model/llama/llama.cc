#include "model/llama/llama.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "common/random.h"
#include "model/llama/functions.h"

namespace heddle::model {

using torch::Tensor;

LinearImpl::LinearImpl(Tensor weight_in, Tensor bias_in, bool trainable) {
  weight = register_parameter("weight", std::move(weight_in), trainable);
  if (bias_in.defined()) bias = register_parameter("bias", std::move(bias_in), trainable);
}

Tensor LinearImpl::forward(const Tensor& x) {
  Tensor rows = x.reshape({-1, x.size(-1)});
  Tensor y = at::linear(rows, weight, bias);
  if (lora_A.defined()) {
    Tensor input = rows;
    if (dropout > 0 && is_training()) {
      Tensor keep = at::empty_like(rows, at::TensorOptions().requires_grad(false));
      keep.bernoulli_(1.0 - dropout,
                      dropout_generator.defined() ? c10::make_optional(dropout_generator) : c10::nullopt);
      input = rows * keep.div_(1.0 - dropout);
    }
    y = at::addmm(y, at::mm(input, lora_A.t()), lora_B.t(), 1, scaling);
  }
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return y.view(shape);
}

namespace {

// A module that only groups others under a name, as the dots of parameter names ask for.
struct Group : torch::nn::Module {
  template <typename M>
  M Add(const std::string& name, M module) {
    return register_module(name, std::move(module));
  }
};
using GroupPtr = std::shared_ptr<Group>;

struct Vector : torch::nn::Module {
  Vector(Tensor values, bool trainable) { weight = register_parameter("weight", std::move(values), trainable); }
  Tensor weight;
};

struct Layer {
  std::shared_ptr<Vector> input_norm, post_norm;
  Linear q{nullptr}, k{nullptr}, v{nullptr}, o{nullptr}, gate{nullptr}, up{nullptr}, down{nullptr};
};

}  // namespace

struct LlamaImpl::Body {
  LlamaConfig config;
  std::shared_ptr<const BaseWeights> base;  // null when pretraining
  std::shared_ptr<Vector> embedding, norm;
  std::vector<Layer> layers;
  Linear head{nullptr};  // null when tied
  std::map<std::string, Linear> linears;
  Tensor cos, sin;  // [positions so far, head_dim / 2]

  const Tensor& OutputWeight() const { return head.is_empty() ? embedding->weight : head->weight; }

  // Grows the rotary tables to `length` positions; in double, rounded once.
  void PrepareRotary(int64_t length) {
    if (cos.defined() && cos.size(0) >= length) return;
    int64_t positions = 64;
    while (positions < length) positions *= 2;
    const int64_t half = config.head_dim / 2;
    Tensor exponent = at::arange(half, at::kDouble) * (-2.0 / static_cast<double>(config.head_dim));
    Tensor frequency = at::pow(at::Scalar(config.rope_theta), exponent);
    Tensor angle = at::outer(at::arange(positions, at::kDouble), frequency);
    cos = angle.cos().to(at::kFloat).contiguous();
    sin = angle.sin().to(at::kFloat).contiguous();
  }

  Tensor Attention(Layer& layer, const Tensor& x) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
    Tensor query = RotateHeads(layer.q->forward(x), cos, sin, config.num_attention_heads, scale);
    Tensor key = RotateHeads(layer.k->forward(x), cos, sin, config.num_key_value_heads, 1.0);
    Tensor value =
        layer.v->forward(x).view({x.size(0), x.size(1), config.num_key_value_heads, config.head_dim}).transpose(1, 2);
    return layer.o->forward(CausalAttention(query, key, value));
  }

  // Final norm's output [batch, length, hidden]; the residual stream on the way goes to `trace` when given.
  Tensor Run(const Tensor& ids, std::vector<Tensor>* trace) {
    TORCH_CHECK(ids.dim() == 2 && ids.scalar_type() == at::kLong, "ids must be int64 [batch, length]");
    TORCH_CHECK(ids.size(1) >= 1 && ids.size(1) <= config.max_position_embeddings, "a sequence of ", ids.size(1),
                " tokens does not fit a model of ", config.max_position_embeddings, " positions");
    PrepareRotary(ids.size(1));
    Tensor x = at::embedding(embedding->weight, ids);
    if (trace != nullptr) trace->push_back(x);
    for (Layer& layer : layers) {
      x = x + Attention(layer, RmsNorm(x, layer.input_norm->weight, config.rms_norm_eps));
      Tensor h = RmsNorm(x, layer.post_norm->weight, config.rms_norm_eps);
      x = x + layer.down->forward(SwiGlu(layer.gate->forward(h), layer.up->forward(h)));
      if (trace != nullptr) trace->push_back(x);
    }
    return RmsNorm(x, norm->weight, config.rms_norm_eps);
  }
};

namespace {

// Where a new module's tensors come from.
using TensorSource = std::function<Tensor(const std::string& name)>;

struct Builder {
  const LlamaConfig& config;
  const TensorSource& source;
  bool trainable;
  std::map<std::string, Linear>& linears;

  Linear MakeLinear(Group& parent, const std::string& path, const std::string& name, bool bias) {
    const std::string full = path + name;
    Linear linear(source(full + ".weight"), bias ? source(full + ".bias") : Tensor(), trainable);
    parent.Add(name, linear);
    linears.emplace(full, linear);
    return linear;
  }
  std::shared_ptr<Vector> MakeVector(Group& parent, const std::string& path, const std::string& name) {
    return parent.Add(name, std::make_shared<Vector>(source(path + name + ".weight"), trainable));
  }
  Layer MakeLayer(Group& parent, int64_t index) {
    const std::string path = "model.layers." + std::to_string(index) + ".";
    GroupPtr group = parent.Add(std::to_string(index), std::make_shared<Group>());
    Layer layer;
    layer.input_norm = MakeVector(*group, path, "input_layernorm");
    GroupPtr attention = group->Add("self_attn", std::make_shared<Group>());
    layer.q = MakeLinear(*attention, path + "self_attn.", "q_proj", config.attention_bias);
    layer.k = MakeLinear(*attention, path + "self_attn.", "k_proj", config.attention_bias);
    layer.v = MakeLinear(*attention, path + "self_attn.", "v_proj", config.attention_bias);
    layer.o = MakeLinear(*attention, path + "self_attn.", "o_proj", config.attention_bias);
    layer.post_norm = MakeVector(*group, path, "post_attention_layernorm");
    GroupPtr mlp = group->Add("mlp", std::make_shared<Group>());
    layer.gate = MakeLinear(*mlp, path + "mlp.", "gate_proj", config.mlp_bias);
    layer.up = MakeLinear(*mlp, path + "mlp.", "up_proj", config.mlp_bias);
    layer.down = MakeLinear(*mlp, path + "mlp.", "down_proj", config.mlp_bias);
    return layer;
  }
};

}  // namespace

LlamaImpl::LlamaImpl(std::shared_ptr<const BaseWeights> base) : body_(std::make_shared<Body>()) {
  body_->config = base->config;
  body_->base = std::move(base);
  // A detached tensor shares the storage, and keeps autograd's bookkeeping of one module away from the others'.
  Build([this](const std::string& name) { return body_->base->tensors.at(name).detach(); }, false);
}

LlamaImpl::LlamaImpl(const LlamaConfig& config, uint64_t seed) : body_(std::make_shared<Body>()) {
  body_->config = config;
  const StateDictSpec spec = config.WeightSpec();
  Build(
      [&spec, seed](const std::string& name) {
        const Shape& shape = spec.at(name).shape;
        if (name.ends_with(".bias")) return at::zeros(shape);
        if (shape.size() == 1) return at::ones(shape);
        auto generator = at::make_generator<at::CPUGeneratorImpl>(DeriveSeed(seed, "initial_weights", name));
        return at::normal(0.0, 0.02, shape, generator);
      },
      true);
}

void LlamaImpl::Build(const std::function<Tensor(const std::string&)>& source, bool trainable) {
  Body& body = *body_;
  Builder builder{body.config, source, trainable, body.linears};
  auto root = register_module("model", std::make_shared<Group>());
  body.embedding = builder.MakeVector(*root, "model.", "embed_tokens");
  GroupPtr layers = root->Add("layers", std::make_shared<Group>());
  for (int64_t i = 0; i < body.config.num_hidden_layers; ++i) body.layers.push_back(builder.MakeLayer(*layers, i));
  body.norm = builder.MakeVector(*root, "model.", "norm");
  if (!body.config.tie_word_embeddings) {
    body.head = register_module("lm_head", Linear(source("lm_head.weight"), Tensor(), trainable));
    body.linears.emplace("lm_head", body.head);
  }
}

LlamaImpl::~LlamaImpl() = default;

Tensor LlamaImpl::forward(const Tensor& ids) {
  Tensor hidden = body_->Run(ids, nullptr);
  return body_->head.is_empty() ? at::linear(hidden, body_->embedding->weight) : body_->head->forward(hidden);
}

Tensor LlamaImpl::Loss(const Tensor& ids, const Tensor& targets) {
  TORCH_CHECK(targets.sizes() == ids.sizes() && targets.scalar_type() == at::kLong,
              "targets must be int64, shaped like ids");
  Tensor hidden = body_->Run(ids, nullptr).reshape({-1, body_->config.hidden_size});
  const Tensor flat = targets.reshape({-1});
  // LoRA on an untied head needs the head's own forward.
  if (!body_->head.is_empty() && body_->head->lora_A.defined()) {
    return at::cross_entropy_loss(body_->head->forward(hidden), flat);
  }
  return LinearCrossEntropy(hidden, body_->OutputWeight(), flat);
}

std::vector<Tensor> LlamaImpl::HiddenStates(const Tensor& ids) {
  std::vector<Tensor> trace;
  body_->Run(ids, &trace);
  return trace;
}

void LlamaImpl::SeedDropout(uint64_t seed) {
  for (auto& [path, linear] : body_->linears) {
    linear->dropout_generator = at::make_generator<at::CPUGeneratorImpl>(DeriveSeed(seed, "dropout", path));
  }
}

std::map<std::string, Linear> LlamaImpl::LinearModules() const { return body_->linears; }

const LlamaConfig& LlamaImpl::config() const { return body_->config; }

}  // namespace heddle::model
