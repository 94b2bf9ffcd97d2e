#include "client/worker/lora_sft.h"

#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>

#include "client/worker/task_resources.h"
#include "client/worker/train_options.h"
#include "common/random.h"
#include "common/subprocess.h"
#include "model/config/registry.h"
#include "model/training/gradient_accumulator.h"
#include "model/training/optimizer.h"
#include "model/transformer/transformer.h"
#include "peft/lora/lora.h"

namespace heddle::client {
namespace {

Status CheckMemory(uint64_t limit, uint64_t need, const char* what) {
  if (limit == 0 || need <= limit) return OkStatus();
  return ResourceExhausted(std::string(what) + " needs about " + std::to_string(need >> 20) +
                           " MiB; this device allows " + std::to_string(limit >> 20) + " MiB");
}

// One batch: ids [batch, length] and targets, the same windows shifted by one.
struct Batch {
  torch::Tensor ids, targets;
};

void FillBatch(const model::TextDataset& data, model::SampleOrder& order, Batch* batch) {
  int64_t rows = batch->ids.size(0);
  int64_t length = batch->ids.size(1);
  auto* ids = batch->ids.data_ptr<int64_t>();
  auto* targets = batch->targets.data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    std::span<const int32_t> window = data.Sequence(order.Next());
    for (int64_t i = 0; i < length; ++i) {
      ids[row * length + i] = window[static_cast<size_t>(i)];
      targets[row * length + i] = window[static_cast<size_t>(i) + 1];
    }
  }
}

StateDict Difference(const StateDict& after, const StateDict& before) {
  StateDict out;
  for (const auto& [name, tensor] : after) {
    std::span<const float> a = tensor.values<float>();
    std::span<const float> b = before.find(name)->second.values<float>();
    std::vector<float> d(a.size());
    for (size_t i = 0; i < d.size(); ++i) d[i] = a[i] - b[i];
    out.emplace(name, Tensor::FromFloats(tensor.shape(), d));
  }
  return out;
}

class LoraSft final : public LocalTask {
 public:
  Result<TaskOutput> Run(const TaskInput& input, TaskResources& resources,
                         const ProgressCallback& progress) const override {
    try {
      return RunThrowing(input, resources, progress);
    } catch (const c10::Error& error) {
      return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is not enough memory for the task");
    } catch (const std::exception& error) {
      return Internal(std::string("the task failed: ") + error.what());
    }
  }

 private:
  static Result<TaskOutput> RunThrowing(const TaskInput& input, TaskResources& resources,
                                        const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    at::set_num_threads(static_cast<int>(std::max(1U, train.threads)));
    // Before anything large is read.
    HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec config, model::ReadModelConfig(input.base_model_dir));
    HEDDLE_ASSIGN_OR_RETURN(const TrainOptions options, MakeTrainOptions(input, config));
    HEDDLE_RETURN_IF_ERROR(
        CheckMemory(input.memory_limit_bytes, EstimateTrainingBytes(config, train, options), "the training step"));
    HEDDLE_ASSIGN_OR_RETURN(TaskResources::Base base, resources.GetBase(input.base_model_dir, options.weights));
    HEDDLE_ASSIGN_OR_RETURN(peft::Adapter adapter, peft::ReadAdapter(input.adapter_dir));
    HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::TextDataset> data,
                            resources.GetData(input.data_path, base, train.sequence_length));
    model::Transformer network(base.weights, options.compute);
    HEDDLE_RETURN_IF_ERROR(peft::InjectLora(network, adapter.config, adapter.tensors));
    network->SeedDropout(DeriveSeed(input.seed, "dropout", ""));
    network->train();
    auto stats = Train(network, *data, input, options, progress);
    if (!stats.ok()) return stats.status();
    return TaskOutput{Difference(peft::ExtractLora(network), adapter.tensors), *stats};
  }

  static Result<TaskStats> Train(model::Transformer& network, const model::TextDataset& data, const TaskInput& input,
                                 const TrainOptions& options, const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    std::vector<torch::Tensor> parameters;
    for (auto& [name, tensor] : peft::LoraParameters(network)) parameters.push_back(tensor);
    const auto optimizer = model::MakeOptimizer(options.optimizer, parameters, options.optimizer_options);
    model::GradientAccumulator accumulator(parameters, train.gradient_accumulation_steps);
    model::SampleOrder order(data.num_sequences(), DeriveSeed(input.seed, "samples", ""));
    Batch batch{torch::empty({train.batch_size, train.sequence_length}, torch::kInt64),
                torch::empty({train.batch_size, train.sequence_length}, torch::kInt64)};
    TaskStats stats;
    double loss_sum = 0;
    auto started = std::chrono::steady_clock::now();
    for (uint32_t step = 1; step <= train.local_steps; ++step) {
      for (uint32_t part = 0; part < train.gradient_accumulation_steps; ++part) {
        FillBatch(data, order, &batch);
        const torch::Tensor loss =
            network->Loss(batch.ids.to(options.weights.device), batch.targets.to(options.weights.device));
        accumulator.Add(loss, batch.targets.numel());  // windows are full: every target counts
      }
      const double value = accumulator.Finish().loss;
      const double norm = optimizer->Step(train.learning_rate * options.schedule.Factor(step));
      if (!std::isfinite(value) || !std::isfinite(norm)) {
        return Internal("the loss or its gradient is not finite at step " + std::to_string(step) +
                        "; a smaller learning_rate or max_grad_norm may help");
      }
      if (step == 1) stats.first_loss = value;
      stats.last_loss = value;
      loss_sum += value;
      stats.steps = step;
      const uint64_t examples = uint64_t{train.batch_size} * train.gradient_accumulation_steps;
      stats.num_examples += examples;
      stats.num_tokens += examples * train.sequence_length;
      if (progress && !progress(step, train.local_steps, value)) return Cancelled("the task was interrupted");
      if (step == 1 && input.memory_limit_bytes > 0) {
        auto memory = ReadProcessMemory(::getpid());
        if (memory.ok()) HEDDLE_RETURN_IF_ERROR(CheckMemory(input.memory_limit_bytes, memory->rss_bytes, "the worker"));
      }
    }
    stats.train_loss = loss_sum / train.local_steps;
    stats.train_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return stats;
  }
};

