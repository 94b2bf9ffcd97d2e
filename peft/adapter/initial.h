// Adapters before the first step of training. Free of LibTorch; the same bits everywhere. Pure functions.
#pragma once

#include <cstdint>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/config/model_spec.h"
#include "peft/adapter/adapter_config.h"

namespace heddle::peft {

// The tensors of ListSlots, F32. `weights`: the checkpoint's tensors under the names of its files; empty will do for
// methods that do not start from them. A fresh adapter changes nothing in what the model computes (rounding apart),
// but for virtual tokens, for init_lora_weights "false", and for a new head.
//   lora_A uniform on +-1/sqrt(in) (Kaiming uniform with a = sqrt(5), as PEFT), from PhiloxStream(DeriveSeed(seed,
//   "lora_A", path)); lora_B zero. "gaussian": A normal with deviation 1/r. "false": B uniform on +-1/sqrt(r).
//   "pissa": A and B from the largest singular values of the weight, and beside them heddle.base_delta factors that
//   take the same product off the base (exactly: they are the same numbers).
//   lora_magnitude_vector: the norms of the rows of W + scaling B A. ia3_l: one.
//   prompt_embeddings: normal with deviation 0.02, or with SAMPLE_VOCAB embeddings of words drawn by the seed.
//   adapter_*: down.weight uniform on +-1/sqrt(in), all else zero. Whole parameters: the checkpoint's; where it has
//   none because the head is new (ModelSpec::fresh), weights uniform with deviation 0.02, norms one, biases zero.
// Normal means the sum of twelve uniform numbers, less six. Errors: those of ListSlots and FindBaseDeltas;
// kInvalidArgument when a weight that is needed is not there, or prompt_tuning_init is TEXT.
Result<StateDict> MakeInitialAdapter(const model::ModelSpec& spec, const AdapterConfig& config,
                                     const StateDict& weights, uint64_t seed);

}  // namespace heddle::peft
