// lora_sft: supervised fine-tuning of LoRA factors; the client half of FedAvg over adapters. AdamW, linear warm-up,
// clipping by global norm. The model's head says what data are read and what the loss is: cross-entropy of the next
// token over windows of the device's text, or over its completions and conversations, packed; of masked tokens; of
// classes of texts or images; squared error of a number (client/worker/head_data.h).
#pragma once

#include <memory>

#include "client/worker/local_task.h"

namespace heddle::client {

std::shared_ptr<const LocalTask> MakeLoraSft();

}  // namespace heddle::client
