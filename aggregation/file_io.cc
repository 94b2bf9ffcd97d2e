#include "aggregation/file_io.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#include "common/file.h"

namespace heddle::aggregation {

Status WriteAt(int fd, std::span<const std::byte> bytes, uint64_t offset, std::string_view file) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write " + std::string(file));
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return OkStatus();
}

Status ReadAt(int fd, std::span<std::byte> bytes, uint64_t offset, std::string_view file) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read " + std::string(file));
    if (got == 0) return DataLoss(std::string(file) + " is shorter than what was written to it");
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return OkStatus();
}

}  // namespace heddle::aggregation
