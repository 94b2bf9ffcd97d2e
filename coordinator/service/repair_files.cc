// RunFiles::Repair.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <fstream>
#include <functional>

#include "aggregation/ledger/ledger_model.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/safetensors.h"
#include "coordinator/service/run_files.h"

namespace heddle::coordinator {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

RoundKey KeyOf(const RoundRecord& round) { return {round.round, round.attempt}; }

// Of which attempt a line tells; nothing: of none.
std::optional<RoundKey> KeyOfLine(const std::string& line) {
  json::error_code error;
  const json::value value = json::parse(line, error);
  const json::object* object = error ? nullptr : value.if_object();
  if (object == nullptr) return std::nullopt;
  const json::value* round = object->if_contains("round");
  const json::value* attempt = object->if_contains("attempt");
  if (round == nullptr || attempt == nullptr || !round->is_int64() || !attempt->is_int64()) return std::nullopt;
  return RoundKey(round->get_int64(), attempt->get_int64());
}

// Calls `each` with every whole line and returns how many bytes these are.
Result<uint64_t> ForEachLine(const fs::path& path, const std::function<Status(const std::string&)>& each) {
  std::ifstream in(path, std::ios::binary);
  uint64_t bytes = 0;
  for (std::string line; std::getline(in, line) && !in.eof();) {
    bytes += line.size() + 1;
    HEDDLE_RETURN_IF_ERROR(each(line));
  }
  if (!in.is_open() || in.bad()) return PermissionDenied("cannot read " + path.string());
  return bytes;
}

// That tensors are gone, or are none, is for ever; that they cannot be read may pass.
bool AreLost(const fs::path& tensors) {
  std::error_code error;
  if (!fs::exists(tensors, error)) return !error;
  return !ReadSafetensors(tensors).ok() && Sha256File(tensors).ok();
}

// Of no use, now and later: the model, or the weights that its ledger starts from.
bool IsModelLost(const Sha256Digest& model, const BlobStore& blobs) {
  const auto file = ReadSafetensors(blobs.Path(model));
  if (!file.ok()) return AreLost(blobs.Path(model));
  if (!aggregation::HoldsLedger(file->tensors)) return false;
  const auto ledger = aggregation::LedgerOf(file->tensors);
  return !ledger.ok() || AreLost(blobs.Path(ledger->head.start));
}

}  // namespace

Result<bool> RunFiles::Repair(const RunId& run, Store& store, const BlobStore& blobs,
                              const std::string& adapter_config_json, const TrafficOfRounds& traffic,
                              uint64_t most_bytes) {
  std::error_code error;
  if (!fs::is_directory(folder_, error)) return NotFound("the folder " + folder_.string() + " is not there");
  HEDDLE_ASSIGN_OR_RETURN(std::vector<RoundRecord> rounds, store.ListRounds(run));
  std::erase_if(rounds, [](const RoundRecord& round) {
    return round.phase != RoundPhase::kCommitted && round.phase != RoundPhase::kAbandoned;
  });
  const Status history = RepairHistory(rounds, store, blobs, traffic);
  if (!history.ok()) told_.reset();  // what it has of them is known when it has been read
  HEDDLE_RETURN_IF_ERROR(history);
  uint64_t written = 0;
  for (const RoundRecord& round : rounds) {
    const fs::path adapter = CheckpointFolder(folder_, round.round) / kAdapterFile;
    if (round.phase != RoundPhase::kCommitted || fs::exists(adapter, error)) continue;
    if (written >= most_bytes) return false;
    const Status status = WriteCheckpoint(round.round, adapter_config_json, round.model, blobs);
    if (!status.ok() && !IsModelLost(round.model, blobs)) return status;
    if (!status.ok()) {
      fs::remove_all(adapter.parent_path(), error);  // half of one
      Log(Severity::kError, "a round has no checkpoint: its model cannot be read any more",
          {{"run_id", run.value()}, {"round", round.round}, {"error", status.message()}});
    }
    const auto size = fs::file_size(adapter, error);
    if (!error) written += size;
  }
  return true;
}

