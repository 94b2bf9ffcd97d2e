#include "client/worker/lora_sft.h"

#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <string>

#include "aggregation/layer_choice.h"
#include "client/worker/few_shot.h"
#include "client/worker/frozen_front.h"
#include "client/worker/given_adapter.h"
#include "client/worker/head_data.h"
#include "client/worker/library_wall.h"
#include "client/worker/memory_need.h"
#include "client/worker/ruled_training.h"
#include "client/worker/task_resources.h"
#include "client/worker/train_options.h"
#include "common/random.h"
#include "common/subprocess.h"
#include "model/config/registry.h"
#include "model/training/gradient_accumulator.h"
#include "model/training/optimizer.h"
#include "model/transformer/transformer.h"
#include "peft/tuning/tuning.h"

namespace heddle::client {
namespace {

class LoraSft final : public LocalTask {
 public:
  Result<TaskOutput> Run(const TaskInput& input, TaskResources& resources,
                         const ProgressCallback& progress) const override {
    return WithinLibraryWall([&] { return RunThrowing(input, resources, progress); });
  }

 private:
  static Result<TaskOutput> RunThrowing(const TaskInput& input, TaskResources& resources,
                                        const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    at::set_num_threads(static_cast<int>(std::max(1U, train.threads)));
    // Before anything large is read.
    HEDDLE_ASSIGN_OR_RETURN(model::ModelSpec config, model::ReadModelConfig(input.base_model_dir));
    config.part.layers.assign(train.layers.begin(), train.layers.end());
    HEDDLE_RETURN_IF_ERROR(config.Check());
    HEDDLE_ASSIGN_OR_RETURN(TrainOptions options, MakeTrainOptions(input, config));
    options.weights.part = config.part;
    const OwnStream stream(options.weights.device);
    HEDDLE_RETURN_IF_ERROR(
        CheckMemory(input.memory_limit_bytes, EstimateTrainingBytes(config, train, options), "the training step"));
    HEDDLE_ASSIGN_OR_RETURN(TaskResources::Base base, resources.GetBase(input.base_model_dir, options.weights));
    HEDDLE_ASSIGN_OR_RETURN(const StateDict personal, ReadPersonal(input.personal_path));
    HEDDLE_ASSIGN_OR_RETURN(peft::Adapter given, ReadGivenAdapter(input.adapter_dir));
    const peft::Adapter adapter = RuledTraining::OwnPart(train.rules, personal, std::move(given));
    // What is trained, its gradient and two moments: not little where whole layers are.
    const uint64_t need = EstimateTrainingBytes(config, train, options, adapter.tensors);
    HEDDLE_RETURN_IF_ERROR(CheckMemory(input.memory_limit_bytes, need, "the training step"));
    std::unique_ptr<HeadBatches> batches;
    FewShotData* few_shot = nullptr;
    if (train.pseudo_labels || train.prompt) {
      HEDDLE_ASSIGN_OR_RETURN(std::unique_ptr<FewShotData> data, FewShotData::Open(input, base, resources, personal));
      few_shot = data.get();
      batches = std::move(data);
    } else {
      HEDDLE_ASSIGN_OR_RETURN(batches, TrainingBatches(input, base, resources));
    }
    model::Transformer network(base.weights, options.compute);
    HEDDLE_ASSIGN_OR_RETURN(const peft::Tuning tuning, peft::Tuning::Inject(network, adapter.config, adapter.tensors));
    RuledTraining::Parameters parameters;
    for (const peft::TunedParameter& one : tuning.parameters()) parameters.emplace_back(one.key, one.tensor);
    HEDDLE_ASSIGN_OR_RETURN(RuledTraining ruled,
                            RuledTraining::Make(train, std::move(parameters), adapter.tensors, personal));
    network->SeedDropout(DeriveSeed(input.seed, "dropout", ""));
    TaskOutput output;
    if (few_shot != nullptr && train.pseudo_labels && train.pseudo_labels->label_now) {
      HEDDLE_RETURN_IF_ERROR(few_shot->Label(network, progress));
    }
    const aggregation::LayerChoice choice = aggregation::LayerChoiceOf(SpecOf(adapter.tensors));
    if (choice.scoring()) HEDDLE_RETURN_IF_ERROR(ScoreLayers(network, choice.layers, *batches, &output.update));
    network->train();
    if (few_shot != nullptr && few_shot->size() == 0) {
      output.stats.num_examples = 1;  // it took no step, and says so: such an update weighs nothing
    } else {
      std::optional<FrozenFront> front;
      if (few_shot == nullptr) front = KeptFront(network, tuning, ruled, adapter.tensors, input, base, resources);
      const LossOf loss = [&](const HeadBatch& batch) {
        return front ? front->Loss(front->Take(batch)) : batches->Loss(network, batch);
      };
      HEDDLE_ASSIGN_OR_RETURN(output.stats, Train(loss, tuning, ruled, *batches, input, options, progress));
    }
    if (few_shot != nullptr) {
      output.stats.pseudo_labels = few_shot->num_pseudo();
      output.stats.forward_passes = few_shot->forward_passes();
      few_shot->Keep(&output.personal);
    }
    output.stats.estimated_memory_bytes = need;
    ruled.Finish(adapter.tensors, &output);
    return output;
  }

