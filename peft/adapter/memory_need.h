// What training an adapter takes of memory, from names and shapes alone: what a worker holds its limit against, and
// what a coordinator gives devices parts of a model by. Free of LibTorch. A pure function; thread-safe.
#pragma once

#include <cstdint>

#include "common/state_dict.h"
#include "model/config/memory_estimate.h"

namespace heddle::peft {

// Bytes, without the program's own: the base (its part, where spec.part has layers), activations of one batch with the
// inputs of the linear layers that the adapter trains, and the adapter four times: with its gradient and two moments
// (model/config/memory_estimate.h has the formulas). `settings` says sequences, types and checkpointing; its rank and
// targets are the adapter's. An empty adapter: what any takes at least.
uint64_t TrainingBytes(const model::ModelSpec& spec, model::MemorySettings settings, const StateDictSpec& adapter);

}  // namespace heddle::peft
