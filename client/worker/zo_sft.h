// zo_sft: fine-tuning with forward passes only (TrainPlan.zo); sends the ordinary update, so that every aggregator
// takes it: MeZO on one device, FedMeZO and FedZO over many, SPRY with layers split among the devices. Trains what the
// adapter has, of any kind, with the data and losses of lora_sft, in eval mode: the two losses of a difference are of
// one function, without dropout.
//
// Memory is that of inference on one batch, and the adapter: no gradients, no kept activations, no copy of the weights.
// The layers below the first that is trained are computed once for all passes of a step (client/worker/frozen_front.h).
// With momentum or zo_adam, and for a forward gradient, also as many floats as are trained, once or twice; with anchors
// the terms of the steps since. All of it is in the estimate that the limit is compared with. An adapter kept in 16-bit
// floats is widened to float32 as it is read, which is exact; it is trained, and its update sent, as float32. What is
// widened, or decoded from a coded model, is one float32 copy more, which the estimate does not have.
//
// Of an adapter with a prompt's generator (peft/adapter/prompt_generator.h) its weights are trained and sent, with
// every estimator; the network reads the prompt that they make.
//
// What a plan may ask beside TrainPlan.zo: frozen and kept tensors, smaller updates. Terms of gradients (FedProx,
// SCAFFOLD, FedDyn) and HetLoRA's pruning are refused. Directions are made on the processor, wherever losses are.
//
// SPRY (Panchal et al., 2405.15551): with layer_groups G (or as many as there are layers, if fewer) this device trains
// and sends the layers whose number is layer_group modulo G, and what is in no layer (a classifier).
// aggregation/layer_groups.h says which tensors these are.
#pragma once

#include <memory>

#include "client/worker/local_task.h"

namespace heddle::client {

std::shared_ptr<const LocalTask> MakeZoSft();

}  // namespace heddle::client
