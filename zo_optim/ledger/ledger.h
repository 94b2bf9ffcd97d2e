// What a run with shared seeds has learnt: for each direction the whole number that its scale is made of. The model of
// such a run is not some device's trajectory but the replay of its ledger,
//
//   w = snapped(w_0) + sum over entries of R(n 2^-resolution_bits, z(seed of ref))      (grid.h)
//
// which does not depend on order or history: a device that was away applies only what has changed since the ledger it
// last replayed, and has the bits of one that was never away, of a late joiner, and of the coordinator.
//
// A direction is referred to by a number `ref`. With a pool (FedKSeed, 2312.06353) refs are 0 .. pool_size - 1 and
// their scales change from round to round; in a log (DeComFL, 2405.15861) each step of each round has a ref of its own,
// in order. Its seed is word pair `ref` of the Philox stream of the ledger's seed (SeedOf): 64 bits, so no two of a run
// are the same but by chance (in DeComFL's code seed * (p + 17) + p collides).
//
// Ledgers, patches from one to a later one, and what devices send (scalars.h) have a packed form of their own, which
// docs/formats.md defines with worked bytes. Values; thread-safe as such. Free of LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/status.h"
#include "zo_optim/direction/direction.h"
#include "zo_optim/grid/grid.h"

namespace heddle::zo {

inline constexpr uint8_t kLedgerVersion = 2;
inline constexpr std::string_view kLedgerFile = "ledger.bin";  // beside an adapter's files on a device
// Weights that were fetched in place of a replay, and the ledger that led to them; both or neither are there.
inline constexpr std::string_view kLedgerWeightsFile = "ledger_weights.safetensors";
inline constexpr std::string_view kLedgerOfWeightsFile = "ledger_of_weights.bin";
inline constexpr uint32_t kMaxPoolSize = 1U << 20;
inline constexpr size_t kMaxLedgerEntries = size_t{1} << 24;
inline constexpr uint64_t kMaxRef = (uint64_t{1} << 48) - 1;

// What all ledgers of a run have in common.
struct LedgerHead {
  Distribution distribution = Distribution::kRademacher;
  uint8_t resolution_bits = 30;  // a scale is n 2^-resolution_bits; 1 .. 60
  uint64_t seed = 0;
  uint32_t pool_size = 0;  // at most kMaxPoolSize; 0: a log
  double epsilon = 0;      // of perturbations
  Sha256Digest start;      // of the file of w_0
  friend bool operator==(const LedgerHead&, const LedgerHead&) = default;
};

struct LedgerEntry {
  uint64_t ref = 0;
  int64_t n = 0;  // not 0; below 2^40 in size
  friend bool operator==(const LedgerEntry&, const LedgerEntry&) = default;
};

struct Ledger {
  LedgerHead head;
  uint32_t round = 0;                // whose commit made it
  std::vector<LedgerEntry> entries;  // refs rise
  // How likely each seed of the pool is drawn (FedKSeed-Pro): 0 for the least important, 255 for the most; empty:
  // alike.
  std::vector<uint8_t> importance;
  Sha256Digest weights;  // DigestOfWeights of its replay
  friend bool operator==(const Ledger&, const Ledger&) = default;
};

// The ledger of before the first commit. Its weights are left open.
Ledger EmptyLedger(const LedgerHead& head);

uint64_t SeedOf(const LedgerHead& head, uint64_t ref);
float ScaleOf(const LedgerHead& head, int64_t n);  // n 2^-resolution_bits, rounded once to float32

// How likely each seed of a pool is drawn, from how important it is (FedKSeed-Pro): p_j = exp(i_j / 255) / sum over k
// of exp(i_k / 255). They sum to 1, and none is more than e times another.
std::vector<double> SeedProbabilities(std::span<const uint8_t> importance);

// Refs rise, are at most kMaxRef and below the pool's size, no n is 0 or too large, the importance is of the pool's
// size or empty. Errors: kInvalidArgument.
Status CheckLedger(const Ledger& ledger);

// The packed form. The ledger must pass CheckLedger (asserted).
std::string EncodeLedger(const Ledger& ledger);
// Errors: kInvalidArgument, one sentence: bytes that EncodeLedger did not write, another version of the format or of
// the directions (kDirectionVersion).
Result<Ledger> DecodeLedger(std::span<const std::byte> bytes);

// What to send to who has `from` so that it can make `to`. Heads must be the same (asserted).
std::string EncodePatch(const Ledger& from, const Ledger& to);
// Errors: as DecodeLedger; kInvalidArgument when the patch is not one for `from`.
Result<Ledger> ApplyPatch(const Ledger& from, std::span<const std::byte> patch);

// ---- replay ----

// One trained tensor in place.
struct Parameter {
  std::string name;
  uint64_t stream = 0;  // ParameterStream(name)
  Grid grid;
  std::span<float> values;
};

// What the grids of a run are made for: perturbations, and scales of up to 2^14 steps of the ledger's resolution (where
// the resolution follows the learning rate, at least 16 steps along a gradient of 1).
double LargestScale(const LedgerHead& head);

// Puts start values onto their grid (Grid::For). Errors: those of Grid::For, with the name.
Result<Parameter> MakeParameter(std::string name, std::span<float> values, double largest_scale);

// Moves that lead from the replay of one ledger to that of another of the same head, in order of refs.
std::vector<SeedMove> MovesBetween(const Ledger& from, const Ledger& to);

// Errors: kFailedPrecondition: a scale beyond a grid's max_scale, or a weight that has left its grid's range (then the
// values are of no more use). `threads` shares the tensors' blocks out and changes no bit.
Status ApplyMoves(Distribution distribution, std::span<const SeedMove> moves, std::span<Parameter> parameters,
                  unsigned threads = 1);

// Moves the parameters along one direction by all of the moves, at most kMaxMoves (asserted), in one pass over them.
// Scales must be within max_scale; what weights become is for the caller to check. `threads` shares blocks out where
// there are many and changes no bit.
void MoveAlong(Distribution distribution, uint64_t seed, std::span<const Move> moves,
               std::span<const Parameter> parameters, unsigned threads = 1);

// SHA-256 over the parameters in the order of their names: length of the name (8 bytes), name, number of values (8),
// values as float32, all little-endian. The proof that two replays agree.
Sha256Digest DigestOfWeights(std::span<const Parameter> parameters);

}  // namespace heddle::zo
