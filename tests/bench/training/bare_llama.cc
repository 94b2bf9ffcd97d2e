#include "bare_llama.h"

#include <torch/nn/functional.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim.h>

#include <cmath>
#include <limits>

namespace heddle::bench {

namespace F = torch::nn::functional;
using torch::Tensor;

BareTrainer::BareTrainer(std::shared_ptr<const model::BaseWeights> base,
                         std::map<std::string, std::pair<Tensor, Tensor>> adapter, const BareOptions& options)
    : base_(std::move(base)), adapter_(std::move(adapter)), options_(options) {
  for (auto& [path, factors] : adapter_) {
    parameters_.push_back(factors.first.requires_grad_(true));
    parameters_.push_back(factors.second.requires_grad_(true));
  }
  optimizer_ =
      std::make_unique<torch::optim::AdamW>(parameters_, torch::optim::AdamWOptions(options_.learning_rate)
                                                             .betas(std::make_tuple(options_.beta1, options_.beta2))
                                                             .eps(options_.epsilon)
                                                             .weight_decay(options_.weight_decay));
}

Tensor BareTrainer::Linear(const std::string& path, const Tensor& x) const {
  Tensor y = F::linear(x, base_->tensors.at(path + ".weight"));
  const auto found = adapter_.find(path);
  if (found == adapter_.end()) return y;
  return y + F::linear(F::linear(x, found->second.first), found->second.second) * options_.scaling;
}

Tensor BareTrainer::Norm(const std::string& name, const Tensor& x) const {
  return x * torch::rsqrt(x.pow(2).mean(-1, true) + base_->spec.norm_eps) * base_->tensors.at(name + ".weight");
}

// x: [batch, heads, length, head_dim].
Tensor BareTrainer::Rotate(const Tensor& x) const {
  const auto halves = x.chunk(2, -1);
  return x * cos_ + torch::cat({-halves[1], halves[0]}, -1) * sin_;
}

Tensor BareTrainer::Attention(const std::string& path, const Tensor& x) const {
  const model::ModelSpec& c = base_->spec;
  const int64_t batch = x.size(0), length = x.size(1), group = c.num_attention_heads / c.num_key_value_heads;
  const auto heads = [&](const std::string& name, int64_t count) {
    return Linear(path + name, x).view({batch, length, count, c.head_dim}).transpose(1, 2);
  };
  const Tensor q = Rotate(heads("q_proj", c.num_attention_heads));
  const Tensor k = Rotate(heads("k_proj", c.num_key_value_heads)).repeat_interleave(group, 1);
  const Tensor v = heads("v_proj", c.num_key_value_heads).repeat_interleave(group, 1);
  const Tensor scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(c.head_dim)) + mask_;
  const Tensor mixed = torch::matmul(torch::softmax(scores, -1), v).transpose(1, 2).reshape({batch, length, -1});
  return Linear(path + "o_proj", mixed);
}

Tensor BareTrainer::Loss(const Tensor& ids, const Tensor& targets) {
  const model::ModelSpec& c = base_->spec;
  const int64_t length = ids.size(1);
  if (!mask_.defined()) {
    const Tensor frequency = torch::pow(torch::Scalar(c.rotary.theta), torch::arange(0, c.head_dim, 2, torch::kDouble) *
                                                                           (-1.0 / static_cast<double>(c.head_dim)));
    const Tensor angle = torch::outer(torch::arange(length, torch::kDouble), frequency);
    const Tensor both = torch::cat({angle, angle}, -1);
    cos_ = both.cos().to(torch::kFloat);
    sin_ = both.sin().to(torch::kFloat);
    mask_ = torch::full({length, length}, -std::numeric_limits<float>::infinity()).triu(1);
  }
  Tensor x = F::embedding(ids, base_->tensors.at("model.embed_tokens.weight"));
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    x = x + Attention(layer + "self_attn.", Norm(layer + "input_layernorm", x));
    const Tensor h = Norm(layer + "post_attention_layernorm", x);
    x = x + Linear(layer + "mlp.down_proj",
                   torch::silu(Linear(layer + "mlp.gate_proj", h)) * Linear(layer + "mlp.up_proj", h));
  }
  x = Norm("model.norm", x);
  const Tensor logits =
      c.tie_word_embeddings ? F::linear(x, base_->tensors.at("model.embed_tokens.weight")) : Linear("lm_head", x);
  return F::cross_entropy(logits.reshape({-1, c.vocab_size}), targets.reshape({-1}));
}

double BareTrainer::Step(const Tensor& ids, const Tensor& targets) {
  optimizer_->zero_grad();
  Tensor loss = Loss(ids, targets);
  loss.backward();
  if (options_.max_grad_norm > 0) torch::nn::utils::clip_grad_norm_(parameters_, options_.max_grad_norm);
  optimizer_->step();
  return loss.item<double>();
}

}  // namespace heddle::bench
