// Scaled dot-product attention of query groups, with its gradient written by hand, and the masks that say who sees
// whom. Any type and device. Thread-safe (no state).
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace heddle::model {

// Attention (Vaswani et al., 1706.03762; groups: Ainslie et al., 2305.13245). query: [batch, heads, queries, head_dim],
// scaled already; key, value: [batch, kv_heads, keys, head_dim]. `mask`: added to the scores, [1 or batch, 1, queries,
// keys] of the type of the query; undefined: everyone sees everyone. Returns [batch, queries, heads * head_dim].
torch::Tensor Attention(const torch::Tensor& query, const torch::Tensor& key, const torch::Tensor& value,
                        const torch::Tensor& mask);

struct MaskSpec {
  int64_t queries = 0, keys = 0;  // the queries are the last of the keys
  bool causal = false;
  int64_t window = 0;      // with causal: how many tokens are seen, oneself included; 0: all
  torch::Tensor padding;   // [batch, keys], zero where there is no token; undefined: none
  torch::Tensor segments;  // [batch, keys], integers: sequences packed into one see only themselves; undefined: one
  int64_t shared = 0;      // with segments: so many of the first keys are seen from all of them
};
// 0 where a query may look, minus infinity where not; a query that could look nowhere sees itself, so that no row is
// without a number. Undefined when nothing is masked.
torch::Tensor AttentionMask(const MaskSpec& spec, const torch::TensorOptions& options);

}  // namespace heddle::model
