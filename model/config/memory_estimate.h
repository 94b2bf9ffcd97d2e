// How much memory a model takes, by what is done with it: from its ModelSpec alone, before anything is loaded. What
// `heddle model inspect` prints, and what a worker holds its limit against. Free of LibTorch. Pure functions.
//
// What is counted, for B sequences of T tokens (n = B * T), hidden width H, MLP width I, Q = heads * head_dim,
// K = kv_heads * head_dim, L layers, V words; `a` is the size of an activation (4 bytes, or 2 in bfloat16):
//
//   weights      parameters in the form in which they are kept
//   gradients    4 bytes for each parameter that is trained
//   optimizer    AdamW: 8 bytes for each parameter that is trained
//   activations  kept for the backward pass, for each token and layer:
//                  2 H (inputs of the norms) + Q + 2 K (heads) + heads * T (probabilities of attention)
//                  + 2 I with a gated MLP (3 I unless its activation is SiLU), else I
//                  + the input of each linear layer that is trained, where it is not one of these; LoRA's r for each
//                + 3 H a token around the loss,
//                + the larger of what the backward pass of one layer needs, max(2 heads * T + 2 Q + 2 K, 3 I) + 2 H a
//                token, and of logits in 4 bytes: a classifier's are few; a language model's loss works through pieces
//                of at most 64 MiB (LossRows), in bfloat16 half as much again; where the output layer has a bias or
//                factors, it holds those of all tokens (of a masked model of 15 % of them) three times.
//                With checkpointing H for each layer, and the above of one layer with its backward pass.
//                Without training: 3 H a token, and the larger of what one layer needs at a time and of logits, which
//                are there twice where they are not in pieces. With forward-mode differentiation each value has a
//                tangent beside it, and logits are those of all tokens, five times in all.
//                With forward passes at moved weights also H a token: what the layers below the trained ones make of
//                the batch. As much for each example that is kept for later steps (zo.kept_front_mb), which is not
//                counted.
//
// A test holds this against what LibTorch asks its allocator for: within a third, up or down, at widths that are not
// tiny. The program itself (LibTorch is about 150 MB) and what the allocator keeps are not counted.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/config/model_spec.h"
#include "model/quant/weight_type.h"

namespace heddle::model {

struct MemorySettings {
  int64_t batch = 1, length = 128;         // sequences, tokens (of images: the model's own number)
  WeightType base = WeightType::kFloat32;  // of frozen weights; trained ones are float32
  bool bf16 = false;                       // activations
  bool checkpoint = false;                 // activation checkpointing
  bool tangents = false;                   // without training: forward-mode differentiation
  int64_t rank = 8;                        // LoRA's; 0: what is trained is counted elsewhere
  std::vector<LinearSpec> targets;         // the linear layers that are trained or have factors
};

enum class MemoryUse {
  kInference,    // a forward pass with the loss, as `heddle model eval` does
  kLora,         // training factors on the targets
  kZerothOrder,  // forward passes at weights that are moved in place; directions come from a seed, block by block
  kFull,         // training all parameters with AdamW
};
std::string_view MemoryUseName(MemoryUse use);  // "inference", "lora", "zeroth_order", "full"

// Bytes.
struct MemoryEstimate {
  double weights = 0, gradients = 0, optimizer = 0, activations = 0;
  double total() const { return weights + gradients + optimizer + activations; }
};
MemoryEstimate EstimateMemory(const ModelSpec& spec, MemoryUse use, const MemorySettings& settings);

// Elements, not bytes, that one layer keeps of a token for the backward pass without checkpointing: what `activations`
// lists for each token and layer.
double KeptOfALayer(const ModelSpec& spec, const MemorySettings& settings);

// Of what some layers make of one example: its residual stream.
double FrontBytes(const ModelSpec& spec, const MemorySettings& settings);

// Rows of logits that the loss of a language model works through at a time (transformer/loss.h). Some 2 MiB, which stay
// in the cache of a core or two. With a large vocabulary the product counts for more than the cache: each piece reads
// (and packs) all output weights anew, so with 32 rows it runs at half the speed of 256. But no more than 64 MiB.
int64_t LossRows(int64_t vocab);

// Of LoRA on these targets.
int64_t LoraParameters(const std::vector<LinearSpec>& targets, int64_t rank);

}  // namespace heddle::model
