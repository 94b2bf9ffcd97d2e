#include "client/worker/train_options.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <cmath>
#include <set>

#include "client/worker/memory_need.h"
#include "model/config/memory_estimate.h"
#include "model/transformer/blas_check.h"
#include "peft/adapter/memory_need.h"

namespace heddle::client {
namespace {

constexpr uint64_t kMaxTokensPerBatch = uint64_t{1} << 24;

Status CheckRanges(const TrainSettings& train, const model::ModelSpec& spec) {
  if (train.local_steps == 0 || train.batch_size == 0 || train.sequence_length == 0) {
    return InvalidArgument("local_steps, batch_size and sequence_length must be at least 1");
  }
  if (train.gradient_accumulation_steps == 0) return InvalidArgument("gradient_accumulation_steps must be at least 1");
  if (!spec.TakesImages() && static_cast<int64_t>(train.sequence_length) > spec.MaxLength()) {
    return InvalidArgument("sequence_length is " + std::to_string(train.sequence_length) +
                           ", the model takes at most " + std::to_string(spec.MaxLength()) + " tokens");
  }
  if (uint64_t{train.batch_size} * train.sequence_length > kMaxTokensPerBatch) {
    return InvalidArgument("batch_size times sequence_length is above " + std::to_string(kMaxTokensPerBatch) +
                           " tokens a step");
  }
  for (const auto& [name, value] : {std::pair{"learning_rate", train.learning_rate},
                                    {"weight_decay", train.weight_decay},
                                    {"max_grad_norm", train.max_grad_norm},
                                    {"epsilon", train.epsilon}}) {
    if (!std::isfinite(value) || value < 0) {
      return InvalidArgument(std::string(name) + " must be a finite number from 0");
    }
  }
  for (const auto& [name, value] :
       {std::pair{"beta1", train.beta1}, {"beta2", train.beta2}, {"momentum", train.momentum}}) {
    if (!(value >= 0 && value < 1)) return InvalidArgument(std::string(name) + " must be from 0 to below 1");
  }
  return OkStatus();
}

}  // namespace

OwnStream::OwnStream(const torch::Device& device) {
  if (device.is_cpu()) return;
  guard_.emplace(c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device));
}

Result<TrainOptions> MakeTrainOptions(const TaskInput& input, const model::ModelSpec& spec) {
  const TrainSettings& train = input.train;
  HEDDLE_RETURN_IF_ERROR(CheckRanges(train, spec));
  HEDDLE_ASSIGN_OR_RETURN(const model::OptimizerKind optimizer, model::OptimizerKindFromName(train.optimizer));
  HEDDLE_ASSIGN_OR_RETURN(
      const model::LearningRateSchedule schedule,
      model::LearningRateSchedule::Make(train.lr_scheduler_type, train.local_steps, train.warmup_steps));
  HEDDLE_ASSIGN_OR_RETURN(const model::WeightType type, model::WeightTypeFromName(train.base_dtype));
  HEDDLE_ASSIGN_OR_RETURN(const torch::Device device, model::DeviceFromName(input.device));
  TrainOptions options{optimizer, {}, schedule, {type, device}, {}};
  options.optimizer_options.beta1 = train.beta1;
  options.optimizer_options.beta2 = train.beta2;
  options.optimizer_options.epsilon = train.epsilon;
  options.optimizer_options.momentum = train.momentum;
  options.optimizer_options.weight_decay = train.weight_decay;
  options.optimizer_options.max_grad_norm = train.max_grad_norm;
  if (train.bf16) {
    options.compute.type = at::kBFloat16;
    if (device.is_cpu()) model::WarnOfSlowBfloat16();
  }
  options.compute.checkpoint_layers = train.gradient_checkpointing;
  return options;
}

namespace {

model::MemorySettings MemorySettingsOf(const TrainSettings& train, const TrainOptions& options) {
  model::MemorySettings settings;
  settings.batch = train.batch_size;
  settings.length = train.sequence_length;
  settings.base = options.weights.type;
  settings.bf16 = train.bf16;
  settings.checkpoint = train.gradient_checkpointing;
  return settings;
}

}  // namespace

uint64_t EstimateTrainingBytes(const model::ModelSpec& spec, const TrainSettings& train, const TrainOptions& options,
                               const StateDict& adapter) {
  const uint64_t kept = options.weights.device.is_cpu() ? uint64_t{train.zo.kept_front_mb} << 20 : 0;
  return peft::TrainingBytes(spec, MemorySettingsOf(train, options), SpecOf(adapter)) + kept;
}

uint64_t EstimateTrainingBytes(const model::ModelSpec& spec, const TrainSettings& train, const TrainOptions& options) {
  return EstimateTrainingBytes(spec, train, options, {});
}

uint64_t EstimateForwardBytes(const model::ModelSpec& spec, const TrainSettings& train, const TrainOptions& options) {
  model::MemorySettings settings = MemorySettingsOf(train, options);
  settings.tangents = train.zo.estimator == "forward_gradient";
  const double pass = EstimateMemory(spec, model::MemoryUse::kInference, settings).total();
  const double fronts =
      static_cast<double>(train.batch_size) * train.gradient_accumulation_steps * FrontBytes(spec, settings);
  return static_cast<uint64_t>(pass + fronts) + (uint64_t{train.zo.kept_front_mb} << 20);
}

Status CheckForwardMemory(const model::ModelSpec& spec, const TaskInput& input, const TrainOptions& options) {
  return CheckMemory(input.memory_limit_bytes, EstimateForwardBytes(spec, input.train, options), "a forward pass");
}

Status CheckMemory(uint64_t limit, uint64_t need, const char* what) {
  if (limit == 0 || need <= limit) return OkStatus();
  return ResourceExhausted(std::string(kNotEnoughMemory) + ": " + what + " needs about " + std::to_string(need >> 20) +
                           " MiB; this device allows " + std::to_string(limit >> 20) + " MiB");
}

}  // namespace heddle::client
