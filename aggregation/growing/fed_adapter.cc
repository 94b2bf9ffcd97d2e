#include "aggregation/growing/fed_adapter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <new>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "aggregation/figures.h"
#include "aggregation/growing/trials.h"

namespace heddle::aggregation {
namespace {

constexpr Setting kTrialRounds{"trial_rounds", "rounds of a trial of three sizes side by side", 4, 2, 1e6, true};
constexpr Setting kStartDepth{"start_depth", "layers from the top that have adapters at first", 1, 1, 4096, true};
constexpr Setting kStartWidth{"start_width", "their width at first", 8, 1, 65536, true};
constexpr Setting kWidthStep{"width_step", "by how much a group is wider", 8, 1, 65536, true};
constexpr Setting kSecondsPerStep{"seconds_per_step", "of a device's training step without adapters", 0.02, 0, 1e6};
constexpr Setting kSecondsPerLayer{"seconds_per_layer", "more for each layer that has adapters", 0.09, 0, 1e6};
constexpr Setting kBytesPerSecond{"bytes_per_second", "at which adapters travel; 0: in no time", 1e6, 0, 1e15};

constexpr const char* kBaseLoss = "base_loss";
constexpr double kUnknown = -std::numeric_limits<float>::max();  // nobody told a loss at the trial's begin
constexpr uint32_t kGroups = 3;
constexpr std::array<const char*, kGroups> kNames = {"as_it_is", "deeper", "wider"};

double SettingOf(const AggregatorOptions& options, const Setting& setting) {
  return options.method.find(setting.name)->second;
}

StateDict Under(std::string_view prefix, const StateDict& model) {
  StateDict out;
  for (auto it = model.lower_bound(prefix); it != model.end() && it->first.starts_with(prefix); ++it) {
    out.emplace_hint(out.end(), it->first.substr(prefix.size()), it->second);
  }
  return out;
}

// The model of a trial's begin: the adapter, and what the other groups make of it.
Result<StateDict> BeginTrial(const StateDict& adapter, const StateDict& reserve, const AggregatorOptions& options) {
  const auto size = SizeOfAdapters(adapter), largest = SizeOfAdapters(reserve);
  if (!size || !largest) {
    return InvalidArgument(
        "FedAdapter grows bottleneck adapters and the model has none; set tuning.method = \"bottleneck\"");
  }
  const auto depth = static_cast<int64_t>(size->layers.size()), most = static_cast<int64_t>(largest->layers.size());
  StateDict model;
  const auto add = [&](const std::string& prefix, const StateDict& tensors) {
    for (const auto& [key, tensor] : tensors) model.insert_or_assign(prefix + key, tensor);
  };
  add("", adapter);
  add(std::string(kReservePrefix), reserve);
  if (depth < most) {
    HEDDLE_ASSIGN_OR_RETURN(const StateDict deeper, Grown(adapter, reserve, depth + 1, size->width));
    add(std::string(kTrialPrefix) + "1.", deeper);
  }
  if (size->width < largest->width) {
    const auto step = static_cast<int64_t>(SettingOf(options, kWidthStep));
    HEDDLE_ASSIGN_OR_RETURN(const StateDict wider,
                            Grown(adapter, reserve, depth, std::min(largest->width, size->width + step)));
    add(std::string(kTrialPrefix) + "2.", wider);
  }
  return model;
}

Result<StateDict> Begin(const StateDict& adapter, const AggregatorOptions& options) {
  const auto largest = SizeOfAdapters(adapter);
  if (!largest) {
    return InvalidArgument(
        "FedAdapter grows bottleneck adapters and the model has none; set tuning.method = \"bottleneck\"");
  }
  StateDict others;  // a head
  for (const auto& [key, tensor] : adapter) {
    if (key.find(".adapter_") == std::string::npos) others.emplace(key, tensor);
  }
  const auto depth = static_cast<int64_t>(SettingOf(options, kStartDepth));
  const auto width = std::min(largest->width, static_cast<int64_t>(SettingOf(options, kStartWidth)));
  HEDDLE_ASSIGN_OR_RETURN(const StateDict small, Grown(others, adapter, depth, width));
  return BeginTrial(small, adapter, options);
}

// First loss and examples of an update, in the order of devices' names.
using Losses = std::multiset<std::tuple<std::string, double, double>>;

struct Group {
  StateDict start;
  std::unique_ptr<Aggregator> mean;
  Losses losses;
  double steps = 0;  // most of an update
};

// Weighted by examples; NaN when nobody told one.
double MeanOf(const Losses& losses) {
  double sum = 0, all = 0;
  for (const auto& [device, loss, examples] : losses) {
    sum += loss * examples;
    all += examples;
  }
  return all > 0 ? sum / all : std::numeric_limits<double>::quiet_NaN();
}

class FedAdapter final : public Aggregator {
 public:
  FedAdapter(const StateDict& parent, const AggregatorOptions& options, const StateDict& state)
      : parent_(parent), options_(options), state_(state) {}

