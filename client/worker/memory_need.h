// What a task needs of memory with its adapter at hand (peft/adapter/memory_need.h); before it is read, train_options.h
// says what any adapter needs.
//
// Include only from translation units of targets with TORCH. Thread-safety: pure functions.
#pragma once

#include "client/worker/train_options.h"
#include "common/state_dict.h"

namespace heddle::client {

// Bytes: the base, activations of one batch with the inputs of the linear layers that the adapter trains, what may be
// kept of frozen layers for later steps, and the adapter four times: with its gradient and two moments.
uint64_t EstimateTrainingBytes(const model::ModelSpec& spec, const TrainSettings& train, const TrainOptions& options,
                               const StateDict& adapter);

}  // namespace heddle::client
