// The model of a run with shared seeds: in place of an adapter's tensors it holds the ledger of what each direction
// has been given (zo_optim/ledger/ledger.h), as tensor kLedgerName, U8 [bytes]. The adapter is the ledger's replay from
// the run's first one. Pure functions; thread-safe.
#pragma once

#include <string_view>

#include "aggregation/aggregator.h"
#include "zo_optim/ledger/ledger.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::aggregation {

inline constexpr std::string_view kLedgerName = "heddle.ledger";
using zo::ByteTensor;
using zo::kScalarsName;

bool HoldsLedger(const StateDict& model);
// Errors: kInvalidArgument: there is none, or it is not one.
Result<zo::Ledger> LedgerOf(const StateDict& model);

// The trained tensors of a start (those that are F32 and not under kOwnPrefix) on their grids, which are views of
// `tensors`: `values` of each is writable and lives as long as `memory`.
struct Weights {
  std::vector<std::vector<float>> memory;
  std::vector<zo::Parameter> parameters;  // in order of names
};
// Errors: kInvalidArgument: a value that no grid takes, or a tensor of 16-bit floats, whose grid would be too coarse to
// train on; kResourceExhausted.
Result<Weights> WeightsOf(const StateDict& start, double largest_scale);

// The adapter that a ledger stands for. Errors: kInvalidArgument when the start is not what the ledger began with, or
// the replay has not the digest that the ledger names; those of WeightsOf and ApplyMoves.
Result<StateDict> ReplayLedger(const StateDict& start, const zo::Ledger& ledger, unsigned threads);

}  // namespace heddle::aggregation
