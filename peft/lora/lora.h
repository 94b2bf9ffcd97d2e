// LoRA (Hu et al., 2106.09685) on a model: putting an adapter's factors into its linear layers and taking them out
// again. y = x W^T + scaling * (dropout(x) A^T) B^T, A [r, in], B [out, r], float32.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/transformer/transformer.h"
#include "peft/adapter/adapter.h"

namespace heddle::peft {

// Gives every linear layer that the adapter has factors for a trainable copy of them (leaf tensors that require a
// gradient), and sets scaling and dropout. The model's other parameters are frozen. Layers that had factors before lose
// them. Errors: kInvalidArgument when the adapter's keys and shapes are not exactly those that `config` asks for on
// this model; the model is then unchanged.
Status InjectLora(model::Transformer& model, const AdapterConfig& config, const StateDict& adapter);

// The factors by their PEFT keys, in key order: what an optimizer trains. They share storage with the model.
std::vector<std::pair<std::string, torch::Tensor>> LoraParameters(model::Transformer& model);

// Copies of the factors as an adapter's tensors (F32, PEFT keys).
StateDict ExtractLora(model::Transformer& model);

// W + scaling * B A for each layer with factors, as a new checkpoint in float32 beside the untouched rest of `base`.
// Errors: kInvalidArgument as InjectLora.
Result<StateDict> MergeLora(const model::BaseWeights& base, const AdapterConfig& config, const StateDict& adapter);

// The bytes of a contiguous float32 CPU tensor as a StateDict's tensor (copied).
Tensor ToStateTensor(const torch::Tensor& tensor);

}  // namespace heddle::peft
