#include "aggregation/fed_avg.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "aggregation/fixed_point.h"
#include "aggregation/parallel.h"
#include "aggregation/update_check.h"

namespace heddle::aggregation {
namespace {

class FedAvg final : public Aggregator {
 public:
  FedAvg(const StateDict& parent, const AggregatorOptions& options, FixedPointGrid grid)
      : spec_(UpdateSpec(SpecOf(parent), {}, 0)), options_(options), grid_(grid) {
    for (const auto& [name, tensor] : parent) {
      if (!spec_.contains(name)) {
        rest_.emplace(name, tensor);
        continue;
      }
      const auto size = static_cast<size_t>(tensor.numel());
      slots_.push_back({name, tensor, num_elements_, FixedPointSum(grid, size)});
      num_elements_ += size;
    }
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return CheckUpdate(update, info, spec_, options_);
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    Validity validity = CheckUpdateSpec(update, info, spec_, options_);
    if (!validity.ok()) return InvalidArgument(validity.message);
    if (num_folded_ >= options_.max_updates) {
      return ResourceExhausted("the sum holds " + std::to_string(num_folded_) + " updates, as many as it may");
    }
    const uint64_t weight = info.num_examples;
    if (low_weight_ + weight > grid_.low_capacity()) HEDDLE_RETURN_IF_ERROR(Spill());
    std::vector<std::span<const float>> values;  // in the order of slots_: both are sorted by name
    values.reserve(slots_.size());
    for (const auto& [name, tensor] : update) values.push_back(tensor.values<float>());
    ForRanges([&](size_t slot, size_t begin, size_t count) {
      slots_[slot].sum.Add(values[slot].subspan(begin, count), weight, begin);
    });
    low_weight_ += weight;
    total_examples_ += weight;
    ++num_folded_;
    return OkStatus();
  }

  uint64_t num_folded() const override { return num_folded_; }
  uint64_t total_examples() const override { return total_examples_; }

  Result<RoundModel> Finish() && override {
    if (num_folded_ == 0) return FailedPrecondition("no update was folded, so there is no mean");
    try {
      return RoundModel{Mean(), {}};
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for the mean of the updates");
    }
  }

 private:
  struct Slot {
    std::string name;
    Tensor parent;
    size_t offset;  // of its first element among all of the model
    FixedPointSum sum;
  };

  StateDict Mean() {
    StateDict next = rest_;
    for (Slot& slot : slots_) {
      std::span<std::byte> bytes;
      Tensor out = Tensor::Allocate(slot.parent.spec(), &bytes);
      const std::span<float> result(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
      const std::span<const float> parent = slot.parent.values<float>();
      ParallelRanges(result.size(), options_.threads, [&](size_t begin, size_t end) {
        const size_t count = end - begin;
        slot.sum.MeanOnto(parent.subspan(begin, count), total_examples_, begin, result.subspan(begin, count));
      });
      next.emplace(slot.name, std::move(out));
      slot.sum = FixedPointSum(grid_, 0);  // memory of the sums goes as that of the result comes
    }
    return next;
  }

  // Runs work(slot, begin, count) over all elements, split over the threads across tensors.
  template <typename Work>
  void ForRanges(const Work& work) {
    ParallelRanges(num_elements_, options_.threads, [&](size_t begin, size_t end) {
      for (size_t i = 0; i < slots_.size(); ++i) {
        const size_t first = std::max(begin, slots_[i].offset);
        const size_t last = std::min(end, slots_[i].offset + slots_[i].sum.size());
        if (first < last) work(i, first - slots_[i].offset, last - first);
      }
    });
  }

  // First all memory, then all changes, so that a failure changes nothing.
  Status Spill() {
    try {
      for (Slot& slot : slots_) slot.sum.ReserveSpill();
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for the second limb of the sums");
    }
    ForRanges([&](size_t slot, size_t begin, size_t count) { slots_[slot].sum.Spill(begin, begin + count); });
    low_weight_ = 0;
    return OkStatus();
  }

  StateDictSpec spec_;  // of updates
  StateDict rest_;      // of the parent: what does not travel
  AggregatorOptions options_;
  FixedPointGrid grid_;
  std::vector<Slot> slots_;  // in name order
  size_t num_elements_ = 0;
  uint64_t num_folded_ = 0;
  uint64_t total_examples_ = 0;
  uint64_t low_weight_ = 0;  // folded since the low limbs last spilled
};

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options, const StateDict&) {
  auto grid = FixedPointGrid::Make(options.max_abs, options.max_num_examples, options.max_updates);
  if (!grid.ok()) return grid.status();
  try {
    return std::unique_ptr<Aggregator>(std::make_unique<FedAvg>(parent, options, *grid));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory for the sums of " + std::to_string(TotalBytes(parent)) +
                             " bytes of model");
  }
}

}  // namespace

Method FedAvgMethod() { return {.name = "FedAvg", .make = Make}; }

}  // namespace heddle::aggregation
