// Rules that choose whole updates by their distances: Krum, Multi-Krum and Bulyan.
#include <algorithm>

#include "aggregation/robust/robust_round.h"
#include "aggregation/robust/rules.h"

namespace heddle::aggregation {
namespace {

constexpr Setting kAttackers{"num_attackers", "devices among a round's that may send anything (f)", 0, 0, 1000, true};

uint64_t Attackers(const Settings& settings) { return static_cast<uint64_t>(settings.at("num_attackers")); }
uint64_t KrumLeast(const Settings& settings) { return LeastForKrum(Attackers(settings)); }
uint64_t BulyanLeast(const Settings& settings) { return 4 * Attackers(settings) + 3; }
uint64_t MultiKrumLeast(const Settings& settings) {
  return std::max(KrumLeast(settings), static_cast<uint64_t>(settings.at("num_selected")));
}

Status StepByMeanOf(const std::vector<size_t>& rows, RobustRound* round) {
  std::vector<double> weights(round->size(), 0.0);
  for (const size_t row : rows) weights[row] = 1;
  return round->StepByMean(weights);
}

Status Krum(RobustRound* round) {
  HEDDLE_ASSIGN_OR_RETURN(const PairMatrix distances, round->SquaredDistances());
  return StepByMeanOf(MultiKrumSelection(distances, Attackers(round->options().method), 1), round);
}

Status MultiKrum(RobustRound* round) {
  HEDDLE_ASSIGN_OR_RETURN(const PairMatrix distances, round->SquaredDistances());
  const uint64_t f = Attackers(round->options().method);
  const auto asked = static_cast<size_t>(round->setting("num_selected"));
  return StepByMeanOf(MultiKrumSelection(distances, f, asked > 0 ? asked : round->size() - f), round);
}

Status Bulyan(RobustRound* round) {
  HEDDLE_ASSIGN_OR_RETURN(const PairMatrix distances, round->SquaredDistances());
  const uint64_t f = Attackers(round->options().method);
  const auto rows = BulyanSelection(distances, f, round->size() - 2 * f);
  return round->StepByColumns(rows, ColumnRule::kNearestMedian, f);
}

constexpr RobustRule kKrum{"Krum", KrumLeast, Krum, true};
constexpr RobustRule kMultiKrum{"MultiKrum", MultiKrumLeast, MultiKrum, true};
constexpr RobustRule kBulyan{"Bulyan", BulyanLeast, Bulyan, true};

template <const RobustRule& kRule>
Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  return MakeRobust(kRule, parent, options, state);
}

}  // namespace

Method KrumMethod() { return {.name = kKrum.name, .make = Make<kKrum>, .settings = {kAttackers}}; }

Method MultiKrumMethod() {
  return {.name = kMultiKrum.name,
          .make = Make<kMultiKrum>,
          .settings = {kAttackers,
                       {"num_selected", "updates whose mean is taken; 0: all but num_attackers", 0, 0, 2048, true}}};
}

Method BulyanMethod() { return {.name = kBulyan.name, .make = Make<kBulyan>, .settings = {kAttackers}}; }

}  // namespace heddle::aggregation
