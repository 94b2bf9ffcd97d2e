#include "client/worker/bbpt.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "client/worker/head_data.h"
#include "client/worker/library_wall.h"
#include "client/worker/task_resources.h"
#include "client/worker/train_options.h"
#include "common/logging.h"
#include "common/random.h"
#include "model/config/registry.h"
#include "model/transformer/transformer.h"
#include "peft/adapter/prompt_generator.h"
#include "peft/adapter/prompt_projection.h"
#include "peft/tuning/tuning.h"
#include "zo_optim/cma/cma.h"
#include "zo_optim/estimator/loss_watch.h"

namespace heddle::client {
namespace {

class Bbpt final : public LocalTask {
 public:
  Result<TaskOutput> Run(const TaskInput& input, TaskResources& resources,
                         const ProgressCallback& progress) const override {
    return WithinLibraryWall([&] { return RunThrowing(input, resources, progress); });
  }

 private:
  static Result<TaskOutput> RunThrowing(const TaskInput& input, TaskResources& resources,
                                        const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    const TrainRules& rules = train.rules;
    if (!rules.frozen.empty() || !rules.kept.empty() || !rules.correction.empty() || rules.proximal_mu > 0) {
      return InvalidArgument("bbpt takes no rules of a strategy; use FedBPT or FedAvg");
    }
    at::set_num_threads(static_cast<int>(std::max(1U, train.threads)));
    HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec config, model::ReadModelConfig(input.base_model_dir));
    HEDDLE_ASSIGN_OR_RETURN(const TrainOptions options, MakeTrainOptions(input, config));
    const OwnStream stream(options.weights.device);
    HEDDLE_RETURN_IF_ERROR(
        CheckMemory(input.memory_limit_bytes, EstimateForwardBytes(config, train, options), "a forward pass"));
    HEDDLE_ASSIGN_OR_RETURN(const peft::Adapter given, peft::ReadAdapter(input.adapter_dir));
    if (peft::PromptGenerator::IsIn(given.tensors)) {
      return InvalidArgument(
          "bbpt searches coordinates, and the adapter has a prompt's generator; train it with zo_sft");
    }
    HEDDLE_ASSIGN_OR_RETURN(const peft::PromptProjection projection, peft::PromptProjection::Of(given.tensors));
    if (train.zo.intrinsic_dim != 0 && train.zo.intrinsic_dim != projection.dimensions) {
      return InvalidArgument("the plan's intrinsic_dim is not the number of the adapter's prompt_coordinates");
    }
    HEDDLE_ASSIGN_OR_RETURN(TaskResources::Base base, resources.GetBase(input.base_model_dir, options.weights));
    HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<HeadBatches> batches, TrainingBatches(input, base, resources));
    HEDDLE_ASSIGN_OR_RETURN(const StateDict start, peft::WithPrompt(given.tensors));
    model::Transformer network(base.weights, options.compute);
    HEDDLE_ASSIGN_OR_RETURN(const peft::Tuning tuning,
                            peft::Tuning::Inject(network, given.config, start, peft::Use::kFrozen));
    if (tuning.parameters().size() != 1) return InvalidArgument("bbpt tunes a prompt and nothing beside it");
    network->eval();
    TaskOutput output;
    HEDDLE_RETURN_IF_ERROR(Search(network, tuning.parameters().front().tensor, projection, given.tensors, *batches,
                                  input, options, progress, &output));
    return output;
  }

  static Status Search(model::Transformer& network, torch::Tensor prompt, const peft::PromptProjection& projection,
                       const StateDict& start, HeadBatches& batches, const TaskInput& input,
                       const TrainOptions& options, const ProgressCallback& progress, TaskOutput* output) {
    const torch::NoGradGuard no_grad;
    const auto from = start.find(peft::kPromptCoordinates)->second.values<float>();
    const auto variance = start.find(peft::kPromptVariance)->second.values<float>();
    const std::vector<double> mean(from.begin(), from.end());
    HEDDLE_ASSIGN_OR_RETURN(zo::Cma cma, zo::Cma::Make(mean, std::sqrt(static_cast<double>(variance[0])),
                                                       {.population = input.train.zo.population,
                                                        .seed = DeriveSeed(input.seed, "bbpt", "")}));
    TaskStats& stats = output->stats;
    zo::LossWatch watch;
    double loss_sum = 0;
    const auto started = std::chrono::steady_clock::now();
    const uint32_t steps = input.train.local_steps;
    for (uint32_t step = 1; step <= steps; ++step) {
      HEDDLE_ASSIGN_OR_RETURN(const std::optional<HeadBatch> batch, batches.Next());
      HEDDLE_ASSERT(batch.has_value(), "training data have no end");
      const HeadBatch there = batch->On(options.weights.device);
      stats.num_examples += batch->rows;
      stats.num_tokens += batch->tokens;
      std::vector<double> losses;
      for (const std::vector<double>& candidate : cma.Ask()) {
        const std::vector<float> coordinates(candidate.begin(), candidate.end());
        const std::vector<float> values = projection.Prompt(coordinates);
        prompt.copy_(torch::from_blob(const_cast<float*>(values.data()), prompt.sizes(), at::kFloat));
        losses.push_back(network->Loss(there.input, there.targets).item<double>());
        ++stats.forward_passes;
        if (!std::isfinite(losses.back())) ++stats.skipped_directions;
      }
      if (const Status told = cma.Tell(losses); !told.ok()) return Internal(told.message());
      double sum = 0, finite = 0;
      for (const double loss : losses) {
        if (!std::isfinite(loss)) continue;
        sum += loss;
        ++finite;
      }
      const double value = sum / finite;  // of the candidates: their best says less
      if (step == 1) stats.first_loss = value;
      stats.last_loss = value;
      loss_sum += value;
      watch.Add(value);
      stats.steps = step;
      if (progress && !progress(step, steps, value)) return Cancelled("the task was interrupted");
    }
    stats.train_loss = loss_sum / steps;
    stats.train_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    stats.loss_stalled = watch.Stalled();
    if (stats.loss_stalled) {
      Log(Severity::kWarning,
          "the loss of the searched prompts does not fall; a larger population, more local_steps or "
          "another projection_scale may help");
    }
    std::vector<float> change(from.size());
    for (size_t i = 0; i < change.size(); ++i) change[i] = static_cast<float>(cma.mean()[i] - mean[i]);
    const std::vector<float> spread = {
        static_cast<float>(cma.sigma() * cma.sigma() - static_cast<double>(variance[0]))};
    output->update.emplace(peft::kPromptCoordinates, Tensor::FromFloats({projection.dimensions}, change));
    output->update.emplace(peft::kPromptVariance, Tensor::FromFloats({1}, spread));
    return OkStatus();
  }
};

}  // namespace

std::shared_ptr<const LocalTask> MakeBbpt() { return std::make_shared<Bbpt>(); }

}  // namespace heddle::client