// While nothing but this object has written the file, what was told is known without reading it.
Status RunFiles::RepairHistory(std::span<const RoundRecord> ended, Store& store, const BlobStore& blobs,
                               const TrafficOfRounds& traffic) {
  struct stat file {};
  const bool there = ::stat(HistoryPath().c_str(), &file) == 0;
  if (!there && errno != ENOENT) return ErrnoStatus(errno, "cannot look at " + HistoryPath().string());
  const auto size = there ? static_cast<uint64_t>(file.st_size) : 0;
  std::set<RoundKey> found;
  const bool known = told_ && there && !unsynced_ && file.st_ino == told_->inode && size == told_->bytes;
  if (!known) {
    told_ = Told{.bytes = 0, .inode = file.st_ino};
    if (there) {
      HEDDLE_ASSIGN_OR_RETURN(told_->bytes, ForEachLine(HistoryPath(), [&found](const std::string& line) {
                                if (const auto key = KeyOfLine(line)) found.insert(*key);
                                return OkStatus();
                              }));
    }
  }
  const auto is_told = [&](const RoundRecord& round) {
    return known ? KeyOf(round) <= told_->last : found.contains(KeyOf(round));
  };
  if (there && size > told_->bytes && ::truncate(HistoryPath().c_str(), static_cast<off_t>(told_->bytes)) != 0) {
    return ErrnoStatus(errno, "cannot cut " + HistoryPath().string());
  }
  const auto first = std::find_if_not(ended.begin(), ended.end(), is_told);
  if (unsynced_ || (first != ended.end() && !found.empty() && KeyOf(*first) < *found.rbegin())) {
    HEDDLE_RETURN_IF_ERROR(RewriteHistory(ended, found, store, blobs, traffic));
  } else {
    for (auto round = first; round != ended.end(); ++round) {
      HEDDLE_ASSIGN_OR_RETURN(const std::string line, LineOf(*round, store, blobs, traffic));
      HEDDLE_RETURN_IF_ERROR(AppendHistory(*round, line));
    }
  }
  if (::stat(HistoryPath().c_str(), &file) == 0) told_->inode = file.st_ino;
  if (!ended.empty()) told_->last = KeyOf(ended.back());
  return OkStatus();
}

// With the missing lines in their places, between those that are there.
Status RunFiles::RewriteHistory(std::span<const RoundRecord> ended, const std::set<RoundKey>& found, Store& store,
                                const BlobStore& blobs, const TrafficOfRounds& traffic) {
  const fs::path temporary = HistoryPath().string() + ".tmp";
  const UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + temporary.string());
  uint64_t bytes = 0;
  const auto write = [&](const std::string& line) {
    bytes += line.size() + 1;
    return WriteAll(fd.get(), line + "\n", "cannot write " + temporary.string());
  };
  auto next = ended.begin();
  const auto write_missing = [&](const std::optional<RoundKey>& before) -> Status {
    for (; next != ended.end() && (!before || KeyOf(*next) < *before); ++next) {
      if (found.contains(KeyOf(*next))) continue;
      HEDDLE_ASSIGN_OR_RETURN(const std::string line, LineOf(*next, store, blobs, traffic));
      HEDDLE_RETURN_IF_ERROR(write(line));
    }
    return OkStatus();
  };
  HEDDLE_RETURN_IF_ERROR(ForEachLine(HistoryPath(), [&](const std::string& line) -> Status {
                           if (const auto key = KeyOfLine(line)) HEDDLE_RETURN_IF_ERROR(write_missing(key));
                           return write(line);
                         }).status());
  HEDDLE_RETURN_IF_ERROR(write_missing(std::nullopt));
  HEDDLE_RETURN_IF_ERROR(SyncFile(temporary));
  HEDDLE_RETURN_IF_ERROR(RenameDurably(temporary, HistoryPath()));
  unsynced_ = false;
  told_->bytes = bytes;
  return OkStatus();
}

Result<std::string> RunFiles::LineOf(const RoundRecord& round, Store& store, const BlobStore& blobs,
                                     const TrafficOfRounds& traffic) {
  HEDDLE_ASSIGN_OR_RETURN(const auto assignments, store.ListAssignments(round.run, round.round, round.attempt));
  const auto known = traffic.find(KeyOf(round));
  return HistoryLine(round, assignments, known == traffic.end() ? Traffic{} : known->second,
                     round.phase == RoundPhase::kCommitted ? FiguresOfModel(round.model, blobs) : RoundFigures{});
}

}  // namespace heddle::coordinator
