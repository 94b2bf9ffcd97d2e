// The run folder: what a run leaves for people and scripts. All of it is derived from the store and the blobs, so it
// can be written anew at any time; nothing here decides anything.
//
//   run.json                     what was run: resolved recipe, seed, version, base model, state, final digest; where
//                                devices noise their updates, what that guarantees them
//   history.jsonl                a line per round attempt
//   checkpoints/round-<n>/       the model after n rounds in PEFT's layout
//
// Life cycle: Make or Repair, then the others. One that answered an error is followed by Repair until that answers
// true; AppendHistory in between would put a line behind a torn one. Lines stand in the order of rounds and attempts.
//
// Thread-safety: one thread a folder.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "common/status.h"
#include "coordinator/engine/types.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/store.h"

namespace heddle::coordinator {

inline constexpr const char* kAdapterFile = "adapter_model.safetensors";  // PEFT's name

// Bytes of bodies that moved between the coordinator and devices.
struct Traffic {
  uint64_t down = 0;  // to devices
  uint64_t up = 0;    // from devices
  friend bool operator==(const Traffic&, const Traffic&) = default;
};
using RoundKey = std::pair<uint32_t, uint32_t>;  // round and attempt
using TrafficOfRounds = std::map<RoundKey, Traffic>;

// Losses are means over the accepted updates, weighted by num_examples. A device that took no step (with few labels:
// aggregation/averaging/few_shot.h) has no loss and trained on nothing: it is accepted, and counts for nothing else.
struct RoundLosses {
  uint64_t num_examples = 0, num_accepted = 0;
  double train_loss = 0, first_loss = 0, last_loss = 0;  // 0 where nobody took a step
  bool trained() const { return num_examples > 0; }
  // Whether there is a loss: devices that add noise to their updates do not tell theirs, and one may have diverged.
  bool told() const { return trained() && std::isfinite(train_loss); }
};
RoundLosses LossesOf(std::span<const AssignmentRecord> assignments);

// What a round found out, by name (aggregation/figures.h).
using RoundFigures = std::vector<std::pair<std::string, double>>;
// One line of history.jsonl, without the end of line.
std::string HistoryLine(const RoundRecord& round, std::span<const AssignmentRecord> assignments, const Traffic& traffic,
                        const RoundFigures& figures = {});
// Those of a committed round's model; none of one that cannot be read.
RoundFigures FiguresOfModel(const Sha256Digest& model, const BlobStore& blobs);
// run.json. `adapter`: digest of the last checkpoint's adapter_model.safetensors; that of the model itself
// (model_sha256) where the method keeps nothing beside the adapter.
std::string RunJson(const RunRecord& run, const RunOrigin& origin, const Traffic& traffic,
                    const std::optional<Sha256Digest>& adapter = {});

class RunFiles {
 public:
  // base_model_json: what checkpoints say of their base (peft/adapter/base_model.h); empty: nothing.
  explicit RunFiles(std::filesystem::path folder, std::string base_model_json = {})
      : folder_(std::move(folder)), base_model_json_(std::move(base_model_json)) {}

  const std::filesystem::path& folder() const { return folder_; }
  static std::filesystem::path CheckpointFolder(const std::filesystem::path& run_folder, uint32_t round);
  // SHA-256 of the adapter_model.safetensors of that round's checkpoint. Errors: those of Sha256File.
  static Result<Sha256Digest> AdapterDigest(const std::filesystem::path& run_folder, uint32_t round);

  // Makes the folder, when it is not there. Errors of all: those of files.
  Status Make();
  // A run.json that tells an end promises that history and checkpoints are whole, and outlive a power cut as it does.
  Status WriteRun(const RunRecord& run, const RunOrigin& origin, const Traffic& traffic);
  Status AppendHistory(const RoundRecord& round, const std::string& line);
  Status WriteCheckpoint(uint32_t round, const std::string& adapter_config_json, const Sha256Digest& model,
                         const BlobStore& blobs);
  // Writes what is missing: after a restart, or after something could not be written. A torn last line goes, lines of
  // rounds that ended without one are added in their places, with `traffic` where it is known, missing checkpoints are
  // written. A round whose model cannot be read any more gets none, and a line in the log says so. Returns whether all
  // is there; after about `most_bytes` of checkpoints it stops, and is to be called again. Errors: kNotFound also when
  // there is no folder (a disk that is not mounted: nothing may be written in its place).
  Result<bool> Repair(const RunId& run, Store& store, const BlobStore& blobs, const std::string& adapter_config_json,
                      const TrafficOfRounds& traffic = {}, uint64_t most_bytes = UINT64_MAX);

 private:
  // What is known of history.jsonl: so many bytes are whole lines, and these tell of every ended attempt up to `last`.
  struct Told {
    uint64_t bytes = 0;
    RoundKey last;
    uint64_t inode = 0;  // another file is read first
  };

  std::filesystem::path HistoryPath() const { return folder_ / "history.jsonl"; }
  Status RepairHistory(std::span<const RoundRecord> ended, Store& store, const BlobStore& blobs,
                       const TrafficOfRounds& traffic);
  Status RewriteHistory(std::span<const RoundRecord> ended, const std::set<RoundKey>& found, Store& store,
                        const BlobStore& blobs, const TrafficOfRounds& traffic);
  static Result<std::string> LineOf(const RoundRecord& round, Store& store, const BlobStore& blobs,
                                    const TrafficOfRounds& traffic);

  std::filesystem::path folder_;
  std::string base_model_json_;
  std::optional<Told> told_;
  bool unsynced_ = false;  // an fsync of the history failed: what it has may be lost, whatever a later one answers
};

}  // namespace heddle::coordinator
