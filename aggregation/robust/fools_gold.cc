// FoolsGold: devices that push the same way round after round are one attacker with many names. Each device's updates
// of all rounds are added up to a history; who is like another is trusted less.
//
// A history has min(history_size, elements) numbers, whatever the model. Where the model is larger it is a count sketch
// (Charikar, Chen, Farach-Colton, 2002): element i is added with a sign to one of the numbers, both drawn from the
// run's seed and i. A sketch of a sum is the sum of sketches, and a cosine between sketches is that between the
// histories with an error of about 1 / sqrt(history_size).
//
// State: "history.<device>" F32 [numbers], "last_round.<device>" F32 []. Beyond max_histories devices those that were
// away the longest are forgotten.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "aggregation/robust/robust_round.h"
#include "aggregation/robust/rules.h"
#include "common/random.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kHistory = "history.", kLastRound = "last_round.";

size_t HistorySize(const RobustRound& round) {
  return std::min(static_cast<size_t>(round.setting("history_size")), round.columns());
}

// The sum of what each device sent up to now.
class Histories {
 public:
  explicit Histories(const RobustRound& round) : size_(HistorySize(round)) {
    if (size_ < round.columns()) places_.emplace(DeriveSeed(round.options().seed, "FoolsGold", "places"));
    for (size_t k = 0; k < round.size(); ++k) {
      const std::string& device = round.info(k).device;
      auto [history, is_new] = of_.try_emplace(device, size_, 0.0);
      rows_.push_back(&history->second);
      const auto known = round.state().find(std::string(kHistory) + device);
      if (!is_new || known == round.state().end()) continue;
      const auto values = known->second.values<float>();
      std::copy(values.begin(), values.end(), history->second.begin());
    }
  }

  void Add(const Block& block) {
    std::vector<size_t> place(block.count);
    std::vector<double> sign(block.count, 1.0);
    for (size_t j = 0; j < block.count; ++j) {
      place[j] = block.begin + j;
      if (!places_) continue;
      const uint32_t drawn = places_->U32At(block.begin + j);
      place[j] = static_cast<size_t>((uint64_t{drawn >> 1} * size_) >> 31);
      sign[j] = (drawn & 1) != 0 ? 1.0 : -1.0;
    }
    for (size_t k = 0; k < rows_.size(); ++k) {
      std::vector<double>& history = *rows_[k];
      for (size_t j = 0; j < block.count; ++j) history[place[j]] += sign[j] * static_cast<double>(block.row(k)[j]);
    }
  }

  // 0 where one has no direction.
  PairMatrix Cosines() const {
    const auto dot = [&](size_t i, size_t j) {
      double sum = 0;
      for (size_t at = 0; at < size_; ++at) sum += (*rows_[i])[at] * (*rows_[j])[at];
      return sum;
    };
    PairMatrix cosines(rows_.size());
    std::vector<double> norms;
    for (size_t i = 0; i < rows_.size(); ++i) {
      norms.push_back(std::sqrt(dot(i, i)));
      for (size_t j = 0; j < i; ++j) {
        const double norm = norms[i] * norms[j];
        cosines.at(i, j) = norm > 0 ? dot(i, j) / norm : 0.0;
      }
    }
    return cosines;
  }

  // With this round's devices in it.
  StateDict NextState(const RobustRound& round) const {
    StateDict next = round.state();
    const auto now = static_cast<float>(round.options().round);
    for (const auto& [device, history] : of_) {
      const std::vector<float> rounded(history.begin(), history.end());
      next[std::string(kHistory) + device] = Tensor::FromFloats({static_cast<int64_t>(size_)}, rounded);
      next[std::string(kLastRound) + device] = Tensor::FromFloats({}, {&now, 1});
    }
    Forget(static_cast<size_t>(round.setting("max_histories")), &next);
    return next;
  }

 private:
  static void Forget(size_t most, StateDict* state) {
    std::vector<std::pair<float, std::string>> seen;  // when, and whose
    for (auto it = state->lower_bound(kLastRound); it != state->end() && it->first.starts_with(kLastRound); ++it) {
      seen.emplace_back(it->second.values<float>()[0], it->first.substr(kLastRound.size()));
    }
    if (seen.size() <= most) return;
    std::sort(seen.begin(), seen.end());
    seen.resize(seen.size() - most);
    for (const auto& [when, device] : seen) {
      state->erase(std::string(kHistory) + device);
      state->erase(std::string(kLastRound) + device);
    }
  }

  size_t size_;
  std::optional<PhiloxStream> places_;             // of a sketch
  std::map<std::string, std::vector<double>> of_;  // by device
  std::vector<std::vector<double>*> rows_;         // of the round's updates
};

Status CheckState(const RobustRound& round) {
  const Shape expected = {static_cast<int64_t>(HistorySize(round))};
  for (const auto& [name, tensor] : round.state()) {
    const bool fits = name.starts_with(kHistory)     ? tensor.shape() == expected
                      : name.starts_with(kLastRound) ? tensor.shape().empty()
                                                     : false;
    if (!fits) {
      return InvalidArgument("FoolsGold's state has '" + name + "' of " + tensor.spec().ToString() +
                             ", which is not of a run with this model and history_size");
    }
  }
  return OkStatus();
}

Status FoolsGold(RobustRound* round) {
  HEDDLE_RETURN_IF_ERROR(CheckState(*round));
  Histories histories(*round);
  HEDDLE_RETURN_IF_ERROR(round->ForBlocks([&](const Block& block) { histories.Add(block); }));
  const std::vector<double> weights = FoolsGoldWeights(histories.Cosines());
  round->next_state = histories.NextState(*round);
  const bool trusts_any = std::any_of(weights.begin(), weights.end(), [](double weight) { return weight > 0; });
  return round->StepByMean(trusts_any ? weights : std::vector<double>(round->size(), 0.0));
}

constexpr RobustRule kFoolsGold{"FoolsGold", [](const Settings&) { return uint64_t{1}; }, FoolsGold, true};

}  // namespace

Method FoolsGoldMethod() {
  return {.name = kFoolsGold.name,
          .make = [](const StateDict& parent, const AggregatorOptions& options,
                     const StateDict& state) { return MakeRobust(kFoolsGold, parent, options, state); },
          .settings = {
              {"history_size", "numbers kept of each device's past; fewer than elements: a sketch", 4096, 16, 16777216,
               true},
              {"max_histories", "devices whose past is kept; the longest away are forgotten", 10000, 1, 1e6, true}}};
}

}  // namespace heddle::aggregation
