#include "aggregation/averaging/methods.h"
#include "aggregation/fed_avg.h"

namespace heddle::aggregation {

// The server is FedAvg's.
Method FedProxMethod() {
  Method method = FedAvgMethod();
  method.name = "FedProx";
  method.settings.push_back({"proximal_mu", "pull of devices back to the model that they started from", 0.01, 0, 1000});
  method.rules = [](const AggregatorOptions& options) {
    return DeviceRules{.proximal_mu = options.method.at("proximal_mu")};
  };
  return method;
}

}  // namespace heddle::aggregation
