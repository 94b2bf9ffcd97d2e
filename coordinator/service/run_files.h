// The run folder: what a run leaves for people and scripts. All of it is derived from the store and the blobs, so it
// can be written anew at any time; nothing here decides anything.
//
//   run.json                     what was run: resolved recipe, seed, version, base model, state, final digest
//   history.jsonl                a line per round attempt
//   checkpoints/round-<n>/       the model after n rounds in PEFT's layout
//
// Thread-safety: one thread a folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "coordinator/engine/types.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/store.h"

namespace heddle::coordinator {

// Bytes of bodies that moved between the coordinator and devices.
struct Traffic {
  uint64_t down = 0;  // to devices
  uint64_t up = 0;    // from devices
  friend bool operator==(const Traffic&, const Traffic&) = default;
};

// Weighted by num_examples over the accepted updates.
struct RoundLosses {
  uint64_t num_examples = 0, num_accepted = 0;
  double train_loss = 0, first_loss = 0, last_loss = 0;
};
RoundLosses LossesOf(std::span<const AssignmentRecord> assignments);

// One line of history.jsonl, without the end of line.
std::string HistoryLine(const RoundRecord& round, std::span<const AssignmentRecord> assignments,
                        const Traffic& traffic);
// run.json.
std::string RunJson(const RunRecord& run, const RunOrigin& origin, const Traffic& traffic);

class RunFiles {
 public:
  explicit RunFiles(std::filesystem::path folder) : folder_(std::move(folder)) {}

  const std::filesystem::path& folder() const { return folder_; }
  static std::filesystem::path CheckpointFolder(const std::filesystem::path& run_folder, uint32_t round);

  // Errors of all: those of files.
  Status WriteRun(const RunRecord& run, const RunOrigin& origin, const Traffic& traffic);
  Status AppendHistory(const std::string& line);
  Status WriteCheckpoint(uint32_t round, const std::string& adapter_config_json, const Sha256Digest& model,
                         const BlobStore& blobs);
  // After a restart: lines of rounds that ended without one are added, missing checkpoints are written.
  Status Repair(const StoredRun& run, Store& store, const BlobStore& blobs, const std::string& adapter_config_json);

 private:
  std::filesystem::path folder_;
};

}  // namespace heddle::coordinator
