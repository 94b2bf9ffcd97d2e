// Pretraining on one machine: AdamW, linear warm-up, cosine decay, checkpoints that training resumes from. Not
// thread-safe; a step's batch is shared out between `threads` threads, one copy of the gradients each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "common/status.h"
#include "model/data/text_dataset.h"
#include "model/pretrain/settings.h"

namespace heddle::model {

struct PretrainProgress {
  int64_t step = 0;
  double seconds = 0;      // of training, over all resumptions
  double recent_loss = 0;  // exponential mean
};

// Learning rate of step `step` (from 0): linear to learning_rate over warmup_steps, then half a cosine to
// final_learning_rate at the last step.
double LearningRateAt(const PretrainSettings& settings, int64_t step);

// Trains until `settings.steps`, from the checkpoint in `folder` if there is one: model.safetensors (F32), config.json,
// optimizer.pt, progress.json; a step's batch depends on the seed and the step only. Errors: kInvalidArgument,
// kInternal (LibTorch), those of files.
Result<PretrainProgress> Pretrain(const PretrainSettings& settings, const TextDataset& data,
                                  const std::filesystem::path& folder);
Result<PretrainProgress> ReadProgress(const std::filesystem::path& folder);

// Writes config.json and model.safetensors in bfloat16 from a checkpoint folder.
Status ExportBf16(const std::filesystem::path& checkpoint, const std::filesystem::path& out);

// Mean loss in nats of a model folder over all windows of the data; `num_tokens` gets the number of targets.
Result<double> EvaluateLoss(const std::filesystem::path& folder, const TextDataset& data, int64_t* num_tokens);

}  // namespace heddle::model
