#include "aggregation/averaging/mean_aggregator.h"

#include <algorithm>
#include <array>
#include <new>

#include "aggregation/parallel.h"
#include "aggregation/update_check.h"
#include "common/assert.h"

namespace heddle::aggregation {
namespace {

constexpr size_t kPart = 1024;          // elements whose means are in hand at once
constexpr size_t kPerThread = 1 << 16;  // worth a thread: a call and a few divisions each

}  // namespace

Validity MeanAggregator::Validate(const StateDict& update, const UpdateInfo& info) const {
  const Validity validity = CheckUpdate(update, info, spec_, options_);
  return validity.ok() ? CheckInfo(info) : validity;
}

Status MeanAggregator::Fold(const StateDict& update, const UpdateInfo& info) {
  Validity validity = CheckUpdateSpec(update, info, spec_, options_);
  if (validity.ok()) validity = CheckInfo(info);
  if (!validity.ok()) return InvalidArgument(validity.message);
  const Share share = ShareOf(info);
  HEDDLE_RETURN_IF_ERROR(sums_.Add(update, share.weight, share.factor));
  total_examples_ += info.num_examples;
  Count(info);
  return OkStatus();
}

Result<RoundModel> MeanAggregator::Finish() && {
  if (sums_.num_updates() == 0) return FailedPrecondition("no update was folded, so there is no mean");
  try {
    sums_.Settle();
    return Next();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory for the mean of the updates");
  }
}

double MeanAggregator::setting(std::string_view name) const {
  const auto found = options_.method.find(name);
  HEDDLE_ASSERT(found != options_.method.end(), "a method reads the settings that it declares");
  return found->second;
}

Tensor MeanAggregator::Moved(const std::string& name, const Tensor* start,
                             const std::function<double(size_t, double)>& step) const {
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate(spec_.at(name), &bytes);
  const std::span<float> values(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
  const std::span<const float> from = start == nullptr ? std::span<const float>() : start->values<float>();
  const auto move = [&](size_t begin, size_t end) {
    std::array<double, kPart> means;
    for (; begin < end; begin += kPart) {
      const std::span<double> part = std::span(means).first(std::min(kPart, end - begin));
      sums_.Mean(name, begin, part);
      for (size_t i = 0; i < part.size(); ++i) {
        const double at = from.empty() ? 0.0 : static_cast<double>(from[begin + i]);
        values[begin + i] = static_cast<float>(at + step(begin + i, part[i]));
      }
    }
  };
  ParallelRanges(values.size(), options_.threads, move, kPerThread);
  return out;
}

Result<const Tensor*> Remembered(const StateDict& state, const std::string& name, const TensorSpec& spec) {
  if (state.empty()) return static_cast<const Tensor*>(nullptr);
  const auto found = state.find(name);
  if (found == state.end())
    return InvalidArgument("the method's state has no '" + name + "', which the model asks for");
  if (found->second.spec() != spec) {
    return InvalidArgument("the method's state has '" + name + "' as " + found->second.spec().ToString() +
                           " and the model asks for " + spec.ToString());
  }
  return &found->second;
}

}  // namespace heddle::aggregation
