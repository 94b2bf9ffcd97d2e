#include "aggregation/low_rank/scratch_file.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "aggregation/file_io.h"

namespace heddle::aggregation::low_rank {
namespace {

constexpr std::string_view kName = "the scratch file of a round's low-rank factors";

}  // namespace

Result<ScratchFile> ScratchFile::Make(const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(UniqueFd file, OpenNamelessFile(folder));
  return ScratchFile(std::move(file));
}

Result<uint64_t> ScratchFile::Append(std::span<const std::byte> bytes) {
  HEDDLE_RETURN_IF_ERROR(WriteAt(file_.get(), bytes, size_, kName));
  return std::exchange(size_, size_ + bytes.size());
}

Status ScratchFile::Read(uint64_t offset, std::span<std::byte> bytes) const {
  return ReadAt(file_.get(), bytes, offset, kName);
}

Result<ScratchFile::Mapping> ScratchFile::Map() const {
  if (size_ == 0) return Mapping{};
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus(errno, "cannot map the scratch file of a round's low-rank factors");
  std::shared_ptr<const void> owner(data, [size = size_](const void* p) { ::munmap(const_cast<void*>(p), size); });
  return Mapping{{static_cast<const std::byte*>(data), size_}, std::move(owner)};
}

}  // namespace heddle::aggregation::low_rank
