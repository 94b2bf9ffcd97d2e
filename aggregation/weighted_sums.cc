#include "aggregation/weighted_sums.h"

#include <algorithm>
#include <new>

#include "aggregation/parallel.h"
#include "common/assert.h"

namespace heddle::aggregation {
namespace {

constexpr size_t kBlock = 4096;  // elements whose sums (32 KiB) stay near the processor while all updates are added

}  // namespace

Result<WeightedSums> WeightedSums::Make(const StateDictSpec& spec, const AggregatorOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(const FixedPointGrid grid,
                          FixedPointGrid::Make(options.max_abs, options.max_num_examples, options.max_updates));
  WeightedSums sums(grid, options);
  try {
    for (const auto& [name, tensor] : spec) {
      HEDDLE_ASSIGN_OR_RETURN(const int64_t elements, NumElements(tensor.shape));
      const auto size = static_cast<size_t>(elements);
      sums.slots_.push_back({name, sums.num_elements_, FixedPointSum(grid, size)});
      sums.num_elements_ += size;
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory for the sums of the updates");
  }
  return sums;
}

Status WeightedSums::Add(const StateDict& update, uint64_t weight, double factor) {
  HEDDLE_ASSERT(update.size() == slots_.size(), "an update was checked before it is added");
  if (num_updates_ >= max_updates_) {
    return ResourceExhausted("the sum holds " + std::to_string(num_updates_) + " updates, as many as it may");
  }
  if (low_weight_ + weight > grid_.low_capacity()) HEDDLE_RETURN_IF_ERROR(Spill());
  try {
    Waiting waiting{{}, weight, factor};
    waiting.tensors.reserve(slots_.size());
    for (const auto& [name, tensor] : update) waiting.tensors.push_back(tensor);  // slots_ are sorted by name too
    waiting_.push_back(std::move(waiting));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory to hold an update until it is added");
  }
  low_weight_ += weight;
  total_weight_ += weight;
  ++num_updates_;
  const size_t bytes = num_elements_ * sizeof(float);
  waiting_bytes_ += bytes;
  if (waiting_.size() == kMaxWaiting || waiting_bytes_ + bytes > kMaxWaitingBytes) Settle();
  return OkStatus();
}

void WeightedSums::Settle() {
  if (waiting_.empty()) return;
  ForRanges([&](size_t slot, size_t begin, size_t count) {
    for (size_t done = 0; done < count; done += kBlock) {
      const size_t first = begin + done, size = std::min(kBlock, count - done);
      for (const Waiting& update : waiting_) {
        const auto part = update.tensors[slot].values<float>().subspan(first, size);
        if (update.factor == 1) {
          slots_[slot].sum.Add(part, update.weight, first);
        } else {
          slots_[slot].sum.AddScaled(part, update.weight, update.factor, first);
        }
      }
    }
  });
  waiting_.clear();
  waiting_bytes_ = 0;
}

void WeightedSums::MeanOnto(std::string_view name, std::span<const float> parent, std::span<float> out) const {
  const FixedPointSum& sum = At(name).sum;
  ParallelRanges(out.size(), threads_, [&](size_t begin, size_t end) {
    const size_t count = end - begin;
    sum.MeanOnto(parent.subspan(begin, count), total_weight_, begin, out.subspan(begin, count));
  });
}

void WeightedSums::Release(std::string_view name) { const_cast<Slot&>(At(name)).sum = FixedPointSum(grid_, 0); }

const WeightedSums::Slot& WeightedSums::At(std::string_view name) const {
  const auto slot = std::lower_bound(slots_.begin(), slots_.end(), name,
                                     [](const Slot& s, std::string_view wanted) { return s.name < wanted; });
  HEDDLE_ASSERT(slot != slots_.end() && slot->name == name, "a sum is asked for a tensor of its spec");
  HEDDLE_ASSERT(waiting_.empty(), "what waits is added before a sum is read");
  return *slot;
}

// Runs work(slot, begin, count) over all elements, split over the threads across tensors.
template <typename Work>
void WeightedSums::ForRanges(const Work& work) {
  ParallelRanges(num_elements_, threads_, [&](size_t begin, size_t end) {
    for (size_t i = 0; i < slots_.size(); ++i) {
      const size_t first = std::max(begin, slots_[i].offset);
      const size_t last = std::min(end, slots_[i].offset + slots_[i].sum.size());
      if (first < last) work(i, first - slots_[i].offset, last - first);
    }
  });
}

// First all memory, then all changes, so that a failure changes nothing.
Status WeightedSums::Spill() {
  try {
    for (Slot& slot : slots_) slot.sum.ReserveSpill();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory for the second limb of the sums");
  }
  Settle();
  ForRanges([&](size_t slot, size_t begin, size_t count) { slots_[slot].sum.Spill(begin, begin + count); });
  low_weight_ = 0;
  return OkStatus();
}

}  // namespace heddle::aggregation
