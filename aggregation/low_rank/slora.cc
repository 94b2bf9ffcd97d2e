// SLoRA: rounds of sparse training of the weights themselves, then LoRA that begins with what they found.
//
// The places are the same for all devices and all rounds, so the sparse rounds are means of values like any others. The
// last of them turns what they added up to into factors. What no factors of that rank can say is lost, as published;
// with keep_residual the values stay where they are, as a part of the base, and what the factors say is taken off it
// again.
#include <algorithm>
#include <cmath>
#include <new>
#include <optional>

#include "aggregation/figures.h"
#include "aggregation/low_rank/factor_mean.h"
#include "aggregation/low_rank/linear_algebra.h"
#include "aggregation/low_rank/merge.h"
#include "aggregation/low_rank/methods.h"
#include "aggregation/low_rank/modules.h"
#include "aggregation/low_rank/sparse_base.h"

namespace heddle::aggregation::low_rank {
namespace {

constexpr Setting kSparseRounds{"sparse_rounds", "rounds that train a sparse part of the weights", 2, 1, 1e6, true};
constexpr Setting kSparseDensity{"sparse_density", "part of each target's weight that they train", 0.01, 1e-6, 1};
constexpr Setting kKeepResidual{
    "keep_residual", "1: what the factors cannot say of the sparse part stays in the base; 0: it is lost", 0, 0, 1};

double SettingOf(const AggregatorOptions& options, const Setting& setting) {
  return options.method.find(setting.name)->second;
}

bool IsSparseRound(const AggregatorOptions& options) {
  return options.round <= static_cast<uint32_t>(SettingOf(options, kSparseRounds));
}

DeviceRules Rules(const AggregatorOptions& options) {
  if (IsSparseRound(options)) return {.frozen = {"lora_A", "lora_B"}, .mixed_ranks = true};
  return {.frozen = {"heddle.dense"}, .mixed_ranks = true};
}

Status CheckPairs(const std::vector<FactorPair>& pairs, const StateDict& model, const AggregatorOptions& options) {
  for (const auto& [key, tensor] : model) {
    if (key.find("lora_magnitude_vector") == std::string::npos) continue;
    return InvalidArgument("'" + key + "' belongs to DoRA, whose factors SLoRA cannot begin with; use FedAvg");
  }
  for (const FactorPair& pair : pairs) {
    const double scaling = ScalingOf(options, pair);
    if (!(scaling > 0 && std::isfinite(scaling))) {
      return InvalidArgument("the scaling of '" + pair.path + "' (from lora_alpha and r) must be above 0");
    }
    if (pair.d > 0xFFFFFFFF / pair.k) {
      return InvalidArgument("the weight of '" + pair.path + "' has too many elements to choose some of them");
    }
  }
  return OkStatus();
}

Result<StateDict> Begin(const StateDict& adapter, const AggregatorOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(adapter));
  HEDDLE_RETURN_IF_ERROR(CheckPairs(pairs, adapter, options));
  StateDict model = adapter;
  model.insert_or_assign(std::string(kDenseSeedName), DenseSeedTensor(options.seed));
  for (const FactorPair& pair : pairs) {
    const double all = static_cast<double>(pair.d) * static_cast<double>(pair.k);
    const auto count = std::max<int64_t>(1, static_cast<int64_t>(all * SettingOf(options, kSparseDensity)));
    std::span<std::byte> zeros;  // as Allocate leaves them
    model.insert_or_assign(std::string(kDensePrefix) + pair.path, Tensor::Allocate({DType::kF32, {count}}, &zeros));
  }
  return model;
}

// The last sparse round: from its mean to factors.
class Turning final : public Aggregator {
 public:
  Turning(std::unique_ptr<Aggregator> mean, const AggregatorOptions& options)
      : mean_(std::move(mean)), options_(options) {}

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return mean_->Validate(update, info);
  }
  Status Fold(const StateDict& update, const UpdateInfo& info) override { return mean_->Fold(update, info); }
  uint64_t num_folded() const override { return mean_->num_folded(); }
  uint64_t total_examples() const override { return mean_->total_examples(); }

