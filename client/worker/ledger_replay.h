// What a worker remembers of ledgers it has replayed, what it leaves of them for the next process, and how a task with
// shared seeds begins. Free of LibTorch.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/file.h"
#include "common/state_dict.h"
#include "peft/adapter/adapter.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::client {

// In the adapter's folder: what a replay led to, for the daemon to keep with the ledger of the task
// (client/daemon/ledger_weights.h). Of another name than weights that are read: those are the cache's own files.
inline constexpr std::string_view kReplayedWeightsFile = "replayed_weights.safetensors";

// To write, hash and read a weight takes some 100 ns on a small device, to move it along one of many directions about
// one. Both grow with the model alike, so the number of directions alone says what is cheaper.
inline constexpr uint64_t kDirectionsWorthAFile = 128;

// Weights that an earlier ledger of the run led to: fetched in place of its replay, or left by one.
struct FetchedWeights {
  zo::Ledger ledger;
  StateDict tensors;  // float32, by the parameters' names
  // What the tensors are views into: their pages are let go of as they are read, so that there is no second copy.
  std::vector<std::shared_ptr<const MappedFile>> files = {};
};

struct StartOfRun {
  peft::Adapter adapter;  // that the run began with
  zo::Ledger ledger;      // of the round; empty before the first commit
  bool given = false;     // whether there was one
  std::optional<FetchedWeights> fetched;
};

// The adapter's folder with the ledger in it, where there is one, and weights of an earlier one (of which a failure is
// logged and costs the replay). `head` is what the plan says and gets the adapter's
// digest. Errors: those of ReadAdapter; kInvalidArgument: the ledger is none, of an unknown version, of another start,
// or was made with other settings than the plan's.
Result<StartOfRun> ReadStart(const std::filesystem::path& adapter_dir, zo::LedgerHead* head);

// The weights of the ledger that was replayed last, so that the next replay is of what has changed. Larger ones than
// kMaxKeptBytes are not kept, since a task has no memory to spare for a copy of a whole model; of others there is one
// copy in a process, however many replay at once. Thread-safe.
class LedgerCache {
 public:
  static constexpr uint64_t kMaxKeptBytes = uint64_t{64} << 20;
  // Of weights of so many bytes.
  static constexpr uint64_t BytesKeptOf(uint64_t weights) { return weights <= kMaxKeptBytes ? weights : 0; }

  // `parameters` hold `start` on its grids; they become the ledger's weights, whose digest is returned. The replay
  // begins with what was kept, with what was `fetched`, or with `start` (of which no copy is made), whichever is
  // nearest. What was kept and does not lead there is forgotten, fetched weights that are not their ledger's are passed
  // over, and all is replayed from `start`. Errors: those of ApplyMoves; kInvalidArgument when the weights are not
  // those that the ledger names (an empty one names none). After an error the values are of no more use.
  //
  // The weights are left in the folder `leave_in` as kReplayedWeightsFile, unless it is empty or a process that begins
  // with what was `fetched`, or with `start`, has fewer than kDirectionsWorthAFile directions to replay. That the file
  // cannot be written is logged and no error.
  Result<Sha256Digest> Replay(const zo::Ledger& ledger, const StateDict& start, std::span<zo::Parameter> parameters,
                              unsigned threads, const FetchedWeights* fetched = nullptr,
                              const std::filesystem::path& leave_in = {});

  // Says that there is a daemon which keeps what is left (in a simulation there is none). Before the first task.
  void LeaveWeights() { leaves_weights_ = true; }
  bool leaves_weights() const { return leaves_weights_; }

  // Replays of changes alone, so far: since what was kept, since what was fetched.
  uint64_t reused() const;
  uint64_t fetched() const;
  // Directions along which replays have moved the weights so far.
  uint64_t directions() const;

 private:
  struct Kept {
    zo::Ledger ledger;
    std::vector<std::string> names;
    std::vector<std::vector<float>> values;
  };
  // Whether what is kept is of the same run and tensors. The mutex is held.
  bool Fits(const zo::Ledger& ledger, std::span<const zo::Parameter> parameters) const;
  // The moves that are left when the parameters have what is kept, or all of them. True: of what is kept.
  bool Begin(const zo::Ledger& ledger, std::span<zo::Parameter> parameters, std::vector<zo::SeedMove>* moves) const;
  enum class From : uint8_t { kStart, kKept, kFetched };
  void Keep(const zo::Ledger& ledger, std::span<const zo::Parameter> parameters, From from);
  // As Replay, of which `moved` becomes the number of directions; fetched weights that are not their ledger's become
  // none.
  Result<Sha256Digest> ReplayNearest(const zo::Ledger& ledger, const StateDict& start,
                                     std::span<zo::Parameter> parameters, unsigned threads,
                                     const FetchedWeights** fetched, uint64_t* moved);

  bool leaves_weights_ = false;
  mutable std::mutex mutex_;
  std::optional<Kept> kept_;
  uint64_t reused_ = 0, fetched_ = 0, directions_ = 0;
};

}  // namespace heddle::client
