// GPT-2 (Radford et al., 2019): layer norms before the residual, learned positions, query, key and value in one matrix,
// all matrices stored as [in, out] (Conv1D).
#include "model/architectures/architectures.h"

namespace heddle::model {

void ReadGpt2(ConfigReader& reader, ModelSpec* spec) {
  ModelSpec& s = *spec;
  s.hidden_size = 768;  // Hugging Face's defaults, here and below
  s.num_hidden_layers = s.num_attention_heads = 12;
  s.vocab_size = 50257;
  s.max_position_embeddings = 1024;
  s.bos_token_id = s.eos_token_id = -1;
  reader.Int("n_embd", &s.hidden_size, 1, kMaxWidth);
  reader.Int("n_layer", &s.num_hidden_layers, 1, kMaxLayers);
  reader.Int("n_head", &s.num_attention_heads, 1, kMaxWidth);
  reader.Int("vocab_size", &s.vocab_size, 1, kMaxVocab);
  reader.Int("n_positions", &s.max_position_embeddings, 1, kMaxPositions);
  s.intermediate_size = 4 * s.hidden_size;
  reader.Int("n_inner", &s.intermediate_size, 1, kMaxWidth);
  ReadTokenIds(reader, &s);
  s.num_key_value_heads = s.num_attention_heads;
  SetHeadDim(reader, spec);

  s.norm = NormKind::kLayer;
  s.norm_eps = 1e-5;
  reader.Positive("layer_norm_epsilon", &s.norm_eps);
  s.activation = Activation::kGeluTanh;
  reader.ActivationName("activation_function", &s.activation);
  reader.Only("scale_attn_weights", true);
  reader.Only("scale_attn_by_inverse_layer_idx", false);
  reader.Only("add_cross_attention", false);
  s.qkv_bias = s.attention_out_bias = s.mlp_bias = true;
  s.qkv_layout = QkvLayout::kBlocks;
  s.transposed_linears = true;
  s.tie_word_embeddings = true;
  reader.Bool("tie_word_embeddings", &s.tie_word_embeddings);

  s.token_embedding = "transformer.wte.weight";
  s.positions.name = "transformer.wpe.weight";
  s.final_norm = "transformer.ln_f";
  s.layer.path = "transformer.h.{}";
  s.layer.attention_norm = "ln_1";
  s.layer.qkv = "attn.c_attn";
  s.layer.attention_out = "attn.c_proj";
  s.layer.mlp_norm = "ln_2";
  s.layer.up = "mlp.c_fc";
  s.layer.down = "mlp.c_proj";
  s.head.task = Task::kCausalLm;
  s.head.output = "lm_head";
  s.prefix = "transformer.";
  s.ignored_endings = {".attn.bias", ".attn.masked_bias"};  // causal masks of older files
}

}  // namespace heddle::model
