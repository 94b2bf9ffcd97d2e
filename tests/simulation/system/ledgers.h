// Runs with shared seeds (FedKSeed, DeComFL) in the simulated worlds: what devices send and how it is wrong, the replay
// of a ledger, and the next ledger from the accepted scalars, by the definitions of docs/formats.md with none of the
// code of aggregation/. The packed forms and single elements of directions are the program's own.
//
// Pure functions of their arguments; thread-safe.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "protocol/v1/task.pb.h"
#include "tests/simulation/system/updates.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::system_simulation {

inline constexpr double kEpsilon = 1e-3;   // zo_eps of the simulated recipes
inline constexpr double kMaxScalar = 100;  // their clip_projected_grad
inline constexpr uint32_t kPoolSize = 24;  // of FedKSeed

bool HasLedger(Method method);

// The trained tensors of a ledger, from the run's first adapter; throws std::runtime_error where the ledger leaves the
// grid.
Values ReplayOf(const Values& start, const zo::Ledger& ledger);
// Why the file, which may hold more, has not the weights that the ledger names; empty: it has.
std::string WhyNotWeights(const std::string& ledger_bytes, const std::string& file);
Sha256Digest ProofOf(const Values& weights);  // the digest that ledgers and devices name

// The ledger of before the first commit, by what devices are told; its weights are left open.
zo::Ledger EmptyLedger(const v1::TrainPlan& plan, const Sha256Digest& start_file);

// What a device sends that started from weights with this proof. The flaws that concern tensors stand for those of
// scalars: too many of them, one beyond the bound, one that is no number, a direction that is none of the round's, and,
// for a wrong shape, the proof of other weights.
MadeUpdate MakeScalars(const v1::TrainPlan& plan, const Sha256Digest& proof, uint64_t key, Flaw flaw,
                       uint64_t max_update_bytes);
// As ReasonsFor.
const std::set<int>& LedgerReasonsFor(Flaw flaw);

// The next ledger, from the accepted steps with their examples, in whatever order; its weights are left open.
zo::Ledger NextLedger(Method method, const zo::Ledger& parent, uint32_t round,
                      const std::vector<std::pair<const std::vector<zo::LedgerEntry>*, uint64_t>>& accepted);
// The bytes of its files; what the method remembers are the weights.
VersionFiles FilesOf(const StateDictSpec& start, const zo::Ledger& ledger, const Values& weights);

}  // namespace heddle::system_simulation
