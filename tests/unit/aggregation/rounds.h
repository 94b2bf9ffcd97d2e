// Whole rounds of any method for tests: made, validated, folded in a given order, finished.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "aggregation/aggregator.h"
#include "common/safetensors.h"
#include "tests/unit/aggregation/updates.h"

namespace heddle::aggregation {

// Of all methods those whose updates are tensors like the adapter's. The others, with shared seeds, have their tests in
// ledger_methods_test.cc.
inline std::vector<std::string> MethodsOnTensors() {
  std::vector<std::string> names = AggregatorNames();
  std::erase_if(names, [](const std::string& name) { return RulesOf(name, {}).value().seeds.on; });
  return names;
}

struct Sent {
  StateDict update;
  UpdateInfo info;
};

inline std::unique_ptr<Aggregator> MakeMethod(const std::string& method, const StateDict& parent,
                                              const AggregatorOptions& options = {}, const StateDict& state = {}) {
  auto made = MakeAggregator(method, parent, options, state);
  EXPECT_TRUE(made.ok()) << method << ": " << made.status();
  return *std::move(made);
}

inline RoundModel RunRound(const std::string& method, const StateDict& parent, const std::vector<Sent>& sent,
                           const AggregatorOptions& options = {}, const StateDict& state = {}) {
  auto aggregator = MakeMethod(method, parent, options, state);
  for (const Sent& item : sent) {
    const Validity validity = aggregator->Validate(item.update, item.info);
    EXPECT_TRUE(validity.ok()) << validity.message;
    const Status folded = aggregator->Fold(item.update, item.info);
    EXPECT_TRUE(folded.ok()) << folded;
  }
  auto made = std::move(*aggregator).Finish();
  EXPECT_TRUE(made.ok()) << method << ": " << made.status();
  return made.ok() ? *std::move(made) : RoundModel{};
}

inline Status FinishStatus(const std::string& method, const StateDict& parent, const std::vector<Sent>& sent,
                           const AggregatorOptions& options = {}) {
  auto aggregator = MakeMethod(method, parent, options);
  for (const Sent& item : sent) EXPECT_TRUE(aggregator->Fold(item.update, item.info).ok());
  return std::move(*aggregator).Finish().status();
}

inline std::string BytesOf(const RoundModel& made) {
  return SerializeSafetensors(made.model) + "|" + SerializeSafetensors(made.state);
}

// Devices "device-00", ... with updates of these shapes, numbers of examples and of steps from the seed.
inline std::vector<Sent> RandomSent(const Shapes& shapes, size_t count, uint64_t seed, float max_abs = 1.0F) {
  std::vector<Sent> sent;
  const PhiloxStream random(seed, 7);
  for (size_t k = 0; k < count; ++k) {
    const std::string number = std::to_string(k);
    sent.push_back({RandomUpdate(shapes, seed * 1000 + k, max_abs),
                    {.num_examples = 1 + random.U64At(2 * k) % 1000,
                     .num_steps = 1 + random.U32At(2 * k + 1) % 50,
                     .device = "device-" + std::string(number.size() < 2 ? 2 - number.size() : 0, '0') + number}});
  }
  return sent;
}

// All elements of the tensors in the order of their names; what is not F32 (a seed) is left out.
inline std::vector<double> Flat(const StateDict& dict) {
  std::vector<double> all;
  for (const auto& [name, tensor] : dict) {
    if (tensor.dtype() != DType::kF32) continue;
    for (const float value : tensor.values<float>()) all.push_back(static_cast<double>(value));
  }
  return all;
}

inline std::vector<std::vector<double>> FlatRows(const std::vector<Sent>& sent) {
  std::vector<std::vector<double>> rows;
  for (const Sent& item : sent) rows.push_back(Flat(item.update));
  return rows;
}

// |actual - expected| <= the rounding of one float and a little of double arithmetic, for each element.
inline void ExpectRoundedFrom(const std::vector<double>& expected, const StateDict& actual, double slack = 1e-13) {
  const std::vector<double> values = Flat(actual);
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(values[i], expected[i], std::abs(expected[i]) * 0x1p-24 * 1.001 + slack) << "element " << i;
  }
}

}  // namespace heddle::aggregation
