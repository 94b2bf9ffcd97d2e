// Files, the way the rest of Heddle needs them: mapped for reading, written so that a reader (or a machine that lost
// its power) sees the old content or the new, never a mixture. Every error names the path.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle {

// A file mapped read-only for the life of the object. Immutable, so safe to share between threads. The file must not be
// truncated by others meanwhile (blobs never are). An empty file maps to an empty span. A file of at most kReadBytes is
// read instead: to give a mapping back costs more, above all where several threads share the memory.
class MappedFile {
 public:
  static constexpr size_t kReadBytes = size_t{16} << 10;

  // Errors: kNotFound, kPermissionDenied, kInvalidArgument (not a regular file), kDataLoss (it became shorter),
  // kResourceExhausted (no memory, too many open files), kUnavailable (the disk cannot be read), kInternal.
  static Result<std::shared_ptr<const MappedFile>> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  // The pages read so far no longer count as memory of this process; a later read brings them back. For mappings that
  // are kept long and read seldom.
  void DropPages() const;
  // The same for the pages that lie wholly inside `part`, which is a part of bytes(); of anything else nothing happens.
  void DropPages(std::span<const std::byte> part) const;
  // Asks the system to have `part` of bytes() in memory soon.
  void WillRead(std::span<const std::byte> part) const;
  bool Holds(std::span<const std::byte> part) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile(std::filesystem::path path, std::span<const std::byte> bytes, std::unique_ptr<const std::byte[]> read)
      : path_(std::move(path)), bytes_(bytes), read_(std::move(read)) {}
  bool mapped() const { return read_ == nullptr && !bytes_.empty(); }
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
  std::unique_ptr<const std::byte[]> read_;  // what bytes_ are of, where it is no mapping
};

// Owns a file descriptor; closes it.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { Reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() {
    int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void Reset();

 private:
  int fd_ = -1;
};

// The whole content. Errors: kNotFound, kPermissionDenied, kInvalidArgument for a folder or a named pipe,
// kResourceExhausted when larger than `max_bytes`, kDataLoss when the disk fails, kInternal.
Result<std::string> ReadFile(const std::filesystem::path& path, size_t max_bytes = size_t{64} << 20);

// Writes all of it where the file stands. Errors: ErrnoStatus with `what`.
Status WriteAll(int fd, std::string_view content, std::string_view what);

// A new file without a name in `folder`, open for reading and writing; its room is free again once nobody has it open
// or mapped. An empty `folder` is the one for temporary files (TMPDIR). Errors: those of ErrnoStatus.
Result<UniqueFd> OpenNamelessFile(std::filesystem::path folder = {});

// Writes to a temporary name in the same folder, fsyncs, renames over `path`, fsyncs the folder. `mode` as in chmod.
// Errors: kPermissionDenied, kResourceExhausted (disk full, quota), kNotFound (no such folder), kInternal. On error the
// old content stays and the temporary file is gone; only when the folder's fsync fails is the new content there,
// without the promise that it outlives a power cut.
Status WriteFileAtomically(const std::filesystem::path& path, std::string_view content, int mode = 0644);

// Renames a finished, already fsynced file into place and fsyncs the target's folder.
Status RenameDurably(const std::filesystem::path& from, const std::filesystem::path& to);

// fsync of a file that was written elsewhere: its content outlives a power cut. Errors: those of ErrnoStatus.
Status SyncFile(const std::filesystem::path& path);

// fsync of a folder: makes names created or renamed in it durable.
Status SyncDirectory(const std::filesystem::path& directory);

// mkdir -p. Errors as above.
Status MakeDirectories(const std::filesystem::path& directory);

// The Status for an errno value: ENOENT -> kNotFound, EACCES/EPERM -> kPermissionDenied, ENOSPC/EDQUOT ->
// kResourceExhausted (also out of descriptors or memory), EIO -> kDataLoss, EEXIST -> kAlreadyExists, EISDIR and bad
// names -> kInvalidArgument, others -> kInternal.
Status ErrnoStatus(int error, std::string_view what);

}  // namespace heddle
