#include "aggregation/parts/layerwise_mean.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <new>
#include <optional>
#include <span>
#include <utility>

#include "aggregation/layer_groups.h"
#include "aggregation/update_check.h"
#include "aggregation/weighted_sums.h"
#include "common/test_hooks.h"

namespace heddle::aggregation {
namespace {

// Of a planted bug.
StateDict ZerosOf(const StateDictSpec& specs) {
  StateDict zeros;
  std::span<std::byte> bytes;
  for (const auto& [name, spec] : specs) zeros.emplace(name, Tensor::Allocate(spec, &bytes));
  return zeros;
}

class LayerwiseMean final : public Aggregator {
 public:
  LayerwiseMean(const StateDict& parent, const AggregatorOptions& options, SentByDevice sent)
      : parent_(parent), options_(options), sent_(std::move(sent)), whole_(UpdateSpec(SpecOf(parent), {}, 0)) {}

  // Errors: those of WeightedSums.
  Status Prepare() {
    for (const auto& [name, spec] : whole_) specs_[LayerOfKey(name)].emplace(name, spec);
    for (const auto& [layer, spec] : specs_) {
      HEDDLE_ASSIGN_OR_RETURN(WeightedSums sums, WeightedSums::Make(spec, options_));
      sums_.emplace(layer, std::move(sums));
    }
    return OkStatus();
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return CheckUpdate(update, info, Expected(update, info), options_);
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    const Validity validity = CheckUpdateSpec(update, info, Expected(update, info), options_);
    if (!validity.ok()) return InvalidArgument(validity.message);
    if (num_folded_ >= options_.max_updates) return ResourceExhausted("the round has its most updates");
    for (auto& [layer, sums] : sums_) {
      StateDict part;
      for (const auto& [name, spec] : specs_.at(layer)) {
        if (const auto found = update.find(name); found != update.end()) part.emplace(name, found->second);
      }
      if (part.empty() && HEDDLE_PLANTED(kWeighAbsentDevices)) part = ZerosOf(specs_.at(layer));
      if (part.empty()) continue;
      if (const Status added = sums.Add(part, info.num_examples); !added.ok()) {
        broken_ = true;  // perhaps some sums have it
        return added;
      }
      sums.Settle();  // many sums, each with updates that wait, would hold many updates
    }
    ++num_folded_;
    total_examples_ += info.num_examples;
    return OkStatus();
  }

  uint64_t num_folded() const override { return num_folded_; }
  uint64_t total_examples() const override { return total_examples_; }

  Result<RoundModel> Finish() && override {
    if (num_folded_ == 0) return FailedPrecondition("no update was folded, so there is no mean");
    if (broken_) return ResourceExhausted("there was no memory for an update of the round");
    try {
      RoundModel made{parent_, {}};
      for (auto& [layer, sums] : sums_) {
        if (sums.num_updates() == 0) continue;
        for (const auto& [name, spec] : specs_.at(layer)) {
          std::span<std::byte> bytes;
          Tensor out = Tensor::Allocate(spec, &bytes);
          const std::span<float> result(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
          sums.MeanOnto(name, parent_.at(name).values<float>(), result);
          made.model[name] = std::move(out);
          sums.Release(name);
        }
      }
      return made;
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for the mean of the updates");
    }
  }

 private:
  // What `update` must hold.
  StateDictSpec Expected([[maybe_unused]] const StateDict& update, const UpdateInfo& info) const {
    StateDictSpec spec = sent_(info, whole_);
    if (HEDDLE_PLANTED(kTakeOtherLayers)) {
      std::copy_if(whole_.begin(), whole_.end(), std::inserter(spec, spec.end()),
                   [&](const auto& item) { return update.contains(item.first); });
    }
    return spec;
  }

  StateDict parent_;
  AggregatorOptions options_;
  SentByDevice sent_;
  StateDictSpec whole_;
  std::map<std::optional<uint32_t>, StateDictSpec> specs_;
  std::map<std::optional<uint32_t>, WeightedSums> sums_;
  uint64_t num_folded_ = 0, total_examples_ = 0;
  bool broken_ = false;
};

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeLayerwiseMean(const StateDict& parent, const AggregatorOptions& options,
                                                      SentByDevice sent) {
  auto made = std::make_unique<LayerwiseMean>(parent, options, std::move(sent));
  HEDDLE_RETURN_IF_ERROR(made->Prepare());
  return std::unique_ptr<Aggregator>(std::move(made));
}

}  // namespace heddle::aggregation
