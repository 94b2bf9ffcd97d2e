// An Aggregator of one function that merges the factors of a module: checks updates, keeps their factors in a scratch
// file, merges module by module when the round ends, and averages all other tensors as FedAvg does.
//
// Memory: of the factors, those of one module a thread; the next model; the sums of the other tensors. What is folded
// into the base can be larger than the adapter by far and is handed over as a mapped scratch file. Internal to
// low_rank.
#pragma once

#include <memory>
#include <vector>

#include "aggregation/low_rank/merge.h"
#include "aggregation/method.h"

namespace heddle::aggregation::low_rank {

struct MergeRule {
  // Errors: those of the Merge's functions. May throw std::bad_alloc.
  Result<Merged> (*merge)(const Merge& merge);
  bool needs_fresh = false;  // calls FreshFactors
  DeviceRules rules = {.mixed_ranks = true};
};

// Errors: kInvalidArgument for a parent that is not plain LoRA (FactorPairs; DoRA, whose product is not what is added
// to the base), a scaling that is not above 0, needs_fresh without options.fresh_adapter or with one of another shape;
// those of ScratchFile; kResourceExhausted.
Result<std::unique_ptr<Aggregator>> MakeMerging(const MergeRule& rule, const StateDict& parent,
                                                const AggregatorOptions& options);

// Settings of methods whose Merged has a base: how large it may grow before its factors are recomputed.
inline constexpr Setting kMaxBaseRank{
    "max_base_rank", "most columns of what is folded into a layer's base, the rest is lost; 0: as many as it needs", 0,
    0, 65536};
inline constexpr Setting kBaseTolerance{
    "base_tolerance",
    "part of the largest singular value below which one is dropped when the base's factors are recomputed", 0x1p-27, 0,
    1};

}  // namespace heddle::aggregation::low_rank
