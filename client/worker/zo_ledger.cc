#include "client/worker/zo_ledger.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "aggregation/ledger/ledger_model.h"
#include "client/worker/frozen_front.h"
#include "client/worker/head_data.h"
#include "client/worker/ledger_replay.h"
#include "client/worker/library_wall.h"
#include "client/worker/task_resources.h"
#include "client/worker/train_options.h"
#include "client/worker/trained_tensors.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "model/config/registry.h"
#include "model/transformer/transformer.h"
#include "peft/tuning/tuning.h"
#include "protocol/limits.h"
#include "zo_optim/estimator/loss_watch.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::client {
namespace {

// What the plan asks for, by value.
struct Plan {
  zo::LedgerHead head;
  zo::ScalarFormat format = zo::ScalarFormat::kFloat32;
  uint64_t first_ref = 0, span = 0;
  uint32_t perturbations = 1, candidates = 0;
  bool both_sides = true;
  double bound = 0, max_difference = 0, rate = 0;
};

Result<Plan> ReadPlan(const TrainSettings& train) {
  if (!train.seeds) return InvalidArgument("the plan of zo_ledger has no shared seeds");
  const ZerothOrderSettings& zo = train.zo;
  Plan plan;
  if (zo.distribution == "rademacher") {
    plan.head.distribution = zo::Distribution::kRademacher;
  } else if (zo.distribution.empty() || zo.distribution == "normal") {
    plan.head.distribution = zo::Distribution::kNormal;
  } else {
    return InvalidArgument("zo_ledger knows no distribution '" + zo.distribution + "'");
  }
  if (zo.estimator == "spsa_one_sided") {
    plan.both_sides = false;
  } else if (!zo.estimator.empty() && zo.estimator != "spsa") {
    return InvalidArgument("zo_ledger knows no estimator '" + zo.estimator + "'");
  }
  const bool plain = (zo.optimizer.empty() || zo.optimizer == "zo_sgd") && zo.sparse_fraction == 0 &&
                     zo.anchor_interval == 0 && zo.layer_groups == 0 && train.momentum == 0 && train.weight_decay == 0;
  const std::string& schedule = train.lr_scheduler_type;
  if (!plain || train.warmup_steps > 0 ||
      !(schedule.empty() || schedule == "constant" || schedule == "constant_with_warmup")) {
    return InvalidArgument(
        "zo_ledger takes plain steps of one size: no momentum, weight_decay, warmup_steps, schedule "
        "within the task, or other zo.optimizer");
  }
  if (train.seeds->scalars == "bfloat16") {
    plan.format = zo::ScalarFormat::kBfloat16;
  } else if (!train.seeds->scalars.empty() && train.seeds->scalars != "float32") {
    return InvalidArgument("zo_ledger knows no scalars of '" + train.seeds->scalars + "'");
  }
  plan.head.resolution_bits = static_cast<uint8_t>(std::clamp(train.seeds->resolution_bits, 1U, 60U));
  plan.head.seed = train.seeds->seed;
  plan.head.pool_size = train.seeds->pool_size;
  plan.head.epsilon = zo.zo_eps;
  plan.first_ref = train.seeds->first_ref;
  plan.candidates = train.seeds->candidates;
  plan.span = train.seeds->span;
  plan.perturbations = std::max(1U, zo.num_perturbations);
  plan.bound = zo.clip_projected_grad;
  plan.max_difference = zo.max_loss_difference;
  plan.rate = train.learning_rate / plan.perturbations;
  if (!(plan.bound > 0 && zo.zo_eps > 0)) {
    return InvalidArgument("zo_ledger needs zo_eps and clip_projected_grad above 0");
  }
  if (uint64_t{train.local_steps} * plan.perturbations > zo::kMaxScalars) {
    return InvalidArgument("zo_ledger tries at most " + std::to_string(zo::kMaxScalars) + " directions in a task");
  }
  return plan;
}

// The last step that the model took, as far as its ledger tells: the directions of the newest round that moved it. It
// is made again block by block where it is asked for, so that it takes no memory of the weights' size.
class LastStep {
 public:
  LastStep(const Plan& plan, const zo::Ledger& ledger) {
    if (plan.candidates == 0 || plan.span == 0 || ledger.entries.empty()) return;
    const uint64_t first = ledger.entries.back().ref / plan.span * plan.span;
    for (const zo::LedgerEntry& entry : ledger.entries) {
      if (entry.ref < first) continue;
      moves_.push_back({zo::SeedOf(ledger.head, entry.ref), {0, zo::ScaleOf(ledger.head, entry.n)}});
    }
  }
  // Of each of these directions a number proportional to the cosine between it and the step (their lengths hardly
  // differ); 0 without a step.
  std::vector<double> Likeness(const zo::LedgerHead& head, const std::vector<zo::Parameter>& parameters,
                               const std::set<uint64_t>& refs) const {
    std::vector<double> products(refs.size());
    if (moves_.empty()) return products;
    std::vector<uint64_t> seeds;
    for (const uint64_t ref : refs) seeds.push_back(zo::SeedOf(head, ref));
    std::vector<float> step(kBlock), z(kBlock);
    for (const zo::Parameter& parameter : parameters) {
      for (size_t first = 0; first < parameter.values.size(); first += kBlock) {
        const size_t n = std::min(kBlock, parameter.values.size() - first);
        std::fill_n(step.begin(), n, 0.0F);
        zo::MoveManyOnGrid(head.distribution, parameter.stream, moves_, first, parameter.grid,
                           std::span(step).first(n));
        for (size_t k = 0; k < seeds.size(); ++k) {
          zo::FillDirection({head.distribution, seeds[k], parameter.stream}, first, std::span(z).first(n));
          for (size_t i = 0; i < n; ++i) products[k] += static_cast<double>(step[i]) * static_cast<double>(z[i]);
        }
      }
    }
    return products;
  }

