// The sums of all tensors of a round's updates, exact and independent of order (fixed_point.h): what every method that
// averages is made of. It counts weights and spills in time. Not thread-safe; uses options.threads itself.
//
// A sum is four times as long to read and write as an update is to read, so updates wait until a few can be added in
// one pass: Add keeps a share of the update's tensors until then, of at most kMaxWaitingBytes together (a longer update
// does not wait). Settle adds what waits; it comes before anything is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/fixed_point.h"

namespace heddle::aggregation {

class WeightedSums {
 public:
  // Of updates with this spec. Errors: kInvalidArgument for bounds that leave the sums no precision;
  // kResourceExhausted.
  static Result<WeightedSums> Make(const StateDictSpec& spec, const AggregatorOptions& options);

  // Adds update * factor with this weight; the weight counts whatever the factor, 0 <= factor <= 1. The caller has
  // checked the update (CheckUpdateSpec) and the weight (1 .. max_num_examples). Errors: kResourceExhausted after
  // max_updates and without memory; the sum is then the same as before.
  Status Add(const StateDict& update, uint64_t weight, double factor = 1);
  // Adds what waits, and lets go of it. Changes no figure; nothing to do where nothing waits.
  void Settle();

  uint64_t num_updates() const { return num_updates_; }
  uint64_t total_weight() const { return total_weight_; }

  // out[i] = the weighted mean of element begin + i of the tensor, in double. At least one update was added, and none
  // waits (asserted).
  void Mean(std::string_view name, size_t begin, std::span<double> out) const {
    At(name).sum.Mean(total_weight_, begin, out);
  }
  // out = float(parent + mean), for the whole tensor.
  void MeanOnto(std::string_view name, std::span<const float> parent, std::span<float> out) const;
  // Gives the memory of a tensor's sum back.
  void Release(std::string_view name);

 private:
  struct Slot {
    std::string name;
    size_t offset;  // of its first element among all
    FixedPointSum sum;
  };
  struct Waiting {
    std::vector<Tensor> tensors;  // in the order of slots_
    uint64_t weight;
    double factor;
  };
  static constexpr size_t kMaxWaitingBytes = 48 << 20, kMaxWaiting = 8;

  WeightedSums(FixedPointGrid grid, const AggregatorOptions& options)
      : grid_(grid), max_updates_(options.max_updates), threads_(options.threads) {}

  const Slot& At(std::string_view name) const;
  Status Spill();
  template <typename Work>
  void ForRanges(const Work& work);

  FixedPointGrid grid_;
  uint64_t max_updates_;
  unsigned threads_;
  std::vector<Slot> slots_;  // in name order
  size_t num_elements_ = 0;
  uint64_t num_updates_ = 0;
  uint64_t total_weight_ = 0;
  uint64_t low_weight_ = 0;  // added or waiting since the low limbs last spilled
  std::vector<Waiting> waiting_;
  size_t waiting_bytes_ = 0;
};

}  // namespace heddle::aggregation
