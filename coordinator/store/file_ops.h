// The operations of the file system that the blob store needs, as an interface: real ones, and in the fault tests ones
// that fail at a chosen call or lose what was not synced.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/status.h"

namespace heddle::coordinator {

// The Status of an errno value in the store: ErrnoStatus, but a failing disk (EIO) is kUnavailable. kDataLoss is kept
// for bytes that are not what their sender declared.
Status DiskStatus(int error, std::string_view what);

// Thread-safety: any thread. Errors: DiskStatus of the system's error, with the path.
class FileOps {
 public:
  virtual ~FileOps() = default;

  // Opens for writing and reading; `create`: makes the file, which must not exist (kAlreadyExists).
  virtual Result<UniqueFd> Open(const std::filesystem::path& path, bool create);
  // Writes all of it at `offset`.
  virtual Status WriteAt(const UniqueFd& fd, uint64_t offset, std::span<const std::byte> data,
                         const std::filesystem::path& path);
  // Has the system begin to write those bytes to the disk, without waiting for them to be there (only, as any write
  // does, for a disk that has too much to do): Sync is then quick. Promises nothing; what goes wrong is told by Sync.
  virtual void BeginWriteback(const UniqueFd& fd, uint64_t offset, uint64_t bytes);
  virtual Status Truncate(const UniqueFd& fd, uint64_t size, const std::filesystem::path& path);
  virtual Status Sync(const UniqueFd& fd, const std::filesystem::path& path);
  virtual Status Rename(const std::filesystem::path& from, const std::filesystem::path& to);
  virtual Status SyncFolder(const std::filesystem::path& folder);
  virtual Status MakeFolder(const std::filesystem::path& folder);
  // The whole file, to be read. Errors: kNotFound too.
  virtual Result<std::shared_ptr<const MappedFile>> Map(const std::filesystem::path& path);
  // The folder's files with their sizes, in no order.
  virtual Result<std::vector<std::pair<std::filesystem::path, uint64_t>>> List(
      const std::filesystem::path& folder) const;
  // Room on the file system of the folder, for those who are not root.
  virtual Result<uint64_t> FreeBytes(const std::filesystem::path& folder);
  // When it was last written or touched; nothing when there is none.
  virtual std::optional<Time> WrittenAt(const std::filesystem::path& path) const;
  // As if it had been written now. A failure only makes it older.
  virtual void Touch(const std::filesystem::path& path);
  // Ok when there is none.
  virtual Status Remove(const std::filesystem::path& path);

  // The real ones.
  static FileOps* Real();
};

}  // namespace heddle::coordinator
