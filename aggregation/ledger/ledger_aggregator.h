// What methods with shared seeds have in common: checking scalars, the ledger, its replay. A method derives from it and
// says how far each direction moves. Internal to the room.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aggregation/ledger/ledger_model.h"
#include "aggregation/ledger/scalar_rules.h"
#include "aggregation/method.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::aggregation {

struct LedgerForm {
  bool pool = false;
  bool by_importance = false;
  bool weighted = true;     // by examples
  uint64_t round_span = 0;  // refs of a round of a log; 0: as many as a task tries
  bool own_choice = false;  // devices choose their directions among those of the round
};

// A method's setting; 0 where it is not declared.
double LedgerSetting(const AggregatorOptions& options, std::string_view name);
// What devices are told.
SharedSeeds SeedsOf(const AggregatorOptions& options, const LedgerForm& form);
// What all these methods can be set to.
std::vector<Setting> CommonLedgerSettings();

class LedgerAggregator : public Aggregator {
 public:
  Validity Validate(const StateDict& update, const UpdateInfo& info) const final { return Check(update, info).first; }
  Status Fold(const StateDict& update, const UpdateInfo& info) final;
  uint64_t num_folded() const final { return shares_.size(); }
  uint64_t total_examples() const final { return total_examples_; }
  Result<RoundModel> Finish() && final;

 protected:
  // A device's steps, those along one direction added up.
  struct Share {
    std::string device;
    uint64_t examples = 0;
    std::vector<zo::LedgerEntry> steps;
    std::vector<zo::LedgerEntry> sizes;  // of its scalars: their sum; FedKSeed-Pro
    std::vector<uint32_t> counts;        // how many each of `steps` is made of
  };

  LedgerAggregator(const AggregatorOptions& options, const LedgerForm& form) : options_(options), form_(form) {}
  // Errors: kInvalidArgument for a parent or settings that do not fit.
  Status TakeParent(const StateDict& parent, const StateDict& state);

  // How far each direction moves, from at least one share; what is to be remembered goes into `state`. May throw
  // std::bad_alloc.
  virtual Result<std::map<uint64_t, int64_t>> Moves(StateDict* state) = 0;
  // What the next ledger holds beside its entries.
  virtual Status Complete(zo::Ledger* /*next*/, StateDict* /*state*/) { return OkStatus(); }

  // What the run began with. Errors: those of options.load_model.
  Result<const StateDict*> Start();
  const AggregatorOptions& options() const { return options_; }
  const LedgerForm& form() const { return form_; }
  const zo::Ledger& ledger() const { return ledger_; }  // of the parent
  const StateDict& state() const { return state_; }
  const std::vector<Share>& shares() const { return shares_; }
  std::vector<const Share*> SharesByDevice() const;
  // Of the steps along each direction that was tried: their sum, each device weighing its examples or 1 as the form
  // says, and these weights'. Exact, whatever the order.
  struct Sum {
    Wide steps = 0, weight = 0;
  };
  std::map<uint64_t, Sum> SumsOfSteps() const;
  uint64_t first_ref() const { return first_ref_; }

 private:
  uint64_t LastRef() const;
  std::pair<Validity, Share> Check(const StateDict& update, const UpdateInfo& info) const;
  Status AddStep(const zo::Scalar& step, Share* share) const;
  Result<RoundModel> Next();
  Status Replay(zo::Ledger* next, StateDict* state);
  bool TakeKeptWeights(Weights* weights) const;

  AggregatorOptions options_;
  LedgerForm form_;
  zo::Ledger ledger_;
  StateDict start_;  // where it is known already
  StateDict state_;
  uint64_t first_ref_ = 0;
  std::vector<Share> shares_;
  uint64_t total_examples_ = 0;
};

}  // namespace heddle::aggregation
