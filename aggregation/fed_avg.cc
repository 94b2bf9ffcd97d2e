#include "aggregation/fed_avg.h"

#include <utility>

#include "aggregation/averaging/mean_aggregator.h"

namespace heddle::aggregation {
namespace {

class FedAvg final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;

 protected:
  Result<RoundModel> Next() override {
    RoundModel made{parent(), {}};
    for (const auto& [name, spec] : update_spec()) {
      std::span<std::byte> bytes;
      Tensor out = Tensor::Allocate(spec, &bytes);
      const std::span<float> result(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
      sums().MeanOnto(name, parent().at(name).values<float>(), result);
      made.model[name] = std::move(out);
      sums().Release(name);  // memory of the sums goes as that of the result comes
    }
    return made;
  }
};

}  // namespace

Method FedAvgMethod() {
  return {.name = "FedAvg",
          .make = [](const StateDict& parent, const AggregatorOptions& options, const StateDict& state) {
            return MakeMean<FedAvg>(parent, options, state, {});
          }};
}

}  // namespace heddle::aggregation
