// What an adapter consists of on a given model: each tensor's key, shape, and part in the method. All that reads, makes
// or injects adapters goes by this list. Free of LibTorch. Thread-safety: pure functions.
//
// Keys, behind "base_model.model." ("base_model." for prompt learning), for a module or parameter P of the base:
//   LORA           P.lora_A.weight [r, in], P.lora_B.weight [out, r]; DoRA: P.lora_magnitude_vector [out]
//   IA3            P.ia3_l [out, 1]; of feedforward modules [1, in]
//   BOTTLENECK     <layer>.adapter_attention.down.weight [b, hidden], .down.bias [b], .up.weight [hidden, b], .up.bias;
//                  <layer>.adapter_mlp.*; <layer>.adapter_key_value.* with 2 * kv_heads * head_dim outputs
//   BITFIT, FULL   P, whole (and so the modules_to_save of every kind)
//   the others     prompt_embeddings, without anything before it: [tokens, hidden], or of PREFIX_TUNING
//                  [tokens, layers * 2 * kv_heads * head_dim], of each layer keys, then values
// Beside them a model may hold names that begin with "heddle.": frozen factors that were folded into the base,
//   heddle.base_delta.P.lora_A.weight [R, in], .lora_B.weight [out, R]:  W = W0 + sum B A
// values that were added to some places of a weight, heddle.dense.P (common/sparse_delta.h),
// and what methods remember, which is none of an adapter's business.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/config/model_spec.h"
#include "peft/adapter/adapter_config.h"

namespace heddle::peft {

enum class SlotRole : uint8_t {
  kLoraA,
  kLoraB,
  kMagnitude,
  kScaleIn,
  kScaleOut,
  kPrompt,
  kPrefix,
  kDown,
  kDownBias,
  kUp,
  kUpBias,
  kParameter
};
// Where in its layer a bottleneck is.
enum class SlotPlace : uint8_t { kNone, kAttention, kMlp, kKeyValue };

struct Slot {
  std::string key;
  SlotRole role = SlotRole::kParameter;
  std::string path;    // of the module, or the parameter's name; empty for virtual tokens and bottlenecks
  int64_t layer = -1;  // of a bottleneck
  SlotPlace place = SlotPlace::kNone;
  Shape shape;
};

// In key order. Errors: kInvalidArgument, in a sentence, when the configuration and the model do not fit together:
// nothing is matched (with the nearest name), a rank above the layer's width, a layer that is not there, sizes of
// virtual tokens that are not the model's. Of a model that is cut the list is that of its part, where virtual tokens
// are kUnimplemented and a token embedding that both parts use is kInvalidArgument.
Result<std::vector<Slot>> ListSlots(const model::ModelSpec& spec, const AdapterConfig& config);

// For a configuration that a person wrote, as in a recipe, more strictly than for one in a file: every name, expression
// and pattern stands for a module of the model, those of rank_pattern, alpha_pattern and feedforward_modules for a
// target, and no rank is above the narrower side of its layer. Errors: kInvalidArgument with the key, what stands for
// nothing, and the nearest name; those of ListSlots.
Status CheckNames(const model::ModelSpec& spec, const AdapterConfig& config);

// Names, F32 and shapes. Errors: those of ListSlots.
Result<StateDictSpec> AdapterSpec(const model::ModelSpec& spec, const AdapterConfig& config);

// Ok unless the output layer is a target by its name and tied to the token embedding, and so no layer of its own.
// Errors: kUnimplemented.
Status CheckTiedHead(const model::ModelSpec& spec, const AdapterConfig& config);

// The configuration with the sizes of this model where it says none yet (token_dim, num_layers and the like).
AdapterConfig Complete(const model::ModelSpec& spec, AdapterConfig config);

// Ok when `adapter` has exactly the tensors of these slots, beside names that begin with "heddle.". Errors:
// kInvalidArgument with the first difference, or with the task that trains what stands for a prompt
// (prompt_projection.h, prompt_generator.h).
Status CheckFits(const std::vector<Slot>& slots, const StateDict& adapter);

// The frozen factors among a model's tensors, by module path in order: keys of A and B. Errors: kInvalidArgument when
// one lacks its other half, is no matrix of F32, or does not fit the module of that name.
struct BaseDelta {
  std::string path, key_a, key_b;
};
Result<std::vector<BaseDelta>> FindBaseDeltas(const model::ModelSpec& spec, const StateDict& tensors);
std::string BaseDeltaAKey(std::string_view module_path);
std::string BaseDeltaBKey(std::string_view module_path);
inline constexpr std::string_view kHeddlePrefix = "heddle.";

// Every path of a module or name of a parameter, with the parameters under it, is of this layer; -1: of none.
int64_t LayerOf(const model::ModelSpec& spec, std::string_view path);

}  // namespace heddle::peft
