#include <algorithm>
#include <cmath>
#include <map>
#include <new>
#include <utility>

#include "aggregation/ledger/ledger_model.h"
#include "aggregation/ledger/methods.h"
#include "aggregation/ledger/scalar_rules.h"
#include "common/random.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kSizesName =
    "heddle.ledger.sizes";  // of the pool's scalars so far: sum and count, I64 [K, 2]

struct Form {
  bool pool = false;
  bool by_importance = false;
  bool weighted = true;  // by examples
};

double SettingOf(const AggregatorOptions& options, std::string_view name) {
  const auto found = options.method.find(name);
  return found == options.method.end() ? 0 : found->second;
}

SharedSeeds SeedsOf(const AggregatorOptions& options, const Form& form) {
  SharedSeeds seeds;
  seeds.on = true;
  seeds.seed = DeriveSeed(options.seed, "shared directions", "");
  seeds.resolution_bits = static_cast<uint32_t>(SettingOf(options, "resolution_bits"));
  seeds.bfloat16 = SettingOf(options, "bf16_scalars") != 0;
  if (form.pool) {
    seeds.pool_size = static_cast<uint32_t>(SettingOf(options, "pool_size"));
  } else {
    seeds.first_ref = uint64_t{options.round - 1} * options.zo.DirectionsPerTask();
  }
  return seeds;
}

