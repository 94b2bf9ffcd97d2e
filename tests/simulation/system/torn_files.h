// The file system under a BlobStore: real files for whoever reads, and beside them a memory of what was synced, so that
// a power cut loses or tears what was not. Fails when it is told to.
//
// What a power cut leaves: of a file's content what was synced, or a part of what was written since, or zeros where it
// was not written; of the names, in the order of their changes, those that a sync of their folder made durable, and of
// the others all, none, or a first part. What was synced stays.
//
// Use: hand it to BlobStoreOptions::files. PowerCut when no BlobStore is alive. Sweep removes all files it knows, for
// the next world in the same folder; folders stay. Files must be small. Not thread-safe.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "coordinator/store/file_ops.h"

namespace heddle::system_simulation {

class TornFiles final : public coordinator::FileOps {
 public:
  // The n-th changing call from now on (1: the next) fails with this errno; `stay`: and all after it, until Heal. A
  // failing write leaves half of its bytes.
  void FailAt(uint64_t n, int error, bool stay);
  // From now on nothing can be read, until Heal.
  void FailReads() { reads_fail_ = true; }
  void Heal() {
    fail_at_ = 0;
    reads_fail_ = false;
  }
  // Called when a fault of FailAt is met for the first time.
  void OnFault(std::function<void()> met) { met_ = std::move(met); }
  uint64_t calls() const { return calls_; }

  // Whose true time files are written at.
  void SetTime(std::function<Time()> now) { now_ = std::move(now); }

  void PowerCut(PhiloxStream& random);
  void Sweep();

  Result<UniqueFd> Open(const std::filesystem::path& path, bool create) override;
  Status WriteAt(const UniqueFd& fd, uint64_t offset, std::span<const std::byte> data,
                 const std::filesystem::path& path) override;
  Status Truncate(const UniqueFd& fd, uint64_t size, const std::filesystem::path& path) override;
  Status Sync(const UniqueFd& fd, const std::filesystem::path& path) override;
  Status Rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  Status SyncFolder(const std::filesystem::path& folder) override;
  Status MakeFolder(const std::filesystem::path& folder) override;
  Status Remove(const std::filesystem::path& path) override;
  Result<std::vector<std::pair<std::filesystem::path, uint64_t>>> List(
      const std::filesystem::path& folder) const override;
  std::optional<Time> WrittenAt(const std::filesystem::path& path) const override;
  void Touch(const std::filesystem::path& path) override;
  Result<std::shared_ptr<const MappedFile>> Map(const std::filesystem::path& path) override;

 private:
  struct File {
    std::string content;
    std::string durable;
    bool dirty = false;
    Time written;
  };
  using FilePtr = std::shared_ptr<File>;
  // A change of names whose folder was not synced, and how to take it back.
  struct Change {
    std::string path;                  // made, removed, or renamed to
    std::string from;                  // with a rename
    FilePtr before_path, before_from;  // what the names meant before; null: nothing
  };

  Status Count(const char* what, const std::filesystem::path& path);
  void UndoNames(PhiloxStream& random);
  static std::string Torn(const File& file, PhiloxStream& random);

  std::map<std::string, FilePtr> names_;
  std::list<Change> changes_;
  std::set<std::string> folders_;
  uint64_t calls_ = 0, fail_at_ = 0;
  int error_ = 0;
  bool stay_ = false, reads_fail_ = false;
  std::function<void()> met_;
  std::function<Time()> now_ = [] { return FromUnixMicros(0); };
};

}  // namespace heddle::system_simulation
