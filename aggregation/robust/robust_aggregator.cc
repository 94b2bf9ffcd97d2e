#include <algorithm>
#include <map>
#include <new>
#include <numeric>
#include <sstream>
#include <utility>

#include "aggregation/robust/robust_round.h"
#include "aggregation/update_check.h"
#include "common/digest.h"

namespace heddle::aggregation {
namespace {

class RobustAggregator final : public Aggregator {
 public:
  RobustAggregator(const RobustRule& rule, const StateDict& parent, const AggregatorOptions& options,
                   const StateDict& state, StateDictSpec spec, UpdateSpool spool)
      : rule_(rule),
        parent_(parent),
        options_(options),
        state_(state),
        spec_(std::move(spec)),
        spool_(std::move(spool)) {}

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return CheckUpdate(update, info, spec_, options_);
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    const Validity validity = CheckUpdateSpec(update, info, spec_, options_);
    if (!validity.ok()) return InvalidArgument(validity.message);
    const uint64_t most = rule_.compares_pairs ? std::min(options_.max_updates, kMaxCompared) : options_.max_updates;
    if (infos_.size() >= most) {
      return ResourceExhausted("the round holds " + std::to_string(infos_.size()) + " updates, as many as it may");
    }
    HEDDLE_RETURN_IF_ERROR(spool_.Append(update));
    infos_.push_back(info);
    total_examples_ += info.num_examples;
    return OkStatus();
  }

  uint64_t num_folded() const override { return infos_.size(); }
  uint64_t total_examples() const override { return total_examples_; }

  Result<RoundModel> Finish() && override {
    if (infos_.empty()) return FailedPrecondition("no update was folded, so there is no next model");
    if (const uint64_t least = rule_.min_updates(options_.method); infos_.size() < least) {
      return FailedPrecondition(std::string(rule_.name) + " with these settings needs at least " +
                                std::to_string(least) + " updates and the round has " + std::to_string(infos_.size()));
    }
    try {
      return Combine();
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory to combine the updates");
    }
  }

 private:
  Result<RoundModel> Combine() {
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<size_t> order, OrderOfDevices());
    std::vector<RobustRound::Slot> slots;
    size_t offset = 0;
    for (const auto& [name, spec] : spec_) {
      const Tensor& parent = parent_.at(name);
      std::span<std::byte> bytes;
      Tensor next = Tensor::Allocate(parent.spec(), &bytes);
      const std::span<float> values(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
      slots.push_back({name, parent, offset, values, std::move(next)});
      offset += values.size();
    }
    RobustRound round(spool_, order, infos_, options_, state_, &slots);
    HEDDLE_RETURN_IF_ERROR(rule_.run(&round));
    RoundModel made{parent_, std::move(round.next_state)};
    for (RobustRound::Slot& slot : slots) made.model[slot.name] = std::move(slot.tensor);
    return made;
  }

  // By name. Devices of one name, which a coordinator does not accept, by what they sent: still not by arrival.
  Result<std::vector<size_t>> OrderOfDevices() const {
    std::vector<size_t> order(infos_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto name = [&](size_t row) -> const std::string& { return infos_[row].device; };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return name(a) < name(b); });
    std::map<size_t, Sha256Digest> digests;  // of rows whose name is not their own
    for (size_t k = 0; k < order.size(); ++k) {
      const bool shared = (k > 0 && name(order[k - 1]) == name(order[k])) ||
                          (k + 1 < order.size() && name(order[k + 1]) == name(order[k]));
      if (!shared) continue;
      HEDDLE_ASSIGN_OR_RETURN(digests[order[k]], DigestOf(order[k]));
    }
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      if (const int names = name(a).compare(name(b)); names != 0) return names < 0;
      if (a == b) return false;
      const Sha256Digest &left = digests.at(a), &right = digests.at(b);
      return left != right ? left < right : infos_[a].num_examples < infos_[b].num_examples;
    });
    return order;
  }

  Result<Sha256Digest> DigestOf(size_t row) const {
    std::vector<float> piece(std::min(spool_.columns(), kBlockBytes / sizeof(float)));
    Sha256Hasher hasher;
    for (size_t begin = 0; begin < spool_.columns(); begin += piece.size()) {
      const auto part = std::span(piece).first(std::min(piece.size(), spool_.columns() - begin));
      HEDDLE_RETURN_IF_ERROR(spool_.Read({&row, 1}, begin, part.size(), part));
      hasher.Update(std::as_bytes(part));
    }
    return hasher.Finish();
  }

  const RobustRule& rule_;
  StateDict parent_;
  AggregatorOptions options_;
  StateDict state_;
  StateDictSpec spec_;  // of updates
  UpdateSpool spool_;
  std::vector<UpdateInfo> infos_;  // of the spool's rows
  uint64_t total_examples_ = 0;
};

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeRobust(const RobustRule& rule, const StateDict& parent,
                                               const AggregatorOptions& options, const StateDict& state) {
  const uint64_t least = rule.min_updates(options.method);
  if (options.cohort > 0 && options.cohort < least) {
    return InvalidArgument(std::string(rule.name) + " with these settings needs at least " + std::to_string(least) +
                           " updates a round and " + std::to_string(options.cohort) +
                           " are asked for; ask for more devices or expect fewer attackers");
  }
  if (rule.compares_pairs && options.cohort > kMaxCompared) {
    return InvalidArgument(std::string(rule.name) + " compares each update with each, of at most " +
                           std::to_string(kMaxCompared) + " a round; " + std::to_string(options.cohort) +
                           " are asked for");
  }
  StateDictSpec spec = UpdateSpec(SpecOf(parent), {}, 0);
  HEDDLE_ASSIGN_OR_RETURN(UpdateSpool spool, UpdateSpool::Make(options.scratch, spec));
  return std::unique_ptr<Aggregator>(
      std::make_unique<RobustAggregator>(rule, parent, options, state, std::move(spec), std::move(spool)));
}

}  // namespace heddle::aggregation
