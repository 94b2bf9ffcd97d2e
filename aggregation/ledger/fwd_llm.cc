#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "aggregation/ledger/ledger_aggregator.h"
#include "aggregation/ledger/methods.h"
#include "aggregation/ledger/scalar_rules.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kWaitingName =
    "heddle.ledger.waiting";          // scalars of rounds before: ref and n, I64 [count, 2]
constexpr size_t kMaxGated = 65'536;  // elements that the variance is taken over, and a few of small tensors
constexpr size_t kBlock = 4096;

class FwdLlm final : public LedgerAggregator {
 public:
  static Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                                  const StateDict& state) {
    if (options.zo.local_steps != 1) {
      return InvalidArgument(
          "FwdLLM tries all directions of a round from the same weights; set train.local_steps = 1 "
          "and zo.num_perturbations");
    }
    if (LedgerSetting(options, "candidates") < options.zo.num_perturbations) {
      return InvalidArgument("FwdLLM chooses zo.num_perturbations directions among more candidates; raise candidates");
    }
    std::unique_ptr<FwdLlm> made(new FwdLlm(options, kForm));
    HEDDLE_RETURN_IF_ERROR(made->TakeParent(parent, state));
    return std::unique_ptr<Aggregator>(std::move(made));
  }
  static constexpr LedgerForm kForm{.weighted = false, .round_span = kFwdLlmRoundSpan, .own_choice = true};

 private:
  using LedgerAggregator::LedgerAggregator;

  // Scalars wait until they are enough: until the estimates from both halves of them agree.
  Result<std::map<uint64_t, int64_t>> Moves(StateDict* next_state) override {
    HEDDLE_ASSIGN_OR_RETURN(std::vector<zo::LedgerEntry> all, Waiting());
    for (const Share* share : SharesByDevice()) all.insert(all.end(), share->steps.begin(), share->steps.end());
    std::map<uint64_t, int64_t> moves;
    const auto count = static_cast<int64_t>(all.size());
    if (count == 0) return moves;
    HEDDLE_ASSIGN_OR_RETURN(const double variance, Variance(all));
    const bool enough = variance <= LedgerSetting(options(), "variance_threshold");
    if (!enough && all.size() < static_cast<size_t>(LedgerSetting(options(), "max_waiting"))) {
      next_state->emplace(std::string(kWaitingName), TensorOf(all));
      return moves;
    }
    // A step is that of the mean gradient; each entry has the step of a task's mean already.
    std::map<uint64_t, Wide> sums;
    for (const zo::LedgerEntry& one : all) sums[one.ref] += one.n;
    for (const auto& [ref, sum] : sums) moves[ref] = RoundedRatio(sum * options().zo.num_perturbations, count);
    return moves;
  }

  Result<std::vector<zo::LedgerEntry>> Waiting() const {
    std::vector<zo::LedgerEntry> waiting;
    const auto known = state().find(kWaitingName);
    if (known == state().end()) return waiting;
    const Tensor& tensor = known->second;
    if (tensor.dtype() != DType::kI64 || tensor.shape().size() != 2 || tensor.shape()[1] != 2) {
      return InvalidArgument("the state's waiting scalars are not of their form");
    }
    const auto values = tensor.values<int64_t>();
    for (size_t i = 0; i + 1 < values.size(); i += 2) {
      const bool fits = values[i] >= 0 && static_cast<uint64_t>(values[i]) < first_ref();
      if (!fits || std::abs(values[i + 1]) > int64_t{1} << 40) {
        return InvalidArgument("the state's waiting scalars are out of range");
      }
      waiting.push_back({static_cast<uint64_t>(values[i]), values[i + 1]});
    }
    return waiting;
  }

  static Tensor TensorOf(const std::vector<zo::LedgerEntry>& entries) {
    std::span<std::byte> place;
    Tensor tensor = Tensor::Allocate({DType::kI64, {static_cast<int64_t>(entries.size()), 2}}, &place);
    for (size_t i = 0; i < entries.size(); ++i) {
      const int64_t row[2] = {static_cast<int64_t>(entries[i].ref), entries[i].n};
      std::memcpy(place.data() + i * sizeof row, row, sizeof row);
    }
    return tensor;
  }

  // Elements of a trained tensor that the variance is taken over: the first ones.
  struct Gated {
    uint64_t stream = 0;
    size_t elements = 0;
  };
  // Of every tensor: all of its elements, or, where the model has more than kMaxGated, its share of so many (at least
  // one).
  static std::vector<Gated> GatedOf(const StateDict& start) {
    std::vector<Gated> gated;
    uint64_t all = 0;
    for (const auto& [name, tensor] : start) {
      if (name.starts_with(kOwnPrefix) || tensor.dtype() != DType::kF32 || tensor.numel() == 0) continue;
      gated.push_back({zo::ParameterStream(name), static_cast<size_t>(tensor.numel())});
      all += gated.back().elements;
    }
    if (all <= kMaxGated) return gated;
    for (Gated& one : gated) {
      const double share = static_cast<double>(one.elements) / static_cast<double>(all);
      one.elements = std::max<size_t>(1, static_cast<size_t>(share * static_cast<double>(kMaxGated)));
    }
    return gated;
  }

  // Of the gradient's elements: the variance of its two estimates, one from each half of the scalars, meaned over the
  // elements of all tensors, as GatedOf chooses them.
  Result<double> Variance(const std::vector<zo::LedgerEntry>& all) {
    if (all.size() < 2) return std::numeric_limits<double>::infinity();
    HEDDLE_ASSIGN_OR_RETURN(const StateDict* start, Start());
    const std::vector<Gated> gated = GatedOf(*start);
    if (gated.empty()) return InvalidArgument("the adapter has no tensor to train");
    double sum = 0;
    size_t elements = 0;
    for (const Gated& one : gated) {
      sum += SumOfVariances(all, one);
      elements += one.elements;
    }
    return sum / static_cast<double>(elements);
  }

  double SumOfVariances(const std::vector<zo::LedgerEntry>& all, const Gated& tensor) const {
    // n is -rate / perturbations * scalar 2^bits: back to scalars, whose size is the gradient's.
    const double rate = options().zo.RatePerDirection();
    const double unit = rate > 0 ? std::ldexp(1 / rate, -static_cast<int>(ledger().head.resolution_bits)) : 0;
    const size_t half = all.size() / 2;
    std::vector<float> z(std::min(kBlock, tensor.elements));
    std::vector<double> means[2];
    double sum = 0;
    for (size_t first = 0; first < tensor.elements; first += kBlock) {
      const size_t count = std::min(kBlock, tensor.elements - first);
      for (auto& mean : means) mean.assign(count, 0.0);
      for (size_t i = 0; i < all.size(); ++i) {
        const uint64_t seed = zo::SeedOf(ledger().head, all[i].ref);
        zo::FillDirection({ledger().head.distribution, seed, tensor.stream}, first, std::span(z).first(count));
        const size_t in_half = i < half ? half : all.size() - half;
        const double share = static_cast<double>(all[i].n) * unit / static_cast<double>(in_half);
        std::vector<double>& mean = means[i < half ? 0 : 1];
        for (size_t k = 0; k < count; ++k) mean[k] += share * static_cast<double>(z[k]);
      }
      for (size_t k = 0; k < count; ++k) sum += (means[0][k] - means[1][k]) * (means[0][k] - means[1][k]) / 2;
    }
    return sum;
  }
};

DeviceRules Rules(const AggregatorOptions& options) {
  DeviceRules rules;
  rules.seeds = SeedsOf(options, FwdLlm::kForm);
  return rules;
}

}  // namespace

Method FwdLlmMethod() {
  std::vector<Setting> settings = CommonLedgerSettings();
  settings.push_back({"candidates", "directions that a device chooses those of a step among", 100, 1, 65'536, true});
  settings.push_back(
      {"variance_threshold", "the model moves when the gradient's variance is not above this", 0.1, 0, 1e30});
  settings.push_back(
      {"max_waiting", "scalars with which it moves in any case", 10'000, 1, double{zo::kMaxScalars}, true});
  return {.name = "FwdLLM", .make = FwdLlm::Make, .settings = std::move(settings), .rules = Rules};
}

}  // namespace heddle::aggregation
