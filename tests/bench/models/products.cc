#include "bench_models.h"
#include "model/architectures/architectures.h"

namespace heddle::bench {

model::ModelSpec DecoderSpec(int64_t length) {
  model::ModelSpec spec = model::LlamaSpec();
  spec.architecture = "LlamaForCausalLM";
  spec.hidden_size = 768;
  spec.intermediate_size = 2048;
  spec.num_hidden_layers = 6;
  spec.num_attention_heads = spec.num_key_value_heads = 12;
  spec.head_dim = 64;
  spec.vocab_size = 32000;
  spec.max_position_embeddings = length;
  spec.norm_eps = 1e-5;
  spec.tie_word_embeddings = true;
  return spec;
}

Products::Products(const model::ModelSpec& spec, int64_t batch, int64_t length) {
  const int64_t tokens = batch * length, layers = spec.num_hidden_layers;
  const auto linear = [&](int64_t out, int64_t in, int64_t count) {
    shapes_.push_back(
        {torch::randn({tokens, in}), torch::randn({out, in}) * 0.02, torch::randn({tokens, out}), count, false});
    forward_flop_ += 2.0 * static_cast<double>(tokens * out * in * count);
  };
  const int64_t heads = spec.num_attention_heads * spec.head_dim;
  linear(heads, spec.hidden_size, 3 * layers);  // query, key, value
  linear(spec.hidden_size, heads, layers);
  linear(spec.intermediate_size, spec.hidden_size, 2 * layers);
  linear(spec.hidden_size, spec.intermediate_size, layers);
  linear(spec.vocab_size, spec.hidden_size, 1);
  const int64_t rows = batch * spec.num_attention_heads;
  const auto attention = [&](int64_t inner, int64_t out) {
    shapes_.push_back({torch::randn({rows, length, inner}), torch::randn({rows, out, inner}) * 0.02,
                       torch::randn({rows, length, out}), layers, true});
    forward_flop_ += 2.0 * static_cast<double>(rows * length * inner * out * layers);
  };
  attention(spec.head_dim, length);  // scores
  attention(length, spec.head_dim);  // what they mix
}

double Products::Time(bool backward) const {
  torch::NoGradGuard no_grad;
  const double started = Now();
  for (const Shape& s : shapes_) {
    for (int64_t i = 0; i < s.count; ++i) {
      if (s.batched) {
        at::bmm(s.x, s.weight.transpose(1, 2));
        if (!backward) continue;
        at::bmm(s.gradient, s.weight);
        at::bmm(s.gradient.transpose(1, 2), s.x);
      } else {
        at::mm(s.x, s.weight.t());
        if (!backward) continue;
        at::mm(s.gradient, s.weight);
        at::mm(s.gradient.t(), s.x);
      }
    }
  }
  return Now() - started;
}

double Products::ForwardSeconds() const { return Time(false); }
double Products::TrainingSeconds() const { return Time(true); }

}  // namespace heddle::bench
