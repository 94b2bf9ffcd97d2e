// What a robust rule sees of a round: all its updates, in the order of their devices' names, to be read in blocks of
// columns; and where it writes the step from the parent to the next model. Rules are functions of a RobustRound, and
// MakeRobust makes an Aggregator of one.
//
// Memory: beside the parent and the next model one block (kBlockBytes), however many updates there are. A rule runs its
// blocks one after the other; threads share the work inside a block without changing a bit.
//
// Weights: a device says itself how many examples it has, so rules that must hold against devices do not listen to it
// unless they say so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "aggregation/method.h"
#include "aggregation/robust/columns.h"
#include "aggregation/robust/selection.h"
#include "aggregation/robust/update_spool.h"

namespace heddle::aggregation {

// Updates in memory at once.
inline constexpr size_t kBlockBytes = size_t{16} << 20;
// Most updates of a rule that compares each with each.
inline constexpr uint64_t kMaxCompared = 2048;

struct Block {
  size_t begin, count;  // columns
  const float* values;  // values[k * count + j]: column begin + j of the k-th of the rows asked for
  const float* row(size_t k) const { return values + k * count; }
};

class RobustRound {
 public:
  struct Slot {
    std::string name;
    Tensor parent;
    size_t offset;          // its first column
    std::span<float> next;  // written by Step
    Tensor tensor;          // that owns `next`
  };

  // `order`: the spool's rows by their devices' names. All must outlive the object.
  RobustRound(const UpdateSpool& spool, std::span<const size_t> order, std::span<const UpdateInfo> infos,
              const AggregatorOptions& options, const StateDict& state, std::vector<Slot>* slots)
      : spool_(spool), order_(order), infos_(infos), options_(options), state_(state), slots_(*slots) {}

  size_t size() const { return order_.size(); }  // updates
  size_t columns() const { return spool_.columns(); }
  const UpdateInfo& info(size_t k) const { return infos_[order_[k]]; }  // of the k-th update by name
  double setting(std::string_view name) const;                          // that the method declares
  unsigned threads() const { return options_.threads; }
  const AggregatorOptions& options() const { return options_; }
  const StateDict& state() const { return state_; }
  const std::vector<Slot>& slots() const { return slots_; }

  // body(block) for all columns of the updates `rows` (from 0 to size() - 1), in order. Errors: those of the spool.
  Status ForBlocks(std::span<const size_t> rows, const std::function<void(const Block&)>& body) const;
  Status ForBlocks(const std::function<void(const Block&)>& body) const;  // of all updates

  // Squared distances between all pairs, in an order of additions that depends on the updates only. Errors: those of
  // the spool; kResourceExhausted.
  Result<PairMatrix> SquaredDistances() const;

  // next = float(parent + steps) for the columns from `begin` on.
  void Step(size_t begin, std::span<const double> steps);
  // The step is the mean of the updates with these weights, added in the order of the updates; zero when all weights
  // are. Errors: those of the spool.
  Status StepByMean(std::span<const double> weights);
  // The step is a rule of each column of the updates `rows`. Errors: those of the spool; kResourceExhausted.
  Status StepByColumns(std::span<const size_t> rows, ColumnRule rule, size_t cut);

  StateDict next_state;  // the rule may fill it

 private:
  const UpdateSpool& spool_;
  std::span<const size_t> order_;
  std::span<const UpdateInfo> infos_;
  const AggregatorOptions& options_;
  const StateDict& state_;
  std::vector<Slot>& slots_;
};

struct RobustRule {
  std::string_view name;
  // Updates that it needs with these settings. Fewer: Finish fails with kFailedPrecondition, and when options.cohort is
  // known to be fewer there is no aggregator at all (kInvalidArgument).
  uint64_t (*min_updates)(const Settings& settings);
  // Writes every column of the step. Errors: those of the spool; kInvalidArgument for settings that the number of
  // updates does not allow. May throw std::bad_alloc.
  Status (*run)(RobustRound* round);
  bool compares_pairs = false;  // then kMaxCompared holds
};

Result<std::unique_ptr<Aggregator>> MakeRobust(const RobustRule& rule, const StateDict& parent,
                                               const AggregatorOptions& options, const StateDict& state);

}  // namespace heddle::aggregation
