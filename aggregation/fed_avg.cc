#include "aggregation/fed_avg.h"

#include <algorithm>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "aggregation/fixed_point.h"
#include "aggregation/update_check.h"

namespace heddle::aggregation {
namespace {

// Below this a thread costs more than it saves.
constexpr size_t kElementsPerThread = size_t{1} << 18;

class FedAvg final : public Aggregator {
 public:
  FedAvg(const StateDict& parent, const AggregatorOptions& options, FixedPointGrid grid)
      : parent_(parent), spec_(SpecOf(parent)), options_(options), grid_(grid) {
    for (const auto& [name, tensor] : parent_) sums_[name].resize(static_cast<size_t>(tensor.numel()));
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
    for (const auto& [name, tensor] : update) AddTensor(tensor.values<float>(), info.num_examples, sums_.at(name));
    ++num_folded_;
    total_examples_ += info.num_examples;
    return OkStatus();
  }

  uint64_t num_folded() const override { return num_folded_; }
  uint64_t total_examples() const override { return total_examples_; }

  Result<StateDict> Finish() && override {
    if (num_folded_ == 0) return FailedPrecondition("nothing was folded, so there is no mean");
    StateDict next;
    for (const auto& [name, tensor] : parent_) {
      std::span<std::byte> bytes;
      Tensor out = Tensor::Allocate(tensor.spec(), &bytes);
      std::span<float> values(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
      grid_.MeanOnto(tensor.values<float>(), sums_.at(name), total_examples_, values);
      next.emplace(name, std::move(out));
      sums_.erase(name);
    }
    return next;
  }

 private:
  void AddTensor(std::span<const float> x, uint64_t weight, std::span<int64_t> sum) const {
    size_t threads = std::clamp<size_t>(x.size() / kElementsPerThread, 1, std::max(1U, options_.threads));
    size_t share = (x.size() / threads + 15) / 16 * 16;
    std::vector<std::jthread> helpers;
    for (size_t t = 1; t < threads; ++t) {
      size_t begin = std::min(t * share, x.size());
      size_t count = t + 1 == threads ? x.size() - begin : std::min(share, x.size() - begin);
      helpers.emplace_back([=, this] { grid_.Add(x.subspan(begin, count), weight, sum.subspan(begin, count)); });
    }
    size_t first = threads == 1 ? x.size() : std::min(share, x.size());
    grid_.Add(x.first(first), weight, sum.first(first));
  }

  StateDict parent_;
  StateDictSpec spec_;
  AggregatorOptions options_;
  FixedPointGrid grid_;
  std::map<std::string, std::vector<int64_t>, std::less<>> sums_;
  uint64_t num_folded_ = 0;
  uint64_t total_examples_ = 0;
};

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeFedAvg(const StateDict& parent, const AggregatorOptions& options) {
  if (!options.method.empty()) {
    return InvalidArgument("FedAvg has no setting '" + options.method.begin()->first + "'");
  }
  auto grid = FixedPointGrid::Make(options.max_abs, options.max_num_examples, options.max_updates);
  if (!grid.ok()) return grid.status();
  return std::unique_ptr<Aggregator>(new FedAvg(parent, options, *grid));
}

}  // namespace heddle::aggregation
