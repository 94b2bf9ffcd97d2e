// A device's data as tensors for its model's head, batch by batch: what lora_sft trains on, and what evaluation reads.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <memory>
#include <optional>

#include "client/worker/task_resources.h"
#include "model/data/examples.h"
#include "model/transformer/input.h"
#include "model/transformer/transformer.h"

namespace heddle::client {

struct HeadBatch {
  model::ModelInput input;
  torch::Tensor targets;  // as TransformerImpl::Loss takes them
  uint64_t rows = 0;
  uint64_t tokens = 0;      // without padding; of images: 0
  int64_t counted = 0;      // targets that count in the loss
  torch::Tensor answers{};  // int64 [rows], with a prompt: the column that answers
  torch::Tensor words{};    // int64 [classes], with a prompt: the tokens of the classes

  HeadBatch On(const torch::Device& device) const;  // copied there, unless it is there
};

// One thread at a time.
class HeadBatches {
 public:
  virtual ~HeadBatches() = default;
  // Nothing after the last batch of an evaluation; training has no last one. Errors: those of model::Examples.
  virtual Result<std::optional<HeadBatch>> Next() = 0;
  // Of a causal model: tokens of the data read so far, those between texts and those that nothing predicts included.
  // 0: they are not counted.
  virtual uint64_t data_tokens() const { return 0; }
  // Of one of these batches, the mean over what counts.
  virtual torch::Tensor Loss(model::Transformer& network, const HeadBatch& batch) const;
};

// Of the classes, [rows, classes]: what a classifier says, or with a prompt the logits of the words.
torch::Tensor Logits(model::Transformer& network, const HeadBatch& batch);

HeadBatch ToHeadBatch(const model::Batch& batch, const model::ModelSpec& spec);

// Running text for a causal model comes as windows of one stream of tokens (model::TextDataset), everything else as
// model::Examples has it. sequence_length: the tokens of a row. last: of running text. Errors: those of both.
Result<std::unique_ptr<HeadBatches>> TrainingBatches(const TaskInput& input, const TaskResources::Base& base,
                                                     TaskResources& resources);
Result<std::unique_ptr<HeadBatches>> EvaluationBatches(const std::filesystem::path& data, uint32_t sequence_length,
                                                       const TaskResources::Base& base, TaskResources& resources,
                                                       const DataFields& fields = {},
                                                       const std::optional<PromptSettings>& prompt = {},
                                                       model::LastWindow last = model::LastWindow::kLeftOut);

}  // namespace heddle::client
