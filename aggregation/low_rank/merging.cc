#include "aggregation/low_rank/merging.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <new>
#include <utility>

#include "aggregation/low_rank/linear_algebra.h"
#include "aggregation/low_rank/modules.h"
#include "aggregation/update_check.h"

namespace heddle::aggregation::low_rank {
namespace {

class Merging final : public Aggregator {
 public:
  Merging(const MergeRule& rule, const StateDict& parent, const AggregatorOptions& options)
      : rule_(rule), parent_(parent), spec_(SpecOf(parent)), options_(options) {}

  Status Prepare() {
    HEDDLE_ASSIGN_OR_RETURN(pairs_, FactorPairs(parent_));
    for (const auto& [key, tensor] : parent_) {
      if (key.find("lora_magnitude_vector") == std::string::npos) continue;
      return InvalidArgument("'" + key + "' belongs to DoRA, whose factors cannot be merged as a product; use FedAvg");
    }
    for (const FactorPair& pair : pairs_) {
      const double scaling = ScalingOf(options_, pair);
      if (scaling > 0 && std::isfinite(scaling)) continue;
      return InvalidArgument("the scaling of '" + pair.path +
                             "' (from lora_alpha and r) must be above 0 to merge the product of its factors");
    }
    if (rule_.needs_fresh) HEDDLE_RETURN_IF_ERROR(GetFresh());
    HEDDLE_ASSIGN_OR_RETURN(UpdateStore store, UpdateStore::Make(pairs_, options_.scratch));
    store_ = std::make_unique<UpdateStore>(std::move(store));
    StateDict others;
    for (const auto& [key, tensor] : parent_) {
      if (!key.starts_with(kOwnPrefix) && !IsLoraA(key) && !IsLoraB(key)) others.emplace(key, tensor);
    }
    if (others.empty()) return OkStatus();
    AggregatorOptions of_mean = options_;
    of_mean.method.clear();
    of_mean.max_norm = 0;  // of the whole update, and checked there
    HEDDLE_ASSIGN_OR_RETURN(others_, MakeAggregator("FedAvg", others, of_mean));
    other_spec_ = SpecOf(others);
    return OkStatus();
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    if (info.rank < 0) return {Refusal::kWrongRank, "the rank of the device's factors is negative"};
    return CheckUpdate(update, info, ExpectedUpdate(spec_, rule_.rules, pairs_, update, info), options_);
  }

  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    if (info.rank < 0) return InvalidArgument("the rank of the device's factors is negative");
    const StateDictSpec expected = ExpectedUpdate(spec_, rule_.rules, pairs_, update, info);
    const Validity validity = CheckUpdateSpec(update, info, expected, options_);
    if (!validity.ok()) return InvalidArgument(validity.message);
    if (num_folded() >= options_.max_updates) {
      return ResourceExhausted("the round holds " + std::to_string(num_folded()) + " updates, as many as it may");
    }
    HEDDLE_RETURN_IF_ERROR(store_->Append(update, info));
    if (others_ != nullptr) {
      StateDict part;
      for (const auto& [key, tensor] : update) {
        if (other_spec_.contains(key)) part.emplace_hint(part.end(), key, tensor);
      }
      if (Status status = others_->Fold(part, info); !status.ok()) {
        store_->DropLast();
        return status;
      }
    }
    total_examples_ += info.num_examples;
    return OkStatus();
  }

  uint64_t num_folded() const override { return store_->size(); }
  uint64_t total_examples() const override { return total_examples_; }

  Result<RoundModel> Finish() && override {
    if (num_folded() == 0) return FailedPrecondition("no update was folded, so there is nothing to merge");
    try {
      return MergeAll();
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for the merged model");
    }
  }

 private:
  // Where a base delta stands in the file of all of them.
  struct Placed {
    TensorSpec spec;
    uint64_t offset = 0;
  };
  struct Done {
    Tensor a, b;
    bool base_changed = false;
    Placed base_a, base_b;
  };

  Status GetFresh() {
    if (!options_.fresh_adapter) return InvalidArgument("the method needs fresh factors and has none");
    HEDDLE_ASSIGN_OR_RETURN(fresh_, options_.fresh_adapter(options_.round));
    for (const FactorPair& pair : pairs_) {
      for (const auto& [key, tensor] : {std::pair(pair.a_key, pair.a), std::pair(pair.b_key, pair.b)}) {
        const auto found = fresh_.find(key);
        if (found != fresh_.end() && found->second.spec() == tensor.spec()) continue;
        return InvalidArgument("the fresh adapter's '" + key + "' is missing or not " + tensor.spec().ToString());
      }
    }
    return OkStatus();
  }

