// What a worker remembers of ledgers it has replayed, and how a task with shared seeds begins. Free of LibTorch.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "peft/adapter/adapter.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::client {

struct StartOfRun {
  peft::Adapter adapter;  // that the run began with
  zo::Ledger ledger;      // of the round; empty before the first commit
  bool given = false;     // whether there was one
};

// The adapter's folder with the ledger in it, where there is one. `head` is what the plan says and gets the adapter's
// digest. Errors: those of ReadAdapter; kInvalidArgument: the ledger is none, of an unknown version, of another start,
// or was made with other settings than the plan's.
Result<StartOfRun> ReadStart(const std::filesystem::path& adapter_dir, zo::LedgerHead* head);

// The weights of the ledger that was replayed last, so that the next replay is of what has changed. Larger ones than
// kMaxKeptBytes are not kept, since a task has no memory to spare for a copy of a whole model. Thread-safe.
class LedgerCache {
 public:
  static constexpr uint64_t kMaxKeptBytes = uint64_t{64} << 20;

  // `parameters` hold the start on its grids; they become the ledger's weights, whose digest is returned. What was kept
  // and does not lead there is forgotten. Errors: those of ApplyMoves; kInvalidArgument when the weights are not those
  // that the ledger names (an empty one names none).
  Result<Sha256Digest> Replay(const zo::Ledger& ledger, std::span<zo::Parameter> parameters, unsigned threads);

  // Replays of changes alone, so far.
  uint64_t reused() const;

 private:
  struct Kept {
    zo::Ledger ledger;
    std::vector<std::string> names;
    std::vector<std::vector<float>> values;
  };
  static bool Restore(const Kept* kept, const zo::Ledger& ledger, std::span<zo::Parameter> parameters);

  mutable std::mutex mutex_;
  std::shared_ptr<const Kept> kept_;
  uint64_t reused_ = 0;
};

}  // namespace heddle::client