 private:
  static constexpr size_t kBlock = 4096;
  std::vector<zo::SeedMove> moves_;  // empty without a step
};

// Which direction comes next: of a pool by chance, of a log in order.
class Directions {
 public:
  Directions(const Plan& plan, const std::vector<uint8_t>& importance, uint64_t seed)
      : plan_(plan), random_(DeriveSeed(seed, "shared directions", "")) {
    const std::vector<double> shares = zo::SeedProbabilities(importance);
    double sum = 0;
    for (const double share : shares) ends_.push_back(sum += share);
  }
  // Those of the next step.
  std::vector<uint64_t> Step(const std::vector<zo::Parameter>& parameters, const LastStep& last) {
    std::vector<uint64_t> refs(plan_.perturbations);
    if (plan_.candidates == 0) {
      for (uint64_t& ref : refs) ref = Next();
      return refs;
    }
    // Distinct, since a direction has one scalar.
    std::set<uint64_t> drawn;
    const uint64_t most = std::min<uint64_t>(std::max(plan_.candidates, plan_.perturbations), plan_.span);
    while (drawn.size() < most) {
      drawn.insert(plan_.first_ref + random_.U64At(taken_++) % plan_.span);
    }
    const std::vector<double> products = last.Likeness(plan_.head, parameters, drawn);
    std::vector<std::pair<double, uint64_t>> likeness;
    for (const uint64_t ref : drawn) likeness.emplace_back(products[likeness.size()], ref);
    // Without a last step all are alike: the first ones.
    std::stable_sort(likeness.begin(), likeness.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    refs.resize(std::min<size_t>(refs.size(), likeness.size()));
    for (size_t i = 0; i < refs.size(); ++i) refs[i] = likeness[i].second;
    return refs;
  }

 private:
  uint64_t Next() {
    if (plan_.head.pool_size == 0) return plan_.first_ref + taken_++;
    if (ends_.empty()) return random_.NextBelow(plan_.head.pool_size);
    const double at = ends_.back() * (random_.NextU32() + 0.5) * 0x1p-32;
    return static_cast<uint64_t>(std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin());
  }

  const Plan& plan_;
  PhiloxStream random_;
  uint64_t taken_ = 0;
  std::vector<double> ends_;  // of each seed's share; empty: all alike
};

class Training {
 public:
  Training(const Plan& plan, const FrozenFront& front, TrainedTensors& tensors, std::vector<zo::Parameter>& parameters,
           const zo::Ledger& from, unsigned threads)
      : plan_(plan), front_(front), tensors_(tensors), parameters_(parameters), threads_(threads) {
    for (const zo::LedgerEntry& entry : from.entries) {
      // Of a log only the round's own directions are tried.
      if (plan.head.pool_size > 0 || entry.ref >= plan.first_ref) scales_[entry.ref] = entry.n;
    }
  }

