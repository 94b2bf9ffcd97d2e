#include "client/model_tool/distil.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "client/worker/head_data.h"
#include "client/worker/train_options.h"
#include "common/assert.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "model/weights/tensor_loader.h"
#include "peft/parts/distil.h"

namespace heddle::client {
namespace {

// The settings as a task's, which has the same checks, data and optimizer.
TaskInput AsTask(const DistilSettings& settings, const model::ModelSpec& spec) {
  TaskInput input;
  input.base_model_dir = settings.folder;
  input.data_path = settings.data;
  input.seed = settings.seed;
  input.device = settings.device;
  input.train.local_steps = settings.steps;
  input.train.warmup_steps = settings.warmup_steps.value_or(settings.steps / 10);
  input.train.batch_size = settings.batch_size;
  input.train.sequence_length = settings.sequence_length > 0
                                    ? settings.sequence_length
                                    : static_cast<uint32_t>(std::min<int64_t>(512, spec.MaxLength()));
  input.train.learning_rate = settings.learning_rate;
  input.train.lr_scheduler_type = "cosine";
  input.train.max_grad_norm = 1;
  return input;
}

Status CheckSettings(const DistilSettings& settings, const model::ModelSpec& spec, const peft::Emulator& plan) {
  if (spec.head.task == model::Task::kNone) {
    return InvalidArgument(spec.architecture +
                           " has no head, so it has no loss to learn from; distil a model with one");
  }
  const std::vector<int64_t> middle = plan.Middle();
  if (static_cast<int64_t>(plan.layers.size()) == plan.num_layers || middle.empty()) {
    return InvalidArgument("with --keep " + std::to_string(settings.kept) + " " +
                           (middle.empty() ? "no layer stays between the ends" : "all layers stay") +
                           ", so there is nothing to distil; keep some of them");
  }
  for (const double weight : {settings.lm_weight, settings.kd_weight}) {
    if (!std::isfinite(weight) || weight < 0) {
      return InvalidArgument("--lm-weight and --kd-weight must be finite numbers from 0");
    }
  }
  if (settings.lm_weight == 0 && settings.kd_weight == 0) {
    return InvalidArgument("--lm-weight and --kd-weight are both 0, so there is nothing to learn");
  }
  return OkStatus();
}

// In the type in which the model stores each.
Result<StateDict> AsStored(const StateDict& values, const model::ModelSpec& spec, const StateDict& checkpoint) {
  std::map<std::string, DType> types;
  for (const auto& [stored, ours] : spec.NamesOf(SpecOf(checkpoint))) {
    types.emplace(ours, checkpoint.find(stored)->second.dtype());
  }
  StateDict out;
  for (const auto& [name, value] : values) {
    const auto found = types.find(name);
    if (found == types.end()) return InvalidArgument("the model's files have no " + name);
    const DType type = found->second;
    const torch::Tensor converted = peft::ToTorchTensor(value).to(model::TorchType(type)).contiguous();
    if (!converted.isfinite().all().item<bool>()) {
      return Internal("after the last step " + name + " is not finite as the model stores it (" +
                      std::string(DTypeName(type)) + "); a smaller --learning-rate may help");
    }
    std::span<std::byte> bytes;
    Tensor stored = Tensor::Allocate({type, value.shape()}, &bytes);
    if (!bytes.empty()) std::memcpy(bytes.data(), converted.data_ptr(), bytes.size());
    out.emplace(name, std::move(stored));
  }
  return out;
}

Status Learn(peft::Distiller& distiller, HeadBatches& batches, const TaskInput& task, const TrainOptions& options,
             std::ostream& progress, peft::Distillation* how) {
  const auto optimizer = model::MakeOptimizer(options.optimizer, distiller.parameters(), options.optimizer_options);
  const uint32_t steps = task.train.local_steps, interval = std::max(1U, steps / 20);
  for (uint32_t step = 1; step <= steps; ++step) {
    HEDDLE_ASSIGN_OR_RETURN(const std::optional<HeadBatch> batch, batches.Next());
    HEDDLE_ASSERT(batch.has_value(), "training data have no end");
    const HeadBatch there = batch->On(options.weights.device);
    const auto loss = distiller.LossOf(there.input, there.targets, how->lm_weight, how->kd_weight);
    loss.total.backward();
    const double norm = optimizer->Step(task.train.learning_rate * options.schedule.Factor(step));
    if (!std::isfinite(loss.lm) || !std::isfinite(loss.kd) || !std::isfinite(norm)) {
      return Internal("the loss or its gradient is not finite at step " + std::to_string(step) +
                      (step == 1 ? "; are the model's weights?" : "; a smaller --learning-rate may help"));
    }
    if (step == 1) {
      how->first_lm = loss.lm;
      how->first_kd = loss.kd;
    }
    how->last_lm = loss.lm;
    how->last_kd = loss.kd;
    if (step % interval == 0 || step == steps || step == 1) {
      char line[128];
      std::snprintf(line, sizeof line, "step %u of %u: loss %.4f, distance %.4f\n", step, steps, loss.lm, loss.kd);
      progress << line << std::flush;
    }
  }
  return OkStatus();
}

Result<peft::Emulator> DistilThrowing(const DistilSettings& settings, std::ostream& progress) {
  if (settings.threads > 0) at::set_num_threads(static_cast<int>(settings.threads));
  HEDDLE_ASSIGN_OR_RETURN(const peft::Emulator plan,
                          peft::PlanEmulator(settings.folder, settings.ends, settings.kept, settings.out));
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(settings.folder));
  HEDDLE_RETURN_IF_ERROR(CheckSettings(settings, spec, plan));
  const TaskInput task = AsTask(settings, spec);
  HEDDLE_ASSIGN_OR_RETURN(const TrainOptions options, MakeTrainOptions(task, spec));
  TaskResources resources;
  HEDDLE_ASSIGN_OR_RETURN(const TaskResources::Base base, resources.GetBase(settings.folder, options.weights));
  HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<HeadBatches> batches, TrainingBatches(task, base, resources));
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadModelSafetensors(settings.folder));
  HEDDLE_ASSIGN_OR_RETURN(peft::Distiller distiller, peft::Distiller::Make(base.weights, file.tensors, plan));
  peft::Distilled distilled;
  peft::Distillation& how = distilled.how;
  how.data = settings.data.filename().string();
  if (std::filesystem::is_regular_file(settings.data)) {
    HEDDLE_ASSIGN_OR_RETURN(how.sha256, Sha256File(settings.data));
  }
  how.steps = task.train.local_steps;
  how.warmup_steps = task.train.warmup_steps;
  how.batch_size = task.train.batch_size;
  how.sequence_length = task.train.sequence_length;
  how.seed = settings.seed;
  how.learning_rate = settings.learning_rate;
  how.lm_weight = settings.lm_weight;
  how.kd_weight = settings.kd_weight;
  HEDDLE_RETURN_IF_ERROR(Learn(distiller, *batches, task, options, progress, &how));
  HEDDLE_ASSIGN_OR_RETURN(distilled.values, AsStored(distiller.Values(), spec, file.tensors));
  return peft::MakeEmulator(settings.folder, settings.ends, settings.kept, settings.out, &distilled);
}

}  // namespace

Result<peft::Emulator> DistilEmulator(const DistilSettings& settings, std::ostream& progress) {
  try {
    return DistilThrowing(settings, progress);
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::exception& error) {
    return Internal(std::string("the emulator could not be distilled: ") + error.what());
  }
}

}  // namespace heddle::client
