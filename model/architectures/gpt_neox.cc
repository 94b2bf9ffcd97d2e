// GPT-NeoX and Pythia (Black et al., 2204.06745; Biderman et al., 2304.01373): attention and MLP side by side on the
// same residual, rotary positions on a part of each head, query, key and value of a head side by side in one matrix.
#include "model/architectures/architectures.h"
#include "model/config/rotary.h"

namespace heddle::model {

void ReadGptNeoX(ConfigReader& reader, ModelSpec* spec) {
  ModelSpec& s = *spec;
  s.max_position_embeddings = 2048;  // Hugging Face's defaults, here and below
  ReadCommonSizes(reader, spec);
  reader.RequiredInt("intermediate_size", &s.intermediate_size, 1, kMaxWidth);
  reader.RequiredInt("vocab_size", &s.vocab_size, 1, kMaxVocab);
  s.num_key_value_heads = s.num_attention_heads;
  s.head_dim = 0;
  SetHeadDim(reader, spec);

  s.norm = NormKind::kLayer;
  s.norm_eps = 1e-5;
  reader.Positive("layer_norm_eps", &s.norm_eps);
  bool parallel = true;
  reader.Bool("use_parallel_residual", &parallel);
  s.placement = parallel ? NormPlacement::kParallel : NormPlacement::kPre;
  s.activation = Activation::kGelu;
  reader.ActivationName("hidden_act", &s.activation);
  s.qkv_bias = true;
  reader.Bool("attention_bias", &s.qkv_bias);
  s.attention_out_bias = s.qkv_bias;
  s.mlp_bias = true;
  s.qkv_layout = QkvLayout::kPerHead;
  s.rotary.fraction = 0.25;
  reader.Positive("rotary_pct", &s.rotary.fraction);
  reader.Positive("rotary_emb_base", &s.rotary.theta);
  ReadRotary(reader, spec);

  s.token_embedding = "gpt_neox.embed_in.weight";
  s.final_norm = "gpt_neox.final_layer_norm";
  s.layer.path = "gpt_neox.layers.{}";
  s.layer.attention_norm = "input_layernorm";
  s.layer.qkv = "attention.query_key_value";
  s.layer.attention_out = "attention.dense";
  s.layer.mlp_norm = "post_attention_layernorm";
  s.layer.up = "mlp.dense_h_to_4h";
  s.layer.down = "mlp.dense_4h_to_h";
  s.head.task = Task::kCausalLm;
  s.head.output = "embed_out";
  s.prefix = "gpt_neox.";
  // Causal masks and frequencies of older files.
  s.ignored_endings = {".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"};
}

}  // namespace heddle::model
