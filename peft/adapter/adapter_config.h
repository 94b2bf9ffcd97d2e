// adapter_config.json: which tuning method an adapter is of, and with which settings. Free of LibTorch.
//
// LORA, IA3, PROMPT_TUNING, PREFIX_TUNING and P_TUNING are written and read key for key as PEFT does
// (https://huggingface.co/docs/peft). PEFT has no file for the others, which are Heddle's own, in the same layout:
//   BOTTLENECK  small networks in the layers (Houlsby et al., 1902.00751; Pfeiffer et al., 2005.00247)
//   BITFIT      the biases (Ben Zaken et al., 2106.10199)
//   FULL        all parameters, or those of some layers
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::peft {

enum class TuningKind : uint8_t { kLora, kIa3, kPromptTuning, kPrefixTuning, kPTuning, kBottleneck, kBitFit, kFull };
std::string_view PeftTypeOf(TuningKind kind);  // "LORA"
// Those that put virtual tokens before the input, and whose keys lack ".model".
bool IsPromptLearning(TuningKind kind);

// A plain value. What is not of its kind is not looked at and not written.
struct AdapterConfig {
  std::string peft_type = "LORA";
  std::string task_type = "CAUSAL_LM";  // one that PEFT knows, or empty: no task; what else was read is not written
  std::string base_model_name_or_path;
  bool inference_mode = true;

  // LORA, IA3, BITFIT. Names are matched as PEFT does: equal to the module's path or to its last components. Of IA3 and
  // BITFIT none means: keys, values and the MLP's second layer; all biases.
  std::vector<std::string> target_modules;
  std::string target_modules_regex;  // when given as one text: full match; "all-linear" is legal too
  std::vector<std::string> exclude_modules;
  std::string exclude_modules_regex;  // when given as one text: full match
  // LORA, BOTTLENECK, BITFIT, FULL: only in these layers, counted from 0; none: in all.
  std::vector<int64_t> layers_to_transform;
  // FULL: of these layers only the biases, whether or not layers_to_transform names them (FeS: frozen layers below,
  // biases in the middle, everything at the top).
  std::vector<int64_t> bias_only_layers;
  // Modules that are trained as they are and stored whole, by the same kind of name. They win over target_modules.
  std::vector<std::string> modules_to_save;
  bool fan_in_fan_out = false;  // kept, not used: how a weight is stored is the architecture's

  // LORA.
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0.0;
  std::string bias = "none";
  bool use_rslora = false;
  bool use_dora = false;
  // Ranks and alphas of modules whose path, or the end of it behind a dot, is matched by the expression; the first in
  // the order of the keys counts.
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::string init_lora_weights = "true";  // "true", "false", "gaussian", "pissa", "pissa_niter_4"
  double loraplus_lr_ratio = 1;            // B learns so many times as fast (LoRA+, 2402.12354); not PEFT's key

  // IA3: those of the targets whose input is scaled, and not their output.
  std::vector<std::string> feedforward_modules;
  std::string feedforward_modules_regex;  // when given as one text: full match

  // PROMPT_TUNING, PREFIX_TUNING, P_TUNING. Sizes that PEFT writes down; 0: not known yet, see Complete in slots.h.
  int64_t num_virtual_tokens = 20;
  int64_t token_dim = 0, num_attention_heads = 0, num_layers = 0;
  std::string prompt_tuning_init = "RANDOM";  // or "SAMPLE_VOCAB"; "TEXT" is read, but cannot be drawn
  std::string prompt_tuning_init_text, tokenizer_name_or_path;
  bool prefix_projection = false;  // how it was made; what is stored, and trained here, is the outcome
  int64_t encoder_hidden_size = 0;

  // BOTTLENECK.
  std::string placement = "houlsby";  // "pfeiffer": behind the MLP only; "key_value": beside the attention's input
  int64_t bottleneck_size = 16;
  std::string non_linearity = "relu";  // "gelu", "gelu_new", "silu", "tanh"
  double adapter_scaling = 1;

  // kLora for a type that is not known, which Validate refuses.
  TuningKind kind() const;
  // Of LoRA factors, without patterns: lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora.
  double scaling() const;
  // Of a module, by the patterns.
  int64_t RankOf(std::string_view module_path) const;
  double ScalingOf(std::string_view module_path) const;
  // For a device whose factors have another rank: every module's scaling stays, so that the device's factors may be the
  // first rows and columns of these. Needs rank at least 1 and no rank_pattern.
  AdapterConfig ForRank(int64_t rank) const;
  bool IsPissa() const { return init_lora_weights.starts_with("pissa"); }

  // Every mistake at once. Errors: kInvalidArgument.
  Status Validate() const;
  // True when a linear module of this path is a target; modules_to_save are not asked.
  bool Targets(std::string_view module_path) const;
  // True when the path is one of exclude_modules.
  bool Excludes(std::string_view module_path) const;
  // True when the path, or a module above it, is among modules_to_save.
  bool SavesWhole(std::string_view path) const;
  // True when the target's input is scaled (IA3).
  bool IsFeedforward(std::string_view module_path) const;

  // JSON as PEFT writes it: indent 2, sorted keys, every field PEFT needs to load it.
  std::string ToJson() const;
  // Errors: kInvalidArgument. Unknown keys are ignored (returned in `unknown` when given).
  static Result<AdapterConfig> FromJson(std::string_view json, std::vector<std::string>* unknown = nullptr);
};

// Equal, or the path's last components.
bool EndsInComponents(std::string_view path, std::string_view name);
// The whole path is matched by the expression; false where it does not compile.
bool MatchesWhole(std::string_view path, const std::string& expression);
// The path, or the end of it behind a dot, is matched by a key of rank_pattern or alpha_pattern.
bool FitsPattern(std::string_view path, const std::string& pattern);

}  // namespace heddle::peft