  // One step on this batch along those directions. The mean of the losses at the weights of before, as far as it was
  // computed; not finite when no direction's was.
  Result<double> Step(HeadBatch taken, const std::vector<uint64_t>& refs) {
    const FrozenFront::Batch batch = front_.Take(std::move(taken));
    const auto epsilon = static_cast<float>(plan_.head.epsilon);
    const double here = plan_.both_sides ? 0 : Loss(batch);
    std::vector<zo::Scalar> tried;
    double sum = 0;
    size_t counted = 0;
    for (const uint64_t ref : refs) {
      Move(ref, {{0, epsilon}});
      const double plus = Loss(batch);
      double minus = here;
      if (plan_.both_sides) {
        Move(ref, {{epsilon, -epsilon}});
        minus = Loss(batch);
      }
      const zo::Move back{plan_.both_sides ? -epsilon : epsilon, 0};
      const double difference = plus - minus;
      if (!std::isfinite(difference) || (plan_.max_difference > 0 && std::abs(difference) > plan_.max_difference)) {
        Move(ref, {back});
        ++scalars_.skipped;
        continue;
      }
      sum += plan_.both_sides ? (plus + minus) / 2 : minus;
      ++counted;
      const double gradient = difference / ((plan_.both_sides ? 2 : 1) * plan_.head.epsilon);
      const zo::Scalar scalar{ref, zo::TravellingScalar(gradient, plan_.bound, plan_.format)};
      if (refs.size() == 1) {
        HEDDLE_RETURN_IF_ERROR(Take(scalar, back));
        continue;
      }
      Move(ref, {back});
      tried.push_back(scalar);
    }
    for (const zo::Scalar& scalar : tried) HEDDLE_RETURN_IF_ERROR(Take(scalar, std::nullopt));
    return counted == 0 ? std::nan("") : sum / static_cast<double>(counted);
  }

  // What is to be sent; once.
  zo::Scalars Finish(const Sha256Digest& start) {
    std::stable_sort(scalars_.steps.begin(), scalars_.steps.end(),
                     [](const zo::Scalar& a, const zo::Scalar& b) { return a.ref < b.ref; });
    scalars_.weights = start;
    return std::move(scalars_);
  }
  Status CheckRange() const {
    for (const zo::Parameter& parameter : parameters_) {
      if (!(zo::MaxAbs(parameter.values) <= parameter.grid.range())) {
        return FailedPrecondition("weights of '" + parameter.name +
                                  "' have left their range; the learning rate is too "
                                  "high");
      }
    }
    return OkStatus();
  }
  const std::vector<zo::Parameter>& parameters() const { return parameters_; }
  uint64_t forward_passes() const { return forward_passes_; }
  uint64_t skipped() const { return scalars_.skipped; }

 private:
  double Loss(const FrozenFront::Batch& batch) {
    tensors_.Publish();
    ++forward_passes_;
    return front_.Loss(batch).item<double>();
  }
  void Move(uint64_t ref, std::initializer_list<zo::Move> moves) {
    zo::MoveAlong(plan_.head.distribution, zo::SeedOf(plan_.head, ref), std::span(moves.begin(), moves.size()),
                  parameters_, threads_);
  }
  // The step of that scalar; with the way back from the perturbation, if there is one, in one pass: moves add up
  // exactly.
  Status Take(const zo::Scalar& scalar, const std::optional<zo::Move>& back) {
    HEDDLE_ASSIGN_OR_RETURN(const int64_t step, zo::StepOf(plan_.rate, scalar.gradient, plan_.head.resolution_bits));
    int64_t& n = scales_[scalar.ref];
    const zo::Move move{zo::ScaleOf(plan_.head, n), zo::ScaleOf(plan_.head, n + step)};
    for (const zo::Parameter& parameter : parameters_) {
      if (!(std::abs(move.to) <= parameter.grid.max_scale())) {
        return FailedPrecondition("the scale of direction " + std::to_string(scalar.ref) +
                                  " has left its range; the learning rate is too high");
      }
    }
    if (back) {
      Move(scalar.ref, {*back, move});
    } else {
      Move(scalar.ref, {move});
    }
    n += step;
    scalars_.steps.push_back(scalar);
    return OkStatus();
  }

