#include "client/worker/zo_sft.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "aggregation/layer_groups.h"
#include "client/worker/frozen_front.h"
#include "client/worker/given_adapter.h"
#include "client/worker/head_data.h"
#include "client/worker/library_wall.h"
#include "client/worker/ruled_training.h"
#include "client/worker/task_resources.h"
#include "client/worker/train_options.h"
#include "client/worker/trained_tensors.h"
#include "common/logging.h"
#include "common/random.h"
#include "model/config/registry.h"
#include "model/transformer/transformer.h"
#include "peft/tuning/tuning.h"
#include "zo_optim/estimator/forward_gradient.h"
#include "zo_optim/estimator/loss_watch.h"
#include "zo_optim/optimizer/zo_optimizer.h"

namespace heddle::client {
namespace {

constexpr uint32_t kAnchorPerturbations = 16;
// A step along one direction may be so large a gradient times the learning rate before the grid cuts it.
constexpr double kStepsAlongOne = 16;

uint32_t AnchorPerturbations(const ZerothOrderSettings& zo) {
  return zo.anchor_perturbations == 0 ? kAnchorPerturbations : zo.anchor_perturbations;
}

// The loss of the batches of one step, by forward passes.
class BatchLoss final : public zo::Objective {
 public:
  // generated: what is trained makes the network's prompt; none: it is the network's own.
  BatchLoss(const FrozenFront& front, const torch::Device& device, TrainedTensors& trained, GeneratedPrompt* generated)
      : front_(front), device_(device), trained_(trained), generated_(generated) {}

  // The next batches; what they count goes to `stats`. Errors: those of HeadBatches.
  Status Take(HeadBatches& batches, uint32_t parts, TaskStats* stats) {
    batches_.clear();
    for (uint32_t part = 0; part < parts; ++part) {
      HEDDLE_ASSIGN_OR_RETURN(std::optional<HeadBatch> batch, batches.Next());
      HEDDLE_ASSERT(batch.has_value(), "training data have no end");
      stats->num_examples += batch->rows;
      stats->num_tokens += batch->tokens;
      batches_.push_back(front_.Take(batch->On(device_)));
    }
    return OkStatus();
  }

  Result<double> Loss() override {
    const torch::NoGradGuard no_grad;
    Publish();
    return Mean([](const torch::Tensor& loss) { return loss.item<double>(); });
  }

  Result<Derivative> Along(const zo::TrainedWeights& weights, uint64_t seed) override {
    std::vector<torch::Tensor> tangents;
    for (size_t i = 0; i < trained_.size(); ++i) {
      const torch::Tensor& tensor = trained_.tensors()[i];
      const torch::Tensor tangent = torch::empty(tensor.sizes(), at::kFloat);
      weights.FillDirection(seed, i, {tangent.data_ptr<float>(), static_cast<size_t>(tangent.numel())});
      tangents.push_back(tangent.to(tensor.device()));
    }
    Publish();
    std::vector<torch::Tensor> read = trained_.tensors();
    if (generated_ != nullptr) {
      tangents = {generated_->Along(read, tangents).to(device_)};
      read = {generated_->prompt()};
    }
    return zo::DirectionalDerivative(read, tangents, [this] {
      torch::Tensor sum;
      Mean([&sum](const torch::Tensor& loss) {
        sum = loss;
        return 0.0;
      });
      return sum;
    });
  }

 private:
  void Publish() {
    trained_.Publish();
    if (generated_ != nullptr) generated_->Publish();
  }

  // The mean over all targets of the batches, of one batch its own.
  double Mean(const std::function<double(const torch::Tensor&)>& take) {
    double sum = 0, counted = 0;
    torch::Tensor whole;
    for (const FrozenFront::Batch& batch : batches_) {
      const torch::Tensor loss = front_.Loss(batch);
      if (batches_.size() == 1) return take(loss);
      const auto weight = static_cast<double>(batch.head.counted);
      whole = whole.defined() ? whole + loss * weight : loss * weight;
      counted += weight;
    }
    sum = counted == 0 ? 0 : 1 / counted;
    return take(whole * sum);
  }

