#include "aggregation/robust/update_spool.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/assert.h"

namespace heddle::aggregation {
namespace {

constexpr size_t kPiece = size_t{1} << 20;  // bytes of one write, so that many small tensors are not many calls

Status WriteAt(int fd, std::span<const std::byte> bytes, size_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write an update to the file of a round's updates");
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<size_t>(written);
  }
  return OkStatus();
}

Status ReadAt(int fd, std::span<std::byte> bytes, size_t offset) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read the file of a round's updates");
    if (got == 0) return DataLoss("the file of a round's updates is shorter than what was written to it");
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<size_t>(got);
  }
  return OkStatus();
}

}  // namespace

Result<UpdateSpool> UpdateSpool::Make(const std::filesystem::path& folder, const StateDictSpec& spec) {
  size_t columns = 0;
  for (const auto& [name, tensor] : spec) {
    HEDDLE_ASSIGN_OR_RETURN(const int64_t elements, NumElements(tensor.shape));
    columns += static_cast<size_t>(elements);
  }
  HEDDLE_ASSIGN_OR_RETURN(UniqueFd file, OpenNamelessFile(folder));
  return UpdateSpool(std::move(file), columns);
}

Status UpdateSpool::Append(const StateDict& update) {
  HEDDLE_ASSERT(TotalBytes(update) == columns_ * sizeof(float), "a spool's updates have its spec");
  std::vector<std::byte> piece;
  piece.reserve(std::min(kPiece, columns_ * sizeof(float)));
  size_t offset = rows_ * columns_ * sizeof(float);
  for (const auto& [name, tensor] : update) {
    std::span<const std::byte> bytes = tensor.bytes();
    while (!bytes.empty()) {
      const size_t taken = std::min(bytes.size(), kPiece - piece.size());
      piece.insert(piece.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
      bytes = bytes.subspan(taken);
      if (piece.size() < kPiece) continue;
      HEDDLE_RETURN_IF_ERROR(WriteAt(file_.get(), piece, offset));
      offset += piece.size();
      piece.clear();
    }
  }
  HEDDLE_RETURN_IF_ERROR(WriteAt(file_.get(), piece, offset));
  ++rows_;
  return OkStatus();
}

Status UpdateSpool::Read(std::span<const size_t> rows, size_t begin, size_t count, std::span<float> out) const {
  HEDDLE_ASSERT(begin <= columns_ && count <= columns_ - begin && out.size() == rows.size() * count,
                "what is read of a spool is in it");
  for (size_t k = 0; k < rows.size(); ++k) {
    HEDDLE_ASSERT(rows[k] < rows_, "what is read of a spool is in it");
    const auto part = std::as_writable_bytes(out.subspan(k * count, count));
    HEDDLE_RETURN_IF_ERROR(ReadAt(file_.get(), part, (rows[k] * columns_ + begin) * sizeof(float)));
  }
  return OkStatus();
}

}  // namespace heddle::aggregation
