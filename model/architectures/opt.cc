// OPT (Zhang et al., 2205.01068): layer norms before or after the residual, learned positions counted by the attention
// mask, embeddings that may be narrower than the layers.
#include "model/architectures/architectures.h"

namespace heddle::model {

void ReadOpt(ConfigReader& reader, ModelSpec* spec) {
  ModelSpec& s = *spec;
  s.hidden_size = 768;  // Hugging Face's defaults, here and below
  s.num_hidden_layers = s.num_attention_heads = 12;
  s.intermediate_size = 3072;
  s.vocab_size = 50272;
  s.max_position_embeddings = 2048;
  s.tie_word_embeddings = true;
  reader.Int("hidden_size", &s.hidden_size, 1, kMaxWidth);
  reader.Int("num_hidden_layers", &s.num_hidden_layers, 1, kMaxLayers);
  reader.Int("num_attention_heads", &s.num_attention_heads, 1, kMaxWidth);
  reader.Int("ffn_dim", &s.intermediate_size, 1, kMaxWidth);
  reader.Int("vocab_size", &s.vocab_size, 1, kMaxVocab);
  reader.Int("max_position_embeddings", &s.max_position_embeddings, 1, kMaxPositions);
  ReadTokenIds(reader, &s);
  reader.Bool("tie_word_embeddings", &s.tie_word_embeddings);
  s.embedding_size = s.hidden_size;
  reader.Int("word_embed_proj_dim", &s.embedding_size, 1, kMaxWidth);
  s.num_key_value_heads = s.num_attention_heads;
  SetHeadDim(reader, spec);

  bool norm_before = true, no_final_norm = false;
  reader.Bool("do_layer_norm_before", &norm_before);
  reader.Bool("_remove_final_layer_norm", &no_final_norm);
  s.norm = NormKind::kLayer;
  s.norm_eps = 1e-5;
  s.placement = norm_before ? NormPlacement::kPre : NormPlacement::kPost;
  s.activation = Activation::kRelu;
  reader.ActivationName("activation_function", &s.activation);
  s.qkv_bias = true;
  reader.Bool("enable_bias", &s.qkv_bias);
  s.attention_out_bias = s.mlp_bias = s.qkv_bias;
  reader.Bool("layer_norm_elementwise_affine", &s.norm_weights);

  s.positions.name = "model.decoder.embed_positions.weight";
  s.positions.offset = 2;
  s.positions.rows = s.max_position_embeddings + 2;
  s.positions.source = PositionSource::kMask;
  s.token_embedding = "model.decoder.embed_tokens.weight";
  if (s.embedding_size != s.hidden_size) {
    s.project_in = "model.decoder.project_in";
    s.project_out = "model.decoder.project_out";
  }
  if (norm_before && !no_final_norm) s.final_norm = "model.decoder.final_layer_norm";
  s.layer.path = "model.decoder.layers.{}";
  s.layer.attention_norm = "self_attn_layer_norm";
  s.layer.query = "self_attn.q_proj";
  s.layer.key = "self_attn.k_proj";
  s.layer.value = "self_attn.v_proj";
  s.layer.attention_out = "self_attn.out_proj";
  s.layer.mlp_norm = "final_layer_norm";
  s.layer.up = "fc1";
  s.layer.down = "fc2";
  s.head.task = Task::kCausalLm;
  s.head.output = "lm_head";
  s.prefix = "model.";
}

}  // namespace heddle::model
