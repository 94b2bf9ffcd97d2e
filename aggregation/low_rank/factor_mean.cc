// FedIT, FFA-LoRA, RoLoRA and FedSA-LoRA: means of the factors that travel, by FedAvg's exact sums. With devices of the
// model's rank only they are FedAvg over those tensors, to the bit.
//
// A device of smaller rank counts as zero where it has no column. What travels is "trained minus start", so a column
// that only a part q of the examples' weight has becomes q start + mean(d): the sum is taken of the updates with zeros,
// and (1 - q) start is taken off in the end.
#include <map>
#include <new>

#include "aggregation/low_rank/factor_mean.h"
#include "aggregation/low_rank/layout.h"
#include "aggregation/low_rank/measured.h"
#include "aggregation/low_rank/methods.h"
#include "aggregation/update_check.h"

namespace heddle::aggregation::low_rank {
namespace {

// Where a factor's element i belongs to which column of the product.
size_t ColumnOf(bool is_a, const Shape& shape, size_t i) {
  const auto width = static_cast<size_t>(shape[1]);
  return is_a ? i / width : i % width;
}

class FactorMean final : public Aggregator {
 public:
  FactorMean(const StateDict& parent, const AggregatorOptions& options, DeviceRules rules)
      : parent_(parent), spec_(SpecOf(parent)), options_(options), rules_(std::move(rules)) {}

  Status Prepare() {
    HEDDLE_RETURN_IF_ERROR(FactorPairs(parent_).status());
    travels_ = UpdateSpec(spec_, rules_, 0);
    if (travels_.empty()) return InvalidArgument("no tensor of the model is left to travel");
    StateDict start;
    for (const auto& [key, spec] : travels_) start.emplace_hint(start.end(), key, parent_.find(key)->second);
    AggregatorOptions of_mean = options_;
    of_mean.method.clear();
    of_mean.max_norm = of_mean.clip_norm = 0;  // checked here, clipped before
    HEDDLE_ASSIGN_OR_RETURN(mean_, MakeAggregator("FedAvg", start, of_mean));
    return OkStatus();
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    if (info.rank < 0) return {Refusal::kWrongRank, "the rank of the device's factors is negative"};
    return CheckUpdate(update, info, UpdateSpec(spec_, rules_, info.rank), options_);
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    if (info.rank < 0) return InvalidArgument("the rank of the device's factors is negative");
    const Validity validity = CheckUpdateSpec(update, info, UpdateSpec(spec_, rules_, info.rank), options_);
    if (!validity.ok()) return InvalidArgument(validity.message);
    try {
      HEDDLE_RETURN_IF_ERROR(mean_->Fold(Padded(update), info));
      weight_of_rank_[info.rank] += info.num_examples;
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for an update of full rank");
    }
    return OkStatus();
  }

  uint64_t num_folded() const override { return mean_->num_folded(); }
  uint64_t total_examples() const override { return mean_->total_examples(); }

  Result<RoundModel> Finish() && override {
    const auto total = static_cast<double>(total_examples());
    HEDDLE_ASSIGN_OR_RETURN(RoundModel mean, std::move(*mean_).Finish());
    try {
      StateDict model = parent_;
      for (auto& [key, tensor] : mean.model) model[key] = WithoutLacking(key, tensor, total);
      return RoundModel{std::move(model), {}};
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for the mean of the factors");
    }
  }

 private:
  // The update with factors of the model's rank: zeros where the device has no column.
  StateDict Padded(const StateDict& update) const {
    StateDict out = update;
    for (auto& [key, tensor] : out) {
      const TensorSpec& full = travels_.find(key)->second;
      if (tensor.spec() == full) continue;
      std::span<std::byte> bytes;
      Tensor padded = Tensor::Allocate(full, &bytes);
      auto* to = reinterpret_cast<float*>(bytes.data());
      const std::span<const float> from = tensor.values<float>();
      const auto wide = static_cast<size_t>(full.shape[1]), narrow = static_cast<size_t>(tensor.shape()[1]);
      for (size_t i = 0; i < from.size(); ++i) to[i / narrow * wide + i % narrow] = from[i];
      tensor = std::move(padded);
    }
    return out;
  }

