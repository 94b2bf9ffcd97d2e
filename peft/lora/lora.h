// LoRA (Hu et al., 2106.09685) alone on a model, by the shortest way; every kind of adapter, and several at once, are
// in peft/tuning/tuning.h.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <string>
#include <utility>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/transformer/transformer.h"
#include "peft/tuning/tuning.h"

namespace heddle::peft {

// Gives every linear layer that the adapter has factors for a trainable copy of them (leaf tensors that require a
// gradient), and sets scaling and dropout. Layers that had factors before lose them. Errors: kInvalidArgument when the
// adapter's keys and shapes are not exactly those that `config` asks for on this model; the model is then unchanged.
Status InjectLora(model::Transformer& model, const AdapterConfig& config, const StateDict& adapter);

// The factors by their PEFT keys, in key order: what an optimizer trains. They share storage with the model.
std::vector<std::pair<std::string, torch::Tensor>> LoraParameters(model::Transformer& model);

// Copies of the factors as an adapter's tensors (F32, PEFT keys).
StateDict ExtractLora(model::Transformer& model);

}  // namespace heddle::peft
