// One line a method.
#include <array>
#include <bit>
#include <cmath>

#include "aggregation/aggregator.h"
#include "aggregation/fed_avg.h"
#include "aggregation/kernels.h"
#include "common/config.h"

namespace heddle::aggregation {
namespace {

using Maker = Result<std::unique_ptr<Aggregator>> (*)(const StateDict&, const AggregatorOptions&);

struct Method {
  std::string_view name;
  Maker make;
};

constexpr std::array kMethods = {
    Method{"FedAvg", MakeFedAvg},
};

Status CheckParent(const StateDict& parent) {
  if (parent.empty()) return InvalidArgument("the parent model has no tensors");
  for (const auto& [name, tensor] : parent) {
    if (tensor.dtype() != DType::kF32) {
      return InvalidArgument("the parent's tensor '" + name + "' is " + tensor.spec().ToString() +
                             "; adapters are F32");
    }
    const auto values = tensor.values<float>();
    if (!std::isfinite(std::bit_cast<float>(BestKernels().max_abs_bits(values.data(), values.size())))) {
      return InvalidArgument("the parent's tensor '" + name + "' has a value that is not finite");
    }
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeAggregator(std::string_view name, const StateDict& parent,
                                                   const AggregatorOptions& options) {
  for (const Method& method : kMethods) {
    if (method.name != name) continue;
    HEDDLE_RETURN_IF_ERROR(CheckParent(parent));
    if (!(options.max_norm >= 0)) return InvalidArgument("max_norm must be a number above 0, or 0 for no bound");
    return method.make(parent, options);
  }
  auto nearest = NearestName(name, AggregatorNames());
  return InvalidArgument("there is no aggregation method '" + std::string(name) + "'" +
                         (nearest ? "; did you mean '" + *nearest + "'?" : std::string()));
}

std::vector<std::string> AggregatorNames() {
  std::vector<std::string> names;
  for (const Method& method : kMethods) names.emplace_back(method.name);
  return names;
}

}  // namespace heddle::aggregation
