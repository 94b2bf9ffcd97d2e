// Rounds of methods with shared seeds in tests: a small adapter, options, scalars and what devices send.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "aggregation/ledger/ledger_model.h"
#include "aggregation/ledger/methods.h"
#include "common/random.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::aggregation {

inline constexpr uint32_t kPool = 24;

inline StateDict Start() {
  PhiloxStream random(7);
  StateDict start;
  for (const char* name : {"base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"}) {
    std::vector<float> values(60);
    for (float& value : values) value = 0.1F * (random.NextUniform() - 0.5F);
    start.emplace(name, Tensor::FromFloats({6, 10}, values));
  }
  return start;
}

inline AggregatorOptions Options(uint32_t round, uint32_t steps = 10, uint32_t perturbations = 1) {
  AggregatorOptions options;
  options.seed = 5;
  options.round = round;
  options.zo = {.learning_rate = 1e-4,
                .local_steps = steps,
                .num_perturbations = perturbations,
                .epsilon = 1e-3,
                .max_scalar = 100};
  options.method["resolution_bits"] = 30;
  options.parent_digest = Sha256("start");
  options.load_model = [](const Sha256Digest& digest) -> Result<StateDict> {
    if (digest != Sha256("start")) return NotFound("no such model");
    return Start();
  };
  return options;
}

inline AggregatorOptions PoolOptions(uint32_t round) {
  AggregatorOptions options = Options(round);
  options.method["pool_size"] = kPool;
  return options;
}

inline StateDict Update(const Sha256Digest& weights, std::vector<zo::Scalar> steps) {
  std::sort(steps.begin(), steps.end(), [](const auto& a, const auto& b) { return a.ref < b.ref; });
  const zo::Scalars scalars{.steps = std::move(steps), .weights = weights, .skipped = 0};
  return {{std::string(kScalarsName), ByteTensor(zo::EncodeScalars(scalars, zo::ScalarFormat::kFloat32))}};
}

inline std::vector<zo::Scalar> Random(uint64_t key, uint64_t first, uint32_t refs, size_t count, bool distinct) {
  PhiloxStream random(key);
  std::vector<zo::Scalar> steps;
  for (size_t i = 0; i < count; ++i) {
    steps.push_back({first + (distinct ? i : random.NextBelow(refs)), 40 * (random.NextUniform() - 0.5F)});
  }
  return steps;
}

inline Sha256Digest StartDigest() { return zo::DigestOfWeights(WeightsOf(Start(), 1e-3)->parameters); }

struct Sender {
  std::string device;
  uint64_t examples;
  std::vector<zo::Scalar> steps;
};
inline Result<RoundModel> Merge(std::string_view method, const AggregatorOptions& options, const RoundModel& parent,
                                const Sha256Digest& weights, const std::vector<Sender>& senders) {
  HEDDLE_ASSIGN_OR_RETURN(auto aggregator, MakeAggregator(method, parent.model, options, parent.state));
  for (const Sender& sender : senders) {
    const UpdateInfo info{.num_examples = sender.examples, .num_steps = 1, .rank = 0, .device = sender.device};
    const StateDict update = Update(weights, sender.steps);
    const Validity validity = aggregator->Validate(update, info);
    if (!validity.ok()) return InvalidArgument(validity.message);
    HEDDLE_RETURN_IF_ERROR(aggregator->Fold(update, info));
  }
  return std::move(*aggregator).Finish();
}

inline std::map<uint64_t, int64_t> EntriesOf(const RoundModel& model) {
  std::map<uint64_t, int64_t> entries;
  const zo::Ledger ledger = *LedgerOf(model.model);
  for (const zo::LedgerEntry& entry : ledger.entries) entries[entry.ref] = entry.n;
  return entries;
}

inline AggregatorOptions FwdOptions(uint32_t round, double threshold) {
  AggregatorOptions options = Options(round, 1, 6);
  options.method = {{"candidates", 50}, {"variance_threshold", threshold}, {"resolution_bits", 30}};
  return options;
}

}  // namespace heddle::aggregation
