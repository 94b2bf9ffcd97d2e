#include "aggregation/ledger/ledger_aggregator.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "common/random.h"
#include "common/test_hooks.h"

namespace heddle::aggregation {

double LedgerSetting(const AggregatorOptions& options, std::string_view name) {
  const auto found = options.method.find(name);
  return found == options.method.end() ? 0 : found->second;
}

std::vector<Setting> CommonLedgerSettings() {
  return {{"resolution_bits",
           "a direction's scale is a whole number times 2^-this; 0: the step of a scalar of 1 is 512 to 1023", 0, 0, 60,
           true},
          {"bf16_scalars", "1: scalars travel as bfloat16, 0: as float32", 0, 0, 1, true}};
}

namespace {

// Fine enough for a mean of many devices, coarse enough for short messages.
uint32_t ResolutionBits(const AggregatorOptions& options) {
  const double given = LedgerSetting(options, "resolution_bits");
  if (given > 0) return static_cast<uint32_t>(given);
  const ZerothOrderTraining& zo = options.zo;
  const double rate = (zo.peak_learning_rate > 0 ? zo.peak_learning_rate : zo.learning_rate) / zo.num_perturbations;
  if (!(rate > 0)) return 30;
  return static_cast<uint32_t>(std::clamp(std::ceil(std::log2(512 / rate)), 1.0, 60.0));
}

// Of scalars that could not be decoded.
Refusal RefusalOf(Code code) {
  if (code == Code::kOutOfRange) return Refusal::kNotFinite;
  return code == Code::kFailedPrecondition ? Refusal::kOutOfBounds : Refusal::kBadUpdate;
}

}  // namespace

SharedSeeds SeedsOf(const AggregatorOptions& options, const LedgerForm& form) {
  SharedSeeds seeds;
  seeds.on = true;
  seeds.seed = DeriveSeed(options.seed, "shared directions", "");
  seeds.resolution_bits = ResolutionBits(options);
  seeds.bfloat16 = LedgerSetting(options, "bf16_scalars") != 0;
  if (form.pool) {
    seeds.pool_size = static_cast<uint32_t>(LedgerSetting(options, "pool_size"));
  } else {
    const uint64_t span = form.round_span > 0 ? form.round_span : options.zo.DirectionsPerTask();
    seeds.first_ref = uint64_t{options.round - 1} * span;
  }
  if (form.own_choice) {
    seeds.candidates = static_cast<uint32_t>(LedgerSetting(options, "candidates"));
    seeds.span = form.round_span;
  }
  return seeds;
}

Status LedgerAggregator::Fold(const StateDict& update, const UpdateInfo& info) {
  if (shares_.size() >= options_.max_updates) {
    return ResourceExhausted("a round takes " + std::to_string(options_.max_updates) + " updates at most");
  }
  auto [validity, share] = Check(update, info);
  if (!validity.ok()) return InvalidArgument(validity.message);
  total_examples_ += share.examples;
  shares_.push_back(std::move(share));
  return OkStatus();
}

Result<RoundModel> LedgerAggregator::Finish() && {
  if (shares_.empty()) return FailedPrecondition("no update was folded");
  try {
    return Next();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory for the next model");
  }
}

Status LedgerAggregator::TakeParent(const StateDict& parent, const StateDict& state) {
  const SharedSeeds seeds = SeedsOf(options_, form_);
  const ZerothOrderTraining& zo = options_.zo;
  if (form_.pool && seeds.pool_size == 0) return InvalidArgument("a pool of no seeds cannot train; raise pool_size");
  if (!(zo.learning_rate >= 0) || zo.DirectionsPerTask() == 0 || zo.DirectionsPerTask() > zo::kMaxScalars) {
    return InvalidArgument("a task may try 1 to " + std::to_string(zo::kMaxScalars) + " directions");
  }
  ledger_.head = {.distribution = zo.rademacher ? zo::Distribution::kRademacher : zo::Distribution::kNormal,
                  .resolution_bits = static_cast<uint8_t>(seeds.resolution_bits),
                  .seed = seeds.seed,
                  .pool_size = seeds.pool_size,
                  .epsilon = zo.epsilon,
                  .start = options_.parent_digest};
  first_ref_ = seeds.first_ref;
  if (!HoldsLedger(parent)) {
    start_ = parent;
    HEDDLE_ASSIGN_OR_RETURN(const Weights weights, WeightsOf(parent, zo::LargestScale(ledger_.head)));
    if (weights.parameters.empty()) return InvalidArgument("the adapter has no tensor to train");
    ledger_.weights = zo::DigestOfWeights(weights.parameters);
    return OkStatus();
  }
  HEDDLE_ASSIGN_OR_RETURN(zo::Ledger before, LedgerOf(parent));
  ledger_.head.start = before.head.start;
  if (!(before.head == ledger_.head)) {
    return InvalidArgument("the model's ledger was begun with other settings of [strategy] or [zo]");
  }
  ledger_ = std::move(before);
  state_ = state;
  return OkStatus();
}

uint64_t LedgerAggregator::LastRef() const {
  if (form_.pool) return ledger_.head.pool_size - 1;
  return first_ref_ + (form_.round_span > 0 ? form_.round_span : options_.zo.DirectionsPerTask()) - 1;
}

std::pair<Validity, LedgerAggregator::Share> LedgerAggregator::Check(const StateDict& update,
                                                                     const UpdateInfo& info) const {
  const auto refused = [](Refusal refusal, std::string message) {
    return std::pair<Validity, Share>({refusal, std::move(message)}, {});
  };
  if (info.num_examples < 1 || info.num_examples > options_.max_num_examples) {
    return refused(Refusal::kBadNumExamples, "num_examples is " + std::to_string(info.num_examples) + "; 1 to " +
                                                 std::to_string(options_.max_num_examples) + " are allowed");
  }
  if (update.size() != 1 || update.begin()->first != kScalarsName) {
    return refused(Refusal::kWrongTensors,
                   "the update must hold the tensor '" + std::string(kScalarsName) + "' and nothing else");
  }
  const Tensor& packed = update.begin()->second;
  if (packed.dtype() != DType::kU8) return refused(Refusal::kWrongDtype, "the scalars are not bytes");
  const auto scalars = zo::DecodeScalars(packed.bytes(), options_.zo.DirectionsPerTask(), LastRef());
  if (!scalars.ok()) return refused(RefusalOf(scalars.status().code()), scalars.status().message());
  if (scalars->weights != ledger_.weights && !HEDDLE_PLANTED(kSkipStateProof)) {
    return refused(Refusal::kWrongState, "the device's rebuilt weights have the digest " + scalars->weights.ToHex() +
                                             "; the round's are " + ledger_.weights.ToHex());
  }
  Share share{.device = info.device, .examples = info.num_examples, .steps = {}, .sizes = {}, .counts = {}};
  for (const zo::Scalar& step : scalars->steps) {
    if (Status status = AddStep(step, &share); !status.ok()) return refused(Refusal::kOutOfBounds, status.message());
  }
  return {Validity{}, std::move(share)};
}

Status LedgerAggregator::AddStep(const zo::Scalar& step, Share* share) const {
  const ZerothOrderTraining& zo = options_.zo;
  if (std::abs(static_cast<double>(step.gradient)) > zo.max_scalar) {
    return InvalidArgument("the scalar " + std::to_string(step.gradient) + " of direction " + std::to_string(step.ref) +
                           " is beyond the bound of " + std::to_string(zo.max_scalar));
  }
  HEDDLE_ASSIGN_OR_RETURN(const int64_t n,
                          zo::StepOf(zo.RatePerDirection(), step.gradient, ledger_.head.resolution_bits));
  const bool again = !share->steps.empty() && share->steps.back().ref == step.ref;
  if (!form_.pool && (again || step.ref < first_ref_)) {
    return InvalidArgument("direction " + std::to_string(step.ref) +
                           (again ? " has two scalars" : " is none of the round's"));
  }
  if (!again) {
    share->steps.push_back({step.ref, 0});
    share->sizes.push_back({step.ref, 0});
    share->counts.push_back(0);
  }
  share->steps.back().n += HEDDLE_PLANTED(kCountScalarTwice) && again ? 2 * n : n;
  share->sizes.back().n += std::abs(n);
  ++share->counts.back();
  return OkStatus();
}

std::map<uint64_t, LedgerAggregator::Sum> LedgerAggregator::SumsOfSteps() const {
  std::map<uint64_t, Sum> sums;
  for (const Share& share : shares_) {
    const auto weight = static_cast<Wide>(form_.weighted ? share.examples : 1);
    for (const zo::LedgerEntry& step : share.steps) {
      Sum& sum = sums[step.ref];
      sum.steps += weight * step.n;
      sum.weight += weight;
    }
  }
  return sums;
}

std::vector<const LedgerAggregator::Share*> LedgerAggregator::SharesByDevice() const {
  std::vector<const Share*> ordered;
  for (const Share& share : shares_) ordered.push_back(&share);
  std::sort(ordered.begin(), ordered.end(), [](const Share* a, const Share* b) { return a->device < b->device; });
  return ordered;
}

Result<const StateDict*> LedgerAggregator::Start() {
  if (start_.empty()) {
    if (!options_.load_model) return FailedPrecondition("the start of the run cannot be had");
    HEDDLE_ASSIGN_OR_RETURN(start_, options_.load_model(ledger_.head.start));
  }
  return &start_;
}

Result<RoundModel> LedgerAggregator::Next() {
  zo::Ledger next{.head = ledger_.head, .round = options_.round, .entries = {}, .importance = {}, .weights = {}};
  RoundModel made;
  HEDDLE_ASSIGN_OR_RETURN(const auto moves, Moves(&made.state));
  auto before = ledger_.entries.begin();
  for (const auto& [ref, move] : moves) {
    while (before != ledger_.entries.end() && before->ref < ref) next.entries.push_back(*before++);
    int64_t n = move;
    if (before != ledger_.entries.end() && before->ref == ref) n += (before++)->n;
    if (n != 0) next.entries.push_back({ref, n});
  }
  next.entries.insert(next.entries.end(), before, ledger_.entries.end());
  if (HEDDLE_PLANTED(kForgetDirections))
    std::erase_if(next.entries, [&](const auto& e) { return !moves.contains(e.ref); });
  HEDDLE_RETURN_IF_ERROR(Complete(&next, &made.state));
  if (const Status status = zo::CheckLedger(next); !status.ok()) return status.Annotate("the next ledger");
  HEDDLE_RETURN_IF_ERROR(Replay(&next, &made.state));
  made.model.emplace(std::string(kLedgerName), ByteTensor(zo::EncodeLedger(next)));
  return made;
}

// From the weights that the state holds, or from the start.
Status LedgerAggregator::Replay(zo::Ledger* next, StateDict* state) {
  // The grids are those of the start, whatever the weights have become.
  HEDDLE_ASSIGN_OR_RETURN(const StateDict* start, Start());
  HEDDLE_ASSIGN_OR_RETURN(Weights weights, WeightsOf(*start, zo::LargestScale(ledger_.head)));
  zo::Ledger from = zo::EmptyLedger(ledger_.head);
  if (TakeKeptWeights(&weights)) from = ledger_;
  HEDDLE_RETURN_IF_ERROR(
      zo::ApplyMoves(next->head.distribution, zo::MovesBetween(from, *next), weights.parameters, options_.threads));
  next->weights = zo::DigestOfWeights(weights.parameters);
  for (const zo::Parameter& parameter : weights.parameters) {
    state->emplace(parameter.name, Tensor::FromFloats(start->find(parameter.name)->second.shape(), parameter.values));
  }
  return OkStatus();
}

// False when the state's weights are not those of the ledger: then all is replayed.
bool LedgerAggregator::TakeKeptWeights(Weights* weights) const {
  Weights copy;
  for (const zo::Parameter& parameter : weights->parameters) {
    const auto kept = state_.find(parameter.name);
    if (kept == state_.end() || kept->second.dtype() != DType::kF32) return false;
    const auto values = kept->second.values<float>();
    if (values.size() != parameter.values.size()) return false;
    copy.memory.emplace_back(values.begin(), values.end());
    copy.parameters.push_back({parameter.name, parameter.stream, parameter.grid, copy.memory.back()});
  }
  if (zo::DigestOfWeights(copy.parameters) != ledger_.weights) return false;
  *weights = std::move(copy);
  return true;
}

}  // namespace heddle::aggregation