  const Plan& plan_;
  const FrozenFront& front_;
  TrainedTensors& tensors_;
  std::vector<zo::Parameter>& parameters_;
  const unsigned threads_;
  uint64_t forward_passes_ = 0;
  std::map<uint64_t, int64_t> scales_;  // of the pool's or the round's directions
  zo::Scalars scalars_;
};

// What a task keeps beside forward passes: the trained copy of the adapter (on a GPU another here), what the worker
// remembers of it, 128 bytes an entry of the ledger and of that of weights which spare its replay (it, the worker's
// copy and the one on its way there, the moves of its replay and of the last step, a pool's shares), 80 more for what
// is known of each direction that may be tried, with its scalars, or compared. Those weights are read from their file
// piece by piece.
uint64_t KeptBytes(const Plan& plan, const TaskInput& input, const TrainOptions& options, const StartOfRun& start) {
  const uint64_t weights = TotalBytes(start.adapter.tensors);
  const uint64_t entries = start.ledger.entries.size() + (start.fetched ? start.fetched->ledger.entries.size() : 0);
  const uint64_t tried = uint64_t{input.train.local_steps} * plan.perturbations + plan.candidates;
  return weights + (options.weights.device.is_cpu() ? 0 : weights) + LedgerCache::BytesKeptOf(weights) + 128 * entries +
         80 * (plan.head.pool_size > 0 ? entries + tried : tried);
}

class ZoLedger final : public LocalTask {
 public:
  Result<TaskOutput> Run(const TaskInput& input, TaskResources& resources,
                         const ProgressCallback& progress) const override {
    torch::NoGradGuard no_gradients;
    return WithinLibraryWall([&] { return RunThrowing(input, resources, progress); });
  }