  // Weight of the devices that have no column `column`.
  double Lacking(size_t column) const {
    double weight = 0;
    for (const auto& [rank, examples] : weight_of_rank_) {
      if (rank > 0 && static_cast<size_t>(rank) <= column) weight += static_cast<double>(examples);
    }
    return weight;
  }

  Tensor WithoutLacking(const std::string& key, const Tensor& mean, double total) const {
    const bool is_a = IsLoraA(key);
    const Shape& shape = mean.shape();
    if ((!is_a && !IsLoraB(key)) || shape.size() != 2) return mean;
    std::vector<double> parts;
    bool any = false;
    for (size_t column = 0; column < static_cast<size_t>(shape[is_a ? 0 : 1]); ++column) {
      parts.push_back(Lacking(column) / total);
      any = any || parts.back() > 0;
    }
    if (!any) return mean;
    const std::span<const float> from = mean.values<float>(), start = parent_.find(key)->second.values<float>();
    std::vector<float> out(from.size());
    for (size_t i = 0; i < out.size(); ++i) {
      const double part = parts[ColumnOf(is_a, shape, i)];
      out[i] = static_cast<float>(static_cast<double>(from[i]) - part * static_cast<double>(start[i]));
    }
    return Tensor::FromFloats(shape, out);
  }

  StateDict parent_;
  StateDictSpec spec_;     // of the parent
  StateDictSpec travels_;  // of an update of full rank
  AggregatorOptions options_;
  DeviceRules rules_;
  std::unique_ptr<Aggregator> mean_;
  std::map<int64_t, uint64_t> weight_of_rank_;  // examples folded, by info.rank
};

template <DeviceRules (*kRules)(const AggregatorOptions&)>
Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options, const StateDict&) {
  return MakeFactorMean(parent, options, kRules(options));
}

DeviceRules FedItRules(const AggregatorOptions&) { return {.mixed_ranks = true}; }

DeviceRules FfaRules(const AggregatorOptions&) { return {.frozen = {"lora_A"}, .mixed_ranks = true}; }

DeviceRules RoLoraRules(const AggregatorOptions& options) {
  return {.frozen = {options.round % 2 == 1 ? "lora_A" : "lora_B"}, .mixed_ranks = true};
}

DeviceRules FedSaRules(const AggregatorOptions& options) {
  DeviceRules rules{.kept = {"lora_B"}, .mixed_ranks = true};
  if (options.method.find("keep_head")->second != 0) {
    rules.kept.insert(rules.kept.end(), {"classifier", "score"});
  }
  return rules;
}

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeFactorMean(const StateDict& parent, const AggregatorOptions& options,
                                                   const DeviceRules& rules) {
  try {
    auto made = std::make_unique<FactorMean>(parent, options, rules);
    HEDDLE_RETURN_IF_ERROR(made->Prepare());
    return std::unique_ptr<Aggregator>(std::move(made));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory for the sums of the factors");
  }
}

Method FedItMethod() {
  return {
      .name = "FedIT",
      .make = [](const StateDict& parent, const AggregatorOptions& options,
                 const StateDict& state) -> Result<std::unique_ptr<Aggregator>> {
        HEDDLE_ASSIGN_OR_RETURN(auto mean, Make<FedItRules>(parent, options, state));
        if (options.method.find("measure_residual")->second == 0) return mean;
        return MakeMeasured(std::move(mean), parent, options);
      },
      .settings = {{"measure_residual", "1: history.jsonl tells by how much the mean of products is missed", 0, 0, 1}},
      .rules = FedItRules};
}

Method FfaLoraMethod() { return {.name = "FFA-LoRA", .make = Make<FfaRules>, .settings = {}, .rules = FfaRules}; }

Method RoLoraMethod() { return {.name = "RoLoRA", .make = Make<RoLoraRules>, .settings = {}, .rules = RoLoraRules}; }

Method FedSaLoraMethod() {
  return {.name = "FedSA-LoRA",
          .make = Make<FedSaRules>,
          .settings = {{"keep_head", "1: the classifier stays on its device too, as published", 1, 0, 1}},
          .rules = FedSaRules};
}

}  // namespace heddle::aggregation::low_rank
