// File operations that fail at a chosen call, and a power cut that takes what was not synced. Syncs are only noted, so
// that the sweeps over all calls are fast. Files must be small: what was synced of them is kept in memory. For one
// thread.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/store/file_ops.h"

namespace heddle::coordinator::testing {

class FaultyFiles final : public FileOps {
 public:
  // The n-th call from now on (1: the next) fails with this errno; `stay`: and all after it, as for a process that
  // dies. A failing write leaves half of its bytes.
  void FailAt(uint64_t n, int error, bool stay);
  void Heal() { fail_at_ = 0; }
  uint64_t calls() const { return calls_; }
  // Whether the fault was met.
  bool failed() const { return failed_; }

  // Call with no BlobStore alive. Names not synced with their folder go back to what they were; content not synced
  // goes back to what was synced of it.
  void PowerCut();

  Result<UniqueFd> Open(const std::filesystem::path& path, bool create) override;
  Status WriteAt(const UniqueFd& fd, uint64_t offset, std::span<const std::byte> data,
                 const std::filesystem::path& path) override;
  Status Truncate(const UniqueFd& fd, uint64_t size, const std::filesystem::path& path) override;
  Status Sync(const UniqueFd& fd, const std::filesystem::path& path) override;
  Status Rename(const std::filesystem::path& from, const std::filesystem::path& to) override;
  Status SyncFolder(const std::filesystem::path& folder) override;
  Status MakeFolder(const std::filesystem::path& folder) override;
  Status Remove(const std::filesystem::path& path) override;

 private:
  Status Count(const std::string& what);

  uint64_t calls_ = 0;
  uint64_t fail_at_ = 0;
  int error_ = 0;
  bool stay_ = false;
  bool failed_ = false;
  std::map<std::filesystem::path, std::string> synced_;  // of files with content that is not synced: what was
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> renames_;  // whose folder was not synced
};

}  // namespace heddle::coordinator::testing