  const FrozenFront& front_;
  const torch::Device device_;
  TrainedTensors& trained_;
  GeneratedPrompt* const generated_;
  std::vector<FrozenFront::Batch> batches_;
};

Status CheckPlan(const TaskInput& input) {
  const TrainRules& rules = input.train.rules;
  if (!rules.correction.empty() || rules.proximal_mu > 0 || rules.prune_gamma > 0) {
    return InvalidArgument(
        "zo_sft computes no gradient that a strategy's terms (proximal_mu, scaffold, feddyn, prune_gamma) could join; "
        "choose another strategy or local task");
  }
  return OkStatus();
}

// Of the adapter's tensors, those of the plan's layers.
RuledTraining::Parameters InLayerGroup(const peft::Tuning& tuning, const StateDict& adapter,
                                       const ZerothOrderSettings& zo) {
  RuledTraining::Parameters parameters;
  const uint32_t groups = aggregation::UsableGroups(adapter, zo.layer_groups);
  const uint32_t group = groups == 0 ? 0 : zo.layer_group % groups;
  for (const peft::TunedParameter& one : tuning.parameters()) {
    if (aggregation::InLayerGroup(one.key, groups, group)) parameters.emplace_back(one.key, one.tensor);
  }
  return parameters;
}

// What a task keeps beside forward passes and the adapter, when it trains tensors of so many elements: moments (4 bytes
// an element of momentum, 8 of zo_adam), the tangents of a forward gradient, the mask of Sparse-MeZO (a bit, and at its
// making the largest tensor's sizes), on a GPU the weights here, and of an anchor its terms and those of the steps
// since, which lead back to it: 16 bytes each, up to twice that in a vector that grows, and 16 on the way.
uint64_t KeptBytes(const TrainSettings& train, const std::vector<zo::TrainedTensor>& trained, bool on_gpu) {
  const ZerothOrderSettings& zo = train.zo;
  uint64_t weights = 0, largest = 0;
  for (const zo::TrainedTensor& one : trained) {
    weights += one.values.size();
    largest = std::max<uint64_t>(largest, one.values.size());
  }
  uint64_t bytes = on_gpu ? 4 * weights : 0;
  if (zo.optimizer == "zo_adam") bytes += 8 * weights;
  if (train.momentum > 0 && (zo.optimizer.empty() || zo.optimizer == "zo_sgd")) bytes += 4 * weights;
  if (zo.estimator == "forward_gradient") bytes += 4 * weights;
  if (zo.sparse_fraction > 0 && zo.sparse_fraction < 1) bytes += (weights + 7) / 8 + 4 * largest;
  if (zo.anchor_interval == 0) return bytes;
  const double anchor = AnchorPerturbations(zo), steps = std::min(zo.anchor_interval, train.local_steps);
  const double terms = anchor + steps * (std::max(1U, zo.num_perturbations) + anchor);
  return bytes + static_cast<uint64_t>(std::min(48 * terms, 0x1p60));
}

class ZoSft final : public LocalTask {
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
    HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec config, model::ReadModelConfig(input.base_model_dir));
    HEDDLE_ASSIGN_OR_RETURN(const TrainOptions options, MakeTrainOptions(input, config));
    const OwnStream stream(options.weights.device);
    HEDDLE_RETURN_IF_ERROR(CheckPlan(input));
    const uint64_t forward = EstimateForwardBytes(config, train, options);
    HEDDLE_RETURN_IF_ERROR(CheckMemory(input.memory_limit_bytes, forward, "a forward pass"));
    HEDDLE_ASSIGN_OR_RETURN(TaskResources::Base base, resources.GetBase(input.base_model_dir, options.weights));
    HEDDLE_ASSIGN_OR_RETURN(const StateDict personal, ReadPersonal(input.personal_path));
    HEDDLE_ASSIGN_OR_RETURN(const peft::Adapter adapter, ReadGivenAdapter(input.adapter_dir));
    uint64_t need = forward + TotalBytes(adapter.tensors);
    HEDDLE_RETURN_IF_ERROR(CheckMemory(input.memory_limit_bytes, need, "a forward pass"));
    HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<HeadBatches> batches, TrainingBatches(input, base, resources));
    model::Transformer network(base.weights, options.compute);
    std::optional<GeneratedPrompt> generated;
    if (peft::PromptGenerator::IsIn(adapter.tensors)) {
      HEDDLE_ASSIGN_OR_RETURN(generated, GeneratedPrompt::Of(adapter.tensors));
    }
    HEDDLE_ASSIGN_OR_RETURN(
        const peft::Tuning tuning,
        peft::Tuning::Inject(network, adapter.config, generated ? generated->start() : adapter.tensors));
    if (generated) {
      HEDDLE_RETURN_IF_ERROR(generated->Attach(tuning));
    }
    RuledTraining::Parameters parameters =
        generated ? generated->weights() : InLayerGroup(tuning, adapter.tensors, train.zo);
    const RuledTraining::Parameters named = parameters;
    HEDDLE_ASSIGN_OR_RETURN(RuledTraining ruled,
                            RuledTraining::Make(train, std::move(parameters), adapter.tensors, personal));
    network->eval();
    HEDDLE_ASSIGN_OR_RETURN(TrainedTensors trained, TrainedTensors::Make(ruled.Trained()));
    std::vector<zo::TrainedTensor> moved;
    std::set<std::string> keys;
    for (size_t i = 0; i < trained.size(); ++i) {
      for (const auto& [key, value] : named) {
        if (!value.is_same(trained.tensors()[i])) continue;
        moved.push_back({key, trained.values(i)});
        keys.insert(key);
      }
    }
    need += KeptBytes(train, moved, !options.weights.device.is_cpu());
    HEDDLE_RETURN_IF_ERROR(CheckMemory(input.memory_limit_bytes, need, "a forward pass with what the optimizer keeps"));
    const FrozenFront front =
        FrozenFront::Make(network, tuning, adapter.tensors, keys, input, base, resources.fronts());
    TaskOutput output;
    BatchLoss loss(front, network->device(), trained, generated ? &*generated : nullptr);
    HEDDLE_ASSIGN_OR_RETURN(output.stats, Train(loss, std::move(moved), *batches, input, options, progress));
    output.stats.estimated_memory_bytes = need;
    trained.Publish();
    ruled.Finish(adapter.tensors, &output);
    return output;
  }

  static uint64_t SeedOf(const TaskInput& input, const char* purpose, uint64_t index) {
    return DeriveSeed(input.seed, purpose, std::to_string(index));
  }

  static Result<TaskStats> Train(BatchLoss& loss, std::vector<zo::TrainedTensor> parameters, HeadBatches& batches,
                                 const TaskInput& input, const TrainOptions& options,
                                 const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    const ZerothOrderSettings& zo = train.zo;
    HEDDLE_ASSIGN_OR_RETURN(const zo::EstimatorKind kind, zo::EstimatorKindFromName(zo.estimator));
    HEDDLE_ASSIGN_OR_RETURN(const zo::Distribution distribution, zo::DistributionFromName(zo.distribution));
    HEDDLE_ASSIGN_OR_RETURN(const zo::ZoOptimizerKind optimizer_kind, zo::ZoOptimizerKindFromName(zo.optimizer));
    HEDDLE_ASSIGN_OR_RETURN(const zo::Estimator estimator,
                            zo::Estimator::Make({.kind = kind,
                                                 .epsilon = zo.zo_eps,
                                                 .clip = zo.clip_projected_grad,
                                                 .max_loss_difference = zo.max_loss_difference}));
    HEDDLE_ASSIGN_OR_RETURN(
        zo::TrainedWeights weights,
        zo::TrainedWeights::Make(std::move(parameters), distribution,
                                 std::max(zo.zo_eps, kStepsAlongOne * train.learning_rate), zo.sparse_fraction));
    weights.SetThreads(train.threads);
    HEDDLE_ASSIGN_OR_RETURN(zo::ZoOptimizer optimizer, zo::ZoOptimizer::Make({.kind = optimizer_kind,
                                                                              .momentum = train.momentum,
                                                                              .beta1 = train.beta1,
                                                                              .beta2 = train.beta2,
                                                                              .epsilon = train.epsilon,
                                                                              .weight_decay = train.weight_decay},
                                                                             weights));
    std::optional<zo::AnchoredEstimator> anchored;
    if (zo.anchor_interval > 0) {
      HEDDLE_ASSIGN_OR_RETURN(anchored, zo::AnchoredEstimator::Make(estimator, zo.anchor_interval, optimizer));
    }
    TaskStats stats;
    zo::LossWatch watch;
    const uint32_t parts = train.gradient_accumulation_steps;
    double loss_sum = 0;
    uint32_t counted = 0;
    uint64_t anchors = 0;
    std::vector<uint64_t> seeds(std::max(1U, zo.num_perturbations));
    const auto started = std::chrono::steady_clock::now();
    for (uint32_t step = 1; step <= train.local_steps; ++step) {
      if (anchored && anchored->due()) {
        std::vector<uint64_t> of_anchor(AnchorPerturbations(zo));
        for (uint64_t& seed : of_anchor) seed = SeedOf(input, "zo anchor", anchors++);
        TaskStats seen;  // the anchor's batches train nothing of their own
        const auto next = [&] { return loss.Take(batches, parts, &seen); };
        HEDDLE_ASSIGN_OR_RETURN(const zo::Estimate anchor, anchored->Anchor(weights, of_anchor, loss, next));
        stats.forward_passes += anchor.forward_passes;
        stats.skipped_directions += anchor.skipped;
      }
      HEDDLE_RETURN_IF_ERROR(loss.Take(batches, parts, &stats));
      for (size_t k = 0; k < seeds.size(); ++k) {
        seeds[k] = SeedOf(input, "zo direction", uint64_t{step - 1} * seeds.size() + k);
      }
      const double learning_rate = train.learning_rate * options.schedule.Factor(step);
      zo::Estimate estimate;
      if (anchored) {
        HEDDLE_ASSIGN_OR_RETURN(estimate, anchored->Run(weights, seeds, loss));
        optimizer.Step(weights, estimate, learning_rate);
        anchored->Took(estimate, learning_rate);
      } else {
        HEDDLE_ASSIGN_OR_RETURN(estimate, optimizer.EstimateAndStep(estimator, weights, seeds, loss, learning_rate));
      }
      stats.forward_passes += estimate.forward_passes;
      stats.skipped_directions += estimate.skipped;
      stats.steps = step;
      if (!estimate.terms.empty()) {
        if (counted++ == 0) stats.first_loss = estimate.loss;
        stats.last_loss = estimate.loss;
        loss_sum += estimate.loss;
        watch.Add(estimate.loss);
      }
      if (progress && !progress(step, train.local_steps, estimate.loss)) return Cancelled("the task was interrupted");
    }
    if (counted == 0) {
      return Internal("no direction of the task had two finite losses" +
                      std::string(zo.max_loss_difference > 0 ? " within max_loss_difference" : "") +
                      "; a smaller zo_eps or learning_rate may help");
    }
    HEDDLE_RETURN_IF_ERROR(weights.CheckRange());
    stats.train_loss = loss_sum / counted;
    stats.train_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    stats.loss_stalled = watch.Stalled();
    if (stats.skipped_directions > 0) {
      Log(Severity::kWarning, std::to_string(stats.skipped_directions) +
                                  " directions were skipped: their losses were not finite or too far apart");
    }
    if (stats.loss_stalled) Log(Severity::kWarning, watch.Sentence());
    return stats;
  }
};

}  // namespace

std::shared_ptr<const LocalTask> MakeZoSft() { return std::make_shared<ZoSft>(); }

}  // namespace heddle::client
