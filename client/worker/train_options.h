// A plan's settings as what the tasks compute with: names looked up, ranges checked, memory estimated.
//
// Include only from translation units of targets with TORCH. Thread-safety: pure functions.
#pragma once

#include <c10/core/StreamGuard.h>
#include <torch/types.h>

#include <optional>

#include "client/worker/local_task.h"
#include "model/config/model_spec.h"
#include "model/quant/weight_type.h"
#include "model/training/optimizer.h"
#include "model/training/schedule.h"
#include "model/transformer/transformer.h"
#include "model/weights/base_weights.h"

namespace heddle::client {

struct TrainOptions {
  model::OptimizerKind optimizer;
  model::OptimizerOptions optimizer_options;
  model::LearningRateSchedule schedule;
  model::WeightOptions weights;
  model::ComputeOptions compute;
};

// While it lives, what this thread asks of a GPU runs on a stream of its own, beside that of tasks in other threads. On
// the processor it does nothing.
class OwnStream {
 public:
  explicit OwnStream(const torch::Device& device);

 private:
  std::optional<c10::StreamGuard> guard_;
};

// Errors: kInvalidArgument for a setting that is out of range, unknown, or does not fit the model; kFailedPrecondition
// when the device has no GPU that it was told to use.
Result<TrainOptions> MakeTrainOptions(const TaskInput& input, const model::ModelSpec& spec);

// Rough need in bytes of training an adapter: the base, activations of one batch that are kept for the backward pass,
// one block of logits, and what may be kept of frozen layers for later steps (zo.kept_front_mb). The adapter and its
// optimizer are not counted: they are small.
uint64_t EstimateTrainingBytes(const model::ModelSpec& spec, const TrainSettings& train, const TrainOptions& options);

// The same of forward passes alone: the base, what one layer computes at a time, what the frozen layers make of a
// step's batches, and what is kept of that for later steps (zo.kept_front_mb). A task adds what it keeps itself: the
// trained weights, moments, a ledger's.
uint64_t EstimateForwardBytes(const model::ModelSpec& spec, const TrainSettings& train, const TrainOptions& options);
// Errors: kResourceExhausted when the input allows less.
Status CheckForwardMemory(const model::ModelSpec& spec, const TaskInput& input, const TrainOptions& options);

// kResourceExhausted when `what` needs more than the limit; 0: there is none.
Status CheckMemory(uint64_t limit, uint64_t need, const char* what);

}  // namespace heddle::client
