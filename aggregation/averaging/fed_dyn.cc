#include <algorithm>
#include <utility>

#include "aggregation/averaging/mean_aggregator.h"
#include "aggregation/averaging/methods.h"

namespace heddle::aggregation {
namespace {

// State: "h.<key>" holds -h / alpha, the sum of all updates over N: what is added to the mean of the devices' models.
// So nothing depends on alpha here.
class FedDyn final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;

  Status CheckState() const {
    for (const auto& [name, spec] : update_spec())
      HEDDLE_RETURN_IF_ERROR(Remembered(state(), "h." + name, spec).status());
    return OkStatus();
  }

 protected:
  Share ShareOf(const UpdateInfo&) const override { return {1}; }

  Result<RoundModel> Next() override {
    const auto taking_part = static_cast<double>(num_folded());
    const double part = taking_part / std::max(taking_part, setting("num_devices"));  // sum / N = part * mean
    RoundModel made{parent(), {}};
    for (const auto& [name, spec] : update_spec()) {
      HEDDLE_ASSIGN_OR_RETURN(const Tensor* h, Remembered(state(), "h." + name, spec));
      const std::span<const float> old = h == nullptr ? std::span<const float>() : h->values<float>();
      const auto gathered = [&](size_t i, double mean) {
        return (old.empty() ? 0.0 : static_cast<double>(old[i])) + part * mean;
      };
      made.model[name] =
          Moved(name, &parent().at(name), [&](size_t i, double mean) { return mean + gathered(i, mean); });
      made.state.emplace("h." + name, Moved(name, nullptr, gathered));
      sums().Release(name);
    }
    return made;
  }
};

DeviceRules Rules(const AggregatorOptions& options) {
  return {.correction = Correction::kFedDyn, .feddyn_alpha = options.method.at("feddyn_alpha")};
}

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  HEDDLE_ASSIGN_OR_RETURN(auto made, MakeMean<FedDyn>(parent, options, state, Rules(options), /*equal_weights=*/true));
  HEDDLE_RETURN_IF_ERROR(static_cast<const FedDyn&>(*made).CheckState());
  return made;
}

}  // namespace

Method FedDynMethod() {
  return {
      .name = "FedDyn",
      .make = Make,
      .settings = {{"feddyn_alpha", "strength of the devices' dynamic regulariser", 0.01, 1e-9, 1000},
                   {"num_devices", "of the whole population (m); 0: as many as take part in a round", 0, 0, 1e9, true}},
      .rules = Rules};
}

}  // namespace heddle::aggregation
