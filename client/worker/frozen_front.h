// The layers of a model below the first one that is trained, computed once: what they make of an example is the same
// for every perturbation of a step and, while they stay as they are, for every later step. What is used again has the
// bits of what is computed anew; so a front ends before the first layer whose dropout draws.
//
//   Within a step, of tasks with forward passes only (zo_sft, zo_ledger), always: the front of a batch is computed when
//   the batch comes, each loss begins behind it. The same bits as if each loss had begun at the embeddings. Of a
//   classifier that reads the first row, the last layer computes that row alone: the other rows' part in it are their
//   keys and values.
//   From step to step, where the plan allows memory for it (zo.kept_front_mb, which lora_sft and sft read as well): the
//   front of each example is computed by itself, not batch by batch (matrix products of other shapes round otherwise),
//   and kept in the process. So the result depends on the setting being above 0, and on nothing that is kept or not:
//   the same bits with any memory. Gradients stop at the front, where nothing is trained.
//
// What is kept is known by the model as it was read, by what of an adapter stands below the cut (its values, if there
// is any) and by the example's tokens or pixels; so it serves later tasks and rounds of the process too, and is never
// stale. On a GPU nothing is kept.
//
// Include only from translation units of targets with TORCH. LibTorch's exceptions pass through.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "client/worker/front_memory.h"
#include "client/worker/head_data.h"
#include "client/worker/local_task.h"
#include "client/worker/task_resources.h"
#include "model/transformer/transformer.h"
#include "peft/tuning/tuning.h"

namespace heddle::client {

// Of the leading layers of the model's part so many are as they are, whatever values the tensors of these keys
// (TunedParameter::key) take; 0 when one of them is at the embeddings, or it is not known where it is. All of the
// layers when only the head is trained.
int64_t FrozenLayers(const model::ModelSpec& spec, const std::set<std::string>& trained);

// One thread at a time; `memory` outlives it.
class FrozenFront {
 public:
  // `tuning` stands on `network`, whose other tensors stay as they are from now on, and which stays in its mode
  // (training or evaluation); `adapter` are the tensors that it was made of.
  static FrozenFront Make(model::Transformer network, const peft::Tuning& tuning, const StateDict& adapter,
                          const std::set<std::string>& trained, const TaskInput& input, const TaskResources::Base& base,
                          FrontMemory& memory);

  struct Batch {
    HeadBatch head;
    torch::Tensor stream{};  // what the front makes of it; undefined when there is no front
  };
  Batch Take(HeadBatch batch) const;
  // The task's mean loss, at the values that the trained tensors have now.
  torch::Tensor Loss(const Batch& batch) const;
  int64_t layers() const { return layers_; }         // of the front, beside the embeddings; 0 also with virtual tokens
  bool keeps() const { return memory_ != nullptr; }  // from step to step; not on a GPU, nor without a front

 private:
  explicit FrozenFront(model::Transformer network) : network_(std::move(network)) {}
  torch::Tensor OfEachRow(const HeadBatch& batch) const;

  mutable model::Transformer network_;  // a handle
  bool in_halves_ = false;              // else each loss is a whole forward pass
  int64_t layers_ = 0;
  std::string identity_;  // of this front; empty: nothing is kept
  FrontMemory* memory_ = nullptr;
  uint64_t limit_ = 0;  // bytes
};

}  // namespace heddle::client