  Status Prepare() {
    reserve_ = Under(kReservePrefix, parent_);
    if (reserve_.empty())
      return InvalidArgument("the model has no heddle.reserve, from which FedAdapter's adapters grow");
    const auto rounds = static_cast<uint32_t>(SettingOf(options_, kTrialRounds));
    first_ = (options_.round - 1) % rounds == 0;
    last_ = (options_.round - 1) % rounds == rounds - 1;
    if (!first_) {
      const auto found = state_.find(kBaseLoss);
      if (found == state_.end() || found->second.spec() != TensorSpec{DType::kF32, {1}}) {
        return InvalidArgument("the method's state lacks the loss at which its trial began");
      }
      base_loss_ = found->second.values<float>()[0];
      if (base_loss_ == kUnknown) base_loss_ = std::numeric_limits<double>::quiet_NaN();
    }
    AggregatorOptions of_mean = options_;
    of_mean.method.clear();
    of_mean.clip_norm = 0;  // before
    for (uint32_t g = 0; g < kGroups; ++g) {
      const std::string prefix = std::string(kTrialPrefix) + std::to_string(g) + ".";
      StateDict start = g == 0 ? GroupModel(parent_, 0) : Under(prefix, parent_);
      if (start.empty()) continue;
      HEDDLE_ASSIGN_OR_RETURN(auto mean, MakeAggregator("FedAvg", start, of_mean));
      groups_.emplace(g, Group{std::move(start), std::move(mean), {}});
    }
    return OkStatus();
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return groups_.at(GroupIn(info)).mean->Validate(update, info);
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    if (num_folded() >= options_.max_updates) {
      return ResourceExhausted("the round holds " + std::to_string(num_folded()) + " updates, as many as it may");
    }
    Group& group = groups_.at(GroupIn(info));
    HEDDLE_RETURN_IF_ERROR(group.mean->Fold(update, info));
    if (std::isfinite(info.first_loss)) {
      group.losses.emplace(info.device, info.first_loss, static_cast<double>(info.num_examples));
    }
    group.steps = std::max(group.steps, static_cast<double>(info.num_steps));
    return OkStatus();
  }

  uint64_t num_folded() const override {
    uint64_t all = 0;
    for (const auto& [g, group] : groups_) all += group.mean->num_folded();
    return all;
  }
  uint64_t total_examples() const override {
    uint64_t all = 0;
    for (const auto& [g, group] : groups_) all += group.mean->total_examples();
    return all;
  }

  Result<RoundModel> Finish() && override {
    if (num_folded() == 0) return FailedPrecondition("no update was folded, so there is no mean");
    try {
      if (first_) base_loss_ = LossOfAll();
      std::map<uint32_t, StateDict> next;
      for (auto& [g, group] : groups_) {
        next[g] = group.start;
        if (group.mean->num_folded() == 0) continue;
        HEDDLE_ASSIGN_OR_RETURN(RoundModel made, std::move(*group.mean).Finish());
        next[g] = std::move(made.model);
      }
      return last_ ? EndTrial(next) : GoOn(next);
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for the adapters of a trial");
    }
  }