Result<Evaluation> EvaluateThrowing(const std::filesystem::path& base_dir, const std::filesystem::path& adapter_dir,
                                    const std::filesystem::path& data_path, uint32_t sequence_length,
                                    TaskResources& resources) {
  constexpr int64_t kBatch = 16;
  HEDDLE_ASSIGN_OR_RETURN(TaskResources::Base base, resources.GetBase(base_dir));
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::TextDataset> data,
                          resources.GetData(data_path, base, sequence_length));
  model::Transformer network(base.weights);
  if (!adapter_dir.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(peft::Adapter adapter, peft::ReadAdapter(adapter_dir));
    HEDDLE_RETURN_IF_ERROR(peft::InjectLora(network, adapter.config, adapter.tensors));
  }
  network->eval();
  torch::NoGradGuard no_grad;
  double loss_sum = 0;
  int64_t windows = data->num_sequences();
  for (int64_t begin = 0; begin < windows; begin += kBatch) {
    int64_t rows = std::min(kBatch, windows - begin);
    torch::Tensor ids = torch::empty({rows, sequence_length}, torch::kInt64);
    torch::Tensor targets = torch::empty({rows, sequence_length}, torch::kInt64);
    for (int64_t row = 0; row < rows; ++row) {
      std::span<const int32_t> window = data->Sequence(begin + row);
      for (size_t i = 0; i < sequence_length; ++i) {
        ids.data_ptr<int64_t>()[row * sequence_length + static_cast<int64_t>(i)] = window[i];
        targets.data_ptr<int64_t>()[row * sequence_length + static_cast<int64_t>(i)] = window[i + 1];
      }
    }
    loss_sum += static_cast<double>(network->Loss(ids, targets).item<float>()) * static_cast<double>(rows);
  }
  Evaluation result;
  result.loss = loss_sum / static_cast<double>(windows);
  result.perplexity = std::exp(result.loss);
  result.num_tokens = static_cast<uint64_t>(windows) * sequence_length;
  return result;
}

}  // namespace

std::shared_ptr<const LocalTask> MakeLoraSft() { return std::make_shared<LoraSft>(); }

Result<Evaluation> EvaluatePerplexity(const std::filesystem::path& base_dir, const std::filesystem::path& adapter_dir,
                                      const std::filesystem::path& data_path, uint32_t sequence_length,
                                      TaskResources& resources, unsigned threads) {
  try {
    if (threads > 0) at::set_num_threads(static_cast<int>(threads));
    return EvaluateThrowing(base_dir, adapter_dir, data_path, sequence_length, resources);
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::exception& error) {
    return Internal(std::string("the evaluation failed: ") + error.what());
  }
}

}  // namespace heddle::client
