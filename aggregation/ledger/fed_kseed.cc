#include <algorithm>
#include <cmath>

#include "aggregation/ledger/ledger_aggregator.h"
#include "aggregation/ledger/methods.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kSizesName = "heddle.ledger.sizes";  // of the pool's scalars so far: sum, count; I64 [K, 2]

class FedKSeed final : public LedgerAggregator {
 public:
  static Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                                  const StateDict& state, bool by_importance) {
    std::unique_ptr<FedKSeed> made(new FedKSeed(options, {.pool = true, .by_importance = by_importance}));
    HEDDLE_RETURN_IF_ERROR(made->TakeParent(parent, state));
    return std::unique_ptr<Aggregator>(std::move(made));
  }

 private:
  using LedgerAggregator::LedgerAggregator;

  // Of all examples, also those of devices that did not draw the direction.
  Result<std::map<uint64_t, int64_t>> Moves(StateDict*) override {
    std::map<uint64_t, int64_t> moves;
    for (const auto& [ref, sum] : SumsOfSteps()) {
      moves[ref] = RoundedRatio(sum.steps, static_cast<Wide>(total_examples()));
    }
    return moves;
  }

  // FedKSeed-Pro: the mean size of each seed's scalars so far, from 0 for the smallest to 255 for the largest.
  Status Complete(zo::Ledger* next, StateDict* state) override {
    if (!form().by_importance) return OkStatus();
    const size_t pool = ledger().head.pool_size;
    std::vector<int64_t> counts(2 * pool);
    if (const auto known = this->state().find(kSizesName); known != this->state().end()) {
      if (known->second.spec() != TensorSpec{DType::kI64, {static_cast<int64_t>(pool), 2}}) {
        return InvalidArgument("the state's counts are of another pool");
      }
      const auto values = known->second.values<int64_t>();
      counts.assign(values.begin(), values.end());
    }
    for (const Share& share : shares()) {
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
};

template <bool kByImportance>
Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  return FedKSeed::Make(parent, options, state, kByImportance);
}

DeviceRules Rules(const AggregatorOptions& options) {
  DeviceRules rules;
  rules.seeds = SeedsOf(options, {.pool = true});
  return rules;
}

std::vector<Setting> DeclaredSettings(double pool_size) {
  std::vector<Setting> settings = CommonLedgerSettings();
  settings.push_back({"pool_size", "seeds in the pool, K", pool_size, 1, double{zo::kMaxPoolSize}, true});
  return settings;
}

}  // namespace

Method FedKSeedMethod() {
  return {.name = "FedKSeed", .make = Make<false>, .settings = DeclaredSettings(4096), .rules = Rules};
}
Method FedKSeedProMethod() {
  return {.name = "FedKSeed-Pro", .make = Make<true>, .settings = DeclaredSettings(1024), .rules = Rules};
}

}  // namespace heddle::aggregation
