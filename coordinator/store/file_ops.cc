#include "coordinator/store/file_ops.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <cerrno>

#include "common/test_hooks.h"

namespace heddle::coordinator {
namespace {

// Of a disk that answers with an error now a file may be whole: what is lost is said by its content.
Status AsOfDisk(const Status& status) {
  return status.code() == Code::kDataLoss ? Unavailable(status.message()) : status;
}

}  // namespace

Status DiskStatus(int error, std::string_view what) { return AsOfDisk(ErrnoStatus(error, what)); }

Result<UniqueFd> FileOps::Open(const std::filesystem::path& path, bool create) {
  int flags = O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_EXCL : 0);
  UniqueFd fd(::open(path.c_str(), flags, 0640));
  if (!fd.valid() && errno == EEXIST) return AlreadyExists("there is a file " + path.string() + " already");
  if (!fd.valid()) return DiskStatus(errno, "cannot open " + path.string());
  return fd;
}

Status FileOps::WriteAt(const UniqueFd& fd, uint64_t offset, std::span<const std::byte> data,
                        const std::filesystem::path& path) {
  while (!data.empty()) {
    ssize_t n = ::pwrite(fd.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return DiskStatus(errno, "cannot write " + path.string());
    offset += static_cast<uint64_t>(n);
    data = data.subspan(static_cast<size_t>(n));
  }
  return OkStatus();
}

void FileOps::BeginWriteback(const UniqueFd& fd, uint64_t offset, uint64_t bytes) {
  // Without a flag that waits, errors of the disk stay for fdatasync.
  static_cast<void>(
      ::sync_file_range(fd.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE));
}

Status FileOps::Truncate(const UniqueFd& fd, uint64_t size, const std::filesystem::path& path) {
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) == 0) return OkStatus();
  return DiskStatus(errno, "cannot truncate " + path.string());
}

Status FileOps::Sync(const UniqueFd& fd, const std::filesystem::path& path) {
  // fdatasync also writes the size, which is all of the metadata that a reader needs.
  HEDDLE_FAILPOINT(kFileUnsynced);
  if (::fdatasync(fd.get()) != 0) return DiskStatus(errno, "cannot fsync " + path.string());
  HEDDLE_FAILPOINT(kFileSynced);
  return OkStatus();
}

Status FileOps::Rename(const std::filesystem::path& from, const std::filesystem::path& to) {
  HEDDLE_FAILPOINT(kUnrenamed);
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return DiskStatus(errno, "cannot rename " + from.string() + " to " + to.string());
  }
  HEDDLE_FAILPOINT(kRenamed);
  return OkStatus();
}

Status FileOps::SyncFolder(const std::filesystem::path& folder) { return AsOfDisk(SyncDirectory(folder)); }

Status FileOps::MakeFolder(const std::filesystem::path& folder) { return AsOfDisk(MakeDirectories(folder)); }

Result<std::shared_ptr<const MappedFile>> FileOps::Map(const std::filesystem::path& path) {
  Result<std::shared_ptr<const MappedFile>> mapped = MappedFile::Open(path);
  if (!mapped.ok()) return AsOfDisk(mapped.status());
  return mapped;
}

Result<std::vector<std::pair<std::filesystem::path, uint64_t>>> FileOps::List(
    const std::filesystem::path& folder) const {
  std::vector<std::pair<std::filesystem::path, uint64_t>> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    const uint64_t size = it->file_size(gone);
    if (!gone) files.emplace_back(it->path(), size);
  }
  if (error) return DiskStatus(error.value(), "cannot list the folder " + folder.string());
  return files;
}

Result<uint64_t> FileOps::FreeBytes(const std::filesystem::path& folder) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) return DiskStatus(errno, "cannot look at the disk of " + folder.string());
  return uint64_t{info.f_bavail} * info.f_frsize;
}

Status FileOps::Remove(const std::filesystem::path& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return OkStatus();
  return DiskStatus(errno, "cannot delete " + path.string());
}

FileOps* FileOps::Real() {
  static FileOps real;
  return &real;
}

std::optional<Time> FileOps::WrittenAt(const std::filesystem::path& path) const {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return FromUnixMicros(int64_t{info.st_mtim.tv_sec} * 1'000'000 + info.st_mtim.tv_nsec / 1000);
}

void FileOps::Touch(const std::filesystem::path& path) { ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0); }

}  // namespace heddle::coordinator
