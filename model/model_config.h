// config.json of a Hugging Face folder, for the Llama architecture. Free of LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::model {

struct LlamaConfig {
  int64_t hidden_size = 0, intermediate_size = 0, num_hidden_layers = 0;
  int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  int64_t vocab_size = 0, max_position_embeddings = 0;
  double rms_norm_eps = 1e-6, rope_theta = 10000.0;
  bool tie_word_embeddings = false, attention_bias = false, mlp_bias = false;
  int64_t bos_token_id = -1, eos_token_id = -1;  // -1: none
  std::string torch_dtype = "float32";

  // Checks ranges and divisibility too. Unknown keys are ignored; what would change the numbers and is not supported
  // (another model_type, hidden_act, rope_scaling) is refused by name. Errors: kInvalidArgument, kUnimplemented.
  static Result<LlamaConfig> FromJson(std::string_view json);
  static Result<LlamaConfig> Read(const std::filesystem::path& folder);
  std::string ToJson() const;

  // Names and shapes of the checkpoint's tensors (dtype F32 stands for any float type); a tied lm_head is absent.
  StateDictSpec WeightSpec() const;
};

}  // namespace heddle::model