class LedgerAggregator final : public Aggregator {
 public:
  static Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                                  const StateDict& state, const Form& form) {
    auto made = std::unique_ptr<LedgerAggregator>(new LedgerAggregator(options, form));
    HEDDLE_RETURN_IF_ERROR(made->TakeParent(parent, state));
    return std::unique_ptr<Aggregator>(std::move(made));
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return Check(update, info).first;
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    if (shares_.size() >= options_.max_updates) {
      return ResourceExhausted("a round takes " + std::to_string(options_.max_updates) + " updates at most");
    }
    auto [validity, share] = Check(update, info);
    if (!validity.ok()) return InvalidArgument(validity.message);
    total_examples_ += share.examples;
    shares_.push_back(std::move(share));
    return OkStatus();
  }

  uint64_t num_folded() const override { return shares_.size(); }
  uint64_t total_examples() const override { return total_examples_; }

  Result<RoundModel> Finish() && override {
    if (shares_.empty()) return FailedPrecondition("no update was folded");
    try {
      return Next();
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is not enough memory for the next model");
    }
  }

 private:
  // A device's steps, those along one direction added up.
  struct Share {
    std::string device;
    uint64_t examples = 0;
    std::vector<zo::LedgerEntry> steps;
    std::vector<zo::LedgerEntry> sizes;  // of its scalars: their sum; FedKSeed-Pro
    std::vector<uint32_t> counts;        // how many each of `steps` is made of
  };

  LedgerAggregator(const AggregatorOptions& options, const Form& form) : options_(options), form_(form) {}

  Status TakeParent(const StateDict& parent, const StateDict& state) {
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
      HEDDLE_ASSIGN_OR_RETURN(const Weights weights, WeightsOf(parent, zo.epsilon));
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

  uint64_t LastRef() const {
    return form_.pool ? ledger_.head.pool_size - 1 : first_ref_ + options_.zo.DirectionsPerTask() - 1;
  }

  std::pair<Validity, Share> Check(const StateDict& update, const UpdateInfo& info) const {
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
    if (!scalars.ok()) return refused(Refusal::kOutOfBounds, scalars.status().message());
    if (scalars->weights != ledger_.weights) {
      return refused(Refusal::kWrongState, "the device's rebuilt weights have the digest " + scalars->weights.ToHex() +
                                               "; the round's are " + ledger_.weights.ToHex());
    }
    Share share{.device = info.device, .examples = info.num_examples, .steps = {}, .sizes = {}, .counts = {}};
    for (const zo::Scalar& step : scalars->steps) {
      if (Status status = AddStep(step, &share); !status.ok()) return refused(Refusal::kOutOfBounds, status.message());
    }
    return {Validity{}, std::move(share)};
  }

  Status AddStep(const zo::Scalar& step, Share* share) const {
    const ZerothOrderTraining& zo = options_.zo;
    if (std::abs(static_cast<double>(step.gradient)) > zo.max_scalar) {
      return InvalidArgument("the scalar " + std::to_string(step.gradient) + " of direction " +
                             std::to_string(step.ref) + " is beyond the bound of " + std::to_string(zo.max_scalar));
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
    share->steps.back().n += n;
    share->sizes.back().n += std::abs(n);
    ++share->counts.back();
    return OkStatus();
  }

  // How far each direction moves. Exact.
  std::map<uint64_t, int64_t> Moves() const {
    std::map<uint64_t, int64_t> moves;
    if (form_.pool) {
      std::map<uint64_t, Wide> sums;
      for (const Share& share : shares_) {
        for (const zo::LedgerEntry& step : share.steps) {
          sums[step.ref] += static_cast<Wide>(share.examples) * step.n;
        }
      }
      for (const auto& [ref, sum] : sums) moves[ref] = RoundedRatio(sum, static_cast<Wide>(total_examples_));
      return moves;
    }
    const auto attackers = static_cast<size_t>(SettingOf(options_, "num_attackers"));
    if (attackers > 0) return KrumMoves(attackers);
    const double trim = SettingOf(options_, "trim");
    struct Sum {
      Wide sum = 0, weight = 0;
      std::vector<int64_t> values;
    };
    std::map<uint64_t, Sum> sums;
    for (const Share& share : shares_) {
      const auto weight = static_cast<Wide>(form_.weighted ? share.examples : 1);
      for (const zo::LedgerEntry& step : share.steps) {
        Sum& sum = sums[step.ref];
        sum.sum += weight * step.n;
        sum.weight += weight;
        if (trim > 0) sum.values.push_back(step.n);
      }
    }
    for (auto& [ref, sum] : sums) {
      moves[ref] = trim > 0 ? TrimmedMean(sum.values, trim) : RoundedRatio(sum.sum, sum.weight);
    }
    return moves;
  }

  std::map<uint64_t, int64_t> KrumMoves(size_t attackers) const {
    const size_t width = options_.zo.DirectionsPerTask();
    std::vector<const Share*> ordered;
    for (const Share& share : shares_) ordered.push_back(&share);
    std::sort(ordered.begin(), ordered.end(), [](const Share* a, const Share* b) { return a->device < b->device; });
    std::vector<std::vector<int64_t>> rows;
    for (const Share* share : ordered) {
      std::vector<int64_t>& row = rows.emplace_back(width);
      for (const zo::LedgerEntry& step : share->steps) row[step.ref - first_ref_] = step.n;
    }
    const std::vector<int64_t>& chosen = rows[KrumRow(rows, attackers)];
    std::map<uint64_t, int64_t> moves;
    for (size_t i = 0; i < width; ++i) moves[first_ref_ + i] = chosen[i];
    return moves;
  }

  Result<RoundModel> Next() {
    zo::Ledger next{.head = ledger_.head, .round = options_.round, .entries = {}, .importance = {}, .weights = {}};
    const std::map<uint64_t, int64_t> moves = Moves();
    auto before = ledger_.entries.begin();
    for (const auto& [ref, move] : moves) {
      while (before != ledger_.entries.end() && before->ref < ref) next.entries.push_back(*before++);
      int64_t n = move;
      if (before != ledger_.entries.end() && before->ref == ref) n += (before++)->n;
      if (n != 0) next.entries.push_back({ref, n});
    }
    next.entries.insert(next.entries.end(), before, ledger_.entries.end());
    RoundModel made;
    if (form_.by_importance) HEDDLE_RETURN_IF_ERROR(CountSizes(&next, &made.state));
    if (const Status status = zo::CheckLedger(next); !status.ok()) return status.Annotate("the next ledger");
    HEDDLE_RETURN_IF_ERROR(Replay(&next, &made.state));
    made.model.emplace(std::string(kLedgerName), ByteTensor(zo::EncodeLedger(next)));
    return made;
  }

  // From the weights that the state holds, or from the start.
  Status Replay(zo::Ledger* next, StateDict* state) {
    // The grids are those of the start, whatever the weights have become.
    if (start_.empty()) {
      if (!options_.load_model) return FailedPrecondition("the start of the run cannot be had");
      HEDDLE_ASSIGN_OR_RETURN(start_, options_.load_model(ledger_.head.start));
    }
    HEDDLE_ASSIGN_OR_RETURN(Weights weights, WeightsOf(start_, ledger_.head.epsilon));
    zo::Ledger from{.head = ledger_.head, .round = 0, .entries = {}, .importance = {}, .weights = {}};
    if (TakeKeptWeights(&weights)) from = ledger_;
    HEDDLE_RETURN_IF_ERROR(
        zo::ApplyMoves(next->head.distribution, zo::MovesBetween(from, *next), weights.parameters, options_.threads));
    next->weights = zo::DigestOfWeights(weights.parameters);
    for (const zo::Parameter& parameter : weights.parameters) {
      state->emplace(parameter.name, Tensor::FromFloats(start_.find(parameter.name)->second.shape(), parameter.values));
    }
    return OkStatus();
  }

  // False when the state's weights are not those of the ledger: then all is replayed.
  bool TakeKeptWeights(Weights* weights) const {
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

  // FedKSeed-Pro: the mean size of each seed's scalars so far, from 0 for the smallest to 255 for the largest.
  Status CountSizes(zo::Ledger* next, StateDict* state) {
    const size_t pool = ledger_.head.pool_size;
    std::vector<int64_t> counts(2 * pool);
    if (const auto known = state_.find(kSizesName); known != state_.end()) {
      if (known->second.spec() != TensorSpec{DType::kI64, {static_cast<int64_t>(pool), 2}}) {
        return InvalidArgument("the state's counts are of another pool");
      }
      const auto values = known->second.values<int64_t>();
      counts.assign(values.begin(), values.end());
    }
    for (const Share& share : shares_) {
      for (size_t i = 0; i < share.steps.size(); ++i) {
        counts[2 * share.steps[i].ref] += share.sizes[i].n;
        counts[2 * share.steps[i].ref + 1] += share.counts[i];
      }
    }
    std::vector<double> means(pool);
    for (size_t k = 0; k < pool; ++k) {
      if (counts[2 * k + 1] > 0) {
        means[k] = static_cast<double>(counts[2 * k]) / static_cast<double>(counts[2 * k + 1]);
      }
    }
    const auto [least, most] = std::minmax_element(means.begin(), means.end());
    const double low = *least, range = *most - low;
    next->importance.resize(pool);
    for (size_t k = 0; k < pool; ++k) {
      next->importance[k] = range > 0 ? static_cast<uint8_t>(std::nearbyint(255 * (means[k] - low) / range)) : 0;
    }
    std::span<std::byte> place;
    Tensor tensor = Tensor::Allocate({DType::kI64, {static_cast<int64_t>(pool), 2}}, &place);
    std::copy_n(reinterpret_cast<const std::byte*>(counts.data()), place.size(), place.begin());
    state->emplace(std::string(kSizesName), std::move(tensor));
    return OkStatus();
  }

  AggregatorOptions options_;
  Form form_;
  zo::Ledger ledger_;  // of the parent
  StateDict start_;    // what the run began with, where it is known already
  StateDict state_;
  uint64_t first_ref_ = 0;
  std::vector<Share> shares_;
  uint64_t total_examples_ = 0;
};

template <bool kPool, bool kByImportance, bool kWeighted>
struct Of {
  static constexpr Form kForm{kPool, kByImportance, kWeighted};
  static Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                                  const StateDict& state) {
    return LedgerAggregator::Make(parent, options, state, kForm);
  }
  static DeviceRules Rules(const AggregatorOptions& options) {
    DeviceRules rules;
    rules.seeds = SeedsOf(options, kForm);
    return rules;
  }
};

constexpr Setting kResolution = {
    "resolution_bits", "a direction's scale is a whole number times 2^-this", 30, 10, 60, true};
constexpr Setting kHalf = {"bf16_scalars", "1: scalars travel as bfloat16, 0: as float32", 0, 0, 1, true};

Setting PoolSize(double value) {
  return {"pool_size", "seeds in the pool, K", value, 1, double{zo::kMaxPoolSize}, true};
}

std::vector<Setting> LogSettings() {
  return {kResolution,
          kHalf,
          {"trim", "share of devices left out at each end of every scalar; 0.5 is the median", 0, 0, 0.5},
          {"num_attackers", "above 0: the scalars of the one device that Krum chooses, with so many attackers", 0, 0,
           1e6, true}};
}

}  // namespace

Method FedKSeedMethod() {
  return {.name = "FedKSeed",
          .make = Of<true, false, true>::Make,
          .settings = {PoolSize(4096), kResolution, kHalf},
          .rules = Of<true, false, true>::Rules};
}
Method FedKSeedProMethod() {
  return {.name = "FedKSeed-Pro",
          .make = Of<true, true, true>::Make,
          .settings = {PoolSize(1024), kResolution, kHalf},
          .rules = Of<true, true, true>::Rules};
}
Method DeComFlMethod() {
  return {.name = "DeComFL",
          .make = Of<false, false, false>::Make,
          .settings = LogSettings(),
          .rules = Of<false, false, false>::Rules};
}
Method BaffleMethod() {
  return {.name = "BAFFLE",
          .make = Of<false, false, true>::Make,
          .settings = LogSettings(),
          .rules = Of<false, false, true>::Rules};
}

}  // namespace heddle::aggregation
