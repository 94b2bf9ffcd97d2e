// The model whose parts fuzz_tensor_tree looks for, and its seeds are of.
#pragma once

#include "model/architectures/architectures.h"

namespace heddle::fuzz {

inline model::ModelSpec PartsModel() {
  model::ModelSpec spec = model::LlamaSpec();
  spec.hidden_size = spec.intermediate_size = 4;
  spec.num_hidden_layers = 2;
  spec.num_attention_heads = spec.num_key_value_heads = 1;
  spec.head_dim = 4;
  spec.vocab_size = 6;
  spec.max_position_embeddings = 8;
  spec.tie_word_embeddings = true;
  return spec;
}

}  // namespace heddle::fuzz
