// Adapters as PEFT's files, free of LibTorch: a folder with adapter_config.json (adapter_config.h) and
// adapter_model.safetensors, whose keys slots.h lists and whose first values initial.h makes. For LoRA alone there are
// shorter ways here. See https://huggingface.co/docs/peft (checkpoint format).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/config/model_spec.h"
#include "peft/adapter/adapter_config.h"
#include "peft/adapter/initial.h"
#include "peft/adapter/slots.h"

namespace heddle::peft {

// A linear module of the base that LoRA applies to.
struct TargetModule {
  std::string path;  // "model.layers.0.self_attn.q_proj"
  int64_t in_features = 0, out_features = 0;
};
// Those of a model's linear layers (ModelSpec::LinearModules) that the config targets, in name order; the output layer
// is none of "all-linear", and modules_to_save are none. Sizes are those of the layer, however its weight is stored.
// Errors: kInvalidArgument when nothing matches (the message says the nearest name and lists the last names of all).
Result<std::vector<TargetModule>> FindTargets(const std::vector<model::LinearSpec>& linears,
                                              const AdapterConfig& config);
// Of a whole model. Errors: also kUnimplemented when the config targets an output layer that is tied to the token
// embedding, which is no layer of its own.
Result<std::vector<TargetModule>> FindTargets(const model::ModelSpec& spec, const AdapterConfig& config);

// The factors of LoRA with init_lora_weights "true", as MakeInitialAdapter of initial.h makes them.
StateDict MakeInitialAdapter(const std::vector<TargetModule>& targets, const AdapterConfig& config, uint64_t seed);

// Key names on disk.
std::string LoraAKey(std::string_view module_path);  // "base_model.model." + path + ".lora_A.weight"
std::string LoraBKey(std::string_view module_path);

// Names, F32 and shapes of LoRA's factors for these targets.
StateDictSpec AdapterSpec(const std::vector<TargetModule>& targets, const AdapterConfig& config);

struct Adapter {
  AdapterConfig config;
  StateDict tensors;
};
// Folder in PEFT layout. Tensors in BF16 and F16 are widened to F32, which is exact. Errors name the file:
// kInvalidArgument also for a value that is NaN or infinite, which would spoil every output without a word.
Result<Adapter> ReadAdapter(const std::filesystem::path& folder);
Status WriteAdapter(const std::filesystem::path& folder, const AdapterConfig& config, const StateDict& tensors);

}  // namespace heddle::peft
