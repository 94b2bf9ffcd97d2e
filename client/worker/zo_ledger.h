// The local task "zo_ledger": training with forward passes only, along directions that all devices know by number, and
// an update of a few bytes for each step whatever the model's size (FedKSeed, 2312.06353; DeComFL, 2405.15861; BAFFLE,
// 2301.12195). See aggregation/ledger/methods.h for the other half.
//
//   a. The adapter that the run began with is put on its grid (zo_optim/grid) and the ledger beside it is replayed;
//      where the worker has replayed an earlier ledger of the run, or finds weights of one beside the adapter, only
//      what has changed. A worker that a daemon has started leaves weights for the next one (LedgerCache::Replay).
//   b. In each step, on one batch, num_perturbations directions are tried from the same weights: two forward passes
//      each (a difference to both sides), or one and a common one (spsa_one_sided). A direction whose losses are not
//      finite, or too far apart, is left out and counted.
//   c. The scalars are cut to their bound and rounded as they will travel, and the weights move by the whole numbers of
//      the ledger that the coordinator will compute from them.
//
// The layers below the first that is trained are computed once for all passes of a step (client/worker/frozen_front.h).
// Perturbations happen in place and lose no bit: with one direction a step in three passes over the weights, with more
// in four each. Memory is that of a forward pass, the trained weights, the worker's copy of small ones (LedgerCache)
// and the ledger; all of it is in the estimate that the limit is compared with. Without dropout. Base weights may be of
// any kind; what is trained is float32.
//
// Beside LocalTask::Run's errors: kInvalidArgument: a plan without shared seeds or with an unknown estimator,
// distribution or scalar format, an optimizer or schedule that whole numbers cannot follow; a ledger of another
// adapter, of other settings, or of an unknown version; a replay that has not the weights the ledger names.
// kFailedPrecondition: weights or scales have left their grid (the learning rate is too high).
#pragma once

#include <memory>

#include "client/worker/local_task.h"

namespace heddle::client {

std::shared_ptr<const LocalTask> MakeZoLedger();

}  // namespace heddle::client
