#include "aggregation/update_check.h"

#include <cmath>
#include <sstream>

#include "aggregation/fixed_point.h"

namespace heddle::aggregation {
namespace {

// Says which element is the first bad one; only on the way to a refusal.
Validity DescribeBadElement(const std::string& name, std::span<const float> values, double max_abs) {
  for (size_t i = 0; i < values.size(); ++i) {
    float v = values[i];
    if (!std::isfinite(v)) {
      return {Refusal::kNotFinite, "the tensor '" + name + "' has " + (std::isnan(v) ? "a NaN" : "an infinity") +
                                       " at element " + std::to_string(i)};
    }
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::abs(static_cast<double>(values[i])) > max_abs) {
      std::ostringstream text;
      text << "the tensor '" << name << "' has " << values[i] << " at element " << i << "; the bound max_abs is "
           << max_abs;
      return {Refusal::kOutOfBounds, text.str()};
    }
  }
  return {};
}

}  // namespace

Validity CheckUpdateSpec(const StateDict& update, const UpdateInfo& info, const StateDictSpec& expected,
                         const AggregatorOptions& options) {
  if (info.num_examples < 1 || info.num_examples > options.max_num_examples) {
    return {Refusal::kBadNumExamples, "num_examples is " + std::to_string(info.num_examples) +
                                          "; it must be from 1 to " + std::to_string(options.max_num_examples)};
  }
  Status same = CheckSameSpec(expected, SpecOf(update));
  if (!same.ok()) return {Refusal::kBadUpdate, same.message()};
  return {};
}

Validity CheckUpdate(const StateDict& update, const UpdateInfo& info, const StateDictSpec& expected,
                     const AggregatorOptions& options) {
  Validity validity = CheckUpdateSpec(update, info, expected, options);
  if (!validity.ok()) return validity;
  double squares = 0;
  for (const auto& [name, tensor] : update) {
    std::span<const float> values = tensor.values<float>();
    float largest = MaxAbs(values);
    if (!(static_cast<double>(largest) <= options.max_abs)) return DescribeBadElement(name, values, options.max_abs);
    if (options.max_norm > 0) squares += SumOfSquares(values);
  }
  if (options.max_norm > 0 && std::sqrt(squares) > options.max_norm) {
    std::ostringstream text;
    text << "the update's L2 norm is " << std::sqrt(squares) << "; the bound max_norm is " << options.max_norm;
    return {Refusal::kOutOfBounds, text.str()};
  }
  return {};
}

}  // namespace heddle::aggregation
