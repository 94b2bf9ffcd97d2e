#include "aggregation/update_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <sstream>

#include "aggregation/kernels.h"
#include "common/test_hooks.h"

namespace heddle::aggregation {
namespace {

// 16 KiB of float32: both loops over a block find it in the nearest cache. A multiple of the eight lanes.
constexpr size_t kBlock = 4096;

// Which element of a block is the first bad one; only on the way to a refusal.
Validity DescribeBadElement(const std::string& name, std::span<const float> values, size_t begin, double max_abs) {
  const auto at = [&](size_t i) { return " at element " + std::to_string(i) + " of '" + name + "'"; };
  for (size_t i = begin; i < values.size(); ++i) {
    if (std::isnan(values[i])) return {Refusal::kNotFinite, "the update has a NaN" + at(i)};
    if (std::isinf(values[i])) return {Refusal::kNotFinite, "the update has an infinity" + at(i)};
  }
  for (size_t i = begin; i < values.size(); ++i) {
    if (std::abs(static_cast<double>(values[i])) <= max_abs) continue;
    std::ostringstream text;
    text << "the update has " << values[i] << at(i) << "; the bound max_abs is " << max_abs;
    return {Refusal::kOutOfBounds, text.str()};
  }
  return {};
}

// The two factors of a low-rank update with another number of rows of A, or columns of B (PEFT's names).
bool DiffersInRankOnly(std::string_view name, const Shape& expected, const Shape& actual) {
  if (expected.size() != 2 || actual.size() != 2) return false;
  if (name.ends_with(".lora_A.weight")) return expected[1] == actual[1];
  return name.ends_with(".lora_B.weight") && expected[0] == actual[0];
}

Validity CheckTensors(const StateDictSpec& expected, const StateDict& update) {
  const auto refused = [](Refusal refusal, const std::string& message) {
    return Validity{refusal, "the update does not fit the model: " + message};
  };
  for (const auto& [name, tensor] : update) {
    const auto known = expected.find(name);
    if (known == expected.end()) return refused(Refusal::kWrongTensors, "'" + name + "' is not in it");
    if (known->second == tensor.spec()) continue;
    const std::string message =
        "'" + name + "' is " + tensor.spec().ToString() + " but must be " + known->second.ToString();
    if (tensor.dtype() != known->second.dtype) return refused(Refusal::kWrongDtype, message);
    return refused(
        DiffersInRankOnly(name, known->second.shape, tensor.shape()) ? Refusal::kWrongRank : Refusal::kWrongShape,
        message);
  }
  if (update.size() == expected.size()) return {};
  for (const auto& [name, spec] : expected) {
    if (!update.contains(name)) return refused(Refusal::kWrongTensors, "'" + name + "' is missing");
  }
  return {};
}

}  // namespace

Validity CheckUpdateSpec(const StateDict& update, const UpdateInfo& info, const StateDictSpec& expected,
                         const AggregatorOptions& options) {
  const bool weighed = !HEDDLE_PLANTED(kIgnoreWeight);
  if (weighed && (info.num_examples < 1 || info.num_examples > options.max_num_examples)) {
    return {Refusal::kBadNumExamples, "num_examples is " + std::to_string(info.num_examples) +
                                          "; it must be from 1 to " + std::to_string(options.max_num_examples)};
  }
  return CheckTensors(expected, update);
}

Validity CheckUpdate(const StateDict& update, const UpdateInfo& info, const StateDictSpec& expected,
                     const AggregatorOptions& options) {
  Validity validity = CheckUpdateSpec(update, info, expected, options);
  if (!validity.ok()) return validity;
  if (HEDDLE_PLANTED(kSkipNumbersCheck)) return {};
  const Kernels& kernels = BestKernels();
  const bool with_norm = options.max_norm > 0;
  std::array<double, 8> lanes{};
  for (const auto& [name, tensor] : update) {
    const std::span<const float> values = tensor.values<float>();
    for (size_t begin = 0; begin < values.size(); begin += kBlock) {
      const std::span<const float> block = values.subspan(begin, std::min(kBlock, values.size() - begin));
      const float largest = std::bit_cast<float>(kernels.max_abs_bits(block.data(), block.size()));
      // Written so that a NaN is refused too.
      if (!(static_cast<double>(largest) <= options.max_abs)) {
        return DescribeBadElement(name, values, begin, options.max_abs);
      }
      if (with_norm) kernels.add_squares(block.data(), block.size(), &lanes);
    }
  }
  if (!with_norm) return {};
  double squares = 0;
  for (double lane : lanes) squares += lane;
  const double norm = std::sqrt(squares);
  if (norm <= options.max_norm) return {};
  std::ostringstream text;
  text << "the update's L2 norm is " << norm << "; the bound max_norm is " << options.max_norm;
  return {Refusal::kNormTooLarge, text.str()};
}

}  // namespace heddle::aggregation
