// What methods that take a mean of the updates have in common: checking, exact sums, counting. A method derives from
// it, says what an update weighs, and makes the next model of the means. Internal to the room.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "aggregation/method.h"
#include "aggregation/weighted_sums.h"

namespace heddle::aggregation {

class MeanAggregator : public Aggregator {
 public:
  // `rules` are those of the method: they say what an update holds.
  MeanAggregator(const StateDict& parent, const AggregatorOptions& options, const StateDict& state,
                 const DeviceRules& rules, WeightedSums sums)
      : parent_(parent),
        options_(options),
        state_(state),
        spec_(UpdateSpec(SpecOf(parent), rules, 0)),
        sums_(std::move(sums)) {}

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override;
  Status Fold(const StateDict& update, const UpdateInfo& info) final;
  uint64_t num_folded() const final { return sums_.num_updates(); }
  uint64_t total_examples() const final { return total_examples_; }
  Result<RoundModel> Finish() && final;

 protected:
  struct Share {
    uint64_t weight;
    double factor = 1;  // at most 1
  };
  virtual Share ShareOf(const UpdateInfo& info) const { return {info.num_examples}; }
  // What the method asks beside the spec and num_examples.
  virtual Validity CheckInfo(const UpdateInfo&) const { return {}; }
  virtual void Count(const UpdateInfo&) {}  // an update was added
  // Called once, with at least one update. May throw std::bad_alloc.
  virtual Result<RoundModel> Next() = 0;

  // A new tensor, float(start + step(i, mean)) for each element in double. `start` is null: zeros.
  Tensor Moved(const std::string& name, const Tensor* start, const std::function<double(size_t, double)>& step) const;

  const StateDict& parent() const { return parent_; }
  const StateDict& state() const { return state_; }
  const StateDictSpec& update_spec() const { return spec_; }
  const AggregatorOptions& options() const { return options_; }
  double setting(std::string_view name) const;
  WeightedSums& sums() { return sums_; }
  const WeightedSums& sums() const { return sums_; }

 private:
  StateDict parent_;
  AggregatorOptions options_;
  StateDict state_;
  StateDictSpec spec_;
  WeightedSums sums_;
  uint64_t total_examples_ = 0;
};

// Makes an aggregator derived from MeanAggregator: a constructor (parent, options, state, rules, sums). With
// `equal_weights` every update weighs 1, which leaves the sums the most precision.
template <typename T>
Result<std::unique_ptr<Aggregator>> MakeMean(const StateDict& parent, const AggregatorOptions& options,
                                             const StateDict& state, const DeviceRules& rules,
                                             bool equal_weights = false) {
  AggregatorOptions of_sums = options;
  if (equal_weights) of_sums.max_num_examples = 1;
  HEDDLE_ASSIGN_OR_RETURN(WeightedSums sums, WeightedSums::Make(UpdateSpec(SpecOf(parent), rules, 0), of_sums));
  return std::unique_ptr<Aggregator>(std::make_unique<T>(parent, options, state, rules, std::move(sums)));
}

// The tensor of a state that belongs to a tensor of the model; null when the state is that of the first round (empty).
// Errors: kInvalidArgument when it is missing in another round or has another shape.
Result<const Tensor*> Remembered(const StateDict& state, const std::string& name, const TensorSpec& spec);

}  // namespace heddle::aggregation
