#include <algorithm>

#include "aggregation/ledger/ledger_aggregator.h"
#include "aggregation/ledger/methods.h"
#include "aggregation/ledger/scalar_rules.h"
#include "aggregation/robust/selection.h"

namespace heddle::aggregation {
namespace {

class ScalarMean final : public LedgerAggregator {
 public:
  static Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                                  const StateDict& state, bool weighted) {
    const uint64_t least = LeastUpdates(options);
    if (options.cohort > 0 && options.cohort < least) {
      return InvalidArgument("num_attackers with this setting needs at least " + std::to_string(least) +
                             " updates a round and " + std::to_string(options.cohort) +
                             " are asked for; ask for more devices or expect fewer attackers");
    }
    std::unique_ptr<ScalarMean> made(new ScalarMean(options, {.weighted = weighted}));
    HEDDLE_RETURN_IF_ERROR(made->TakeParent(parent, state));
    return std::unique_ptr<Aggregator>(std::move(made));
  }

 private:
  using LedgerAggregator::LedgerAggregator;

  // 0: Krum is not used.
  static uint64_t LeastUpdates(const AggregatorOptions& options) {
    const auto attackers = static_cast<uint64_t>(LedgerSetting(options, "num_attackers"));
    return attackers > 0 ? LeastForKrum(attackers) : 0;
  }

  Result<std::map<uint64_t, int64_t>> Moves(StateDict*) override {
    const auto attackers = static_cast<size_t>(LedgerSetting(options(), "num_attackers"));
    if (const uint64_t least = LeastUpdates(options()); shares().size() < least) {
      return FailedPrecondition("num_attackers with this setting needs at least " + std::to_string(least) +
                                " updates and the round has " + std::to_string(shares().size()));
    }
    if (attackers > 0) return KrumMoves(attackers);
    const double trim = LedgerSetting(options(), "trim");
    if (trim > 0) return TrimmedMoves(trim);
    std::map<uint64_t, int64_t> moves;
    for (const auto& [ref, sum] : SumsOfSteps()) moves[ref] = RoundedRatio(sum.steps, sum.weight);
    return moves;
  }

  std::map<uint64_t, int64_t> TrimmedMoves(double trim) const {
    std::map<uint64_t, std::vector<int64_t>> values;
    for (const Share& share : shares()) {
      for (const zo::LedgerEntry& step : share.steps) values[step.ref].push_back(step.n);
    }
    std::map<uint64_t, int64_t> moves;
    for (auto& [ref, steps] : values) moves[ref] = TrimmedMean(steps, trim);
    return moves;
  }

  std::map<uint64_t, int64_t> KrumMoves(size_t attackers) const {
    const size_t width = options().zo.DirectionsPerTask();
    std::vector<std::vector<int64_t>> rows;
    for (const Share* share : SharesByDevice()) {
      std::vector<int64_t>& row = rows.emplace_back(width);
      for (const zo::LedgerEntry& step : share->steps) row[step.ref - first_ref()] = step.n;
    }
    const std::vector<int64_t>& chosen = rows[KrumRow(rows, attackers)];
    std::map<uint64_t, int64_t> moves;
    for (size_t i = 0; i < width; ++i) moves[first_ref() + i] = chosen[i];
    return moves;
  }
};

template <bool kWeighted>
Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  return ScalarMean::Make(parent, options, state, kWeighted);
}

DeviceRules Rules(const AggregatorOptions& options) {
  DeviceRules rules;
  rules.seeds = SeedsOf(options, {});
  return rules;
}

std::vector<Setting> DeclaredSettings() {
  std::vector<Setting> settings = CommonLedgerSettings();
  settings.push_back({"trim", "share of devices left out at each end of every scalar; 0.5 is the median", 0, 0, 0.5});
  settings.push_back({"num_attackers",
                      "above 0: the scalars of the one device that Krum chooses, with so many attackers", 0, 0, 1e6,
                      true});
  return settings;
}

}  // namespace

Method DeComFlMethod() {
  return {.name = "DeComFL", .make = Make<false>, .settings = DeclaredSettings(), .rules = Rules};
}
Method BaffleMethod() { return {.name = "BAFFLE", .make = Make<true>, .settings = DeclaredSettings(), .rules = Rules}; }

}  // namespace heddle::aggregation
