#include "aggregation/low_rank/scratch_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace heddle::aggregation::low_rank {

Result<ScratchFile> ScratchFile::Make(const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(UniqueFd file, OpenNamelessFile(folder));
  return ScratchFile(std::move(file));
}

Result<uint64_t> ScratchFile::Append(std::span<const std::byte> bytes) {
  uint64_t at = size_;
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write the scratch file of a round's low-rank factors");
    bytes = bytes.subspan(static_cast<size_t>(written));
    at += static_cast<uint64_t>(written);
  }
  return std::exchange(size_, at);
}

Status ScratchFile::Read(uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read the scratch file of a round's low-rank factors");
    if (got == 0) return DataLoss("the scratch file of a round's low-rank factors is shorter than what was written");
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return OkStatus();
}

Result<ScratchFile::Mapping> ScratchFile::Map() const {
  if (size_ == 0) return Mapping{};
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus(errno, "cannot map the scratch file of a round's low-rank factors");
  std::shared_ptr<const void> owner(data, [size = size_](const void* p) { ::munmap(const_cast<void*>(p), size); });
  return Mapping{{static_cast<const std::byte*>(data), size_}, std::move(owner)};
}

}  // namespace heddle::aggregation::low_rank
