// Differentiable building blocks of transformers: norms, rotary positions, activations. Where fewer passes over memory
// than LibTorch's operators take are worth it, the gradient is written by hand (first derivatives only). Float32 on the
// CPU has loops of its own; any other type and device goes through LibTorch's operators. Bfloat16 and half precision
// are normalised in float32. Values that carry a forward-mode tangent go through LibTorch's operators too, whose
// forward-mode formulas are there, while hand-written functions have none. Thread-safe (no state).
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "model/config/model_spec.h"

namespace heddle::model {

// x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich, 1910.07467), in the type of x.
// `weight` [D] may be trainable, and then is of the type of x.
torch::Tensor RmsNorm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

// (x - mean) / sqrt(variance + eps) * weight + bias (Ba et al., 1607.06450), in the type of x.
torch::Tensor LayerNorm(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias, double eps);

// x [batch, length, heads * head_dim] to [batch, heads, length, head_dim], the first 2 * half dimensions of each head
// rotated by position (Su et al., 2104.09864; halves layout of Hugging Face), and all multiplied by `scale`. cos and
// sin: [>= length, half] for all rows, or [batch, length, half]; constants, of the type of x (float for bfloat16 and
// half).
torch::Tensor RotateHeads(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, int64_t heads,
                          double scale);

// silu(gate) * up (Shazeer, 2002.05202).
torch::Tensor SwiGlu(const torch::Tensor& gate, const torch::Tensor& up);

torch::Tensor Activate(const torch::Tensor& x, Activation activation);

// Whether forward-mode differentiation is under way through one of these.
inline bool HasTangent(const torch::Tensor& x) { return x.defined() && x._fw_grad(/*level=*/0).defined(); }
template <typename... Others>
bool HasTangent(const torch::Tensor& x, const Others&... others) {
  return HasTangent(x) || HasTangent(others...);
}

// True for the types that are computed in float32 where precision counts.
inline bool IsReduced(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }

}  // namespace heddle::model
