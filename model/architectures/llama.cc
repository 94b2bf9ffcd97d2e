// The Llama family: root-mean-square norms before the residual, rotary positions, grouped queries, gated MLP.
// (Touvron et al., 2302.13971 and 2307.09288.)
#include <boost/json.hpp>

#include "model/architectures/architectures.h"
#include "model/config/rotary.h"

namespace heddle::model {
namespace json = boost::json;

ModelSpec LlamaSpec() {
  ModelSpec spec;
  spec.architecture = "LlamaForCausalLM";
  spec.max_position_embeddings = 2048;  // Hugging Face's default, as what a ModelSpec starts with
  spec.gated_mlp = true;
  spec.rotary.on = true;
  spec.token_embedding = "model.embed_tokens.weight";
  spec.final_norm = "model.norm";
  spec.layer.path = "model.layers.{}";
  spec.layer.attention_norm = "input_layernorm";
  spec.layer.mlp_norm = "post_attention_layernorm";
  spec.layer.query = "self_attn.q_proj";
  spec.layer.key = "self_attn.k_proj";
  spec.layer.value = "self_attn.v_proj";
  spec.layer.attention_out = "self_attn.o_proj";
  spec.layer.gate = "mlp.gate_proj";
  spec.layer.up = "mlp.up_proj";
  spec.layer.down = "mlp.down_proj";
  spec.head.task = Task::kCausalLm;
  spec.head.output = "lm_head";
  spec.prefix = "model.";
  spec.ignored_endings = {".rotary_emb.inv_freq"};
  return spec;
}

namespace {

// What Llama, Mistral and Qwen2 read alike.
void ReadFamily(ConfigReader& reader, ModelSpec* spec) {
  const std::string architecture = spec->architecture;
  *spec = LlamaSpec();
  spec->architecture = architecture;
  ReadCommonSizes(reader, spec);
  reader.RequiredInt("intermediate_size", &spec->intermediate_size, 1, kMaxWidth);
  reader.RequiredInt("vocab_size", &spec->vocab_size, 1, kMaxVocab);
  SetHeadDim(reader, spec);
  ReadRotary(reader, spec);
  if (spec->rotary.fraction != 1.0) {
    reader.Fail(Unimplemented("config.json: a partial_rotary_factor other than 1 is not supported"));
  }
  reader.Positive("rms_norm_eps", &spec->norm_eps);
  reader.ActivationName("hidden_act", &spec->activation);
}

// layer_types, when it is there, must say the same as the window's first layer: full attention up to it, then windows.
void CheckLayerTypes(ConfigReader& reader, const ModelSpec& spec) {
  std::vector<std::string> types;
  reader.Strings("layer_types", &types);
  for (size_t i = 0; i < types.size(); ++i) {
    const bool windowed = spec.WindowOf(static_cast<int64_t>(i)) > 0;
    if (types[i] != (windowed ? "sliding_attention" : "full_attention")) {
      return reader.Fail(Unimplemented("config.json: layer_types has \"" + types[i].substr(0, 60) + "\" for layer " +
                                       std::to_string(i) + ", which is not supported"));
    }
  }
}

}  // namespace

void ReadLlama(ConfigReader& reader, ModelSpec* spec) {
  ReadFamily(reader, spec);
  reader.Bool("attention_bias", &spec->qkv_bias);
  spec->attention_out_bias = spec->qkv_bias;
  reader.Bool("mlp_bias", &spec->mlp_bias);
}

// Jiang et al., 2310.06825: Llama with a sliding window.
void ReadMistral(ConfigReader& reader, ModelSpec* spec) {
  ReadFamily(reader, spec);
  // Hugging Face's defaults. Its null is no window, and as many key heads as heads.
  if (!reader.Has("num_key_value_heads") && !reader.IsNull("num_key_value_heads")) spec->num_key_value_heads = 8;
  if (!reader.Has("max_position_embeddings")) spec->max_position_embeddings = 4096 * 32;
  if (!reader.IsNull("sliding_window")) spec->sliding_window = 4096;
  reader.Int("sliding_window", &spec->sliding_window, 1, kMaxPositions);
  CheckLayerTypes(reader, *spec);
}

// Yang et al., 2407.10671: Llama with biases in query, key and value; a window, if at all, in the upper layers only.
void ReadQwen2(ConfigReader& reader, ModelSpec* spec) {
  ReadFamily(reader, spec);
  spec->qkv_bias = true;
  if (!reader.Has("max_position_embeddings")) spec->max_position_embeddings = 32768;  // Hugging Face's default
  bool windowed = false;
  reader.Bool("use_sliding_window", &windowed);
  if (windowed && !reader.IsNull("sliding_window")) {
    spec->sliding_window = 4096;  // Hugging Face's defaults, here and below
    spec->full_attention_layers = 28;
    reader.Int("sliding_window", &spec->sliding_window, 1, kMaxPositions);
    reader.Int("max_window_layers", &spec->full_attention_layers, 0, kMaxLayers);
  }
  CheckLayerTypes(reader, *spec);
}

std::string LlamaConfigJson(const ModelSpec& spec) {
  std::string out = "{\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ]";
  const auto add = [&out](std::string_view key, const json::value& value) {
    out += ",\n  \"" + std::string(key) + "\": " + json::serialize(value);
  };
  const auto id = [](int64_t value) { return value < 0 ? json::value(nullptr) : json::value(value); };
  add("attention_bias", spec.qkv_bias);
  add("bos_token_id", id(spec.bos_token_id));
  add("eos_token_id", id(spec.eos_token_id));
  add("head_dim", spec.head_dim);
  add("hidden_act", json::string_view(ActivationName(spec.activation)));
  add("hidden_size", spec.hidden_size);
  add("intermediate_size", spec.intermediate_size);
  add("max_position_embeddings", spec.max_position_embeddings);
  add("mlp_bias", spec.mlp_bias);
  add("model_type", "llama");
  add("num_attention_heads", spec.num_attention_heads);
  add("num_hidden_layers", spec.num_hidden_layers);
  add("num_key_value_heads", spec.num_key_value_heads);
  add("rms_norm_eps", spec.norm_eps);
  add("rope_scaling", nullptr);
  add("rope_theta", spec.rotary.theta);
  add("tie_word_embeddings", spec.tie_word_embeddings);
  add("torch_dtype", json::string_view(spec.torch_dtype));
  add("vocab_size", spec.vocab_size);
  return out + "\n}\n";
}

}  // namespace heddle::model
