// FedBPT (2310.01467): the devices' searches become one. mean += the mean of their means' ways; sigma^2 = the mean of
// their sigma^2, not below min_sigma^2, so that the search does not narrow before the devices agree. Devices count
// equally. Of tensors, prompt_variance is sigma^2; all others are averaged (client/worker/bbpt.h).
#include <algorithm>

#include "aggregation/averaging/mean_aggregator.h"
#include "aggregation/averaging/methods.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kVariance = "prompt_variance";

class FedBpt final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;

 protected:
  Share ShareOf(const UpdateInfo&) const override { return {1}; }
  Result<RoundModel> Next() override {
    const double least = setting("min_sigma") * setting("min_sigma");
    RoundModel made{parent(), {}};
    for (const auto& [name, spec] : update_spec()) {
      const Tensor& before = parent().at(name);
      const auto values = before.values<float>();
      const bool variance = name == kVariance;
      made.model[name] = Moved(name, &before, [&](size_t i, double mean) {
        const double at = values[i];
        return variance ? std::max(at + mean, std::max(least, 1e-12)) - at : mean;
      });
      sums().Release(name);
    }
    return made;
  }
};

}  // namespace

Method FedBptMethod() {
  return {.name = "FedBPT",
          .make =
              [](const StateDict& parent, const AggregatorOptions& options, const StateDict& state) {
                return MakeMean<FedBpt>(parent, options, state, {}, /*equal_weights=*/true);
              },
          .settings = {{"min_sigma", "least sigma of the devices' searches", 0.5, 0, 1e3}}};
}

}  // namespace heddle::aggregation
