// lora_sft: supervised fine-tuning of LoRA factors on a decoder-only model; the client half of FedAvg over adapters.
// Next-token cross-entropy over windows of the device's text, AdamW, linear warm-up, clipping by global norm.
#pragma once

#include <memory>

#include "client/worker/local_task.h"

namespace heddle::client {

std::shared_ptr<const LocalTask> MakeLoraSft();

}  // namespace heddle::client
