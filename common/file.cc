#include "common/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <system_error>
#include <utility>

#include "common/test_hooks.h"

namespace heddle {
namespace fs = std::filesystem;

Status ErrnoStatus(int error, std::string_view what) {
  std::string message = std::string(what) + ": " + std::generic_category().message(error);
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return NotFound(std::move(message));
    case EACCES:
    case EPERM:
    case EROFS:
      return PermissionDenied(std::move(message));
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EFBIG:
      return ResourceExhausted(std::move(message));
    case EEXIST:
      return AlreadyExists(std::move(message));
    case EIO:
      return DataLoss(std::move(message));
    case EISDIR:
    case ENAMETOOLONG:
    case ELOOP:
      return InvalidArgument(std::move(message));
    default:
      return Internal(std::move(message));
  }
}

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.Release();
  }
  return *this;
}

void UniqueFd::Reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const fs::path& path) {
  // Not blocking: opening a FIFO that nobody writes to would wait for ever.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat " + path.string());
  if (!S_ISREG(info.st_mode)) return InvalidArgument(path.string() + " is not a regular file");
  auto size = static_cast<size_t>(info.st_size);
  std::span<const std::byte> bytes;
  std::unique_ptr<std::byte[]> read;
  if (size > 0 && size <= kReadBytes) {
    read.reset(new (std::nothrow) std::byte[size]);
    if (read == nullptr) return ResourceExhausted("no memory to read " + path.string());
    for (size_t at = 0; at < size;) {
      const ssize_t got = ::pread(fd.get(), read.get() + at, size - at, static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      // Of a disk that cannot be read now the file may be whole.
      if (got < 0 && errno == EIO)
        return Unavailable("cannot read " + path.string() + ": the disk answers with an error");
      if (got < 0) return ErrnoStatus(errno, "cannot read " + path.string());
      if (got == 0) return DataLoss(path.string() + " became shorter while it was read");
      at += static_cast<size_t>(got);
    }
    bytes = {read.get(), size};
  } else if (size > 0) {
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (data == MAP_FAILED) return ErrnoStatus(errno, "cannot map " + path.string());
    bytes = {static_cast<const std::byte*>(data), size};
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, bytes, std::move(read)));
}

void MappedFile::DropPages() const {
  // Advice: where it is not taken, nothing changes.
  if (mapped()) ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

bool MappedFile::Holds(std::span<const std::byte> part) const {
  return !bytes_.empty() && std::greater_equal<>()(part.data(), bytes_.data()) &&
         std::less_equal<>()(part.data() + part.size(), bytes_.data() + bytes_.size());
}

void MappedFile::DropPages(std::span<const std::byte> part) const {
  if (!mapped() || !Holds(part)) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(part.data() + part.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void MappedFile::WillRead(std::span<const std::byte> part) const {
  if (!mapped() || !Holds(part)) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(part.data() + part.size());
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

MappedFile::~MappedFile() {
  if (mapped()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Result<std::string> ReadFile(const fs::path& path, size_t max_bytes) {
  // Not to wait for somebody at the other end of a named pipe.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "cannot look at " + path.string());
  if (S_ISFIFO(info.st_mode)) return InvalidArgument(path.string() + " is a pipe, not a file");
  std::string content;
  size_t used = 0, room = size_t{64} << 10;
  // With a byte more than it should need, the next read finds the end.
  if (S_ISREG(info.st_mode) && info.st_size > 0)
    room = std::min<size_t>(static_cast<size_t>(info.st_size), max_bytes) + 1;
  while (true) {
    if (used == content.size()) content.resize(used + std::exchange(room, size_t{64} << 10));
    ssize_t n = ::read(fd.get(), content.data() + used, content.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read " + path.string());
    used += static_cast<size_t>(n);
    if (used > max_bytes) {
      return ResourceExhausted(path.string() + " is larger than the limit of " + std::to_string(max_bytes) + " bytes");
    }
    if (n == 0) break;
  }
  content.resize(used);
  return content;
}

namespace {

Status SyncOpenFile(const UniqueFd& fd, const fs::path& path) {
  HEDDLE_FAILPOINT(kFileUnsynced);
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "cannot fsync " + path.string());
  HEDDLE_FAILPOINT(kFileSynced);
  return OkStatus();
}

}  // namespace

Status SyncFile(const fs::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  return SyncOpenFile(fd, path);
}

Status SyncDirectory(const fs::path& directory) {
  const fs::path& target = directory.empty() ? fs::path(".") : directory;
  UniqueFd fd(::open(target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open the folder " + target.string());
  HEDDLE_FAILPOINT(kFolderUnsynced);
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "cannot fsync the folder " + target.string());
  HEDDLE_FAILPOINT(kFolderSynced);
  return OkStatus();
}

Status WriteAll(int fd, std::string_view content, std::string_view what) {
  while (!content.empty()) {
    ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, what);
    content.remove_prefix(static_cast<size_t>(n));
  }
  return OkStatus();
}

Result<UniqueFd> OpenNamelessFile(fs::path folder) {
  if (folder.empty()) {
    std::error_code error;
    folder = fs::temp_directory_path(error);
    if (error) return ErrnoStatus(error.value(), "there is no folder for temporary files");
  }
  std::string name = (folder / "heddle-XXXXXX").string();
  UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot make a temporary file in " + folder.string());
  if (::unlink(name.c_str()) != 0) return ErrnoStatus(errno, "cannot unlink " + name);
  return fd;
}

namespace {

Status WriteTemporary(const fs::path& temporary, std::string_view content, int mode) {
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot create " + temporary.string());
  // The umask must not take away from what was asked.
  if (::fchmod(fd.get(), static_cast<mode_t>(mode)) != 0)
    return ErrnoStatus(errno, "cannot chmod " + temporary.string());
  HEDDLE_RETURN_IF_ERROR(WriteAll(fd.get(), content, "cannot write " + temporary.string()));
  return SyncOpenFile(fd, temporary);
}

}  // namespace

Status WriteFileAtomically(const fs::path& path, std::string_view content, int mode) {
  static std::atomic<uint64_t> counter{0};
  fs::path temporary = path;
  temporary += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
  Status status = WriteTemporary(temporary, content, mode);
  if (status.ok()) status = RenameDurably(temporary, path);
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

Status RenameDurably(const fs::path& from, const fs::path& to) {
  HEDDLE_FAILPOINT(kUnrenamed);
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return ErrnoStatus(errno, "cannot rename " + from.string() + " to " + to.string());
  }
  HEDDLE_FAILPOINT(kRenamed);
  return SyncDirectory(to.parent_path());
}

Status MakeDirectories(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return ErrnoStatus(error.value(), "cannot make the folder " + directory.string());
  return OkStatus();
}

}  // namespace heddle