  Result<RoundModel> Finish() && override {
    HEDDLE_ASSIGN_OR_RETURN(RoundModel made, std::move(*mean_).Finish());
    try {
      HEDDLE_RETURN_IF_ERROR(Turn(&made.model));
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for the factors of the sparse part");
    }
    return made;
  }

 private:
  struct Turned {
    Tensor a, b;
    std::optional<Product> base;
    double squares = 0, kept_squares = 0;
  };

  Status Turn(StateDict* model) const {
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(*model));
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<SparseDelta> deltas, SparseDeltasOf(*model, pairs));
    std::vector<Turned> turned(pairs.size());
    HEDDLE_RETURN_IF_ERROR(ForEachModule(pairs.size(), options_.threads, [&](size_t i) {
      const auto delta =
          std::find_if(deltas.begin(), deltas.end(), [&](const SparseDelta& one) { return one.path == pairs[i].path; });
      turned[i] = TurnModule(pairs[i], delta == deltas.end() ? nullptr : &*delta);
      return OkStatus();
    }));
    double squares = 0, kept = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
      Turned& one = turned[i];
      squares += one.squares;
      kept += one.kept_squares;
      (*model)[pairs[i].a_key] = std::move(one.a);
      (*model)[pairs[i].b_key] = std::move(one.b);
      if (one.base) {
        (*model)[BaseDeltaA(pairs[i].path)] = RightTensor(*one.base);
        (*model)[BaseDeltaB(pairs[i].path)] = LeftTensor(*one.base);
      }
    }
    SetFigure("sparse_residual", squares > 0 ? std::sqrt(std::max(0.0, 1 - kept / squares)) : 0, model);
    if (SettingOf(options_, kKeepResidual) != 0) return OkStatus();
    std::erase_if(
        *model, [](const auto& item) { return item.first.starts_with(kDensePrefix) || item.first == kDenseSeedName; });
    return OkStatus();
  }

  Turned TurnModule(const FactorPair& pair, const SparseDelta* delta) const {
    const double scaling = ScalingOf(options_, pair);
    const auto scaled = [&](Product product, double by) {
      for (size_t i = 0; i < product.left.rows() * product.left.cols(); ++i) product.left.data()[i] *= by;
      return product;
    };
    // What the layer has beside its base: the sparse part, and factors that did not begin at zero.
    Product parent = scaled(ProductOf(pair.b, pair.a), scaling);
    DropZeros(&parent);
    Product sum = delta == nullptr ? parent : Joined(ProductOf(*delta), parent);
    const Product factors = RankFactors(pair, scaling, sum);
    Turned out{RightTensor(factors), LeftTensor(factors), {}};
    out.squares = std::pow(FrobeniusNorm(sum), 2);
    out.kept_squares = std::pow(scaling * FrobeniusNorm(factors), 2);
    if (SettingOf(options_, kKeepResidual) == 0) return out;
    Product base = Joined(parent, scaled(factors, -scaling));
    DropZeros(&base);
    if (pair.base_rank > 0) base = Joined(ProductOf(pair.base_b, pair.base_a), base);
    if (base.rank() > 0) out.base = std::move(base);
    return out;
  }

  std::unique_ptr<Aggregator> mean_;
  AggregatorOptions options_;
};

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options, const StateDict&) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(parent));
  HEDDLE_RETURN_IF_ERROR(CheckPairs(pairs, parent, options));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<SparseDelta> deltas, SparseDeltasOf(parent, pairs));
  if (IsSparseRound(options) && deltas.empty()) {
    return InvalidArgument("round " + std::to_string(options.round) +
                           " trains a sparse part of the weights, but the "
                           "model has no values of one (heddle.dense)");
  }
  HEDDLE_ASSIGN_OR_RETURN(auto mean, MakeFactorMean(parent, options, Rules(options)));
  if (options.round != static_cast<uint32_t>(SettingOf(options, kSparseRounds))) return mean;
  return std::unique_ptr<Aggregator>(std::make_unique<Turning>(std::move(mean), options));
}

}  // namespace

Method SLoraMethod() {
  return {.name = "SLoRA",
          .make = Make,
          .settings = {kSparseRounds, kSparseDensity, kKeepResidual},
          .rules = Rules,
          .begin = Begin};
}

}  // namespace heddle::aggregation::low_rank