  // How far each layer turns what goes through it: the mean over a batch's tokens of 1 - cos(before, after).
  static Status ScoreLayers(model::Transformer& network, int64_t layers, HeadBatches& batches, StateDict* update) {
    torch::NoGradGuard no_grad;
    network->eval();
    HEDDLE_ASSIGN_OR_RETURN(const std::optional<HeadBatch> batch, batches.Next());
    HEDDLE_ASSERT(batch.has_value(), "training data have no end");
    const HeadBatch there = batch->On(network->device());
    const std::vector<torch::Tensor> states = network->HiddenStates(there.input);
    if (static_cast<int64_t>(states.size()) != layers + 1) {
      return InvalidArgument("the model asks for scores of " + std::to_string(layers) + " layers, the base has " +
                             std::to_string(states.size() - 1));
    }
    std::vector<float> scores;
    for (size_t l = 0; l + 1 < states.size(); ++l) {
      const torch::Tensor before = states[l].to(torch::kDouble), after = states[l + 1].to(torch::kDouble);
      torch::Tensor turn = 1 - torch::cosine_similarity(before, after, -1);
      if (there.input.mask.defined()) turn = turn.masked_select(there.input.mask.to(torch::kBool));
      scores.push_back(static_cast<float>(turn.mean().item<double>()));
    }
    update->insert_or_assign(std::string(aggregation::kLayerScoresName), Tensor::FromFloats({layers}, scores));
    return OkStatus();
  }

  // The frozen layers below the trained ones, where the plan allows memory for what they make of examples; none where
  // nothing can be kept.
  static std::optional<FrozenFront> KeptFront(const model::Transformer& network, const peft::Tuning& tuning,
                                              const RuledTraining& ruled, const StateDict& adapter,
                                              const TaskInput& input, const TaskResources::Base& base,
                                              TaskResources& resources) {
    if (input.train.zo.kept_front_mb == 0) {
      resources.fronts().Shrink(0);  // what an earlier task was allowed
      return std::nullopt;
    }
    std::set<std::string> keys;
    for (const torch::Tensor& tensor : ruled.Trained()) {
      for (const peft::TunedParameter& one : tuning.parameters()) {
        if (one.tensor.is_same(tensor)) keys.insert(one.key);
      }
    }
    FrozenFront front = FrozenFront::Make(network, tuning, adapter, keys, input, base, resources.fronts());
    return front.keeps() ? std::optional(std::move(front)) : std::nullopt;
  }

  // Of each trained tensor, how much faster than the others it learns (LoRA+); none when all learn alike.
  static std::vector<double> RateFactors(const peft::Tuning& tuning, const std::vector<torch::Tensor>& trained) {
    std::vector<double> factors;
    bool alike = true;
    for (const torch::Tensor& tensor : trained) {
      double factor = 1;
      for (const peft::TunedParameter& one : tuning.parameters()) {
        if (one.tensor.is_same(tensor)) factor = one.rate_factor;
      }
      alike = alike && factor == 1;
      factors.push_back(factor);
    }
    return alike ? std::vector<double>() : factors;
  }

  // Of a batch on the network's device, with the graph for its gradient.
  using LossOf = std::function<torch::Tensor(const HeadBatch&)>;

  static Result<TaskStats> Train(const LossOf& loss, const peft::Tuning& tuning, RuledTraining& ruled,
                                 HeadBatches& batches, const TaskInput& input, const TrainOptions& options,
                                 const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    const std::vector<torch::Tensor> parameters = ruled.Trained();
    model::OptimizerOptions optimizer_options = options.optimizer_options;
    optimizer_options.rate_factors = RateFactors(tuning, parameters);
    const auto optimizer = model::MakeOptimizer(options.optimizer, parameters, optimizer_options);
    model::GradientAccumulator accumulator(parameters, train.gradient_accumulation_steps);
    TaskStats stats;
    double loss_sum = 0;
    auto started = std::chrono::steady_clock::now();
    for (uint32_t step = 1; step <= train.local_steps; ++step) {
      for (uint32_t part = 0; part < train.gradient_accumulation_steps; ++part) {
        HEDDLE_ASSIGN_OR_RETURN(const std::optional<HeadBatch> batch, batches.Next());
        HEDDLE_ASSERT(batch.has_value(), "training data have no end");
        const HeadBatch there = batch->On(options.weights.device);
        accumulator.Add(loss(there), batch->counted);
        stats.num_examples += batch->rows;
        stats.num_tokens += batch->tokens;
      }
      const double value = accumulator.Finish().loss;
      ruled.Correct();
      const double learning_rate = train.learning_rate * options.schedule.Factor(step);
      const double norm = optimizer->Step(learning_rate);
      ruled.Count(learning_rate);
      if (!std::isfinite(value) || !std::isfinite(norm)) {
        return Internal("the loss or its gradient is not finite at step " + std::to_string(step) +
                        "; a smaller learning_rate or max_grad_norm may help");
      }
      if (step == 1) stats.first_loss = value;
      stats.last_loss = value;
      loss_sum += value;
      stats.steps = step;
      if (progress && !progress(step, train.local_steps, value)) return Cancelled("the task was interrupted");
      if (step == 1 && input.memory_limit_bytes > 0 && !input.shares_process) {
        auto memory = ReadProcessMemory(::getpid());
        if (memory.ok()) HEDDLE_RETURN_IF_ERROR(CheckMemory(input.memory_limit_bytes, memory->rss_bytes, "the worker"));
      }
    }
    stats.train_loss = loss_sum / train.local_steps;
    stats.train_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return stats;
  }
};

}  // namespace

std::shared_ptr<const LocalTask> MakeLoraSft() { return std::make_shared<LoraSft>(); }

}  // namespace heddle::client