 private:
  static Result<TaskOutput> RunThrowing(const TaskInput& input, TaskResources& resources,
                                        const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    HEDDLE_ASSIGN_OR_RETURN(Plan plan, ReadPlan(train));
    at::set_num_threads(static_cast<int>(std::max(1U, train.threads)));
    HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(input.base_model_dir));
    HEDDLE_ASSIGN_OR_RETURN(const TrainOptions options, MakeTrainOptions(input, spec));
    const OwnStream stream(options.weights.device);
    HEDDLE_RETURN_IF_ERROR(CheckForwardMemory(spec, input, options));
    HEDDLE_ASSIGN_OR_RETURN(StartOfRun start, ReadStart(input.adapter_dir, &plan.head));
    const auto needed = [&] {
      return EstimateForwardBytes(spec, train, options) + KeptBytes(plan, input, options, start);
    };
    uint64_t need = needed();
    // The daemon compares no longer ledgers, so weights of such a one would be written for nothing.
    std::error_code unknown;
    const bool compared =
        std::filesystem::file_size(input.adapter_dir / zo::kLedgerFile, unknown) <= protocol::kMaxPatchedLedgerBytes;
    std::filesystem::path leave_in = resources.ledgers().leaves_weights() && compared ? input.adapter_dir : "";
    if (start.fetched && input.memory_limit_bytes != 0 && need > input.memory_limit_bytes) {
      start.fetched.reset();  // the replay takes longer and no more memory
      leave_in.clear();       // the next task would have no room for them either
      need = needed();
    }
    HEDDLE_RETURN_IF_ERROR(CheckMemory(input.memory_limit_bytes, need, "a forward pass with a ledger's replay"));
    HEDDLE_ASSIGN_OR_RETURN(const TaskResources::Base base, resources.GetBase(input.base_model_dir, options.weights));
    HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<HeadBatches> batches, TrainingBatches(input, base, resources));
    model::Transformer network(base.weights, options.compute);
    HEDDLE_ASSIGN_OR_RETURN(const peft::Tuning tuning,
                            peft::Tuning::Inject(network, start.adapter.config, start.adapter.tensors));
    network->eval();
    std::vector<torch::Tensor> trained;
    std::set<std::string> keys;
    for (const peft::TunedParameter& one : tuning.parameters()) {
      trained.push_back(one.tensor);
      keys.insert(one.key);
    }
    const FrozenFront front =
        FrozenFront::Make(network, tuning, start.adapter.tensors, keys, input, base, resources.fronts());
    HEDDLE_ASSIGN_OR_RETURN(TrainedTensors tensors, TrainedTensors::Make(std::move(trained)));
    std::vector<zo::Parameter> parameters;
    for (size_t i = 0; i < tensors.size(); ++i) {
      HEDDLE_ASSIGN_OR_RETURN(zo::Parameter parameter, zo::MakeParameter(tuning.parameters()[i].key, tensors.values(i),
                                                                         zo::LargestScale(plan.head)));
      parameters.push_back(std::move(parameter));
    }
    const unsigned threads = std::max(1U, train.threads);
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest rebuilt,
                            resources.ledgers().Replay(start.ledger, start.adapter.tensors, parameters, threads,
                                                       start.fetched ? &*start.fetched : nullptr, leave_in));
    start.fetched.reset();
    Training training(plan, front, tensors, parameters, start.ledger, threads);
    Directions directions(plan, start.ledger.importance, input.seed);
    const LastStep last(plan, start.ledger);
    TaskOutput output;
    HEDDLE_ASSIGN_OR_RETURN(output.stats, Train(training, directions, last, *batches, input, options, progress));
    output.stats.estimated_memory_bytes = need;
    HEDDLE_RETURN_IF_ERROR(training.CheckRange());
    output.update.emplace(std::string(aggregation::kScalarsName),
                          aggregation::ByteTensor(zo::EncodeScalars(training.Finish(rebuilt), plan.format)));
    return output;
  }

  static Result<TaskStats> Train(Training& training, Directions& directions, const LastStep& last, HeadBatches& batches,
                                 const TaskInput& input, const TrainOptions& options,
                                 const ProgressCallback& progress) {
    const TrainSettings& train = input.train;
    TaskStats stats;
    zo::LossWatch watch;
    double sum = 0;
    uint32_t counted = 0;
    const auto started = std::chrono::steady_clock::now();
    for (uint32_t step = 1; step <= train.local_steps; ++step) {
      HEDDLE_ASSIGN_OR_RETURN(const std::optional<HeadBatch> batch, batches.Next());
      HEDDLE_ASSERT(batch.has_value(), "training data have no end");
      HEDDLE_ASSIGN_OR_RETURN(const double loss, training.Step(batch->On(options.weights.device),
                                                               directions.Step(training.parameters(), last)));
      stats.num_examples += batch->rows;
      stats.num_tokens += batch->tokens;
      stats.steps = step;
      if (std::isfinite(loss)) {
        if (counted++ == 0) stats.first_loss = loss;
        stats.last_loss = loss;
        sum += loss;
        watch.Add(loss);
      }
      if (progress && !progress(step, train.local_steps, loss)) return Cancelled("the task was interrupted");
    }
    if (counted == 0) {
      return Internal("no step's loss was finite, so there is nothing to send; a smaller learning_rate may help");
    }
    stats.train_loss = sum / counted;
    stats.forward_passes = training.forward_passes();
    stats.skipped_directions = training.skipped();
    stats.loss_stalled = watch.Stalled();
    if (stats.skipped_directions > 0) {
      Log(Severity::kWarning,
          std::to_string(stats.skipped_directions) +
              " directions were skipped and not sent: their losses were not finite or too far apart");
    }
    if (stats.loss_stalled) Log(Severity::kWarning, watch.Sentence());
    stats.train_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return stats;
  }
};

}  // namespace

std::shared_ptr<const LocalTask> MakeZoLedger() { return std::make_shared<ZoLedger>(); }

}  // namespace heddle::client