  Result<RoundModel> MergeAll() {
    HEDDLE_RETURN_IF_ERROR(store_->Sort());
    std::vector<double> shares;
    for (size_t c = 0; c < store_->size(); ++c) {
      shares.push_back(static_cast<double>(store_->num_examples(c)) / static_cast<double>(total_examples_));
    }
    HEDDLE_ASSIGN_OR_RETURN(ScratchFile bases, ScratchFile::Make(options_.scratch));
    std::vector<Done> done(pairs_.size());
    HEDDLE_RETURN_IF_ERROR(ForEachModule(pairs_.size(), options_.threads, [&](size_t i) -> Status {
      const Merge merge(*store_, pairs_[i], i, shares, options_, rule_.needs_fresh ? &fresh_ : nullptr);
      HEDDLE_ASSIGN_OR_RETURN(Merged merged, rule_.merge(merge));
      done[i].a = RightTensor(merged.factors);
      done[i].b = LeftTensor(merged.factors);
      return merged.base ? AddToBase(pairs_[i], *std::move(merged.base), &bases, &done[i]) : OkStatus();
    }));
    HEDDLE_ASSIGN_OR_RETURN(const ScratchFile::Mapping mapping, bases.Map());
    StateDict model = parent_;
    if (others_ != nullptr) {
      HEDDLE_ASSIGN_OR_RETURN(RoundModel mean, std::move(*others_).Finish());
      for (auto& [key, tensor] : mean.model) model[key] = std::move(tensor);
    }
    for (size_t i = 0; i < pairs_.size(); ++i) Place(pairs_[i], &done[i], mapping, &model);
    return RoundModel{std::move(model), {}};
  }

  // The base's own factors and the new ones beside them; computed anew when they are more than the layer needs.
  Status AddToBase(const FactorPair& pair, Product all, ScratchFile* bases, Done* done) {
    DropZeros(&all);
    if (pair.base_rank > 0) all = Joined(ProductOf(pair.base_b, pair.base_a), all);
    size_t limit = std::min(pair.d, pair.k);
    const auto most = static_cast<size_t>(options_.method.find(kMaxBaseRank.name)->second);
    if (most > 0) limit = std::min(limit, most);
    if (all.rank() > limit) {
      all = Compressed(all, options_.method.find(kBaseTolerance.name)->second, limit);
    }
    done->base_changed = true;
    if (all.rank() == 0) return OkStatus();
    const Tensor a = RightTensor(all), b = LeftTensor(all);
    const std::lock_guard lock(bases_mutex_);
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t at_a, bases->Append(a.bytes()));
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t at_b, bases->Append(b.bytes()));
    done->base_a = {a.spec(), at_a};
    done->base_b = {b.spec(), at_b};
    return OkStatus();
  }

  static void Place(const FactorPair& pair, Done* done, const ScratchFile::Mapping& mapping, StateDict* model) {
    (*model)[pair.a_key] = std::move(done->a);
    (*model)[pair.b_key] = std::move(done->b);
    if (!done->base_changed) return;
    const auto place = [&](const std::string& key, const Placed& placed) {
      if (placed.spec.shape.empty()) {
        model->erase(key);
        return;
      }
      const auto size = static_cast<size_t>(placed.spec.shape[0] * placed.spec.shape[1]) * sizeof(float);
      (*model)[key] = Tensor(placed.spec, mapping.bytes.subspan(placed.offset, size), mapping.owner);
    };
    place(BaseDeltaA(pair.path), done->base_a);
    place(BaseDeltaB(pair.path), done->base_b);
  }

  MergeRule rule_;
  StateDict parent_;
  StateDictSpec spec_;  // of the parent
  AggregatorOptions options_;
  std::vector<FactorPair> pairs_;
  StateDict fresh_;
  std::unique_ptr<UpdateStore> store_;
  std::unique_ptr<Aggregator> others_;  // null: there are none
  StateDictSpec other_spec_;
  uint64_t total_examples_ = 0;
  std::mutex bases_mutex_;
};

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeMerging(const MergeRule& rule, const StateDict& parent,
                                                const AggregatorOptions& options) {
  try {
    auto merging = std::make_unique<Merging>(rule, parent, options);
    HEDDLE_RETURN_IF_ERROR(merging->Prepare());
    return std::unique_ptr<Aggregator>(std::move(merging));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory to merge updates of " + std::to_string(TotalBytes(parent)) +
                             " bytes of model");
  }
}

}  // namespace heddle::aggregation::low_rank
