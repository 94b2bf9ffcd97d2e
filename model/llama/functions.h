// Differentiable building blocks of a Llama whose gradients are written by hand: fewer passes over memory than the same
// formula put together from LibTorch's operators. First derivatives only. Thread-safe (no state).
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace heddle::model {

// x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich, 1910.07467). `weight` [D] may be
// trainable.
torch::Tensor RmsNorm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

// x [batch, length, heads * head_dim] to [batch, heads, length, head_dim], rotated by position (Su et al., 2104.09864;
// halves layout of Hugging Face) and multiplied by `scale`. cos and sin: float [>= length, head_dim / 2], constants.
torch::Tensor RotateHeads(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, int64_t heads,
                          double scale);

// silu(gate) * up (Shazeer, 2002.05202).
torch::Tensor SwiGlu(const torch::Tensor& gate, const torch::Tensor& up);

// Causal attention of query groups (Ainslie et al., 2305.13245). query: [batch, heads, length, head_dim], scaled
// already; key, value: [batch, kv_heads, length, head_dim]. Returns [batch, length, heads * head_dim].
torch::Tensor CausalAttention(const torch::Tensor& query, const torch::Tensor& key, const torch::Tensor& value);

// Mean cross-entropy, in nats, of hidden [n, D] through the output weights [vocab, D] against targets int64 [n];
// targets of -100 do not count. Works through the rows in pieces, so the logits of all rows never exist at once. No
// targets that count: the loss is 0. Throws c10::Error on a target outside the vocabulary.
torch::Tensor LinearCrossEntropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                 const torch::Tensor& targets);

}  // namespace heddle::model
