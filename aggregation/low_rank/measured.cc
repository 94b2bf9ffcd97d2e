#include "aggregation/low_rank/measured.h"

#include <cmath>
#include <new>
#include <utility>
#include <vector>

#include "aggregation/figures.h"
#include "aggregation/low_rank/linear_algebra.h"
#include "aggregation/low_rank/merge.h"
#include "aggregation/low_rank/modules.h"

namespace heddle::aggregation::low_rank {
namespace {

class Measured final : public Aggregator {
 public:
  Measured(std::unique_ptr<Aggregator> mean, std::vector<FactorPair> pairs, const AggregatorOptions& options)
      : mean_(std::move(mean)), pairs_(std::move(pairs)), options_(options) {}

  Status Prepare() {
    HEDDLE_ASSIGN_OR_RETURN(UpdateStore store, UpdateStore::Make(pairs_, options_.scratch));
    store_ = std::make_unique<UpdateStore>(std::move(store));
    return OkStatus();
  }

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return mean_->Validate(update, info);
  }
  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    // What cannot be kept is not folded: the model has to depend on the set of updates alone.
    if (const Validity validity = mean_->Validate(update, info); !validity.ok())
      return InvalidArgument(validity.message);
    HEDDLE_RETURN_IF_ERROR(store_->Append(update, info));
    const Status folded = mean_->Fold(update, info);
    if (!folded.ok()) store_->DropLast();
    return folded;
  }
  uint64_t num_folded() const override { return mean_->num_folded(); }
  uint64_t total_examples() const override { return mean_->total_examples(); }

  Result<RoundModel> Finish() && override {
    const uint64_t examples = total_examples();
    HEDDLE_ASSIGN_OR_RETURN(RoundModel made, std::move(*mean_).Finish());
    HEDDLE_ASSIGN_OR_RETURN(const double residual, Residual(static_cast<double>(examples)));
    SetFigure("product_residual", residual, &made.model);
    return made;
  }

 private:
  Result<double> Residual(double examples) {
    HEDDLE_RETURN_IF_ERROR(store_->Sort());
    std::vector<double> shares;
    for (size_t c = 0; c < store_->size(); ++c) {
      shares.push_back(static_cast<double>(store_->num_examples(c)) / examples);
    }
    std::vector<std::pair<double, double>> norms(pairs_.size());  // of the residual, of the whole
    HEDDLE_RETURN_IF_ERROR(ForEachModule(pairs_.size(), options_.threads, [&](size_t i) -> Status {
      const Merge merge(*store_, pairs_[i], i, shares, options_, nullptr);
      HEDDLE_ASSIGN_OR_RETURN(const Product mean, merge.MeanFactors(shares));
      HEDDLE_ASSIGN_OR_RETURN(const Product rest, ResidualOfMean(merge, mean));
      HEDDLE_ASSIGN_OR_RETURN(const Product whole, merge.WeightedSum());
      norms[i] = {FrobeniusNorm(rest), FrobeniusNorm(whole)};
      return OkStatus();
    }));
    double rest = 0, whole = 0;
    for (const auto& [of_rest, of_whole] : norms) {
      rest += of_rest * of_rest;
      whole += of_whole * of_whole;
    }
    return whole > 0 ? std::sqrt(rest / whole) : 0;
  }

  std::unique_ptr<Aggregator> mean_;
  std::vector<FactorPair> pairs_;
  AggregatorOptions options_;
  std::unique_ptr<UpdateStore> store_;
};

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeMeasured(std::unique_ptr<Aggregator> mean, const StateDict& parent,
                                                 const AggregatorOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(std::vector<FactorPair> pairs, FactorPairs(parent));
  try {
    auto measured = std::make_unique<Measured>(std::move(mean), std::move(pairs), options);
    HEDDLE_RETURN_IF_ERROR(measured->Prepare());
    return std::unique_ptr<Aggregator>(std::move(measured));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory to measure the factors' mean");
  }
}

}  // namespace heddle::aggregation::low_rank
