// SPRY (Panchal et al., 2405.15551): w += the mean, weighted by examples, of what the devices of a tensor's group sent;
// a tensor that no device of the round trained stays as it is.
#include <map>
#include <new>

#include "aggregation/averaging/methods.h"
#include "aggregation/layer_groups.h"
#include "aggregation/update_check.h"
#include "aggregation/weighted_sums.h"

namespace heddle::aggregation {
namespace {

constexpr double kMostGroups = 4096;

class Spry final : public Aggregator {
 public:
  Spry(const StateDict& parent, const AggregatorOptions& options, uint32_t groups)
      : parent_(parent), options_(options), groups_(groups) {}

  // Errors: those of WeightedSums.
  Status Prepare() {
    const StateDictSpec whole = UpdateSpec(SpecOf(parent_), {}, 0);
    for (const auto& [name, spec] : whole) {
      const bool everywhere = groups_ > 1 && InLayerGroup(name, groups_, 0) && InLayerGroup(name, groups_, 1);
      for (uint32_t group = 0; group < groups_; ++group) {
        if (InLayerGroup(name, groups_, group)) specs_[group].emplace(name, spec);
      }
      // Tensors whose updates come from the same devices share a sum.
      uint32_t group = 0;
      while (!InLayerGroup(name, groups_, group)) ++group;
      sums_of_[everywhere ? groups_ : group].emplace(name, spec);
    }
    for (const auto& [key, spec] : sums_of_) {
      HEDDLE_ASSIGN_OR_RETURN(WeightedSums sums, WeightedSums::Make(spec, options_));
      sums_.emplace(key, std::move(sums));
    }
    return OkStatus();
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return CheckUpdate(update, info, SpecFor(info), options_);
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    const Validity validity = CheckUpdateSpec(update, info, SpecFor(info), options_);
    if (!validity.ok()) return InvalidArgument(validity.message);
    if (num_folded_ >= options_.max_updates) return ResourceExhausted("the round has its most updates");
    const uint32_t group = GroupOf(info);
    for (const uint32_t key : {group, groups_}) {
      const auto sums = sums_.find(key);
      if (sums == sums_.end()) continue;
      StateDict part;
      for (const auto& [name, spec] : sums_of_.at(key)) part.emplace(name, update.at(name));
      if (const Status added = sums->second.Add(part, info.num_examples); !added.ok()) {
        broken_ = true;  // perhaps one of two sums has it
        return added;
      }
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
      for (auto& [key, sums] : sums_) {
        if (sums.num_updates() == 0) continue;
        for (const auto& [name, spec] : sums_of_.at(key)) {
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
  uint32_t GroupOf(const UpdateInfo& info) const {
    return LayerGroupOf(options_.seed, options_.round, info.device, groups_);
  }
  const StateDictSpec& SpecFor(const UpdateInfo& info) const {
    static const StateDictSpec nothing;
    const auto found = specs_.find(GroupOf(info));
    return found == specs_.end() ? nothing : found->second;
  }

  StateDict parent_;
  AggregatorOptions options_;
  uint32_t groups_;
  std::map<uint32_t, StateDictSpec> specs_;    // of the update of a device of that group
  std::map<uint32_t, StateDictSpec> sums_of_;  // tensors by group; `groups_`: those of all groups
  std::map<uint32_t, WeightedSums> sums_;
  uint64_t num_folded_ = 0, total_examples_ = 0;
  bool broken_ = false;
};

}  // namespace

Method SpryMethod() {
  return {.name = "SPRY",
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict&) -> Result<std::unique_ptr<Aggregator>> {
            auto made = std::make_unique<Spry>(parent, options, LayerGroupsOf("SPRY", options));
            HEDDLE_RETURN_IF_ERROR(made->Prepare());
            return std::unique_ptr<Aggregator>(std::move(made));
          },
          .settings = {{"layer_groups", "groups that the layers are split into; 0: cohort_size", 0, 0, kMostGroups,
                        /*whole=*/true}}};
}

}  // namespace heddle::aggregation
