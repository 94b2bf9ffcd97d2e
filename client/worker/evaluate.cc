// EvaluateModel of local_task.h.
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "client/worker/head_data.h"
#include "client/worker/local_task.h"
#include "client/worker/train_options.h"
#include "model/metrics/metrics.h"
#include "model/transformer/blas_check.h"
#include "model/transformer/transformer.h"
#include "peft/adapter/prompt_projection.h"
#include "peft/tuning/tuning.h"

namespace heddle::client {
namespace {

Result<Evaluation> EvaluateWords(model::Transformer& network, HeadBatches& batches) {
  model::Perplexity perplexity;
  Evaluation result;
  while (true) {
    HEDDLE_ASSIGN_OR_RETURN(std::optional<HeadBatch> batch, batches.Next());
    if (!batch) break;
    if (batch->counted == 0) continue;
    // Of the last batch some rows may be empty.
    result.num_examples += batch->targets.ge(0).flatten(1).any(1).sum().item<int64_t>();
    if (!network->device().is_cpu()) batch = batch->On(network->device());
    perplexity.Add(static_cast<double>(network->Loss(batch->input, batch->targets).item<float>()), batch->counted);
  }
  result.loss = perplexity.loss();
  result.perplexity = perplexity.value();
  result.num_tokens = static_cast<uint64_t>(perplexity.tokens());
  result.data_tokens = batches.data_tokens();
  result.metrics = {{"perplexity", result.perplexity}};
  return result;
}

Result<Evaluation> EvaluateClasses(model::Transformer& network, HeadBatches& batches, int64_t num_classes) {
  model::ClassCounts counts(num_classes);
  Evaluation result;
  double loss_sum = 0;
  while (true) {
    HEDDLE_ASSIGN_OR_RETURN(std::optional<HeadBatch> batch, batches.Next());
    if (!batch) break;
    if (!network->device().is_cpu()) batch = batch->On(network->device());
    const torch::Tensor logits = Logits(network, *batch);
    loss_sum += at::cross_entropy_loss(logits, batch->targets, {}, at::Reduction::Sum).item<double>();
    const torch::Tensor predicted = logits.argmax(1).cpu().contiguous(), truth = batch->targets.cpu();
    for (int64_t row = 0; row < predicted.size(0); ++row) {
      counts.Add(truth.data_ptr<int64_t>()[row], predicted.data_ptr<int64_t>()[row]);
    }
    result.num_tokens += batch->tokens;
  }
  result.num_examples = static_cast<uint64_t>(counts.total());
  result.loss = loss_sum / static_cast<double>(counts.total());
  result.metrics = {{"accuracy", counts.Accuracy()}};
  if (counts.num_classes() == 2) result.metrics.emplace_back("f1", counts.F1());
  result.metrics.emplace_back("macro_f1", counts.MacroF1());
  result.metrics.emplace_back("matthews", counts.Matthews());
  return result;
}

Result<Evaluation> EvaluateNumbers(model::Transformer& network, HeadBatches& batches) {
  model::Regression regression;
  Evaluation result;
  while (true) {
    HEDDLE_ASSIGN_OR_RETURN(std::optional<HeadBatch> batch, batches.Next());
    if (!batch) break;
    if (!network->device().is_cpu()) batch = batch->On(network->device());
    const torch::Tensor predicted = network->forward(batch->input).squeeze(1).cpu().to(torch::kFloat64).contiguous();
    const torch::Tensor truth = batch->targets.cpu();
    for (int64_t row = 0; row < predicted.size(0); ++row) {
      regression.Add(truth.data_ptr<double>()[row], predicted.data_ptr<double>()[row]);
    }
    result.num_tokens += batch->tokens;
  }
  result.num_examples = static_cast<uint64_t>(regression.total());
  result.loss = regression.MeanSquaredError();
  result.metrics = {
      {"mean_squared_error", result.loss}, {"pearson", regression.Pearson()}, {"spearman", regression.Spearman()}};
  return result;
}

Result<Evaluation> EvaluateThrowing(const std::filesystem::path& base_dir, const std::filesystem::path& adapter_dir,
                                    const std::filesystem::path& data_path, uint32_t sequence_length,
                                    TaskResources& resources, const EvaluationForm& form) {
  HEDDLE_ASSIGN_OR_RETURN(const torch::Device device, model::DeviceFromName(form.device));
  HEDDLE_ASSIGN_OR_RETURN(const model::WeightType type, model::WeightTypeFromName(form.base_dtype));
  model::ComputeOptions compute;
  if (type == model::WeightType::kBfloat16) {
    compute.type = at::kBFloat16;
    if (device.is_cpu()) model::WarnOfSlowBfloat16();
  }
  HEDDLE_ASSIGN_OR_RETURN(TaskResources::Base base, resources.GetBase(base_dir, {type, device}));
  const auto last = form.short_last_window ? model::LastWindow::kShort : model::LastWindow::kLeftOut;
  HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<HeadBatches> batches,
                          EvaluationBatches(data_path, sequence_length, base, resources, {}, form.prompt, last));
  model::Transformer network(base.weights, compute);
  if (!adapter_dir.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(peft::Adapter adapter, peft::ReadAdapter(adapter_dir));
    HEDDLE_ASSIGN_OR_RETURN(adapter.tensors, peft::WithPrompt(std::move(adapter.tensors)));
    HEDDLE_RETURN_IF_ERROR(peft::Tuning::Inject(network, adapter.config, adapter.tensors, peft::Use::kFrozen).status());
  }
  network->eval();
  torch::NoGradGuard no_grad;
  if (form.prompt) return EvaluateClasses(network, *batches, static_cast<int64_t>(form.prompt->words.size()));
  const model::Task task = network->spec().head.task;
  if (task == model::Task::kCausalLm || task == model::Task::kMaskedLm) return EvaluateWords(network, *batches);
  return network->spec().num_labels == 1 ? EvaluateNumbers(network, *batches)
                                         : EvaluateClasses(network, *batches, network->spec().num_labels);
}

}  // namespace

Result<Evaluation> EvaluateModel(const std::filesystem::path& base_dir, const std::filesystem::path& adapter_dir,
                                 const std::filesystem::path& data_path, uint32_t sequence_length,
                                 TaskResources& resources, unsigned threads, const EvaluationForm& form) {
  try {
    if (threads > 0) at::set_num_threads(static_cast<int>(threads));
    return EvaluateThrowing(base_dir, adapter_dir, data_path, sequence_length, resources, form);
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::exception& error) {
    return Internal(std::string("the evaluation failed: ") + error.what());
  }
}

}  // namespace heddle::client
