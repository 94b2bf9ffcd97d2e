// Where a tuning method (peft/tuning) puts what it adds to a Transformer beside its linear layers: virtual tokens,
// prefixes of the attention's keys and values, and small networks in the layers. Empty, as made: the model computes as
// if there were none. What may be stacked is a list, in the order of use.
//
// Plain data without checks: who fills it keeps to the shapes. Tensors are float32, on the model's device. One thread
// at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "model/config/model_spec.h"

namespace heddle::model {

// scaling * (activation(x down^T + down_bias) up^T + up_bias), in the type of x (Houlsby et al., 1902.00751).
struct Bottleneck {
  torch::Tensor down, down_bias;  // [width, in], [width]
  torch::Tensor up, up_bias;      // [out, width], [out]
  Activation activation = Activation::kRelu;
  double scaling = 1;

  torch::Tensor operator()(const torch::Tensor& x) const;
};

struct LayerSlots {
  std::vector<Bottleneck> after_attention, after_mlp;  // h + f(h) of what the sublayer adds to the residual stream
  std::vector<Bottleneck> key_value;  // f(x) is added to key and value, side by side: out is 2 * kv_heads * head_dim
};

struct TuningSlots {
  // Virtual tokens in front of a text, [tokens, hidden], as if they were embeddings of words; of an image's patches
  // they stand behind the special tokens, without a position.
  std::vector<torch::Tensor> prompts;
  // Keys and values that every token sees, [tokens, layers * 2 * kv_heads * head_dim]: of each layer the keys, then the
  // values, without rotation (Li and Liang, 2101.00190; in every layer, as P-tuning v2, 2110.07602).
  std::vector<torch::Tensor> prefixes;
  std::vector<LayerSlots> layers;  // empty, or one for each

  int64_t PromptTokens() const;
  int64_t PrefixTokens() const;
  // The prompts as [batch, tokens, hidden].
  torch::Tensor Prompts(int64_t batch, at::ScalarType type) const;
  // Keys or values of a layer, [batch, kv_heads, tokens, head_dim].
  torch::Tensor Prefix(const ModelSpec& spec, int64_t layer, bool value, int64_t batch, at::ScalarType type) const;
};

}  // namespace heddle::model
