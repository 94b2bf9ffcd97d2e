#include "aggregation/keeping.h"

#include <utility>

namespace heddle::aggregation {
namespace {

class Keeping final : public Aggregator {
 public:
  Keeping(std::unique_ptr<Aggregator> inner, StateDict kept) : inner_(std::move(inner)), kept_(std::move(kept)) {}

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return inner_->Validate(update, info);
  }
  Status Fold(const StateDict& update, const UpdateInfo& info) override { return inner_->Fold(update, info); }
  uint64_t num_folded() const override { return inner_->num_folded(); }
  uint64_t total_examples() const override { return inner_->total_examples(); }
  Result<RoundModel> Finish() && override {
    HEDDLE_ASSIGN_OR_RETURN(RoundModel made, std::move(*inner_).Finish());
    made.model.merge(kept_);
    return made;
  }

 private:
  std::unique_ptr<Aggregator> inner_;
  StateDict kept_;
};

}  // namespace

StateDict TakeKept(const std::vector<std::string>& patterns, StateDict* model) {
  StateDict kept;
  for (auto it = model->begin(); it != model->end();) {
    const auto here = it++;
    if (here->first.starts_with(kOwnPrefix) || !MatchesAny(patterns, here->first)) continue;
    kept.insert(model->extract(here));
  }
  return kept;
}

std::unique_ptr<Aggregator> MakeKeeping(std::unique_ptr<Aggregator> inner, StateDict kept) {
  return std::make_unique<Keeping>(std::move(inner), std::move(kept));
}

}  // namespace heddle::aggregation
