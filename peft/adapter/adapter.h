// PEFT's files, free of LibTorch: adapter_config.json and adapter_model.safetensors, key names, and the initial
// adapter. On disk: base_model.model.<module path>.lora_A.weight [r, in] and .lora_B.weight [out, r]; scaling
// lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora. See https://huggingface.co/docs/peft (checkpoint format).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/config/model_spec.h"

namespace heddle::peft {

struct AdapterConfig {
  std::string peft_type = "LORA";
  std::string task_type = "CAUSAL_LM";
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0.0;
  std::vector<std::string> target_modules;  // names matched as PEFT does: equal to the path or to its last components
  std::string target_modules_regex;         // when given as one string: full match; "all-linear" is legal too
  std::vector<std::string> exclude_modules;
  std::string bias = "none";
  bool fan_in_fan_out = false;
  bool use_rslora = false;
  bool inference_mode = true;
  std::string base_model_name_or_path;

  double scaling() const;
  // Every mistake at once. Errors: kInvalidArgument.
  Status Validate() const;
  // True when a linear module of this path gets LoRA factors.
  bool Targets(std::string_view module_path) const;

  // JSON as PEFT writes it: indent 2, sorted keys, every field PEFT needs to load it.
  std::string ToJson() const;
  // Errors: kInvalidArgument. Unknown keys are ignored (returned in `unknown` when given).
  static Result<AdapterConfig> FromJson(std::string_view json, std::vector<std::string>* unknown = nullptr);
};

// A linear module of the base that LoRA applies to.
struct TargetModule {
  std::string path;  // "model.layers.0.self_attn.q_proj"
  int64_t in_features = 0, out_features = 0;
};
// Those of a model's linear layers (ModelSpec::LinearModules) that the config targets, in name order; the output layer
// is none of "all-linear". Sizes are those of the layer, however its weight is stored. Errors: kInvalidArgument when
// nothing matches (the message lists the linear modules' last names).
Result<std::vector<TargetModule>> FindTargets(const std::vector<model::LinearSpec>& linears,
                                              const AdapterConfig& config);
// Of a whole model. Errors: also kUnimplemented when the config targets an output layer that is tied to the token
// embedding, which is no layer of its own.
Result<std::vector<TargetModule>> FindTargets(const model::ModelSpec& spec, const AdapterConfig& config);

// lora_A uniform on +-1/sqrt(in) (Kaiming uniform with a = sqrt(5), as PEFT), from PhiloxStream(DeriveSeed(seed,
// "lora_A", path)); lora_B zero. F32. The same bits everywhere.
StateDict MakeInitialAdapter(const std::vector<TargetModule>& targets, const AdapterConfig& config, uint64_t seed);

// Key names on disk.
std::string LoraAKey(std::string_view module_path);  // "base_model.model." + path + ".lora_A.weight"
std::string LoraBKey(std::string_view module_path);

// Names, F32 and shapes of an adapter for these targets.
StateDictSpec AdapterSpec(const std::vector<TargetModule>& targets, const AdapterConfig& config);

struct Adapter {
  AdapterConfig config;
  StateDict tensors;
};
// Folder in PEFT layout. Errors name the file.
Result<Adapter> ReadAdapter(const std::filesystem::path& folder);
Status WriteAdapter(const std::filesystem::path& folder, const AdapterConfig& config, const StateDict& tensors);

}  // namespace heddle::peft