 private:
  // A group that the model does not have trains what the first does.
  uint32_t GroupIn(const UpdateInfo& info) const { return groups_.contains(info.group) ? info.group : 0; }

  double LossOfAll() const {
    Losses all;
    for (const auto& [g, group] : groups_) all.insert(group.losses.begin(), group.losses.end());
    return MeanOf(all);
  }

  double SecondsOf(const Group& group) const {
    const auto size = SizeOfAdapters(group.start);
    const double depth = size ? static_cast<double>(size->layers.size()) : 0;
    const double rate = SettingOf(options_, kBytesPerSecond);
    const double transfer = rate > 0 ? 2 * static_cast<double>(TotalBytes(group.start)) / rate : 0;
    return group.steps * (SettingOf(options_, kSecondsPerStep) + SettingOf(options_, kSecondsPerLayer) * depth) +
           transfer;
  }

  RoundModel GoOn(const std::map<uint32_t, StateDict>& next) const {
    RoundModel made;
    for (const auto& [key, tensor] : reserve_) made.model.emplace(std::string(kReservePrefix) + key, tensor);
    for (const auto& [g, tensors] : next) {
      const std::string prefix = g == 0 ? "" : std::string(kTrialPrefix) + std::to_string(g) + ".";
      for (const auto& [key, tensor] : tensors) made.model.emplace(prefix + key, tensor);
    }
    const std::array<float, 1> loss = {static_cast<float>(std::isfinite(base_loss_) ? base_loss_ : kUnknown)};
    made.state.emplace(kBaseLoss, Tensor::FromFloats({1}, loss));
    return made;
  }

  Result<RoundModel> EndTrial(const std::map<uint32_t, StateDict>& next) const {
    uint32_t winner = 0;
    double best = -std::numeric_limits<double>::infinity();
    std::map<uint32_t, double> progress;
    for (const auto& [g, group] : groups_) {
      const double seconds = SecondsOf(group);
      const double fall = base_loss_ - MeanOf(group.losses);
      progress[g] = seconds > 0 ? fall / seconds : fall;
      if (!std::isfinite(progress[g]) || !(progress[g] > best)) continue;
      best = progress[g];
      winner = g;
    }
    HEDDLE_ASSIGN_OR_RETURN(StateDict model, BeginTrial(next.at(winner), reserve_, options_));
    for (const auto& [g, value] : progress) {
      if (std::isfinite(value)) SetFigure("progress_" + std::string(kNames[g]), value, &model);
    }
    const auto size = SizeOfAdapters(next.at(winner));
    SetFigure("adapter_depth", size ? static_cast<double>(size->layers.size()) : 0, &model);
    SetFigure("adapter_width", size ? static_cast<double>(size->width) : 0, &model);
    return RoundModel{std::move(model), {}};
  }

  StateDict parent_;
  AggregatorOptions options_;
  StateDict state_, reserve_;
  std::map<uint32_t, Group> groups_;
  bool first_ = false, last_ = false;
  double base_loss_ = 0;
};

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  auto made = std::make_unique<FedAdapter>(parent, options, state);
  HEDDLE_RETURN_IF_ERROR(made->Prepare());
  return std::unique_ptr<Aggregator>(std::move(made));
}

DeviceRules Rules(const AggregatorOptions& options) {
  const auto rounds = static_cast<uint32_t>(SettingOf(options, kTrialRounds));
  return {.groups = kGroups, .trial = (std::max(1U, options.round) - 1) / rounds};
}

}  // namespace

Method FedAdapterMethod() {
  return {.name = "FedAdapter",
          .make = Make,
          .settings = {kTrialRounds, kStartDepth, kStartWidth, kWidthStep, kSecondsPerStep, kSecondsPerLayer,
                       kBytesPerSecond},
          .rules = Rules,
          .begin = Begin};
}

}  // namespace heddle::aggregation
