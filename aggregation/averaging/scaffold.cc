#include <algorithm>

#include "aggregation/averaging/mean_aggregator.h"
#include "aggregation/averaging/methods.h"

namespace heddle::aggregation {
namespace {

// The server's control variate c is in the model, since devices need it; in the first round there is none, which is
// zero.
class Scaffold final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;

 protected:
  Share ShareOf(const UpdateInfo&) const override { return {1}; }

  Result<RoundModel> Next() override {
    const double learning_rate = setting("server_learning_rate");
    const auto taking_part = static_cast<double>(num_folded());
    const double part = taking_part / std::max(taking_part, setting("num_devices"));  // |S| / N
    RoundModel made{parent(), {}};
    for (const auto& [name, spec] : update_spec()) {
      const bool is_control = name.starts_with(kControlPrefix);
      const double factor = is_control ? part : learning_rate;
      const auto start = parent().find(name);
      made.model[name] = Moved(name, start == parent().end() ? nullptr : &start->second,
                               [factor](size_t, double mean) { return factor * mean; });
      sums().Release(name);
    }
    return made;
  }
};

DeviceRules Rules(const AggregatorOptions&) { return {.correction = Correction::kScaffold}; }

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  const DeviceRules rules = Rules(options);
  const StateDictSpec expected = UpdateSpec(SpecOf(parent), rules, 0);
  for (const auto& [name, tensor] : parent) {
    if (!name.starts_with(kControlPrefix)) continue;
    const auto known = expected.find(name);
    if (known == expected.end() || known->second != tensor.spec()) {
      return InvalidArgument("the parent's '" + name + "' is not the control variate of a tensor that is trained");
    }
  }
  return MakeMean<Scaffold>(parent, options, state, rules, /*equal_weights=*/true);
}

}  // namespace

Method ScaffoldMethod() {
  return {
      .name = "SCAFFOLD",
      .make = Make,
      .settings = {{"server_learning_rate", "factor of the server's step", 1, 0, 1000},
                   {"num_devices", "of the whole population (N); 0: as many as take part in a round", 0, 0, 1e9, true}},
      .rules = Rules};
}

}  // namespace heddle::aggregation
