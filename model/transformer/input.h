// What goes into a Transformer, and what it keeps between the steps of a generation.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace heddle::model {

// Tensors on the model's device; all but the first that the model takes may stay undefined.
struct ModelInput {
  torch::Tensor ids{};        // int64 [batch, length]
  torch::Tensor pixels{};     // float [batch, channels, height, width], for models of images
  torch::Tensor mask{};       // [batch, length], 0 where there is padding; undefined: there is none
  torch::Tensor types{};      // int64 [batch, length]: token types; undefined: all 0
  torch::Tensor positions{};  // int64 [batch, length]; undefined: as the model counts them, anew in each segment
  // int64 [batch, length]: sequences packed into one row, by number, each in one piece; tokens of different numbers do
  // not see each other. Undefined: one sequence a row.
  torch::Tensor segments{};
};

// Keys and values of the tokens so far, for generation. Made empty; belongs to one sequence of calls on one model.
struct KvCache {
  int64_t length = 0;                       // tokens in it
  std::vector<torch::Tensor> keys, values;  // of each layer: [batch, kv_heads, capacity, head_dim]
  torch::Tensor mask;                       // [batch, length], when a mask was ever given
};

}  // namespace heddle::model
