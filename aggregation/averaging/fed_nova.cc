#include <cmath>

#include "aggregation/averaging/mean_aggregator.h"
#include "aggregation/averaging/methods.h"

namespace heddle::aggregation {
namespace {

// What steps add up to is counted in parts of 2^-20, so that their sum is one of integers and has no order.
constexpr int kFractionBits = 20;
__extension__ typedef unsigned __int128 Wide;

// Of `steps` local steps with momentum `rho`: how often each gradient counts, added up. At least 1.
double LocalSum(double steps, double rho) { return (steps - rho * (1 - std::pow(rho, steps)) / (1 - rho)) / (1 - rho); }

class FedNova final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;

 protected:
  Validity CheckInfo(const UpdateInfo& info) const override {
    const double most = setting("max_local_steps");
    if (info.num_steps >= 1 && info.num_steps <= most) return {};
    return {Refusal::kBadNumExamples, "num_steps is " + std::to_string(info.num_steps) +
                                          "; FedNova needs it to be from 1 to " +
                                          std::to_string(static_cast<uint64_t>(most))};
  }

  Share ShareOf(const UpdateInfo& info) const override {
    return {info.num_examples, std::ldexp(1.0, kFractionBits) / static_cast<double>(InParts(info))};
  }
  void Count(const UpdateInfo& info) override { parts_ += Wide{info.num_examples} * InParts(info); }

  Result<RoundModel> Next() override {
    // sum p a: the steps that a device took on average.
    const double effective =
        std::ldexp(static_cast<double>(parts_), -kFractionBits) / static_cast<double>(sums().total_weight());
    RoundModel made{parent(), {}};
    for (const auto& [name, spec] : update_spec()) {
      made.model[name] = Moved(name, &parent().at(name), [effective](size_t, double mean) { return effective * mean; });
      sums().Release(name);
    }
    return made;
  }

 private:
  uint64_t InParts(const UpdateInfo& info) const {
    const double sum = LocalSum(static_cast<double>(info.num_steps), setting("local_momentum"));
    return std::max(uint64_t{1} << kFractionBits, static_cast<uint64_t>(std::llround(std::ldexp(sum, kFractionBits))));
  }

  Wide parts_ = 0;  // sum of num_examples * a
};

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  return MakeMean<FedNova>(parent, options, state, {});
}

}  // namespace

Method FedNovaMethod() {
  return {.name = "FedNova",
          .make = Make,
          .settings = {{"local_momentum", "that devices' optimizers use (rho); a recipe gets its own", 0, 0, 0.999999},
                       {"max_local_steps", "more steps than that nobody takes: a bound on what is believed", 100000, 1,
                        1e6, true}}};
}

}  // namespace heddle::aggregation
